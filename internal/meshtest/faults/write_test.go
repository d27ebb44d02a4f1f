package faults_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// cutWriter makes writes through one region whose link is cut at given bytes.
type cutWriter struct {
	t       *testing.T
	m       *meshtest.Mesh
	region  string
	link    *faultproxy.Proxy
	keyed   bool // the caller gives the idempotency key, not the region
	cutAll  bool // the link stays cut after the byte, so that no repeat gets through
	writes  int
	unknown int // answers that the outcome is not known
	refused int // answers that nothing was done
	want    map[string]int
}

// TestWriteCutAtEveryByte cuts the link at each byte of a forwarded write's request and answer. The write is done once, or
// refused and not done, or its outcome is said not to be known, and then a repeat under its key makes it done once.
func TestWriteCutAtEveryByte(t *testing.T) {
	const perKind = 2
	var regions []string
	for i := range 4 * perKind {
		regions = append(regions, fmt.Sprintf("region-%d", i))
	}
	m, links := startLinked(t, regions...)
	stride := int64(1)
	if testing.Short() {
		stride = 16
	}
	var mu sync.Mutex
	want := make(map[string]int)
	var running sync.WaitGroup
	for i, region := range regions {
		w := &cutWriter{
			t: t, m: m, region: region, link: links[region], keyed: i%2 == 0, cutAll: i%4 >= 2, want: make(map[string]int),
		}
		running.Go(func() {
			for _, side := range []faultproxy.Side{faultproxy.Up, faultproxy.Down} {
				n := int64(i/4) * stride
				for w.write(side, n) {
					n += stride * perKind
				}
			}
			t.Logf("%s (key of the caller: %v, stays cut: %v): %d writes, outcome unknown of %d, %d refused",
				region, w.keyed, w.cutAll, w.writes, w.unknown, w.refused)
			if w.cutAll && w.unknown == 0 || !w.cutAll && w.unknown+w.refused > 0 {
				t.Errorf("%s: outcome unknown of %d, %d refused", region, w.unknown, w.refused)
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(want, w.want)
		})
	}
	running.Wait()
	got := rows(t, m)
	for v, n := range want {
		if got[v] != n {
			t.Errorf("%s: %d rows, want %d", v, got[v], n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d values, want %d", len(got), len(want))
	}
	m.CompareAll(db)
}

// write makes a write that is cut after n bytes in a direction, and reports whether it was: false means that there are not
// that many.
func (w *cutWriter) write(side faultproxy.Side, n int64) bool {
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	v := fmt.Sprintf("%s.%v.%d", w.region, side, n)
	key := ""
	if w.keyed {
		key = v
	}
	w.calm(ctx)
	cutAfter := w.link.CutAfter
	if w.cutAll {
		cutAfter = w.link.CutAllAfter
	}
	cut := cutAfter(faultproxy.HTTP1, side, n)
	err := insert(ctx, w.m.Client(w.region), key, v)
	w.link.Heal()
	w.writes++
	select {
	case <-cut:
	default:
		if err != nil {
			w.t.Errorf("%s: not cut, and %v", v, err)
		} else {
			w.want[v] = 1
		}
		return false
	}
	switch rpcerr.ReasonOf(err) {
	case datav1.ErrorReason_ERROR_REASON_UNSPECIFIED:
		if err != nil {
			w.t.Errorf("%s: %v", v, err)
		}
		w.want[v] = 1
	case datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE:
		w.refused++ // and not done: there is no row of this value
	case datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN:
		w.unknown++
		e, _ := rpcerr.FromError(err)
		given := e.Metadata("idempotency_key")
		if given == "" || w.keyed && given != key {
			w.t.Errorf("%s: the key to repeat it under is %q", v, given)
		}
		w.want[v] = 1
		meshtest.Eventually(w.t, v+" is repeated", func(ctx context.Context) error {
			err := insert(ctx, w.m.Client(w.region), given, v)
			if err != nil && !mayRepeat(err) {
				w.t.Errorf("%s: %v", v, err)
			}
			return err
		})
	default:
		w.t.Errorf("%s: %v", v, err)
	}
	return true
}

// calm makes calls succeed until the breaker thinks well of the link again.
func (w *cutWriter) calm(ctx context.Context) {
	req := &datav1.ExecuteRequest{
		Database: db, Statement: &datav1.Statement{Sql: "SELECT 1"},
		Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY}, // else the link has no part in it
	}
	for range 5 {
		meshtest.Eventually(w.t, "calls pass", func(context.Context) error {
			_, err := w.m.Client(w.region).Execute(ctx, connect.NewRequest(req))
			return err
		})
	}
}
