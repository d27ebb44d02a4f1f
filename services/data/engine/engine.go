package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// Transaction is what a caller wants done at once.
type Transaction struct {
	Operations       []Operation
	DeferForeignKeys bool
	// UncheckedForeignKeys neither checks foreign keys nor runs their actions.
	UncheckedForeignKeys bool
	Key                  changelog.IdempotencyKey // Key.Key is empty for none
	RequestHash          [32]byte                 // with a key: what the request was
	Actor                string
	Trace                []byte     // as records have it; default that of the context's request
	Address              netip.Addr // of the caller; default the context's, which may know none
	Migration            *Migration // noted in the log with the commit
	View                 RowView    // which rows it may see and change; nil is all
}

// Migration names a step of the schema's history.
type Migration struct {
	Ordinal  uint32
	Name     string
	Checksum [32]byte
}

// Commit is the answer to a transaction.
type Commit struct {
	Results     []*datav1.ResultSet // nil where a replayed answer was too large to keep
	Version     uint64              // the commit; 0 if nothing was changed
	Head        changelog.Head      // what the caller has seen
	Replayed    bool
	RowsRead    uint64
	RowsWritten uint64
	Elapsed     time.Duration // inside SQLite
	Filtered    bool          // the transaction had a view
}

// Config is what a database is opened with. Clock and what follows may be left out.
type Config struct {
	ID      uint32
	Path    string // the SQLite file; its folder is made
	Log     *changelog.Log
	Logger  *slog.Logger
	Metrics *Metrics

	Clock func() time.Time // default time.Now
	// MaxMemory is what was given to sqlrun.LimitMemory: callers' statements are stopped before SQLite has as much; 0 for never.
	MaxMemory int64
	// WholeTableBytes is how many bytes of the tables that a transaction made or rewrote its record carries. Beyond that it
	// only names them, and replicas copy them. Default and maximum 56 MiB.
	WholeTableBytes int
	// Rename tells whether a table may take another name: regions may hold it under one and not under the other. Nil allows all.
	Rename func(table, name string) error
	// OnFatal is told once when the database stops because its store failed; nil for nobody. It must not wait.
	OnFatal func(error)
	// Failpoint is called at the named places of the commit path by crash tests; nil otherwise.
	Failpoint func(place string)
}

// DB is an open database. Its methods are safe for concurrent use.
type DB struct {
	id      uint32
	path    string
	log     *changelog.Log
	logger  *slog.Logger
	metrics *Metrics
	fail    func(place string)

	wholeTableBytes int
	maxWAL          int64 // maxWALFrames
	rename          func(table, name string) error
	onFatal         func(error)
	memory          int64 // that SQLite may have while callers' statements run; 0 is without limit

	readers *readerPool
	queue   chan *request
	stop    chan struct{}
	done    sync.WaitGroup // the writer and a running checkpoint

	problem       atomic.Pointer[error]
	closed        atomic.Bool
	checkpointing atomic.Bool
	flushed       atomic.Bool   // the WAL is long, and what it moved to the file so far is on the disk: the writer waits the next time
	sinceCheck    atomic.Int64  // commits since the last checkpoint
	walFrames     atomic.Int64  // in the WAL at the last checkpoint
	durable       atomic.Uint64 // a version that the file itself has on the disk
	closing       sync.RWMutex  // held for reading while a request is queued
	writer        *writer
}

// Open opens or creates a database and brings its SQLite file up to its log. It returns ErrAhead or ErrFork where it must
// not be served.
func Open(c Config) (*DB, error) {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.WholeTableBytes <= 0 || c.WholeTableBytes > maxWholeTableBytes {
		c.WholeTableBytes = maxWholeTableBytes
	}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
		return nil, fmt.Errorf("create database folder: %w", err)
	}
	db := &DB{
		id: c.ID, path: c.Path, log: c.Log, logger: c.Logger.With(slog.Uint64("database_id", uint64(c.ID))),
		metrics: c.Metrics, maxWAL: maxWALFrames, wholeTableBytes: c.WholeTableBytes, fail: c.Failpoint, onFatal: c.OnFatal, rename: c.Rename,
		memory: sqlrun.CallersMemory(c.MaxMemory), queue: make(chan *request, maxQueue), stop: make(chan struct{}),
	}
	conn, err := openConn(c.Path, sqlite.ReadWrite|sqlite.Create)
	if err != nil {
		return nil, err
	}
	w := &writer{session: newSession(conn, false), db: db, id: c.ID, log: c.Log, now: c.Clock, brief: briefKeys{limit: briefGeneration, kept: c.Metrics.briefKeys}}
	db.writer = w
	if err := w.open(); err != nil {
		return nil, fmt.Errorf("open database %s: %w", c.Path, errors.Join(err, conn.Close()))
	}
	db.readers = newReaderPool(db)
	c.Log.Publish(c.ID, w.head)
	db.done.Go(func() { w.loop(db.queue, db.stop) })
	return db, nil
}

// openConn opens a connection with the settings and limits that all have.
func openConn(path string, flags sqlite.OpenFlags) (*sqlite.Conn, error) {
	conn, err := sqlite.Open(path, flags)
	if err != nil {
		return nil, err
	}
	conn.SetBusyTimeout(5 * time.Second)
	sqlrun.Limit(conn)
	return conn, nil
}

// lacksMemory reports whether callers' statements must be stopped for the memory that SQLite has.
func (db *DB) lacksMemory(c *sqlite.Conn) bool { return db.memory > 0 && c.MemoryUsed() > db.memory }

// ID returns the database's id.
func (db *DB) ID() uint32 { return db.id }

// Problem returns why the database is not served, or nil.
func (db *DB) Problem() error {
	if err := db.problem.Load(); err != nil {
		return *err
	}
	if db.closed.Load() {
		return ErrClosed
	}
	return nil
}

// Transact runs a transaction: all of it or nothing. It returns when the commit is durable, or when nothing was done.
// A caller that goes away before its turn is not run; one that goes away while it runs has its statement stopped.
func (db *DB) Transact(ctx context.Context, tx *Transaction) (*Commit, error) {
	if err := ctx.Err(); err != nil {
		return nil, interruptedError(ctx)
	}
	if tx.Trace == nil {
		tx.Trace = requestid.From(ctx).Place()
	}
	if !tx.Address.IsValid() {
		tx.Address = identity.AddressOf(ctx)
	}
	r := &request{ctx: ctx, tx: tx, done: make(chan outcome, 1)}
	if err := db.enqueue(r); err != nil {
		return nil, err
	}
	select {
	case o := <-r.done:
		return o.commit, o.err
	case <-ctx.Done():
	}
	if r.state.CompareAndSwap(stateQueued, stateAbandoned) {
		return nil, interruptedError(ctx)
	}
	o := <-r.done // it runs: the writer stops it or commits it, and says which
	return o.commit, o.err
}

func (db *DB) enqueue(r *request) error {
	db.closing.RLock()
	defer db.closing.RUnlock()
	if err := db.Problem(); err != nil {
		return notServed(err)
	}
	select {
	case db.queue <- r:
		return nil
	default:
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED,
			"%d transactions wait for this database", maxQueue).WithRetryAfter(100 * time.Millisecond)
	}
}

// Close stops the writer after its present group, waits for readers to end, and closes the file. The log stays published: its
// readers do not need the file.
func (db *DB) Close() error {
	db.closing.Lock()
	if db.closed.Swap(true) {
		db.closing.Unlock()
		return nil
	}
	db.closing.Unlock()
	close(db.stop)
	db.done.Wait()
	db.writer.brief.close()
	return errors.Join(db.readers.close(), db.writer.close())
}

// RemoveFiles deletes a database's files, which must not be open. Missing ones are no error.
func RemoveFiles(path string) error {
	var errs []error
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (db *DB) failpoint(place string) {
	if db.fail != nil {
		db.fail(place)
	}
}

// meshVersion is what a record must carry: replicas apply it only once their _mesh has come as far.
func (db *DB) meshVersion() uint64 {
	if db.id == meshdb.DatabaseID {
		return 0
	}
	h, _ := db.log.Published(meshdb.DatabaseID)
	return h.Version
}

// checkpointEvery is how many groups are committed between two checkpoints: at most some 4 MiB of WAL for small ones.
const checkpointEvery = 64

// maxWALFrames is how many pages the WAL may have before the writer waits for a checkpoint: 32 MiB. SQLite begins a WAL anew
// only at a write that finds all of it in the file; a checkpoint beside a writer that never rests always leaves something,
// and the WAL would grow for as long as that goes on.
//
// A checkpoint that leaves something does not sync the file, so the one that the writer waits for would write out all that those
// before it moved there. The last one before it does that beside the writer.
const maxWALFrames = 8 << 10

// committed starts a checkpoint now and then, off the commit path: its fsync would be the commit's p99. The writer calls it,
// between two groups.
func (db *DB) committed() {
	if db.sinceCheck.Add(1) < checkpointEvery || !db.checkpointing.CompareAndSwap(false, true) {
		return
	}
	db.sinceCheck.Store(0)
	check := func() {
		defer db.checkpointing.Store(false)
		if err := db.checkpoint(); err != nil {
			db.logger.Warn("checkpoint", slog.Any("error", err))
		}
		if db.walFrames.Load() <= db.maxWAL {
			db.flushed.Store(false)
		} else if !db.flushed.Swap(true) {
			db.flush()
		}
	}
	if db.flushed.Load() {
		begun := time.Now()
		check()
		db.metrics.checkpointWait.Observe(time.Since(begun).Seconds())
		db.flushed.Store(false)
	} else {
		db.done.Go(check)
	}
}

// flush has the disk take what checkpoints moved into the file. What could not be written is told once only, perhaps to this
// sync and not to a later checkpoint's, so the database stops then.
func (db *DB) flush() {
	f, err := os.Open(db.path)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	db.failpoint("after-flush")
	if err != nil {
		db.writer.stop(fmt.Errorf("sync the file: %w", err))
	}
}

// checkpoint moves what it can from the WAL into the file. Where that was all, the file has on the disk at least the version
// that it had when this began: SQLite syncs the WAL before and the file after, because this connection's synchronous is FULL.
func (db *DB) checkpoint() (err error) {
	conn, err := openConn(db.path, sqlite.ReadWrite)
	if err != nil {
		return err
	}
	s := newSession(conn, true)
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.run("PRAGMA synchronous = FULL"); err != nil {
		return err
	}
	version := uint64(0)
	err = s.rows("SELECT version FROM main."+metaTable, nil, func(st *sqlite.Stmt) error {
		version = uint64(st.ColumnInt64(0))
		return nil
	})
	if err != nil {
		return err
	}
	db.failpoint("before-checkpoint")
	frames, done, err := conn.WALCheckpoint(sqlite.CheckpointPassive)
	db.walFrames.Store(int64(frames))
	if err == nil && frames >= 0 && frames == done {
		db.durable.Store(max(db.durable.Load(), version))
	}
	db.failpoint("after-checkpoint")
	if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code == sqlite.CodeBusy {
		return nil // the writer was at the WAL's header at that moment: the next checkpoint does it
	}
	return err
}

// TrimLog removes from the log what retention does not keep and the file certainly has, and returns how many records that
// were. It checkpoints first.
func (db *DB) TrimLog(keep changelog.Retention) (n int, err error) {
	if db.Problem() != nil {
		return 0, nil // what its log has may be needed to repair it
	}
	db.closing.RLock() // Close waits for it, and the log stays open
	defer db.closing.RUnlock()
	if db.closed.Load() {
		return 0, nil
	}
	if ok, err := db.log.Trimmable(db.id, keep); !ok || err != nil {
		return 0, err
	}
	if !db.checkpointing.CompareAndSwap(false, true) {
		return 0, nil // the next time, then
	}
	defer db.checkpointing.Store(false)
	if err := db.checkpoint(); err != nil {
		return 0, fmt.Errorf("checkpoint database %d: %w", db.id, err)
	}
	db.failpoint("before-trim")
	published, _ := db.log.Published(db.id)
	n, err = db.log.Trim(db.id, min(db.durable.Load(), published.Version), keep) // the file can be ahead of the log for a moment
	db.failpoint("after-trim")
	return n, err
}
