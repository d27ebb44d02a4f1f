package edgesql

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// viewOf is a View in which orders are somebody's own, and secrets nobody's.
type viewOf string

var errSecret = errors.New("no")

func (v viewOf) Table(name string) (*policy.Filter, error) {
	switch strings.ToLower(name) {
	case "orders":
		return &policy.Filter{Terms: []policy.Term{{Column: "OWNER", Value: string(v)}}}, nil
	case "secrets":
		return nil, errSecret
	default:
		return nil, nil //nolint:nilnil // all rows
	}
}

func orders() *catalog.Table {
	return replicatest.WithIndex(replicatest.Table(20, "orders", "id", "owner", "n"), 30, "orders_by_n", false, "n")
}

func lines() *catalog.Table   { return replicatest.Table(21, "lines", "id", "order_id", "n") }
func secrets() *catalog.Table { return replicatest.Table(22, "secrets", "id", "n") }

// queryView is query with a view; nil is none.
func (r *region) queryView(ctx context.Context, view View, sql string) (_ string, stats Stats, err error) {
	db, ok := r.store.Database(shopID)
	if !ok {
		return "", stats, errors.New("no database")
	}
	snap, err := db.Snapshot()
	if err != nil {
		return "", stats, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	var sink sqlrun.Collector
	st := &datav1.Statement{Sql: sql}
	if view == nil {
		stats, err = r.engine.Query(ctx, shopID, snap, st, &sink)
	} else {
		stats, err = r.engine.QueryView(ctx, shopID, snap, view, st, &sink)
	}
	if err != nil {
		return "", stats, err
	}
	var rows []string
	for _, row := range sink.Result.GetRows() {
		rows = append(rows, fmt.Sprint(row.GetValues()))
	}
	return strings.Join(rows, ";"), stats, nil
}

// TestHiddenRowsAreAsIfTheyWereNotThere answers statements with a view, and again where the rows that are not in it were never
// written. Callers with other views and without one ask beside each other, so that all share what can be shared.
func TestHiddenRowsAreAsIfTheyWereNotThere(t *testing.T) {
	whole := newRegion(t, Options{MaxImages: 1 << 20, MaxRunning: 8})
	schema := replicatest.Schema(orders(), lines(), secrets())
	owners := []string{"ann", "bob", "", "Ann"}
	only := make(map[string]*region)
	all := []replicatest.Change{schema}
	own := map[string][]replicatest.Change{"ann": {schema}, "bob": {schema}, "nobody": {schema}}
	rng := rand.New(rand.NewPCG(1, 2))
	add := func(c replicatest.Change, owner string) {
		all = append(all, c)
		for name := range own {
			if owner == name || owner == "*" {
				own[name] = append(own[name], c)
			}
		}
	}
	for i := range int64(200) {
		owner := owners[rng.IntN(len(owners))]
		v := value.Text(owner)
		if i%50 == 0 {
			v, owner = value.Null(), "-"
		}
		add(replicatest.Put(orders(), replicatest.Row(i, v, value.Integer(rng.Int64N(20)))), owner)
		add(replicatest.Put(lines(), replicatest.Row(i, value.Integer(rng.Int64N(200)), value.Integer(rng.Int64N(20)))), "*")
	}
	add(replicatest.Put(secrets(), replicatest.Row(1, value.Integer(42))), "*")
	whole.commit(all...)
	for name, changes := range own {
		only[name] = newRegion(t, Options{})
		only[name].commit(changes...)
	}
	statements := []string{
		"SELECT count(*) FROM orders", "SELECT * FROM orders ORDER BY id", "SELECT * FROM orders ORDER BY id DESC LIMIT 3 OFFSET 2",
		"SELECT max(id), min(id), sum(n), count(owner) FROM orders", "SELECT max(rowid) FROM orders", "SELECT n, count(*) FROM orders GROUP BY n ORDER BY n",
		"SELECT count(*) FROM orders a, orders b WHERE a.n = b.n", "SELECT count(*) FROM orders a JOIN orders b ON a.n < b.n",
		"SELECT l.id, o.id FROM lines l LEFT JOIN orders o ON o.id = l.order_id ORDER BY 1, 2",
		"SELECT l.id, o.id FROM lines l JOIN orders o ON o.n = l.n ORDER BY 1, 2",
		"SELECT id FROM lines WHERE order_id NOT IN (SELECT id FROM orders) ORDER BY id",
		"SELECT id FROM lines WHERE EXISTS (SELECT 1 FROM orders o WHERE o.id = lines.order_id) ORDER BY id",
		"SELECT count(*) FROM orders WHERE id IN (1, 2, 3, 4, 5, 6, 7, 8)", "SELECT n FROM orders WHERE id = 7", "SELECT n FROM orders ORDER BY n", "SELECT count(*) FROM orders WHERE n BETWEEN 3 AND 9",
		"SELECT max(n) FROM orders", "SELECT id FROM orders WHERE n = 5 ORDER BY id", "SELECT count(DISTINCT n) FROM orders", "SELECT n FROM orders WHERE id > 190 AND id < 195 ORDER BY id",
		"SELECT id, (SELECT count(*) FROM orders x WHERE x.n = orders.n) FROM orders ORDER BY id", "SELECT DISTINCT owner FROM orders",
		"WITH RECURSIVE r (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i < 199) SELECT count(*) FROM r WHERE i IN (SELECT id FROM orders)",
		"SELECT id, row_number() OVER (ORDER BY n, id), sum(n) OVER (ORDER BY id) FROM orders ORDER BY id",
		"SELECT id FROM orders UNION SELECT id FROM lines WHERE id < 3 ORDER BY 1", "SELECT count(*) FROM orders WHERE owner <> 'ann' OR owner IS NULL",
		"SELECT abs(CASE WHEN owner <> 'bob' THEN 1 ELSE 2 END) FROM orders ORDER BY id", "SELECT 1 FROM orders WHERE 0", "SELECT count(*) FROM lines",
	}
	ctx := t.Context()
	var callers sync.WaitGroup
	for range 2 {
		for name, region := range only {
			callers.Go(func() {
				for range 3 {
					for _, sql := range statements {
						got, stats, err := whole.queryView(ctx, viewOf(name), sql)
						want, _, wantErr := region.queryView(ctx, nil, sql)
						if err != nil || wantErr != nil || got != want {
							t.Errorf("%s, %s: %s, %v; want %s, %v", name, sql, got, err, want, wantErr)
							return
						}
						if stats.RowsRead != 0 {
							t.Errorf("%s tells that it read %d rows", sql, stats.RowsRead)
						}
					}
				}
			})
		}
		callers.Go(func() {
			for range 3 {
				if got, _, err := whole.queryView(ctx, nil, "SELECT count(*) FROM orders"); err != nil || got != `[integer:200]` {
					t.Errorf("without a view: %q, %v", got, err)
				}
			}
		})
	}
	callers.Wait()
	for _, sql := range []string{
		"SELECT count(*) FROM secrets", "SELECT 1 FROM orders WHERE id IN (SELECT n FROM secrets)", "SELECT 1 FROM secrets WHERE 0",
		"SELECT EXISTS (SELECT 1 FROM lines JOIN secrets USING (id))", "WITH s AS (SELECT * FROM secrets) SELECT count(*) FROM s",
	} {
		if got, _, err := whole.queryView(ctx, viewOf("ann"), sql); !errors.Is(err, errSecret) {
			t.Errorf("%s: %q, %v", sql, got, err)
		}
		if _, _, err := whole.queryView(ctx, nil, sql); err != nil {
			t.Errorf("%s without a view: %v", sql, err)
		}
	}
}
