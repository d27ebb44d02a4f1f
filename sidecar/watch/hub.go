package watch

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// Defaults of Options.
const (
	DefaultProgress   = 5 * time.Second
	DefaultCacheBytes = 32 << 20
)

const (
	// maxTailReads is how many watchers may read the tail on the disk at a time.
	maxTailReads = 4
	// retryAfter is when a caller that found no place should try again.
	retryAfter = time.Second
	// minCacheBytes is what each feed may keep, however many there are.
	minCacheBytes = 256 << 10
)

// Options configures a Hub. The zero value is usable.
type Options struct {
	// Places are the watchers'; default new ones with the default limits. Where there is none a call is refused with OVERLOADED.
	Places *Places
	// Progress is after how long a watcher is told how far it is if nothing that it watches changed; at the latest half as
	// long again after. Default DefaultProgress.
	Progress time.Duration
	// CacheBytes is how much memory the newest records of all watched databases may take; default DefaultCacheBytes.
	CacheBytes int
	// Registerer takes the metrics; default none.
	Registerer prometheus.Registerer
}

// Hub serves a sidecar's watchers. It may be used concurrently.
type Hub struct {
	options Options
	metrics *metrics
	reads   chan struct{} // has an element for each watcher that reads the tail on the disk
	running sync.WaitGroup
	closing chan struct{}

	mu     sync.Mutex // guards what follows
	closed bool
	feeds  map[*replica.Database]*feed
}

// New returns a Hub. The error is a metric's that the registerer has already.
func New(o Options) (*Hub, error) {
	if o.Places == nil {
		var err error
		if o.Places, err = NewPlaces(Limits{}, o.Registerer); err != nil {
			return nil, err
		}
	}
	o.Progress = cmp.Or(o.Progress, DefaultProgress)
	o.CacheBytes = cmp.Or(o.CacheBytes, DefaultCacheBytes)
	h := &Hub{
		options: o, reads: make(chan struct{}, maxTailReads), closing: make(chan struct{}),
		feeds: make(map[*replica.Database]*feed),
	}
	var err error
	if h.metrics, err = newMetrics(o.Registerer); err != nil {
		return nil, err
	}
	h.running.Go(h.tick)
	return h, nil
}

// Close ends all watches and waits for the hub's goroutines. The watchers' calls return soon after.
func (h *Hub) Close() {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.closing)
	}
	for _, f := range h.feeds {
		f.cancel()
	}
	h.mu.Unlock()
	h.running.Wait()
}

// tick has the watchers told how far they are, whether or not anything happens.
func (h *Hub) tick() {
	ticker := time.NewTicker(max(h.options.Progress/2, time.Millisecond))
	defer ticker.Stop()
	var feeds []*feed
	for {
		select {
		case <-ticker.C:
		case <-h.closing:
			return
		}
		feeds = feeds[:0]
		h.mu.Lock()
		for _, f := range h.feeds {
			feeds = append(feeds, f)
		}
		h.mu.Unlock()
		for _, f := range feeds {
			f.tick(time.Now())
		}
	}
}

// cacheBytes is how much memory one feed's records may take.
func (h *Hub) cacheBytes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return max(minCacheBytes, h.options.CacheBytes/max(1, len(h.feeds)))
}

// Forget keeps no record of a database in memory any more, and ends the watches of tables that its copy has no more, as for those
// that the region may not hold: their callers go on from their last bookmark, and are answered elsewhere.
func (h *Hub) Forget(database uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for d, f := range h.feeds {
		if d.ID() == database {
			f.forget()
		}
	}
}

// Request is one call.
type Request struct {
	*datav1.WatchRequest

	Database *replica.Database
	// From is the request's bookmark, AtLeast what "now" must be as fresh as. Nil is none.
	From, AtLeast *bookmark.Bookmark
	// Client is who watches.
	Client string
	// Answer returns an answer with the bookmark of a version.
	Answer func(epoch uint32, version uint64) *datav1.Answer
	// Binary says that messages go over the wire in the binary form.
	Binary bool
	// Rows are those of the table that the caller may see; nil is all. To the caller one that leaves them is deleted.
	Rows *policy.Filter
	// Together has what is sent from then on go out together when the function that it returns is called; nil where that cannot be.
	Together func() (send func())
}

// Serve answers a call until ctx ends or the caller is to begin anew. Messages belong to the hub: send may not keep them.
// Errors are send's and ctx's, those of newTarget, REQUEST_TOO_LARGE, OVERLOADED, NOT_READY, BOOKMARK_TOO_OLD, BOOKMARK_LOST, SCHEMA_CHANGED and
// WATCH_INTERRUPTED.
func (h *Hub) Serve(ctx context.Context, r *Request, send func(*datav1.WatchResponse) error) (err error) {
	if err := CheckSize(r.WatchRequest); err != nil {
		return err
	}
	leave, err := h.options.Places.Enter(r.Database.ID(), r.Client)
	if err != nil {
		return err
	}
	defer func() {
		leave()
		h.metrics.ended.WithLabelValues(WhyEnded(err)).Inc()
	}()
	w, err := h.newWatcher(ctx, r, send)
	if err != nil {
		return err
	}
	defer h.dismiss(w)
	return w.run(ctx)
}

// newWatcher finds out where a call begins, tells its caller, and adds it to its database's feed. Dismiss it.
func (h *Hub) newWatcher(ctx context.Context, r *Request, send func(*datav1.WatchResponse) error) (w *watcher, err error) {
	for _, b := range []*bookmark.Bookmark{r.From, r.AtLeast} {
		if b == nil {
			continue
		}
		if err := r.Database.WaitFor(ctx, b.Epoch, b.Version); err != nil {
			return nil, StartError(ctx, b, err)
		}
	}
	s, err := r.Database.Snapshot()
	if err != nil {
		return nil, StartError(ctx, nil, err)
	}
	defer func() {
		if err = errors.Join(err, s.Close()); err != nil && w != nil {
			h.dismiss(w)
			w = nil
		}
	}()
	t, err := newTarget(s.Catalog(), r.WatchRequest, r.Rows)
	if err != nil {
		return nil, err
	}
	w = &watcher{
		target: t, request: r, send: send, wake: make(chan struct{}, 1), position: s.TailPosition(), toldAt: time.Now(),
		scratch: make([]byte, 0, 64),
	}
	epoch := s.Epoch()
	if r.From != nil {
		if err := w.goOn(s, r); err != nil {
			return nil, err
		}
		epoch = r.From.Epoch
	}
	w.told = w.position.Version
	first := &datav1.WatchResponse{
		Columns: t.shape.Columns, Schema: t.print, KeyColumns: t.keyColumns(), Answer: r.Answer(epoch, w.told),
	}
	if err := h.join(w, s); err != nil {
		return nil, err
	}
	if err := send(first); err != nil {
		return w, err
	}
	return w, nil
}

// goOn sets the position to the caller's bookmark.
func (w *watcher) goOn(s *replica.Snapshot, r *Request) error {
	version := r.From.Version
	if version+1 < s.TailFirst() {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_TOO_OLD,
			"the log of this region begins after version %d, the bookmark is of version %d: read the rows again", s.TailFirst()-1, version).
			With("version", strconv.FormatUint(version, 10)).With("oldest_version", strconv.FormatUint(s.TailFirst()-1, 10))
	}
	if schema := r.GetSchema(); schema != "" && schema != w.print || schema == "" && s.SchemaVersion() > version {
		return w.changed(s.SchemaVersion(), "the schema changed since the bookmark")
	}
	w.position.Version = version
	return nil
}

// StartError is the error of a watch that cannot begin: of what waiting for its bookmark or opening a snapshot failed with.
func StartError(ctx context.Context, b *bookmark.Bookmark, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, replica.ErrBookmarkLost):
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_LOST, "the bookmark's state is lost: %w", err).
			With("epoch", strconv.FormatUint(uint64(b.Epoch), 10)).With("version", strconv.FormatUint(b.Version, 10))
	default:
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY, "the region's copy is not served: %w", err).
			WithRetryAfter(retryAfter)
	}
}

// join adds a watcher to its database's feed, which begins after the snapshot if there is none.
func (h *Hub) join(w *watcher, s *replica.Snapshot) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return Interrupted(replica.ErrClosed)
	}
	d := w.request.Database
	f := h.feeds[d]
	if f != nil {
		select {
		case <-f.ended:
			f = nil
		default:
		}
	}
	if f == nil {
		f = h.newFeed(d, s)
		h.feeds[d] = f
	}
	w.feed = f
	f.add(w)
	return nil
}

// dismiss takes a watcher out of its feed and ends one that has none left.
func (h *Hub) dismiss(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := w.feed
	if !f.remove(w) {
		return
	}
	f.cancel()
	if h.feeds[w.request.Database] == f {
		delete(h.feeds, w.request.Database)
	}
}
