package watchquery

import (
	"strings"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/sidecar/watch"
)

func TestRefuses(t *testing.T) {
	bubble(t, Options{MaxResultBytes: 100}, func(t *testing.T, r *region) {
		r.put(1, strings.Repeat("x", 200))
		for sql, reason := range map[string]rpcerr.Reason{
			"SELECT random()":                        datav1.ErrorReason_ERROR_REASON_STATEMENT_NOT_WATCHABLE,
			"SELECT datetime('now'), id FROM items":  datav1.ErrorReason_ERROR_REASON_STATEMENT_NOT_WATCHABLE,
			"EXPLAIN SELECT 1":                       datav1.ErrorReason_ERROR_REASON_STATEMENT_NOT_WATCHABLE,
			"SELECT * FROM items INDEXED BY by_none": datav1.ErrorReason_ERROR_REASON_STATEMENT_NOT_WATCHABLE,
			"DELETE FROM items":                      datav1.ErrorReason_ERROR_REASON_STATEMENT_WRITES,
			"SELECT * FROM nothing":                  datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID,
			"SELECT FROM":                            datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID,
			"SELECT ?":                               datav1.ErrorReason_ERROR_REASON_FIELD_INVALID,
			"SELECT 1 --" + strings.Repeat("x", watch.MaxRequestBytes): datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE,
			"-- nothing":           datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID,
			"SELEC id FROM items":  datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID,
			"(SELECT 1)":           datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID,
			"SELECT 1; SELECT 2":   datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID,
			"SELECT 1; (SELECT 2)": datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID,
			all:                    datav1.ErrorReason_ERROR_REASON_RESULT_TOO_LARGE,
		} {
			t.Logf("%.100s", sql)
			c := r.watch(sql, nil)
			c.wantEnd(t, reason)
			c.cancel()
		}
		// What becomes too large ends.
		c := r.watch("SELECT id FROM items ORDER BY id", nil)
		c.want(t, "1/2: 1")
		for i := range int64(20) {
			r.put(i, "")
		}
		c.wantEnd(t, datav1.ErrorReason_ERROR_REASON_RESULT_TOO_LARGE)
		c.cancel()
	})
}

func TestLimits(t *testing.T) {
	places, err := watch.NewPlaces(watch.Limits{Total: 3, PerClient: 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	bubble(t, Options{Places: places, MaxBytes: 350}, func(t *testing.T, r *region) {
		r.put(1, strings.Repeat("x", 200))
		first := r.watchAs("a", true, all, nil)
		first.want(t, "1/2: 1="+strings.Repeat("x", 200))
		full := r.watchAs("a", true, "SELECT name FROM items", nil)
		full.wantEnd(t, datav1.ErrorReason_ERROR_REASON_OVERLOADED) // no room for its answer
		second := r.watchAs("a", true, "SELECT 1", nil)
		second.want(t, "1/2: 1")
		r.watchAs("a", true, "SELECT 1", nil).wantEnd(t, datav1.ErrorReason_ERROR_REASON_OVERLOADED)
		third := r.watchAs("b", true, "SELECT 1", nil)
		third.want(t, "1/2: 1")
		r.watchAs("c", true, "SELECT 1", nil).wantEnd(t, datav1.ErrorReason_ERROR_REASON_OVERLOADED)
		second.end(t)
		again := r.watchAs("c", true, "SELECT 1", nil)
		again.want(t, "1/2: 1")
		for _, c := range []*call{first, third, again} {
			c.end(t)
		}
	})
}

func TestEnds(t *testing.T) {
	for name, end := range map[string]func(r *region) error{
		"database dropped": func(r *region) error { return r.store.Drop(shop) },
		"forgotten": func(r *region) error {
			r.hub.Forget(shop)
			return nil
		},
		"closed": func(r *region) error {
			r.hub.Close()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *region) {
				c := r.watch(all, nil)
				c.want(t, "1/1:")
				if err := end(r); err != nil {
					t.Fatal(err)
				}
				c.wantEnd(t, datav1.ErrorReason_ERROR_REASON_WATCH_INTERRUPTED)
				c.cancel()
			})
		})
	}
}
