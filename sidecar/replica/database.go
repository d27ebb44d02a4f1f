package replica

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// Database is the copy of one database. Its methods are safe for concurrent use. A handle stays valid when its database is
// dropped, and then reports ErrDropped; ask the Store again for a database that comes back.
type Database struct {
	store *Store
	id    uint32

	name      atomic.Pointer[string] // for metrics; nil where it is not known
	state     atomic.Pointer[applied]
	freshness atomic.Pointer[freshness]

	building atomic.Pointer[build] // the copy in the making; nil if there is none

	writer sync.Mutex // held by whoever changes the copy
	// commits is odd from before a batch is committed until its state is published: then a Pebble snapshot may be newer than
	// state.
	commits atomic.Uint64

	mu      sync.Mutex
	changed chan struct{} // closed at the next change of state; nil while nobody waits
}

func newDatabase(s *Store, id uint32, a *applied) *Database {
	d := &Database{store: s, id: id}
	d.state.Store(a)
	d.freshness.Store(&freshness{})
	return d
}

// ID returns the database's id.
func (d *Database) ID() uint32 { return d.id }

// Applied returns the newest state that a Snapshot can see.
func (d *Database) Applied() (epoch uint32, version uint64) {
	a := d.state.Load()
	return a.epoch, a.version
}

// Problem returns why the copy must not be read, or nil: ErrSyncing, ErrFork, ErrFollowerAhead, ErrDiverged, ErrDropped or
// ErrStoreFailed, wrapped. A problem stays over restarts until the copy is what the primary says it should be.
func (d *Database) Problem() error {
	if d.store.fs.Failed() != nil {
		return d.store.Failed()
	}
	return d.state.Load().check(d.id)
}

func (a *applied) check(database uint32) error {
	if err := a.problem.err(); err != nil {
		return fmt.Errorf("database %d: %w", database, err)
	}
	return nil
}

// WaitFor returns when the copy is at least as fresh as a bookmark. A bookmark of an old epoch is satisfied at or below the
// version at which the next epoch began, and ErrBookmarkLost above it. It returns ctx's error, Problem's as soon as there is
// one, and ErrClosed.
func (d *Database) WaitFor(ctx context.Context, epoch uint32, version uint64) error {
	for {
		changed := d.watch(epoch, version)
		if err := d.Problem(); err != nil {
			return err
		}
		if ok, err := d.state.Load().reaches(epoch, version); ok || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-d.store.failed:
		case <-d.store.closing:
			return ErrClosed
		case <-ctx.Done():
		}
	}
}

// watch returns a channel that is closed at the next change, or nil where there is nothing to wait for.
func (d *Database) watch(epoch uint32, version uint64) <-chan struct{} {
	if ok, err := d.state.Load().reaches(epoch, version); ok || err != nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.changed
}

// commit writes a batch, publishes the state that it makes and wakes those who wait. The caller holds d.writer. The stamps of
// what the batch touches are raised first: whoever sees the state finds them raised.
func (d *Database) commit(b *pebble.Batch, a *applied, touched stamp.Touched) error {
	return d.commitAfter(nil, b, a, touched)
}

// commitErasing is commit of a batch that deletes what the region may not have any more: whoever finds it deleted finds no answer
// with it in memory either.
func (d *Database) commitErasing(b *pebble.Batch, a *applied) error {
	return d.commitAfter(d.store.options.BeforeErase, b, a, everything)
}

// commitAfter is commit; first is called between the stamps and the batch, unless it is nil.
func (d *Database) commitAfter(first func(database uint32), b *pebble.Batch, a *applied, touched stamp.Touched) error {
	d.commits.Add(1)
	err := d.store.stamps.Change(d.id, touched, func() error {
		if first != nil {
			first(d.id)
		}
		return d.store.commit(b)
	}, func(n stamp.Stamp) {
		a.stamp = n
		d.state.Store(a)
	})
	d.commits.Add(1)
	if err != nil {
		return err
	}
	d.mu.Lock()
	changed := d.changed
	d.changed = nil
	d.mu.Unlock()
	if changed != nil {
		close(changed)
	}
	if d.id == meshdb.DatabaseID {
		d.store.notifyMesh()
	}
	return nil
}

// setProblem records why the copy must not be read, or that it may be. The caller does not hold d.writer.
func (d *Database) setProblem(p problem) error {
	if err := d.store.acquire(); err != nil {
		return err
	}
	defer d.store.release()
	d.writer.Lock()
	defer d.writer.Unlock()
	return d.setProblemLocked(p)
}

func (d *Database) setProblemLocked(p problem) error {
	old := d.state.Load()
	if old.problem == p || old.problem == problemDropped {
		return nil
	}
	a := *old
	a.problem = p
	b := d.store.db.NewBatch()
	defer b.Close()
	if err := b.Set(stateKey(d.id), a.encode(), nil); err != nil {
		return err
	}
	return d.commit(b, &a, everything)
}

// wipe empties the copy, to follow the database from its first record. The rows get another generation: the old one's keys
// are only a range tombstone then, which nobody reads through.
func (d *Database) wipe() error {
	if err := d.store.acquire(); err != nil {
		return err
	}
	defer d.store.release()
	d.writer.Lock()
	defer d.writer.Unlock()
	old := d.state.Load()
	if old.problem == problemDropped {
		return fmt.Errorf("wipe database %d: %w", d.id, ErrDropped)
	}
	last := old.lastGeneration()
	if b := d.building.Load(); b != nil {
		last = max(last, b.generation)
	}
	a := newApplied(last+1, problemSyncing)
	b := d.store.db.NewBatch()
	defer b.Close()
	lower, upper := databaseRange(d.id)
	if err := b.DeleteRange(lower, upper, nil); err != nil {
		return fmt.Errorf("wipe database %d: %w", d.id, err)
	}
	if err := b.Set(stateKey(d.id), a.encode(), nil); err != nil {
		return fmt.Errorf("wipe database %d: %w", d.id, err)
	}
	if err := d.commit(b, a, everything); err != nil {
		return fmt.Errorf("wipe database %d: %w", d.id, err)
	}
	d.building.Store(nil)
	return nil
}
