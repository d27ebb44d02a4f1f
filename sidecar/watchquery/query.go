package watchquery

import (
	"bytes"
	"context"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/watch"
)

// query is a statement that somebody watches. Its goroutine runs it.
type query struct {
	feed      *feed
	key       string
	statement *datav1.Statement // of the first who asked; those of the others answer the same
	view      edgesql.View      // nil is all
	ctx       context.Context   //nolint:containedctx // ends with the query
	cancel    context.CancelFunc
	wake      chan struct{} // has an element when the answer may be another one
	watchers  int           // guarded by feed.mu

	mu      sync.Mutex // guards what follows
	current *answer    // nil before the first
	err     error      // why it ended
	changed chan struct{}
	ran     chan struct{}
}

// newQuery returns a query with its goroutine running. The caller holds the feed's lock.
func (f *feed) newQuery(st *datav1.Statement, view edgesql.View, key string) *query {
	q := &query{
		feed: f, key: key, statement: proto.CloneOf(st), view: view, wake: make(chan struct{}, 1),
		changed: make(chan struct{}), ran: make(chan struct{}),
	}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	q.poke()
	f.hub.running.Go(q.run)
	return q
}

// poke has the query look whether it is to run.
func (q *query) poke() {
	select {
	case q.wake <- struct{}{}:
	default: // it will
	}
}

// look pokes the query if its answer may be another one at a moment of the copy.
func (q *query) look(m replica.Moment) {
	if a := q.answer(); a != nil && !a.holds(q.feed.database, m) {
		q.poke()
	}
}

func (q *query) answer() *answer {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.current
}

// run runs the statement when it is to be, until the query ends.
func (q *query) run() {
	defer q.drop()
	defer q.cancel()
	h := q.feed.hub
	var rest time.Duration // after the last run
	for {
		select {
		case <-q.wake:
		case <-q.ctx.Done():
			return
		}
		if !q.sleep(rest) {
			return
		}
		rest = 0
		if q.isCurrent() {
			continue
		}
		select {
		case h.runs <- struct{}{}:
		case <-q.ctx.Done():
			return
		}
		begun := time.Now()
		err := q.once()
		took := time.Since(begun)
		<-h.runs
		h.metrics.seconds.Observe(took.Seconds())
		if err != nil {
			h.metrics.runs.WithLabelValues(runFailed).Inc()
			q.feed.remove(q)
			q.end(err)
			return
		}
		rest = max(h.options.Interval-took, took)
	}
}

// sleep waits; ok is false where the query has ended meanwhile.
func (q *query) sleep(d time.Duration) (ok bool) {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-q.ctx.Done():
		return false
	}
}

// isCurrent reports whether the newest answer is what the statement answers now.
func (q *query) isCurrent() bool {
	a := q.answer()
	m, ok := q.feed.database.Moment()
	return ok && a != nil && a.holds(q.feed.database, m)
}

// once runs the statement and publishes what it answers. The error is the watchers'.
func (q *query) once() (err error) {
	last := q.answer()
	snap, err := q.feed.database.Snapshot()
	if err != nil {
		return q.failed(last, nil, err)
	}
	defer func() {
		if closeErr := snap.Close(); err == nil && closeErr != nil {
			err = watch.Interrupted(closeErr)
		}
	}()
	if err := last.check(snap); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.ctx, sqlrun.StatementTimeout)
	defer cancel()
	sink := sink{limit: q.feed.hub.options.MaxResultBytes}
	if err := q.ask(ctx, snap, &sink); err != nil {
		return q.failed(last, snap, err)
	}
	a, err := sink.answer(snap)
	if err != nil {
		return err
	}
	if last != nil && !bytes.Equal(last.columns, a.columns) {
		return schemaChanged("", snap.SchemaVersion(), "the columns of the statement's answer changed")
	}
	return q.publish(last, a)
}

func (q *query) ask(ctx context.Context, snap *replica.Snapshot, sink sqlrun.Sink) (err error) {
	sql, database := q.feed.hub.options.SQL, q.feed.database.ID()
	if q.view == nil {
		_, err = sql.Query(ctx, database, snap, q.statement, sink)
	} else {
		_, err = sql.QueryView(ctx, database, snap, q.view, q.statement, sink)
	}
	return err
}

// publish makes an answer the newest, and wakes those who wait for it.
func (q *query) publish(last, a *answer) error {
	h := q.feed.hub
	same := last != nil && bytes.Equal(last.wire, a.wire)
	if same {
		a.number, a.wire, a.columns = last.number, last.wire, last.columns
		h.metrics.runs.WithLabelValues(runUnchanged).Inc()
	} else {
		a.number = 1
		size := len(a.wire)
		if last != nil {
			a.number += last.number
			size -= len(last.wire)
		}
		if !h.grow(size) {
			return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "the answers of watched queries take %d bytes, which is the limit",
				h.options.MaxBytes).With("limit", strconv.Itoa(h.options.MaxBytes)).With("scope", "bytes").WithRetryAfter(retryAfter)
		}
		h.metrics.runs.WithLabelValues(runChanged).Inc()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.current = a
	close(q.ran)
	q.ran = make(chan struct{})
	if !same {
		close(q.changed)
		q.changed = make(chan struct{})
	}
	return nil
}

// end ends the query: its watchers are told why. Only the first call counts.
func (q *query) end(err error) {
	q.cancel()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return
	}
	q.err = err
	close(q.ran)
	close(q.changed)
}

// drop gives back what the newest answer takes. The query's goroutine calls it when it ends.
func (q *query) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.current != nil {
		q.feed.hub.grow(-len(q.current.wire))
		q.current = nil
	}
}

// follow tells a caller the newest answer, and each newer one that is another, until there is a reason to end. The first is at
// least as new as the moment at which the caller joined.
func (q *query) follow(ctx context.Context, r *Request, joined replica.Moment, send func(*datav1.WatchQueryResponse) error) error {
	told, err := q.begin(ctx, r, joined, send)
	for err == nil {
		q.mu.Lock()
		a, changed := q.current, q.changed
		err = q.err
		q.mu.Unlock()
		switch {
		case err != nil:
			return err
		case a.number != told:
			q.feed.hub.metrics.skipped.Add(float64(a.number - told - 1))
			err = q.tell(r, a, r.Answer(a.epoch, a.version), send)
			told = a.number
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// begin tells a caller the first answer and returns its number.
func (q *query) begin(
	ctx context.Context, r *Request, joined replica.Moment, send func(*datav1.WatchQueryResponse) error,
) (told uint64, err error) {
	for {
		q.mu.Lock()
		a, err, ran := q.current, q.err, q.ran
		q.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if a != nil {
			if m, ok := q.feed.database.Moment(); ok && a.holds(q.feed.database, m) {
				return a.number, q.tell(r, a, r.Answer(m.Epoch(), m.Version()), send)
			}
			if a.floor >= joined.Stamp() {
				return a.number, q.tell(r, a, r.Answer(a.epoch, a.version), send)
			}
		}
		q.poke()
		select {
		case <-ran:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// tell sends an answer.
func (q *query) tell(r *Request, a *answer, described *datav1.Answer, send func(*datav1.WatchQueryResponse) error) error {
	m, err := a.message(r.Binary)
	if err != nil {
		return err
	}
	m.Answer = described
	if err := send(m); err != nil {
		return err
	}
	q.feed.hub.metrics.results.Inc()
	return nil
}
