// Package registry is a primary's databases: the rows of _mesh that name them, and the open engines.
//
// _mesh is a database like any other, written through its own writer loop. A database exists when its row is committed; its
// files follow, and Open removes those that no row names.
package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// MaxDatabases is how many databases one primary has at most.
const MaxDatabases = 10_000

// Config is what a registry is opened with. All fields but the last are required.
type Config struct {
	Dir     string // SQLite files go here
	Log     *changelog.Log
	Logger  *slog.Logger
	Metrics *engine.Metrics

	Failpoint func(place string) // see engine.Config
}

// Database is an open database and its row of _mesh. It is immutable.
type Database struct {
	*engine.DB

	Name       string
	CreateTime time.Time
	Regions    []string // that may hold it; empty means all
}

// Registry is a primary's databases. Its methods are safe for concurrent use.
type Registry struct {
	config Config
	mesh   *engine.DB

	changing  sync.Mutex // one create or delete at a time
	migrating sync.Map   // database id → *sync.Mutex, for LockMigrations

	mu     sync.RWMutex
	byName map[string]*Database
	ids    map[uint32]bool // of the databases above
	newest uint32          // the largest id ever in ids
}

// Open opens _mesh, which it creates if need be, and every database that it names.
func Open(ctx context.Context, c Config) (r *Registry, err error) {
	r = &Registry{config: c, byName: make(map[string]*Database), ids: make(map[uint32]bool)}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if r.mesh, err = r.openEngine(meshdb.DatabaseID); err != nil {
		return r, err
	}
	if err := r.migrateMesh(ctx); err != nil {
		return r, err
	}
	databases, err := r.rows(ctx)
	if err != nil {
		return r, err
	}
	if err := r.removeOrphans(databases); err != nil {
		return r, err
	}
	for _, d := range databases {
		r.ids[d.id], r.newest = true, max(r.newest, d.id)
		if err := r.open(d); err != nil {
			// The others can still be served; this one answers what is wrong with it.
			c.Logger.Error("database cannot be served", slog.String("database", d.Name), slog.Any("error", err))
			r.byName[d.Name] = &d.Database
		}
	}
	return r, nil
}

func (r *Registry) path(id uint32) string {
	return filepath.Join(r.config.Dir, strconv.FormatUint(uint64(id), 10)+".sqlite")
}

func (r *Registry) openEngine(id uint32) (*engine.DB, error) {
	return engine.Open(engine.Config{
		ID: id, Path: r.path(id), Log: r.config.Log, Logger: r.config.Logger, Metrics: r.config.Metrics,
		Failpoint: r.config.Failpoint,
	})
}

// row is a database before its engine is open.
type row struct {
	Database

	id uint32
}

func (r *Registry) open(d row) error {
	db, err := r.openEngine(d.id)
	if err != nil {
		return err
	}
	d.DB = db
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byName[d.Name] = &d.Database
	r.ids[d.id], r.newest = true, max(r.newest, d.id)
	return nil
}

func (r *Registry) migrateMesh(ctx context.Context) error {
	applied, err := r.config.Log.Migrations(meshdb.DatabaseID)
	if err != nil {
		return err
	}
	for i, m := range meshdb.Migrations {
		checksum := sha256.Sum256([]byte(m.SQL))
		if i < len(applied) {
			if applied[i].Checksum != checksum {
				return fmt.Errorf("migration %s of _mesh was made by another build", m.Name)
			}
			continue
		}
		_, err := r.mesh.Transact(ctx, &engine.Transaction{
			Operations: []engine.Operation{engine.ScriptOperation(m.Name, m.SQL)},
			Migration:  &engine.Migration{Ordinal: uint32(i), Name: m.Name, Checksum: checksum},
		})
		if err != nil {
			return fmt.Errorf("migrate _mesh: %w", err)
		}
	}
	return nil
}

// rows reads the databases from _mesh.
func (r *Registry) rows(ctx context.Context) ([]row, error) {
	byID := make(map[uint32]*row)
	var ids []uint32
	err := r.query(ctx, "SELECT id, name, created_at FROM databases ORDER BY id", func(vs []value.Value) {
		id := uint32(vs[0].Integer())
		ids = append(ids, id)
		byID[id] = &row{id: id, Database: Database{Name: vs[1].Text(), CreateTime: time.Unix(0, vs[2].Integer())}}
	})
	if err != nil {
		return nil, err
	}
	err = r.query(ctx, "SELECT database_id, region FROM placements ORDER BY region", func(vs []value.Value) {
		if d := byID[uint32(vs[0].Integer())]; d != nil {
			d.Regions = append(d.Regions, vs[1].Text())
		}
	})
	databases := make([]row, len(ids))
	for i, id := range ids {
		databases[i] = *byID[id]
	}
	return databases, err
}

func (r *Registry) query(ctx context.Context, sql string, f func([]value.Value)) error {
	err := r.mesh.View(ctx, func(v *engine.View) error {
		_, err := v.Query(&datav1.Statement{Sql: sql}, sink(f))
		return err
	})
	if err != nil {
		return fmt.Errorf("read _mesh: %w", err)
	}
	return nil
}

type sink func([]value.Value)

func (sink) Columns([]*datav1.Column) error { return nil }

func (f sink) Row(row *datav1.Row, _ int) error {
	f(value.FromProtos(row.GetValues()))
	return nil
}

// removeOrphans removes files of databases that were deleted, or created without their row being committed.
func (r *Registry) removeOrphans(databases []row) error {
	entries, err := os.ReadDir(r.config.Dir)
	if err != nil {
		return err
	}
	dropped := make(map[uint32]bool)
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), ".")
		id, err := strconv.ParseUint(name, 10, 32)
		if err != nil || uint32(id) == meshdb.DatabaseID ||
			slices.ContainsFunc(databases, func(d row) bool { return d.id == uint32(id) }) {
			continue
		}
		if !dropped[uint32(id)] {
			dropped[uint32(id)] = true
			if err := r.config.Log.Drop(uint32(id)); err != nil {
				return err
			}
		}
		if err := os.Remove(filepath.Join(r.config.Dir, e.Name())); err != nil {
			return fmt.Errorf("remove deleted database: %w", err)
		}
	}
	return nil
}

// Mesh returns the engine of _mesh.
func (r *Registry) Mesh() *engine.DB { return r.mesh }

// Database returns a database by name, _mesh included. The error is DATABASE_NOT_FOUND, or STORE_FAILED for one that could
// not be opened.
func (r *Registry) Database(name string) (*Database, error) {
	if name == meshdb.Name {
		return &Database{DB: r.mesh, Name: meshdb.Name}, nil
	}
	r.mu.RLock()
	d := r.byName[name]
	r.mu.RUnlock()
	if d == nil {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND, "no such database: %s", name).
			With("database", name)
	}
	if d.DB == nil {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_STORE_FAILED, "database %s cannot be served: see the primary's log", name)
	}
	return d, nil
}

// Exists reports whether there is a database of an id. Ids only grow: one beyond all known is about to be opened, because a
// region may learn of its row before its engine is there.
func (r *Registry) Exists(id uint32) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return id == meshdb.DatabaseID || r.ids[id] || id > r.newest
}

// ByID returns the engine of a database; ok is false where it is not open.
func (r *Registry) ByID(id uint32) (db *engine.DB, ok bool) {
	if id == meshdb.DatabaseID {
		return r.mesh, true
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, d := range r.byName {
		if d.DB != nil && d.ID() == id {
			return d.DB, true
		}
	}
	return nil, false
}

// TrimLogs removes from the logs of all databases what retention does not keep, until ctx ends.
func (r *Registry) TrimLogs(ctx context.Context, keep changelog.Retention) error {
	engines := []*engine.DB{r.mesh}
	for _, d := range r.Databases() {
		if d.DB != nil {
			engines = append(engines, d.DB)
		}
	}
	var errs []error
	for _, db := range engines {
		if ctx.Err() != nil {
			break
		}
		n, err := db.TrimLog(keep)
		if n > 0 {
			r.config.Logger.InfoContext(ctx, "log trimmed", slog.Uint64("database_id", uint64(db.ID())), slog.Int("records", n))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Databases returns all databases by name, _mesh left out.
func (r *Registry) Databases() []*Database {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*Database, 0, len(r.byName))
	for _, d := range r.byName {
		all = append(all, d)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// Create makes a database. The commit is of _mesh.
func (r *Registry) Create(ctx context.Context, name string, regions []string) (*Database, *engine.Commit, error) {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.mu.RLock()
	_, exists := r.byName[name]
	count := len(r.byName)
	r.mu.RUnlock()
	if exists {
		return nil, nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_DATABASE_EXISTS, "database exists: %s", name).
			With("database", name)
	}
	if count >= MaxDatabases {
		return nil, nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "a primary has at most %d databases", MaxDatabases)
	}
	now := time.Now()
	ops := []engine.Operation{
		engine.SQL("INSERT INTO databases (name, created_at) VALUES (?1, ?2)", value.Text(name), value.Integer(now.UnixNano())),
	}
	for _, region := range regions {
		ops = append(ops, engine.SQL(
			"INSERT OR IGNORE INTO placements (database_id, region) SELECT id, ?2 FROM databases WHERE name = ?1",
			value.Text(name), value.Text(region)))
	}
	commit, err := r.mesh.Transact(ctx, &engine.Transaction{Operations: ops})
	if err != nil {
		return nil, nil, err
	}
	d := row{
		id:       uint32(commit.Results[0].GetLastInsertRowid()),
		Database: Database{Name: name, CreateTime: now, Regions: regions},
	}
	if err := r.open(d); err != nil {
		return nil, nil, fmt.Errorf("open new database %s: %w", name, err)
	}
	db, err := r.Database(name)
	return db, commit, err
}

// Delete deletes a database: first its row, so that no region follows it any more, then its files and its log.
func (r *Registry) Delete(ctx context.Context, name string) (*engine.Commit, error) {
	r.changing.Lock()
	defer r.changing.Unlock()
	d, err := r.Database(name)
	if err != nil {
		return nil, err
	}
	commit, err := r.mesh.Transact(ctx, &engine.Transaction{
		Operations: []engine.Operation{engine.SQL("DELETE FROM databases WHERE name = ?1", value.Text(name))},
	})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	delete(r.byName, name)
	delete(r.ids, d.ID())
	r.mu.Unlock()
	r.migrating.Delete(d.ID())
	if err := errors.Join(d.Remove(), r.config.Log.Drop(d.ID())); err != nil {
		return nil, fmt.Errorf("remove database %s: %w", name, err)
	}
	return commit, nil
}

// LockMigrations lets one Migrate of a database at a time compare its list with what is applied and go on.
func (r *Registry) LockMigrations(database uint32) (unlock func()) {
	m, _ := r.migrating.LoadOrStore(database, new(sync.Mutex))
	mu := m.(*sync.Mutex)
	mu.Lock()
	return mu.Unlock
}

// RegisterRegion writes a region's row, if it is not there as it should be.
func (r *Registry) RegisterRegion(ctx context.Context, region meshdb.Region) error {
	primary := int64(0)
	if region.IsPrimary {
		primary = 1
	}
	_, err := r.mesh.Transact(ctx, &engine.Transaction{Operations: []engine.Operation{engine.SQL(
		`INSERT INTO regions (name, url, is_primary, registered_at) VALUES (?1, ?2, ?3, ?4)
		ON CONFLICT (name) DO UPDATE SET url = excluded.url, is_primary = excluded.is_primary,
			registered_at = excluded.registered_at
		WHERE url <> excluded.url OR is_primary <> excluded.is_primary`,
		value.Text(region.Name), value.Text(region.URL), value.Integer(primary), value.Integer(time.Now().UnixNano()))}})
	if err != nil {
		return fmt.Errorf("register region %s: %w", region.Name, err)
	}
	return nil
}

// Regions reads the regions, the primary's first, then by name.
func (r *Registry) Regions(ctx context.Context) ([]meshdb.Region, error) {
	var regions []meshdb.Region
	err := r.query(ctx, "SELECT name, url, is_primary FROM regions ORDER BY is_primary DESC, name", func(vs []value.Value) {
		regions = append(regions, meshdb.Region{Name: vs[0].Text(), URL: vs[1].Text(), IsPrimary: vs[2].Integer() != 0})
	})
	return regions, err
}

// ExpireKeys forgets idempotency keys that are old, in every database.
func (r *Registry) ExpireKeys(now time.Time) error {
	var errs []error
	for _, d := range r.Databases() {
		if d.DB == nil {
			continue
		}
		h, ok := r.config.Log.Published(d.ID())
		if !ok || h.Version <= KeyVersions {
			continue
		}
		_, err := r.config.Log.ExpireOutcomes(d.ID(), now.Add(-KeyAge), h.Version-KeyVersions, maxExpired)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// An idempotency key is kept until it is both KeyAge old and KeyVersions commits back.
const (
	KeyAge      = 24 * time.Hour
	KeyVersions = 10_000
	maxExpired  = 10_000 // of one database at a time
)

// Close closes all databases.
func (r *Registry) Close() error {
	var errs []error
	for _, d := range r.Databases() {
		if d.DB != nil {
			errs = append(errs, d.Close())
		}
	}
	if r.mesh != nil {
		errs = append(errs, r.mesh.Close())
	}
	return errors.Join(errs...)
}
