package access

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/value"
)

// connection is one on which requests come with the same headers.
type connection struct {
	x      server.Express
	r      *http.Request
	answer server.ExpressAnswer
}

func (c *connection) ask() bool {
	c.answer.Bytes = c.answer.Bytes[:0]
	return c.x.ServeExpress(c.r.Context(), c.r, []byte("m"), &c.answer)
}

func (w *world) connection(chain *Chain, credential string) *connection {
	return &connection{x: chain.Express(datav1connect.DataServiceGetProcedure), r: expressRequest(credential)}
}

// TestRememberedCallers: what is remembered of a connection's caller saves no decision. What changes is so at the next request.
func TestRememberedCallers(t *testing.T) {
	text, integer := value.Text, value.Integer
	// replace puts rows in the place of a table's.
	replace := func(w *world, table string, rows ...[]value.Value) {
		w.clear(table)
		for _, r := range rows {
			w.add(table, r...)
		}
	}
	for name, test := range map[string]struct {
		change, back func(*world) // back is nil where there is no way
		apiKey       bool
	}{
		"the token is revoked": {
			change: func(w *world) { w.add(meshdb.TableRevocations, text("t_1"), integer(0)) },
			back:   func(w *world) { w.clear(meshdb.TableRevocations) },
		},
		"the session is revoked": {
			change: func(w *world) { w.add(meshdb.TableRevocations, text("s_1"), integer(0)) },
			back:   func(w *world) { w.clear(meshdb.TableRevocations) },
		},
		"the token ends": {change: func(w *world) { w.now = w.now.Add(10 * time.Minute) }},
		"the role is taken": {
			change: func(w *world) { w.clear(meshdb.TableAccountRoles) },
			back:   func(w *world) { w.add(meshdb.TableAccountRoles, text("u_ann"), text("reader"), text("shop")) },
		},
		"the account is disabled": {
			change: func(w *world) {
				replace(w, meshdb.TableAccounts, []value.Value{text("u_ann"), text("user"), text("ann"), integer(1), integer(0)})
			},
			back: func(w *world) {
				replace(w, meshdb.TableAccounts, []value.Value{text("u_ann"), text("user"), text("ann"), integer(0), integer(0)})
			},
		},
		"the account's tokens are ended": {change: func(w *world) {
			replace(w, meshdb.TableAccounts, []value.Value{text("u_ann"), text("user"), text("ann"), integer(0), integer(w.now.UnixMilli())})
		}},
		"the signing key is taken back": {change: func(w *world) { w.clear(meshdb.TableSigningKeys) }},
		"a policy forbids": {
			change: func(w *world) {
				w.add(meshdb.TablePolicies, text("no"), text(`forbid (principal, action, resource == Table::"shop/t");`))
			},
			back: func(w *world) { w.clear(meshdb.TablePolicies) },
		},
		"a limit comes": {
			change: func(w *world) {
				w.add(meshdb.TableRateLimits, text("identity"), text(""), value.Real(0.001), integer(1))
				if !w.asks() {
					w.fail("not answered below the limit that has come")
				}
			},
			back: func(w *world) { w.clear(meshdb.TableRateLimits) },
		},
		"the rows cannot be read": {
			change: func(w *world) { w.fails = http.ErrBodyNotAllowed; w.version++ },
			back:   func(w *world) { w.fails = nil },
		},
		"the API key is revoked": {apiKey: true, change: func(w *world) { w.clear(meshdb.TableAPIKeys) }},
		"the API key ends": {apiKey: true, change: func(w *world) {
			hash := HashSecret(w.apiKey)
			replace(w, meshdb.TableAPIKeys, []value.Value{text("k_1"), text("sa_bot"), value.Blob(hash[:]), integer(w.now.UnixMilli())})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			short, chain := w.expressGet()
			credential := w.token(t, nil)
			if test.apiKey {
				credential = w.apiKey
			}
			c := w.connection(chain, credential)
			w.asks, w.fail = c.ask, t.Error
			for range 3 {
				if !c.ask() {
					t.Fatal("not answered")
				}
			}
			if short.served != 3 {
				t.Fatal("somebody else has answered")
			}
			test.change(w)
			for range 2 {
				if c.ask() {
					t.Error("answered")
				}
			}
			if test.back == nil {
				return
			}
			test.back(w)
			if !c.ask() {
				t.Error("not answered when it is as before")
			}
		})
	}
}

// TestRememberedCallersAreOfTheirHeaders: other headers are of another caller, and back.
func TestRememberedCallersAreOfTheirHeaders(t *testing.T) {
	w := newWorld(t)
	short, chain := w.expressGet()
	c := w.connection(chain, w.token(t, nil))
	bot, none, forged := expressRequest(w.apiKey), expressRequest(""), expressRequest(w.token(t, nil)+"x")
	ann := c.r
	for range 2 {
		for r, want := range map[*http.Request]string{ann: "u_ann", bot: "sa_bot", none: "", forged: ""} {
			c.r, short.caller = r, nil
			if answered := c.ask(); answered != (want != "") || answered && short.caller.ID != want {
				t.Errorf("answered: %t, as %v, want %q", answered, short.caller, want)
			}
		}
	}
}

// TestRememberedBuckets: all connections of a caller have one bucket, also when it has lost its place to others meanwhile, and a limit
// that changes is the new one at once.
func TestRememberedBuckets(t *testing.T) {
	w := newWorld(t)
	limit := func(burst int64) {
		w.clear(meshdb.TableRateLimits)
		w.add(meshdb.TableRateLimits, value.Text("identity"), value.Text(""), value.Real(0.5), value.Integer(burst))
	}
	limit(20)
	token := w.token(t, nil)
	connect := func() *connection {
		_, chain := w.expressGet()
		return w.connection(chain, token)
	}
	var all [4]*connection
	for i := range all {
		all[i] = connect()
	}
	together := func() (n int64) {
		var answered atomic.Int64
		var running sync.WaitGroup
		for _, c := range all {
			running.Go(func() {
				for range 15 {
					if c.ask() {
						answered.Add(1)
					}
				}
			})
		}
		running.Wait()
		return answered.Load()
	}
	if n := together(); n != 20 {
		t.Errorf("%d were answered, want 20", n)
	}
	limit(5)
	w.now = w.now.Add(time.Minute)
	if n := together(); n != 5 {
		t.Errorf("%d were answered with the lower limit, want 5", n)
	}
	// Others push the bucket out: a new one is full, and there is one for connections from before and for new ones.
	for i := range bucketShards * maxShardBuckets * 4 {
		w.guard.limits.take(limitKey{scope: scopeAddress, subject: fmt.Sprint(i)}, Rate{PerSecond: 1, Burst: 1})
	}
	all[0], all[1] = connect(), connect()
	w.now = w.now.Add(time.Minute)
	if n := together(); n != 5 {
		t.Errorf("%d were answered after the bucket had gone, want 5", n)
	}
}
