package access

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/value"
)

// TestEarlyToken has a token arrive before the rows of whom it is.
func TestEarlyToken(t *testing.T) {
	for _, tc := range []struct {
		name   string
		rows   time.Duration // when they come
		made   time.Duration // before it is shown
		cutOff bool
		asks   int // how often it is shown
		wait   time.Duration
		want   string
	}{
		{"the rows come", 100 * time.Millisecond, 0, false, 1, 100 * time.Millisecond, ""},
		{"several requests", 100 * time.Millisecond, 0, false, 6, 100 * time.Millisecond, ""},
		{"they come too late", time.Second, 0, false, 1, maxCatchUp, "TOKEN_INVALID"},
		{"the token is not new", time.Second, newToken, false, 1, 0, "TOKEN_INVALID"},
		{"the region is cut off", time.Second, 0, true, 1, 0, "TOKEN_INVALID"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				here := make(chan struct{})
				come := time.AfterFunc(tc.rows, func() {
					defer close(here)
					w.add(meshdb.TableAccounts, value.Text("u_bea"), value.Text("user"), value.Text("bea"), value.Integer(0), value.Integer(0))
				})
				defer come.Stop()
				w.connected = !tc.cutOff
				w.now = time.Now().Add(-tc.made)
				due := w.version + 1
				token := w.token(t, func(c *Claims) { c.Subject, c.MeshVersion = "u_bea", due })
				w.now = time.Now()
				var waited atomic.Int32
				w.wait = func(ctx context.Context, v Version) {
					if waited.Add(1); v != (Version{Version: due}) {
						t.Errorf("waits for %v", v)
					}
					select {
					case <-here:
					case <-ctx.Done():
					}
				}
				start := time.Now()
				reasons := make(chan string)
				for range tc.asks {
					go func() { reasons <- w.reason(token) }()
				}
				for range tc.asks {
					if got := <-reasons; got != tc.want {
						t.Errorf("%q, want %q", got, tc.want)
					}
				}
				if took := time.Since(start); took != tc.wait {
					t.Errorf("waited for %v, want %v", took, tc.wait)
				}
				if tc.want == "" && (w.reason(token) != "" || int(waited.Load()) != tc.asks) {
					t.Errorf("waited %d times", waited.Load())
				}
			})
		})
	}
}
