package registry

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// Database is a database of the primary: its row of _mesh, and its engine, which is opened when it is used. Its methods are
// safe for concurrent use. One that is deleted answers DATABASE_NOT_FOUND from then on, one that must not be served
// STORE_FAILED, and one for which there is no place in time OVERLOADED.
type Database struct {
	Name       string
	CreateTime time.Time

	id         uint32
	placed     atomic.Pointer[placed]
	pool       *pool
	mesh       *engine.DB // of _mesh, _auth or _audit, which are always open and not in the pool
	seat       seat       // pool's
	migrations sync.Mutex
}

// ID returns the database's id.
func (d *Database) ID() uint32 { return d.id }

// Transact is the engine's Transact.
func (d *Database) Transact(ctx context.Context, tx *engine.Transaction) (c *engine.Commit, err error) {
	db, release, err := d.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	return db.Transact(ctx, tx)
}

// View is the engine's View. The database stays open until f returns; f must not use another database, which may wait for
// this one's place.
func (d *Database) View(ctx context.Context, f func(*engine.View) error) error {
	db, release, err := d.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	return db.View(ctx, f)
}

// ViewStream is the engine's ViewStream, under View's rules.
func (d *Database) ViewStream(ctx context.Context, f func(*engine.View) error) error {
	db, release, err := d.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	return db.ViewStream(ctx, f)
}

// ViewWithSums is the engine's ViewWithSums, under View's rules.
func (d *Database) ViewWithSums(ctx context.Context, f func(*engine.View, map[uint32]changelog.TableSum) error) error {
	db, release, err := d.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	return db.ViewWithSums(ctx, f)
}

// Schema is the engine's Schema.
func (d *Database) Schema(ctx context.Context) (changelog.Head, *catalog.Catalog, error) {
	db, release, err := d.acquire(ctx)
	if err != nil {
		return changelog.Head{}, nil, err
	}
	defer release()
	return db.Schema(ctx)
}

// ReadChunk is the engine's ReadChunk. The database may be closed between two chunks.
func (d *Database) ReadChunk(ctx context.Context, start engine.ChunkStart, wanted []uint32) (engine.Chunk, error) {
	db, release, err := d.acquire(ctx)
	if err != nil {
		return engine.Chunk{}, err
	}
	defer release()
	return db.ReadChunk(ctx, start, wanted)
}

func (d *Database) trimLog(ctx context.Context, keep changelog.Retention, log *changelog.Log) (n int, err error) {
	if ok, err := log.Trimmable(d.id, keep); !ok || err != nil {
		return 0, err
	}
	db, release, err := d.acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	return db.TrimLog(keep)
}

func (d *Database) acquire(ctx context.Context) (db *engine.DB, release func(), err error) {
	if d.mesh != nil {
		return d.mesh, func() {}, nil
	}
	if db, err = d.pool.acquire(ctx, d); err != nil {
		return nil, nil, err
	}
	return db, func() { d.pool.release(d, db) }, nil
}

// LockMigrations lets one Migrate at a time compare its list with what is applied and go on.
func (d *Database) LockMigrations() (unlock func()) {
	d.migrations.Lock()
	return d.migrations.Unlock
}
