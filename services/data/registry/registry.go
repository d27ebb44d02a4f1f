// Package registry is a primary's databases: the rows of _mesh that name them, and the open engines.
//
// _mesh is a database like any other, written through its own writer loop. A database exists when its row is committed; its
// files follow, and Open removes those that no row names. What readers of the log need is published at once; the SQLite file
// of a database is opened, and brought up to its log, when the first request needs it, and closed again when none has for
// long. So a process has a bounded number of files open, however many databases there are.
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
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/placement"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// MaxDatabases is how many databases one primary has at most.
const MaxDatabases = 10_000

// Defaults of Config.
const (
	DefaultMaxOpen     = 256
	DefaultIdleTimeout = 5 * time.Minute
)

// Config is what a registry is opened with. Dir, Log, Logger and Metrics are required.
type Config struct {
	Dir     string // SQLite files go here
	Log     *changelog.Log
	Logger  *slog.Logger
	Metrics *engine.Metrics

	Registerer prometheus.Registerer // takes the registry's own metrics; default none
	// MaxOpen is how many databases are open at once, besides _mesh; default DefaultMaxOpen. A request for one more waits
	// until another has no users.
	MaxOpen int
	// IdleTimeout is how long a database stays open without users; default DefaultIdleTimeout. Its read connections are
	// closed after a tenth of it.
	IdleTimeout time.Duration
	MaxMemory   int64              // see engine.Config
	Clock       func() time.Time   // see engine.Config
	OnFatal     func(error)        // see engine.Config
	Failpoint   func(place string) // see engine.Config
}

// Registry is a primary's databases. Its methods are safe for concurrent use.
type Registry struct {
	config Config
	mesh   *engine.DB
	auth   *engine.DB // _auth, which only this process sees
	audit  *engine.DB // _audit, which only this process sees

	pool *pool

	stop     chan struct{} // closed by Close
	trimming sync.WaitGroup

	changing sync.Mutex // one create, delete or placement at a time

	placing sync.Mutex // held while rules are changed
	rules   atomic.Pointer[placement.Rules]

	mu     sync.RWMutex
	byName map[string]*Database
	ids    map[uint32]bool // of the databases above
	newest uint32          // the largest id ever in ids
}

// Open opens _mesh, which it creates if need be, and publishes what the log has of every database that it names.
func Open(ctx context.Context, c Config) (r *Registry, err error) {
	if c.MaxOpen == 0 {
		c.MaxOpen = DefaultMaxOpen
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = DefaultIdleTimeout
	}
	metrics, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, err
	}
	r = &Registry{config: c, byName: make(map[string]*Database), ids: make(map[uint32]bool), stop: make(chan struct{})}
	r.pool = &pool{
		open: r.openEngine, refuse: func(id uint32) { c.Log.Unpublish(id) }, max: c.MaxOpen, logger: c.Logger,
		metrics: metrics, now: time.Now, held: make(map[*Database]struct{}),
	}
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
	if r.auth, err = r.openEngine(meshdb.AuthDatabaseID); err != nil {
		return r, err
	}
	if r.audit, err = r.openEngine(meshdb.AuditDatabaseID); err != nil {
		return r, err
	}
	databases, err := r.rows(ctx)
	if err != nil {
		return r, err
	}
	last, err := c.Log.LastRecords()
	if err != nil {
		return r, err
	}
	for _, d := range databases {
		r.add(d, last[d.id])
		delete(last, d.id)
	}
	if err := r.removeOrphans(last); err != nil {
		return r, err
	}
	r.trimming.Go(r.trim)
	return r, nil
}

// add makes a database known and its log readable.
func (r *Registry) add(d *Database, last changelog.LastRecord) {
	d.pool = r.pool
	if last.Err != nil {
		// The others can still be served; this one answers what is wrong with it.
		r.config.Logger.Error("database cannot be served", slog.String("database", d.Name), slog.Any("error", last.Err))
		d.seat.problem = last.Err
	} else {
		if last.Version == 0 {
			last.Epoch = 1 // the first primary's
		}
		r.config.Log.Publish(d.id, last.Head)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byName[d.Name] = d
	r.ids[d.id], r.newest = true, max(r.newest, d.id)
}

// trim closes what is not used any more, now and then, until Close.
func (r *Registry) trim() {
	readers := r.config.IdleTimeout / 10
	tick := time.NewTicker(max(readers/2, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			r.pool.trim(now.Add(-r.config.IdleTimeout), now.Add(-readers))
		case <-r.stop:
			return
		}
	}
}

func (r *Registry) path(id uint32) string {
	return filepath.Join(r.config.Dir, strconv.FormatUint(uint64(id), 10)+".sqlite")
}

func (r *Registry) openEngine(id uint32) (*engine.DB, error) {
	return engine.Open(engine.Config{
		ID: id, Path: r.path(id), Log: r.config.Log, Logger: r.config.Logger, Metrics: r.config.Metrics,
		Clock: r.config.Clock, MaxMemory: r.config.MaxMemory, OnFatal: r.config.OnFatal, Failpoint: r.config.Failpoint,
		Rename: r.checkRename(id),
	})
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
func (r *Registry) rows(ctx context.Context) ([]*Database, error) {
	byID := make(map[uint32]*Database)
	var databases []*Database
	err := r.query(ctx, "SELECT id, name, created_at FROM databases ORDER BY id", func(vs []value.Value) {
		d := &Database{id: uint32(vs[0].Integer()), Name: vs[1].Text(), CreateTime: time.Unix(0, vs[2].Integer())}
		byID[d.id] = d
		databases = append(databases, d)
	})
	if err != nil {
		return nil, err
	}
	return databases, r.readPlacements(ctx, byID)
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

// removeOrphans removes the log and the files of databases that no row names: they were deleted. logs has those with a log.
func (r *Registry) removeOrphans(logs map[uint32]changelog.LastRecord) error {
	orphans := make(map[uint32]bool)
	for id := range logs {
		orphans[id] = true
	}
	entries, err := os.ReadDir(r.config.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), ".")
		if id, err := strconv.ParseUint(name, 10, 32); err == nil && !r.ids[uint32(id)] {
			orphans[uint32(id)] = true
		}
	}
	delete(orphans, meshdb.DatabaseID)
	delete(orphans, meshdb.AuthDatabaseID)
	delete(orphans, meshdb.AuditDatabaseID)
	for id := range orphans {
		if err := r.removeData(id); err != nil {
			return err
		}
	}
	return nil
}

// removeData removes what there is of a deleted database: the log first, so that as long as there are files a crash leaves
// something to find.
func (r *Registry) removeData(id uint32) error {
	if err := errors.Join(r.config.Log.Drop(id), engine.RemoveFiles(r.path(id))); err != nil {
		return fmt.Errorf("remove deleted database %d: %w", id, err)
	}
	return nil
}

// Mesh returns the engine of _mesh.
func (r *Registry) Mesh() *engine.DB { return r.mesh }

// Auth returns the engine of _auth. Nothing but package auth may have it: Database and ByID do not find it, and no region gets
// its log.
func (r *Registry) Auth() *engine.DB { return r.auth }

// Audit returns the engine of _audit. Nothing but package auditlog may have it, as with Auth.
func (r *Registry) Audit() *engine.DB { return r.audit }

// Database returns a database by name, _mesh included, or DATABASE_NOT_FOUND. Whether it can be served shows when it is used.
func (r *Registry) Database(name string) (*Database, error) {
	if name == meshdb.Name {
		return &Database{Name: meshdb.Name, id: meshdb.DatabaseID, mesh: r.mesh}, nil
	}
	r.mu.RLock()
	d := r.byName[name]
	r.mu.RUnlock()
	if d == nil {
		return nil, notFound(name)
	}
	return d, nil
}

// Exists reports whether there is a database of an id. Ids only grow: one beyond all known is about to be opened, because a
// region may learn of its row before its engine is there.
func (r *Registry) Exists(id uint32) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return id == meshdb.DatabaseID || r.ids[id] || id > max(r.newest, meshdb.AuditDatabaseID)
}

// ByID returns a database, _mesh included; ok is false where there is none.
func (r *Registry) ByID(id uint32) (d *Database, ok bool) {
	if id == meshdb.DatabaseID {
		return &Database{Name: meshdb.Name, id: id, mesh: r.mesh}, true
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, d := range r.byName {
		if d.id == id {
			return d, true
		}
	}
	return nil, false
}

// TrimLogs removes from the logs of all databases what retention does not keep, until ctx ends. Only those of which something
// is to be removed are opened.
func (r *Registry) TrimLogs(ctx context.Context, keep changelog.Retention) error {
	mesh, _ := r.ByID(meshdb.DatabaseID)
	auth := &Database{Name: meshdb.AuthName, id: meshdb.AuthDatabaseID, mesh: r.auth}
	var errs []error
	audit := &Database{Name: meshdb.AuditName, id: meshdb.AuditDatabaseID, mesh: r.audit}
	for _, d := range append(r.Databases(), mesh, auth, audit) {
		if ctx.Err() != nil {
			break
		}
		n, err := d.trimLog(ctx, keep, r.config.Log)
		if n > 0 {
			r.config.Logger.InfoContext(ctx, "log trimmed", slog.Uint64("database_id", uint64(d.id)), slog.Int("records", n))
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
	regions = slices.Compact(slices.Sorted(slices.Values(regions)))
	for _, region := range regions {
		ops = append(ops, engine.SQL(
			"INSERT OR IGNORE INTO placements (database_id, region) SELECT id, ?2 FROM databases WHERE name = ?1",
			value.Text(name), value.Text(region)))
	}
	commit, err := r.mesh.Transact(ctx, &engine.Transaction{Operations: ops, Actor: identity.From(ctx).Actor()})
	if err != nil {
		return nil, nil, err
	}
	d := &Database{id: uint32(commit.Results[0].GetLastInsertRowid()), Name: name, CreateTime: now}
	r.place(d, &placed{regions: regions}) // before it can be followed
	r.add(d, changelog.LastRecord{})
	return d, commit, nil
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
		Actor:      identity.From(ctx).Actor(),
	})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	delete(r.byName, name)
	delete(r.ids, d.ID())
	r.mu.Unlock()
	r.place(d, &placed{})
	r.pool.remove(d)
	return commit, r.removeData(d.ID())
}

// RegisterRegion writes a region's row, if it is not there as it should be.
func (r *Registry) RegisterRegion(ctx context.Context, region meshdb.Region) error {
	known, err := r.Regions(ctx)
	if err != nil {
		return fmt.Errorf("register region %s: %w", region.Name, err)
	}
	if slices.Contains(known, region) {
		return nil // which it must be while the disk has no room for writes
	}
	primary := int64(0)
	if region.IsPrimary {
		primary = 1
	}
	_, err = r.mesh.Transact(ctx, &engine.Transaction{Operations: []engine.Operation{engine.SQL(
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

// An idempotency key is kept until it is both KeyAge old and KeyVersions commits back; one that a node made for its own
// repeats until it is BriefKeyAge old.
const (
	KeyAge      = 24 * time.Hour
	KeyVersions = 10_000
	BriefKeyAge = 10 * time.Minute

	expireBatch   = 10_000
	expireBatches = 200 // of one database at a time
)

// ExpireKeys forgets idempotency keys that are old, in every database.
func (r *Registry) ExpireKeys(now time.Time) error {
	log := r.config.Log
	var errs []error
	for _, d := range r.Databases() {
		errs = append(errs, repeat(func() (int, error) {
			return log.ExpireBriefOutcomes(d.ID(), now.Add(-BriefKeyAge), expireBatch)
		}))
		if h, ok := log.Published(d.ID()); ok && h.Version > KeyVersions {
			errs = append(errs, repeat(func() (int, error) {
				return log.ExpireOutcomes(d.ID(), now.Add(-KeyAge), h.Version-KeyVersions, expireBatch)
			}))
		}
	}
	return errors.Join(errs...)
}

// repeat calls f until it does less than a batch.
func repeat(f func() (int, error)) error {
	for range expireBatches {
		if n, err := f(); err != nil || n < expireBatch {
			return err
		}
	}
	return nil
}

// Close closes all databases.
func (r *Registry) Close() error {
	close(r.stop)
	r.trimming.Wait()
	r.pool.close()
	r.pool.metrics.unregister()
	var errs []error
	for _, db := range []*engine.DB{r.audit, r.auth, r.mesh} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}
