package readpath

import (
	"context"
	"sync"
)

// flights lets one of several reads of the same thing go to the replica. The others wait for what it keeps; whether that is
// good enough for them is for them to say, as with anything that was kept. There are never more flights than reads.
type flights[T any] struct {
	mu  sync.Mutex
	all map[string]*flight[T]
}

type flight[T any] struct {
	landed chan struct{}
	kept   T // once landed
	ok     bool
}

// join returns the flight of a key, and whether the caller leads it: then it must land it.
func (f *flights[T]) join(key string) (fl *flight[T], leads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.all[key]; ok {
		return fl, false
	}
	if f.all == nil {
		f.all = make(map[string]*flight[T])
	}
	fl = &flight[T]{landed: make(chan struct{})}
	f.all[key] = fl
	return fl, true
}

// land ends a flight with what was kept, or with nothing. Only the first call for a flight counts.
func (f *flights[T]) land(key string, fl *flight[T], kept T, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-fl.landed:
		return
	default:
	}
	fl.kept, fl.ok = kept, ok
	delete(f.all, key)
	close(fl.landed)
}

// wait returns what the flight kept. The error is ctx's.
func (fl *flight[T]) wait(ctx context.Context) (kept T, ok bool, err error) {
	select {
	case <-fl.landed:
		return fl.kept, fl.ok, nil
	case <-ctx.Done():
		return kept, false, ctx.Err()
	}
}
