package watchquery

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/watch"
)

// Defaults of Options.
const (
	DefaultInterval       = 10 * time.Millisecond
	DefaultMaxResultBytes = 1 << 20
	DefaultMaxBytes       = 64 << 20
	DefaultMaxRuns        = 8
)

// MinInterval is the shortest Interval.
const MinInterval = time.Millisecond

// retryAfter is when a caller that found no room should try again.
const retryAfter = time.Second

// SQL is what the hub needs of package edgesql.
type SQL interface {
	Query(
		ctx context.Context, database uint32, snap *replica.Snapshot, st *datav1.Statement, sink sqlrun.Sink,
	) (edgesql.Stats, error)
	QueryView(
		ctx context.Context, database uint32, snap *replica.Snapshot, view edgesql.View, st *datav1.Statement, sink sqlrun.Sink,
	) (edgesql.Stats, error)
}

// Options configures a Hub. SQL is required.
type Options struct {
	SQL SQL
	// Places are the watchers', of tables too; default new ones with the default limits. Where there is none a call is refused
	// with OVERLOADED.
	Places *watch.Places
	// Interval is the least time between the beginnings of two runs of one statement; default DefaultInterval, at least
	// MinInterval. A statement that takes long rests as long again.
	Interval time.Duration
	// MaxResultBytes is how large an answer may be, as it is sent; default DefaultMaxResultBytes. A larger one is
	// RESULT_TOO_LARGE.
	MaxResultBytes int
	// MaxBytes is how much memory the newest answers of all statements may take; default DefaultMaxBytes. A watch whose answer
	// finds no room ends with OVERLOADED.
	MaxBytes int
	// MaxRuns is how many statements may run at once; others wait for their turn. Default DefaultMaxRuns.
	MaxRuns int
	// Registerer takes the metrics; default none.
	Registerer prometheus.Registerer
}

// Hub serves a sidecar's watchers of queries. It may be used concurrently.
type Hub struct {
	options Options
	metrics *metrics
	runs    chan struct{} // has an element for each statement that runs
	running sync.WaitGroup

	mu     sync.Mutex // guards what follows; taken before a feed's
	closed bool
	feeds  map[*replica.Database]*feed

	room sync.Mutex // guards bytes
	// bytes is what all answers take.
	bytes int
}

// New returns a Hub. The error is a metric's that the registerer has already.
func New(o Options) (*Hub, error) {
	o.Interval = max(cmp.Or(o.Interval, DefaultInterval), MinInterval)
	o.MaxResultBytes = cmp.Or(o.MaxResultBytes, DefaultMaxResultBytes)
	o.MaxBytes = cmp.Or(o.MaxBytes, DefaultMaxBytes)
	o.MaxRuns = cmp.Or(o.MaxRuns, DefaultMaxRuns)
	if o.Places == nil {
		var err error
		if o.Places, err = watch.NewPlaces(watch.Limits{}, o.Registerer); err != nil {
			return nil, err
		}
	}
	h := &Hub{options: o, runs: make(chan struct{}, o.MaxRuns), feeds: make(map[*replica.Database]*feed)}
	var err error
	if h.metrics, err = newMetrics(h, o.Registerer); err != nil {
		return nil, err
	}
	return h, nil
}

// Close ends all watches and waits for the hub's goroutines. The watchers' calls return soon after.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	for _, f := range h.feeds {
		f.end(watch.Interrupted(replica.ErrClosed))
	}
	h.mu.Unlock()
	h.running.Wait()
}

// Forget keeps no answer of a database any more: what it was made of may have to go, as what the region may not hold any longer.
// Its watchers go on from their last bookmark, and are answered elsewhere if they must.
func (h *Hub) Forget(database uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for d, f := range h.feeds {
		if d.ID() == database {
			f.end(watch.Interrupted(errForgotten))
		}
	}
}

var errForgotten = errors.New("what the region may hold of the database has changed")

// Request is one call.
type Request struct {
	*datav1.WatchQueryRequest

	Database *replica.Database
	// From is the request's bookmark, AtLeast that of its header. Nil is none.
	From, AtLeast *bookmark.Bookmark
	// Client is who watches.
	Client string
	// Answer returns an answer with the bookmark of a version.
	Answer func(epoch uint32, version uint64) *datav1.Answer
	// Binary says that messages go over the wire in the binary form.
	Binary bool
	// View is what the caller may see, and ViewName the same for those who may see the same; nil and "" are all.
	View     edgesql.View
	ViewName string
}

// Serve answers a call until ctx ends or the caller is to begin anew. Messages belong to the hub: send may not keep them.
// Errors are send's and ctx's, those of the statement as a Query has them, STATEMENT_NOT_WATCHABLE, REQUEST_TOO_LARGE, OVERLOADED, NOT_READY,
// BOOKMARK_LOST, SCHEMA_CHANGED, WATCH_INTERRUPTED, and ErrWithheld.
func (h *Hub) Serve(ctx context.Context, r *Request, send func(*datav1.WatchQueryResponse) error) (err error) {
	if err := watch.CheckSize(r.WatchQueryRequest); err != nil {
		return err
	}
	key, err := keyOf(r)
	if err != nil {
		return err
	}
	leave, err := h.options.Places.Enter(r.Database.ID(), r.Client)
	if err != nil {
		return err
	}
	defer func() {
		leave()
		h.metrics.ended.WithLabelValues(watch.WhyEnded(err)).Inc()
	}()
	for _, b := range []*bookmark.Bookmark{r.From, r.AtLeast} {
		if b == nil {
			continue
		}
		if err := r.Database.WaitFor(ctx, b.Epoch, b.Version); err != nil {
			return watch.StartError(ctx, b, err)
		}
	}
	joined, ok := r.Database.Moment()
	if !ok {
		return watch.StartError(ctx, nil, r.Database.Problem())
	}
	q, err := h.join(r, key)
	if err != nil {
		return err
	}
	defer h.leave(q)
	return q.follow(ctx, r, joined, send)
}

// keyOf returns what is the same for calls that watch the same. The error is FIELD_INVALID.
func keyOf(r *Request) (string, error) {
	switch r.GetConsistency().GetLevel() {
	case datav1.Consistency_LEVEL_UNSPECIFIED, datav1.Consistency_LEVEL_ANY, datav1.Consistency_LEVEL_AT_LEAST:
	default:
		return "", rpcerr.InvalidField("consistency.level", "a query is watched in the region: ANY or AT_LEAST")
	}
	parameters, err := memory.EncodeParameters(r.GetStatement())
	if err != nil {
		return "", rpcerr.InvalidField("statement.parameters", "not to be encoded: %v", err)
	}
	// A text has no byte 0xff: it is UTF-8.
	key := append(sqlsplit.AppendNormal(nil, r.GetStatement().GetSql()), 0xff)
	key = append(append(key, r.ViewName...), 0xff)
	return string(append(key, parameters...)), nil
}

// join makes a call one of the watchers of its statement.
func (h *Hub) join(r *Request, key string) (*query, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, watch.Interrupted(replica.ErrClosed)
	}
	if f := h.feeds[r.Database]; f != nil {
		if q := f.join(r, key); q != nil {
			return q, nil
		}
	}
	f := h.newFeed(r.Database)
	q := f.join(r, key)
	if q == nil { // it has ended already
		return nil, watch.StartError(context.Background(), nil, r.Database.Problem())
	}
	h.feeds[r.Database] = f
	return q, nil
}

// leave undoes join.
func (h *Hub) leave(q *query) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := q.feed
	if f.leave(q) && h.feeds[f.database] == f {
		delete(h.feeds, f.database)
	}
}

// grow counts n more bytes of answers; ok is false where there is no room.
func (h *Hub) grow(n int) (ok bool) {
	h.room.Lock()
	defer h.room.Unlock()
	if n > 0 && h.bytes+n > h.options.MaxBytes {
		return false
	}
	h.bytes += n
	return true
}
