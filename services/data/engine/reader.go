package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// maxReaders is how many reads of one database run at once; more wait for their turn or their deadline.
const maxReaders = 8

// maxStreams is how many of them may be streams, whose callers take their time; more are refused.
const maxStreams = 4

// readerPool is a database's read connections, opened when first needed.
type readerPool struct {
	db    *DB
	slots chan struct{} // a place for each connection in use

	streams chan struct{} // a place for each stream

	mu     sync.Mutex
	idle   []*reader // the longest unused first
	closed bool
}

// reader is one read connection and the catalog it last saw.
type reader struct {
	*session

	catalog *catalog.Catalog
	ctx     context.Context //nolint:containedctx // of the running read: the progress handler asks it
	starved bool            // it was stopped for want of memory
	steps   int64           // taken by the running query, as far as the progress handler was asked
	usedAt  time.Time       // while it is idle
}

func newReaderPool(db *DB) *readerPool {
	return &readerPool{db: db, slots: make(chan struct{}, maxReaders), streams: make(chan struct{}, maxStreams)}
}

func (p *readerPool) take(ctx context.Context) (*reader, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		<-p.slots
		return nil, notServed(ErrClosed)
	}
	if n := len(p.idle); n > 0 {
		r := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return r, nil
	}
	conn, err := openConn(p.db.path, sqlite.ReadOnly)
	if err != nil {
		<-p.slots
		return nil, err
	}
	r := &reader{session: newSession(conn, true)}
	if err := r.run("PRAGMA temp_store = MEMORY"); err != nil { // no files; the memory is bounded
		<-p.slots
		return nil, errors.Join(err, r.close())
	}
	conn.SetProgress(sqlrun.ProgressOps, func() bool {
		if r.ctx == nil {
			return false
		}
		r.starved = !r.guard.trusted && p.db.lacksMemory(conn)
		r.steps += sqlrun.ProgressOps
		return r.starved || r.ctx.Err() != nil || !r.guard.trusted && r.steps > sqlrun.MaxSteps
	})
	return r, nil
}

func (p *readerPool) put(r *reader) {
	p.mu.Lock()
	r.usedAt = time.Now()
	p.idle = append(p.idle, r)
	p.mu.Unlock()
	<-p.slots
}

// CloseReaders closes the read connections that nobody has used since a time. More are opened when they are needed.
func (db *DB) CloseReaders(since time.Time) error {
	p := db.readers
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && p.idle[n].usedAt.Before(since) {
		n++
	}
	old := slices.Clone(p.idle[:n])
	p.idle = slices.Delete(p.idle, 0, n)
	p.mu.Unlock()
	var errs []error
	for _, r := range old {
		errs = append(errs, r.close())
	}
	return errors.Join(errs...)
}

// close waits for the reads in progress and closes all connections.
func (p *readerPool) close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	for range maxReaders {
		p.slots <- struct{}{}
	}
	p.mu.Lock()
	idle := p.idle // whoever takes one out closes it: CloseReaders may run at the same time
	p.idle = nil
	p.mu.Unlock()
	var errs []error
	for _, r := range idle {
		errs = append(errs, r.close())
	}
	return errors.Join(errs...)
}

// View is a read transaction: everything it answers is of one version. It is for one goroutine.
type View struct {
	db   *DB
	r    *reader
	head changelog.Head
}

// View calls f with a read transaction. It waits until what the transaction sees is published, so nobody reads what a
// subscriber may not.
func (db *DB) View(ctx context.Context, f func(*View) error) (err error) {
	if err := db.Problem(); err != nil {
		return notServed(err)
	}
	db.metrics.reads.Inc()
	defer func() { err = sqlrun.NoMemory(err) }()
	r, err := db.readers.take(ctx)
	if err != nil {
		return err
	}
	defer db.readers.put(r)
	r.ctx, r.starved = ctx, false
	defer func() { r.ctx = nil }()
	if err := r.run("BEGIN"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.run("ROLLBACK")) }()
	v := &View{db: db, r: r}
	if err := v.begin(ctx, db); err != nil {
		return err
	}
	return f(v)
}

// ViewStream is View for an answer whose caller may be slow. It leaves places for reads that are not; where it has none left
// the error is OVERLOADED.
func (db *DB) ViewStream(ctx context.Context, f func(*View) error) error {
	select {
	case db.readers.streams <- struct{}{}:
	default:
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "%d streams read this database", maxStreams).
			With("limit", itoa(maxStreams)).WithRetryAfter(time.Second)
	}
	defer func() { <-db.readers.streams }()
	return db.View(ctx, f)
}

// begin takes the snapshot and finds out what it is of.
func (v *View) begin(ctx context.Context, db *DB) error {
	catalogVersion := uint64(0)
	err := v.r.rows("SELECT m.version, m.epoch, m.checksum, c.version FROM main."+metaTable+" m, main."+catalogTable+" c", nil,
		func(st *sqlite.Stmt) error {
			v.head.Version, v.head.Epoch = uint64(st.ColumnInt64(0)), uint32(st.ColumnInt64(1))
			copy(v.head.Checksum[:], st.Column(2).Bytes())
			catalogVersion = uint64(st.ColumnInt64(3))
			return nil
		})
	if err != nil {
		return err
	}
	if v.head.Version == 0 {
		v.head.Epoch = 1
	}
	if v.r.catalog == nil || v.r.catalog.Version != catalogVersion {
		if v.r.catalog, err = storedCatalog(v.r.session); err != nil {
			return err
		}
	}
	return db.awaitPublished(ctx, v.head.Version)
}

// awaitPublished waits out the moment between SQLite's COMMIT and the publication.
func (db *DB) awaitPublished(ctx context.Context, version uint64) error {
	if h, ok := db.log.Published(db.id); ok && h.Version >= version {
		return nil
	}
	watch := db.log.Watch()
	defer watch.Close()
	for {
		h, ok := db.log.Published(db.id)
		if !ok {
			return notServed(fmt.Errorf("database %d is not published", db.id))
		}
		if h.Version >= version {
			return nil
		}
		if _, err := watch.Wait(ctx); err != nil {
			return err
		}
	}
}

// Head is the version that the view is of.
func (v *View) Head() changelog.Head { return v.head }

// Catalog is the schema at that version.
func (v *View) Catalog() *catalog.Catalog { return v.r.catalog }

// QueryStats is what a query cost.
type QueryStats struct {
	RowsRead uint64
	Elapsed  time.Duration
}

// Query runs one statement that reads. Any other is STATEMENT_WRITES.
func (v *View) Query(st *datav1.Statement, sink sqlrun.Sink) (stats QueryStats, err error) {
	begun := time.Now()
	v.r.steps = 0
	v.r.guard.trusted = false
	defer func() { v.r.guard.trusted = true }()
	p, err := v.r.lookup(st.GetSql())
	if err != nil {
		return stats, v.r.stepError(err) // it may be stopped already
	}
	defer func() { err = errors.Join(err, v.r.release(p)) }()
	if !p.readOnly || p.footprint.schema {
		return stats, rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_WRITES, "the statement writes: use Execute or Transact")
	}
	if err := sqlrun.Bind(p.Stmt, st); err != nil {
		return stats, err
	}
	for first := true; ; first = false {
		row, err := p.Step()
		if err != nil {
			return stats, v.r.stepError(err)
		}
		if first {
			// Not sooner: the schema may have changed, and the step compiled it anew.
			if err := sink.Columns(sqlrun.Columns(p.Stmt)); err != nil {
				return stats, err
			}
		}
		if !row {
			stats.RowsRead, stats.Elapsed = uint64(p.RowsRead()), time.Since(begun)
			return stats, nil
		}
		r, size := sqlrun.Row(p.Stmt)
		if err := sink.Row(r, size); err != nil {
			return stats, err
		}
	}
}

func (r *reader) stepError(err error) error {
	switch {
	case isInterrupt(err) && r.starved:
		return sqlrun.MemoryError()
	case isInterrupt(err) && r.steps > sqlrun.MaxSteps:
		return sqlrun.StepsError(sqlrun.MaxSteps)
	case isInterrupt(err) && r.ctx.Err() != nil:
		return interruptedError(r.ctx)
	default:
		return statementError(err)
	}
}

// IsReadOnly reports whether a statement compiles here and only reads. What does not compile is for the writer to refuse.
func (v *View) IsReadOnly(sql string) bool {
	v.r.guard.trusted = false
	defer func() { v.r.guard.trusted = true }()
	p, err := v.r.lookup(sql)
	if err != nil {
		return false
	}
	readOnly := p.readOnly && !p.footprint.schema
	return v.r.release(p) == nil && readOnly
}
