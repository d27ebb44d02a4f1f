package edgesql

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// Defaults.
const (
	DefaultMaxRunning = 64
	DefaultMaxIdle    = 64

	// maxIdleTables bounds what the connections that are kept have declared: each takes some five to ten kilobytes for a table.
	maxIdleTables = 8192
)

// Options configures an Engine. All are optional.
type Options struct {
	// MaxRunning is how many statements run at once; more wait for their turn or their deadline. Default DefaultMaxRunning.
	MaxRunning int
	// MaxMemory is what was given to sqlrun.LimitMemory: statements are stopped before SQLite has as much; 0 for never.
	MaxMemory int64
	// MaxSteps is how many steps of SQLite's machine a statement may take. Default sqlrun.MaxSteps.
	MaxSteps int64
	// MaxIdle is how many connections are kept for the next statements, of all databases. Default DefaultMaxIdle.
	MaxIdle int
	// MaxImages is how many bytes the images of tables may take, of all databases; 0 keeps none.
	MaxImages  int64
	Registerer prometheus.Registerer
}

// Engine answers SELECTs from snapshots of a replica. It may be used concurrently. Close it.
type Engine struct {
	maxIdle int
	steps   int64         // that a statement may take
	memory  int64         // that SQLite may have while statements run; 0 is without limit
	running chan struct{} // a place for each statement that runs
	metrics *metrics
	images  *images // nil keeps none

	mu     sync.Mutex
	idle   []*conn // the longest unused first
	tables int     // of idle
	closed bool
}

// New returns an engine. The error is a metric's that the registerer has already.
func New(o Options) (*Engine, error) {
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		maxIdle: cmp.Or(o.MaxIdle, DefaultMaxIdle), running: make(chan struct{}, cmp.Or(o.MaxRunning, DefaultMaxRunning)),
		steps: cmp.Or(o.MaxSteps, sqlrun.MaxSteps), memory: sqlrun.CallersMemory(o.MaxMemory), metrics: m,
	}
	if o.MaxImages > 0 {
		e.images = newImages(o.MaxImages, m)
	}
	return e, nil
}

// Close waits for the statements that run and closes all connections. Query must not be called afterwards.
func (e *Engine) Close() error {
	for range cap(e.running) {
		e.running <- struct{}{}
	}
	if e.images != nil {
		e.images.close()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	var errs []error
	for _, c := range e.idle {
		errs = append(errs, c.close())
	}
	e.idle = nil
	return errors.Join(errs...)
}

// Stats is what a statement cost.
type Stats struct {
	RowsRead uint64 // rows and index entries looked at
}

// Query answers one SELECT from a snapshot, which stays the caller's, of a database with an id that is never another's. An
// UnsupportedError error means that the primary is to be asked: nothing was given to the sink then. Others are the caller's, and
// the same as the primary's. The statement may take as long as ctx lets it.
func (e *Engine) Query(
	ctx context.Context, database uint32, snap *replica.Snapshot, st *datav1.Statement, sink sqlrun.Sink,
) (stats Stats, err error) {
	return e.query(ctx, database, snap, nil, st, sink)
}

func (e *Engine) query(
	ctx context.Context, database uint32, snap *replica.Snapshot, view View, st *datav1.Statement, sink sqlrun.Sink,
) (stats Stats, err error) {
	begun := time.Now()
	defer func() {
		if u, ok := errors.AsType[*UnsupportedError](err); ok {
			e.metrics.unsupported.WithLabelValues(string(u.Reason)).Inc()
			return
		}
		e.metrics.seconds.Observe(time.Since(begun).Seconds())
	}()
	if reason := reasonOfKind(sqlsplit.Kind(st.GetSql())); reason != "" {
		return Stats{}, &UnsupportedError{Reason: reason}
	}
	select {
	case e.running <- struct{}{}:
	case <-ctx.Done():
		return Stats{}, sqlrun.Interrupted(ctx)
	}
	defer func() { <-e.running }()
	return e.run(ctx, database, snap, view, st, sink)
}

// View says what of a database's tables a statement may see.
type View interface {
	// Table returns which rows of a table; nil is all. The error, which is the caller's, is that it may see none.
	Table(name string) (*policy.Filter, error)
}

// QueryView is Query of a statement to which there are no rows but those of a view: whatever it is, it cannot tell another one from
// one that is not there. It tells nothing of how many rows it looked at.
func (e *Engine) QueryView(
	ctx context.Context, database uint32, snap *replica.Snapshot, view View, st *datav1.Statement, sink sqlrun.Sink,
) (Stats, error) {
	_, err := e.query(ctx, database, snap, view, st, sink)
	return Stats{}, err
}

// QueryNow is Query of a statement that takes less time than limit, or else is to be given to Query: ok is false then, and
// where there is anything else to say than the answer, or no place for another statement.
func (e *Engine) QueryNow(
	limit time.Duration, database uint32, snap *replica.Snapshot, st *datav1.Statement, sink sqlrun.Sink,
) (stats Stats, ok bool) {
	if reasonOfKind(sqlsplit.Kind(st.GetSql())) != "" {
		return Stats{}, false
	}
	select {
	case e.running <- struct{}{}:
	default:
		return Stats{}, false
	}
	defer func() { <-e.running }()
	begun := time.Now()
	stats, err := e.run(brief{Context: context.Background(), until: begun.Add(limit)}, database, snap, nil, st, sink)
	if err != nil {
		return Stats{}, false
	}
	e.metrics.seconds.Observe(time.Since(begun).Seconds())
	return stats, true
}

// brief is a context that ends at a time without a timer. Nobody can wait for that.
type brief struct {
	context.Context //nolint:containedctx // it is one

	until time.Time
}

// Err implements context.Context.
func (b brief) Err() error {
	if time.Now().After(b.until) {
		return context.DeadlineExceeded
	}
	return nil
}

// run answers a statement that has its place.
func (e *Engine) run(
	ctx context.Context, database uint32, snap *replica.Snapshot, view View, st *datav1.Statement, sink sqlrun.Sink,
) (stats Stats, err error) {
	c, err := e.take(database, snap.Catalog(), view != nil)
	if err != nil {
		return Stats{}, &UnsupportedError{Reason: ReasonFailed, Err: err}
	}
	whole := false // else something panicked, and nobody knows what the connection is like
	defer func() {
		if whole {
			err = errors.Join(err, e.put(c))
		} else {
			_ = c.close()
		}
	}()
	c.filter = view
	stats, err = c.query(ctx, snap, st, sink)
	c.filter, c.visible = nil, nil
	whole = true
	return stats, err
}

// reasonOfKind returns why a kind of statement is not for the replica, or "".
func reasonOfKind(kind string) Reason {
	switch kind {
	case "EXPLAIN":
		return ReasonExplain
	case "ALTER", "ANALYZE", "ATTACH", "BEGIN", "COMMIT", "CREATE", "DELETE", "DETACH", "DROP", "END", "INSERT", "REINDEX", "RELEASE",
		"REPLACE", "ROLLBACK", "SAVEPOINT", "UPDATE", "VACUUM":
		return ReasonWrites
	default:
		return "" // one that reads, or no statement at all: SQLite says what is wrong
	}
}

// take returns a connection for a catalog. Those for statements with a view are apart: their plans are others.
func (e *Engine) take(database uint32, cat *catalog.Catalog, filtered bool) (*conn, error) {
	e.mu.Lock()
	for i, c := range slices.Backward(e.idle) {
		if c.catalog == cat && c.database == database && c.filtered == filtered {
			e.idle = slices.Delete(e.idle, i, i+1)
			e.tables -= len(c.tables)
			e.mu.Unlock()
			return c, nil
		}
	}
	e.mu.Unlock()
	c, err := openConn(database, cat, e.memory, e.steps)
	if err == nil {
		c.filtered = filtered
	}
	if err == nil && !filtered {
		c.images = e.images
	}
	return c, err
}

// put keeps a connection for the next statement, unless it knows too much.
func (e *Engine) put(c *conn) error {
	if c.plans > maxKeptPlans {
		return c.close()
	}
	var old []*conn
	e.mu.Lock()
	e.idle = append(e.idle, c)
	e.tables += len(c.tables)
	for len(e.idle) > e.maxIdle || e.tables > maxIdleTables && len(e.idle) > 1 || e.closed && len(e.idle) > 0 {
		old = append(old, e.idle[0])
		e.tables -= len(e.idle[0].tables)
		e.idle = slices.Delete(e.idle, 0, 1)
	}
	e.mu.Unlock()
	var errs []error
	for _, c := range old {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

// query runs a statement.
func (c *conn) query(
	ctx context.Context, snap *replica.Snapshot, st *datav1.Statement, sink sqlrun.Sink,
) (stats Stats, err error) {
	c.ctx, c.snap, c.rows, c.closing, c.starved, c.steps = ctx, snap, 0, nil, false, 0
	c.run++
	c.begun = time.Now()
	defer func() {
		c.endReads()
		c.ctx, c.snap = nil, nil
		err = errors.Join(err, c.closing)
	}()
	s, err := c.lookup(st.GetSql())
	if err != nil {
		if sqlrun.IsInterrupt(err) { // it was stopped already
			return Stats{}, c.stepError(err, true)
		}
		return Stats{}, err
	}
	defer func() { err = errors.Join(err, c.release(s)) }()
	if o, ok := sink.(Observer); ok {
		o.Compiled(Compiled{Tables: s.tables, Volatile: s.volatile})
	}
	if err := c.look(s); err != nil {
		return Stats{}, err
	}
	for _, t := range s.tables {
		if err := snap.TableProblem(t); err != nil {
			return Stats{}, &UnsupportedError{Reason: ReasonDiverged, Detail: t.Name, Err: err}
		}
	}
	if s.generated {
		if _, err := c.schema(); err != nil {
			return Stats{}, &UnsupportedError{Reason: ReasonGenerated, Err: err}
		}
	}
	if err := sqlrun.Bind(s.Stmt, st); err != nil {
		return Stats{}, err
	}
	if s.counts != nil && !c.filtered {
		return Stats{}, c.count(s, sink)
	}
	if err := c.stepAll(s, sink); err != nil {
		return Stats{}, err
	}
	return Stats{RowsRead: c.rows}, nil
}

// stepAll steps through a statement. The sink gets nothing before the first row is there.
func (c *conn) stepAll(s *statement, sink sqlrun.Sink) error {
	row, err := s.Step()
	if err != nil {
		return c.stepError(err, true)
	}
	if err := sink.Columns(sqlrun.Columns(s.Stmt)); err != nil {
		return err
	}
	for row {
		r, size := sqlrun.Row(s.Stmt)
		if err := sink.Row(r, size); err != nil {
			return err
		}
		if row, err = s.Step(); err != nil {
			return c.stepError(err, false)
		}
	}
	return nil
}

// stepError returns the caller's error for what Step failed with. Where nothing has been answered yet, what is wrong here is
// for the primary.
func (c *conn) stepError(err error, first bool) error {
	if c.starved && sqlrun.IsInterrupt(err) {
		return sqlrun.MemoryError()
	}
	if c.steps > c.maxSteps && sqlrun.IsInterrupt(err) {
		return sqlrun.StepsError(c.maxSteps)
	}
	if cause := c.ctx.Err(); cause != nil && (sqlrun.IsInterrupt(err) || errors.Is(err, cause)) {
		return sqlrun.Interrupted(c.ctx)
	}
	if u, ok := errors.AsType[*UnsupportedError](err); ok {
		if first {
			return u
		}
		err = u.Err
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code {
		case sqlite.CodeError, sqlite.CodeTooBig, sqlite.CodeMismatch, sqlite.CodeRange, sqlite.CodeConstraint,
			sqlite.CodeNoMem:
			return sqlrun.Error(err)
		default:
		}
	}
	err = fmt.Errorf("run statement on the replica: %w", err)
	switch {
	case !first:
		return err
	case errors.Is(err, replica.ErrDiverged):
		return &UnsupportedError{Reason: ReasonDiverged, Err: err}
	default:
		return &UnsupportedError{Reason: ReasonFailed, Err: err}
	}
}
