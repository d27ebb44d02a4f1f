package data

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
)

func (s *Service) describe(d *registry.Database) *datav1.Database {
	h, _ := s.log.Published(d.ID())
	out := &datav1.Database{
		Name: d.Name, Id: d.ID(), CreateTime: timestamppb.New(d.CreateTime), Regions: d.Regions(), Version: h.Version,
	}
	for _, t := range d.TablePlacements() {
		out.TablePlacements = append(out.TablePlacements, &datav1.TablePlacement{Table: t.Table, Regions: t.Regions})
	}
	return out
}

// SetPlacement implements DataService.
func (s *Service) SetPlacement(
	ctx context.Context, req *connect.Request[datav1.SetPlacementRequest],
) (*connect.Response[datav1.SetPlacementResponse], error) {
	d, c, err := s.registry.SetPlacement(ctx, req.Msg.GetDatabase(), req.Msg.GetTable(), req.Msg.GetRegions())
	if err != nil {
		return nil, err
	}
	head, _ := s.log.Published(meshdb.DatabaseID)
	if c != nil {
		head = c.Head
	}
	msg := &datav1.SetPlacementResponse{Database: s.describe(d), Answer: s.answer(meshdb.DatabaseID, head)}
	if msg.UnknownRegions, err = s.registry.Unknown(ctx, req.Msg.GetRegions()); err != nil {
		return nil, err
	}
	return respond(msg, msg.Answer), nil
}

// CreateDatabase implements DataService.
func (s *Service) CreateDatabase(
	ctx context.Context, req *connect.Request[datav1.CreateDatabaseRequest],
) (*connect.Response[datav1.CreateDatabaseResponse], error) {
	d, c, err := s.registry.Create(ctx, req.Msg.GetName(), req.Msg.GetRegions())
	var head changelog.Head
	switch {
	case err == nil:
		head = c.Head
	case req.Msg.GetIfNotExists() && rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_DATABASE_EXISTS:
		if d, err = s.registry.Database(req.Msg.GetName()); err != nil {
			return nil, err
		}
		head, _ = s.log.Published(meshdb.DatabaseID)
	default:
		return nil, err
	}
	msg := &datav1.CreateDatabaseResponse{Database: s.describe(d), Answer: s.answer(meshdb.DatabaseID, head)}
	return respond(msg, msg.Answer), nil
}

// DeleteDatabase implements DataService.
func (s *Service) DeleteDatabase(
	ctx context.Context, req *connect.Request[datav1.DeleteDatabaseRequest],
) (*connect.Response[datav1.DeleteDatabaseResponse], error) {
	if _, err := s.writable(req.Msg.GetName()); err != nil {
		return nil, err
	}
	c, err := s.registry.Delete(ctx, req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	msg := &datav1.DeleteDatabaseResponse{Answer: s.answer(meshdb.DatabaseID, c.Head)}
	return respond(msg, msg.Answer), nil
}

// ListDatabases implements DataService.
func (s *Service) ListDatabases(
	_ context.Context, req *connect.Request[datav1.ListDatabasesRequest],
) (*connect.Response[datav1.ListDatabasesResponse], error) {
	mesh, err := s.registry.Database(meshdb.Name)
	if err != nil {
		return nil, err
	}
	head, _ := s.log.Published(meshdb.DatabaseID)
	if err := s.checkFresh(mesh, head, req.Msg.GetConsistency(), req.Header()); err != nil {
		return nil, err
	}
	msg := &datav1.ListDatabasesResponse{Answer: s.answer(meshdb.DatabaseID, head)}
	for _, d := range s.registry.Databases() {
		msg.Databases = append(msg.Databases, s.describe(d))
	}
	return respond(msg, msg.Answer), nil
}

// GetDatabase implements DataService.
func (s *Service) GetDatabase(
	ctx context.Context, req *connect.Request[datav1.GetDatabaseRequest],
) (*connect.Response[datav1.GetDatabaseResponse], error) {
	msg := &datav1.GetDatabaseResponse{}
	err := s.view(ctx, req.Msg.GetName(), req.Msg.GetConsistency(), req.Header(),
		func(db *registry.Database, v *engine.View) error {
			msg.Database = s.describe(db)
			msg.Database.Version = v.Head().Version
			for _, t := range v.Catalog().Tables {
				msg.Database.Tables = append(msg.Database.Tables, t.Describe())
			}
			msg.Answer = s.answer(db.ID(), v.Head())
			return nil
		})
	if err != nil {
		return nil, err
	}
	return respond(msg, msg.Answer), nil
}

// Migrate implements DataService. Each migration is a transaction of its own, so a failing one leaves those before it.
func (s *Service) Migrate(
	ctx context.Context, req *connect.Request[datav1.MigrateRequest],
) (*connect.Response[datav1.MigrateResponse], error) {
	ctx, cancel := context.WithTimeout(ctx, MigrationTimeout)
	defer cancel()
	db, err := s.writable(req.Msg.GetDatabase())
	if err != nil {
		return nil, err
	}
	unlock := db.LockMigrations()
	defer unlock()
	applied, err := s.log.Migrations(db.ID())
	if err != nil {
		return nil, err
	}
	if err := checkMigrations(applied, req.Msg.GetMigrations()); err != nil {
		return nil, err
	}
	head, _ := s.log.Published(db.ID())
	msg := &datav1.MigrateResponse{AlreadyApplied: uint32(len(applied))}
	for i := len(applied); i < len(req.Msg.GetMigrations()); i++ {
		m := req.Msg.GetMigrations()[i]
		checksum := sha256.Sum256([]byte(m.GetSql()))
		c, err := db.Transact(ctx, &engine.Transaction{
			Operations: []engine.Operation{engine.ScriptOperation(m.GetName(), m.GetSql())},
			Actor:      identity.From(ctx).Actor(),
			Migration:  &engine.Migration{Ordinal: uint32(i), Name: m.GetName(), Checksum: checksum},
		})
		if err != nil {
			return nil, err
		}
		head = c.Head
		msg.Applied = append(msg.Applied, &datav1.Migration{
			Name: m.GetName(), Checksum: hex.EncodeToString(checksum[:]), Version: c.Version, ApplyTime: timestamppb.Now(),
		})
	}
	msg.Answer = s.answer(db.ID(), head)
	return respond(msg, msg.Answer), nil
}

// checkMigrations refuses a list that does not begin with the applied migrations, before anything is done.
func checkMigrations(applied []changelog.Migration, wanted []*datav1.Migration) error {
	seen := make(map[string]bool, len(wanted))
	for i, m := range wanted {
		if m.GetName() == "" {
			return rpcerr.InvalidField("migrations.name", "migration %d has no name", i)
		}
		if seen[m.GetName()] {
			return rpcerr.InvalidField("migrations.name", "%s is there twice", m.GetName())
		}
		seen[m.GetName()] = true
	}
	for i, a := range applied {
		if i >= len(wanted) || wanted[i].GetName() != a.Name {
			return outOfOrder(applied, i, wanted)
		}
		if sha256.Sum256([]byte(wanted[i].GetSql())) != a.Checksum {
			return rpcerr.New(datav1.ErrorReason_ERROR_REASON_MIGRATION_CHANGED,
				"migration %s was applied with another text", a.Name).With("migration", a.Name)
		}
	}
	return nil
}

// outOfOrder says what is wrong with a list that has another migration, or none, where the i-th applied one should be.
func outOfOrder(applied []changelog.Migration, i int, wanted []*datav1.Migration) error {
	missing := applied[i].Name
	if !slices.ContainsFunc(wanted, func(m *datav1.Migration) bool { return m.GetName() == missing }) {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_MIGRATION_OUT_OF_ORDER,
			"migration %s was applied and is not in the list", missing).With("migration", missing)
	}
	early := wanted[i].GetName() // there is one, for the missing one comes later
	state := "not applied"
	if slices.ContainsFunc(applied, func(a changelog.Migration) bool { return a.Name == early }) {
		state = "applied later"
	}
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_MIGRATION_OUT_OF_ORDER,
		"migration %s comes before %s in the list: that one was applied, and this one %s", early, missing, state).
		With("migration", early)
}

// ListMigrations implements DataService.
func (s *Service) ListMigrations(
	_ context.Context, req *connect.Request[datav1.ListMigrationsRequest],
) (*connect.Response[datav1.ListMigrationsResponse], error) {
	db, err := s.registry.Database(req.Msg.GetDatabase())
	if err != nil {
		return nil, err
	}
	applied, err := s.log.Migrations(db.ID())
	if err != nil {
		return nil, err
	}
	head, _ := s.log.Published(db.ID())
	msg := &datav1.ListMigrationsResponse{Answer: s.answer(db.ID(), head)}
	for _, a := range applied {
		if a.Version > head.Version {
			break
		}
		msg.Migrations = append(msg.Migrations, &datav1.Migration{
			Name: a.Name, Checksum: hex.EncodeToString(a.Checksum[:]), Version: a.Version,
			ApplyTime: timestamppb.New(time.Unix(0, a.TimeUnixNanos)),
		})
	}
	return respond(msg, msg.Answer), nil
}
