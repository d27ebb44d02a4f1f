package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nearside-dev/nearside/internal/erase"
	"github.com/nearside-dev/nearside/internal/failstop"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// Store holds the copies of all databases of a sidecar. Its methods are safe for concurrent use.
type Store struct {
	db      *pebble.DB
	fs      *failstop.FS
	eraser  *erase.Eraser
	logger  *slog.Logger
	options Options
	metrics *metrics
	stamps  *stamp.Table

	openedAt time.Time
	// heardAt is the wall clock, in nanoseconds since 1970, of the last heartbeat that this store knows to have been fresh
	// for all its databases when the process before ended; 0 if it was never told.
	heardAt int64

	failed  chan struct{} // closed when the store fails
	closing chan struct{} // closed when Close is called

	unsynced chan struct{} // of capacity 1: something was committed
	syncs    sync.WaitGroup

	identity atomic.Pointer[Identity]
	activity activity
	marked   atomic.Bool // MarkDiverged was called since the follower looked
	repairs  atomic.Bool // whether the primary sends single tables

	groups sync.Pool // of *group, for their memory

	readers readers // the open snapshots

	mu          sync.RWMutex // guards what follows
	databases   map[uint32]*Database
	meshChanged chan struct{} // closed at the next change of _mesh

	use struct {
		sync.Mutex

		closed bool
		count  int           // calls and snapshots in flight
		idle   chan struct{} // closed by the last of them once closed
	}
}

// OpenStore opens or creates the store in dir, a folder of its own that only its owner may read.
func OpenStore(dir string, o Options) (*Store, error) {
	o = o.withDefaults()
	if err := o.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create replica folder %s: %w", dir, err)
	}
	s := &Store{
		logger: o.Logger, options: o, openedAt: time.Now(), failed: make(chan struct{}), closing: make(chan struct{}),
		databases: make(map[uint32]*Database), meshChanged: make(chan struct{}), stamps: stamp.NewTable(),
		activity: activity{stir: make(chan struct{}, 1)}, unsynced: make(chan struct{}, 1),
	}
	s.use.idle = make(chan struct{})
	files := erase.NewFS(o.FS)
	s.fs = failstop.New(files, s.onFail)
	po := s.pebbleOptions(o)
	defer po.Cache.Unref()
	files.Configure(po)
	db, err := pebble.Open(dir, po)
	if err != nil {
		return nil, openError(dir, err)
	}
	s.db = db
	s.fs.Arm()
	err = s.Failed()
	if err == nil {
		err = errors.Join(s.loadDatabases(), s.loadMeta())
	}
	if err == nil {
		s.metrics, err = newMetrics(s, o.Registerer)
	}
	if err == nil {
		if s.eraser, err = erase.New(db, files, metaKey(metaErase), o.Logger, erase.After(s.readers.await)); err != nil {
			s.metrics.unregister()
		}
	}
	if err != nil {
		return nil, errors.Join(openError(dir, err), db.Close())
	}
	s.syncs.Go(s.syncer)
	return s, nil
}

func openError(dir string, err error) error {
	if pebble.IsCorruptionError(err) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return fmt.Errorf("open replica %s: %w", dir, err)
}

func (s *Store) loadDatabases() error {
	iter, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	for ok := iter.SeekGE(stateKey(1)); ok && err == nil; {
		id := binary.BigEndian.Uint32(iter.Key())
		var a *applied
		if a, err = readState(s.db, id); err == nil && a != nil {
			d := newDatabase(s, id, a)
			s.databases[id] = d
			err = d.loadBuild()
		}
		_, next := databaseRange(id)
		ok = err == nil && iter.SeekGE(next)
	}
	return errors.Join(err, iter.Error(), iter.Close())
}

// onFail is called once, possibly by a goroutine that holds locks of Pebble.
func (s *Store) onFail(err error) {
	s.logger.Error("replica store failed", slog.Any("error", err))
	close(s.failed)
	if s.options.OnFatal != nil {
		go s.options.OnFatal(s.Failed())
	}
}

// Failed returns why the store serves nothing any more, wrapped in ErrStoreFailed, or nil.
func (s *Store) Failed() error {
	if err := s.fs.Failed(); err != nil {
		return fmt.Errorf("%w: %w", ErrStoreFailed, err)
	}
	return nil
}

// acquire keeps the store open until release.
func (s *Store) acquire() error {
	if s.fs.Failed() != nil {
		return s.Failed()
	}
	s.use.Lock()
	defer s.use.Unlock()
	if s.use.closed {
		return ErrClosed
	}
	s.use.count++
	return nil
}

func (s *Store) release() {
	s.use.Lock()
	defer s.use.Unlock()
	if s.use.count--; s.use.count == 0 && s.use.closed {
		close(s.use.idle)
	}
}

// closes reports whether Close was called.
func (s *Store) closes() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// Close closes the store. It waits for calls in flight and for open snapshots; new ones get ErrClosed. A failed store is
// closed too, and its failure returned. Closing twice is no error.
func (s *Store) Close() error {
	s.use.Lock()
	if s.use.closed {
		s.use.Unlock()
		return nil
	}
	s.use.closed = true
	close(s.closing)
	if s.use.count == 0 {
		close(s.use.idle)
	}
	s.use.Unlock()
	<-s.use.idle
	s.syncs.Wait()
	s.metrics.unregister()
	s.eraser.Close()
	err := s.db.Close()
	if failed := s.Failed(); failed != nil {
		return failed // what Pebble says of a frozen disk means nothing
	}
	if err != nil {
		return fmt.Errorf("close replica: %w", err)
	}
	return nil
}

// commit writes a batch without waiting for the disk; the syncer sees to that soon. What the log of the store had not written when the
// process or the machine ended is lost, always as a whole tail: a batch is there entirely or not at all, and only if all before it
// are. The primary's log sends the lost records again, so an fsync for each group would buy nothing.
func (s *Store) commit(b *pebble.Batch) error {
	if err := s.Failed(); err != nil {
		return err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write replica: %w", err)
	}
	s.wantSync()
	return s.Failed() // Pebble reports success after a failure that we survived
}

// Database returns the copy of a database, whether it is served or not; ok is false where there is none.
func (s *Store) Database(id uint32) (d *Database, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	d, ok = s.databases[id]
	return d, ok
}

// Databases returns all copies, by id.
func (s *Store) Databases() []*Database {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*Database, 0, len(s.databases))
	for _, d := range s.databases {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *Database) int { return int(int64(a.id) - int64(b.id)) })
	return all
}

// ensure returns the copy of a database, with nothing in it if there was none. It is on the disk from its first batch on.
func (s *Store) ensure(id uint32) *Database {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.databases[id]
	if !ok {
		d = newDatabase(s, id, newApplied(0, problemEmpty))
		s.databases[id] = d
	}
	return d
}

// Drop deletes the copy of a database. Snapshots that are open stay readable; handles report ErrDropped. No copy is no error.
// Its bytes leave the disk in the background.
func (s *Store) Drop(id uint32) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	d, ok := s.Database(id)
	if !ok {
		return nil
	}
	d.writer.Lock()
	defer d.writer.Unlock()
	b := s.db.NewBatch()
	defer b.Close()
	lower, upper := databaseRange(id)
	if err := s.eraser.DeleteRange(b, lower, upper); err != nil {
		return fmt.Errorf("drop database %d: %w", id, err)
	}
	if err := d.commitErasing(b, newApplied(0, problemDropped)); err != nil {
		return fmt.Errorf("drop database %d: %w", id, err)
	}
	d.building.Store(nil)
	s.erase(id)
	s.mu.Lock()
	if s.databases[id] == d {
		delete(s.databases, id)
	}
	s.mu.Unlock()
	return nil
}

// MeshChanged returns a channel that is closed when the copy of _mesh changes next. To miss nothing take the channel first,
// then read _mesh, then wait.
func (s *Store) MeshChanged() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.meshChanged
}

func (s *Store) notifyMesh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.meshChanged)
	s.meshChanged = make(chan struct{})
}

// meshVersion returns how far the copy of _mesh is.
func (s *Store) meshVersion() uint64 {
	d, ok := s.Database(meshdb.DatabaseID)
	if !ok {
		return 0
	}
	return d.state.Load().version
}
