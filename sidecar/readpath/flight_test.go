package readpath

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// gate holds the first read back, once it has been answered below, until it is opened.
type gate struct {
	Reader

	reads  atomic.Int64
	opened chan struct{}
}

func (g *gate) pass() {
	if g.reads.Add(1) == 1 {
		<-g.opened
	}
}

func (g *gate) Get(ctx context.Context, read *Read, req *datav1.GetRequest) (*datav1.GetResponse, error) {
	res, err := g.Reader.Get(ctx, read, req)
	g.pass()
	return res, err
}

func (g *gate) List(ctx context.Context, read *Read, req *datav1.ListRequest) (*datav1.ListResponse, error) {
	res, err := g.Reader.List(ctx, read, req)
	g.pass()
	return res, err
}

func newGate(t *testing.T) (*region, *gate) {
	r := newRegionWith(t, testBytes)
	g := &gate{Reader: r.path.memory.next, opened: make(chan struct{})}
	r.path.memory.next = g
	return r, g
}

// Many who miss the same row or page at once read it once.
func TestSingleFlight(t *testing.T) {
	list := &datav1.ListRequest{Database: "shop", Table: "users"}
	for name, read := range map[string]func(r *region) (*datav1.Answer, error){
		"row": func(r *region) (*datav1.Answer, error) { return r.get(r.t.Context(), nil) },
		"page": func(r *region) (*datav1.Answer, error) {
			res, err := r.path.List(r.t.Context(), nil, list)
			return res.GetAnswer(), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, g := newGate(t)
				var wg sync.WaitGroup
				var hits atomic.Int64
				for range 8 {
					wg.Go(func() {
						a, err := read(r)
						if err != nil {
							t.Error(err)
						}
						if a.GetSource() == fromMemory {
							hits.Add(1)
						}
					})
				}
				synctest.Wait() // one is at the gate, the others wait for it
				close(g.opened)
				wg.Wait()
				if g.reads.Load() != 1 || hits.Load() != 7 {
					t.Errorf("%d reads, %d answers from memory", g.reads.Load(), hits.Load())
				}
			})
		})
	}
}

// Who waits for another's read does not get an answer that is older than its own bookmark.
func TestFlightOfAnOlderRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, g := newGate(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			a, err := r.get(t.Context(), nil)
			if err != nil || a.GetBookmark() != r.mark(shopID, 1, 1) {
				t.Errorf("the first: %v, %v", a, err)
			}
		})
		synctest.Wait() // it has read version 1
		r.apply(shopID, r.shop.Commit(replicatest.Put(r.users, user(1, "changed@x", 1))))
		mark := r.mark(shopID, 1, 2)
		wg.Go(func() {
			req := getUser(1)
			req.Consistency = atLeast(mark, 0)
			res, err := r.path.Get(t.Context(), nil, req)
			if err != nil || res.GetAnswer().GetBookmark() != mark || res.GetRow().GetValues()[1].GetText() != "changed@x" {
				t.Errorf("the second: %v, %v", res, err)
			}
		})
		gone, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := r.get(gone, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("a caller who is gone got %v", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait() // that one is gone, the second still waits
		close(g.opened)
		wg.Wait()
		if g.reads.Load() != 2 {
			t.Errorf("%d reads, want 2", g.reads.Load())
		}
	})
}

// Nobody waits for a read that has gone on to the primary.
func TestFlightToThePrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, g := newGate(t)
		req := getUser(1)
		req.Table = "elsewhere"
		var wg sync.WaitGroup
		read := func() {
			res, err := r.path.Get(t.Context(), nil, req)
			if err != nil || res.GetAnswer().GetSource() != fromPrimary {
				t.Errorf("%v, %v", res, err)
			}
		}
		wg.Go(read)
		synctest.Wait() // it is at the gate, with an answer of the primary
		read()
		close(g.opened)
		wg.Wait()
	})
}
