package watchquery

import (
	"context"
	"sync"

	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/stamp"
	"github.com/nearside-dev/nearside/sidecar/watch"
)

// feed wakes the queries of one database. It lives as long as there are some.
type feed struct {
	hub      *Hub
	database *replica.Database
	cancel   context.CancelFunc

	mu       sync.Mutex // guards what follows; taken before a query's
	ended    bool
	watchers int
	queries  map[string]*query
}

func (h *Hub) newFeed(d *replica.Database) *feed {
	ctx, cancel := context.WithCancel(context.Background())
	f := &feed{hub: h, database: d, cancel: cancel, queries: make(map[string]*query)}
	h.running.Go(func() { f.run(ctx) })
	return f
}

// run looks at all queries at each state of the copy that it sees. It may miss some: the newest is what counts.
func (f *feed) run(ctx context.Context) {
	var at stamp.Stamp
	for {
		m, err := f.database.AwaitChange(ctx, at)
		if err != nil {
			f.end(watch.Interrupted(err))
			return
		}
		at = m.Stamp()
		f.mu.Lock()
		for _, q := range f.queries {
			q.look(m)
		}
		f.mu.Unlock()
	}
}

// join returns the query of a key with one watcher more; nil if the feed has ended.
func (f *feed) join(r *Request, key string) *query {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil
	}
	q := f.queries[key]
	if q == nil {
		q = f.newQuery(r.GetStatement(), r.View, key)
		f.queries[key] = q
	}
	q.watchers++
	f.watchers++
	return q
}

// leave undoes join, and reports whether nobody is left.
func (f *feed) leave(q *query) (empty bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if q.watchers--; q.watchers == 0 {
		q.cancel()
		f.removeLocked(q)
	}
	f.watchers--
	if f.watchers == 0 {
		f.ended = true
		f.cancel()
	}
	return f.watchers == 0
}

// remove has the next who asks begin a query anew.
func (f *feed) remove(q *query) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removeLocked(q)
}

func (f *feed) removeLocked(q *query) {
	if f.queries[q.key] == q {
		delete(f.queries, q.key)
	}
}

// end ends all queries, and the feed.
func (f *feed) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.cancel()
	for _, q := range f.queries {
		q.end(err)
	}
	clear(f.queries)
}
