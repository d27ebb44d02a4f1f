package callers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/value"
)

const ownOrders = `@unless_row("owner == principal.id")
forbid (principal, action, resource == Table::"shop/orders") unless { principal in Role::"admin" };`

// secret is in all that nobody but bob and the admin may see.
const secret = "bobs-secret"

func textOf(s string) *datav1.Value   { return value.ToProto(value.Text(s)) }
func integerOf(n int64) *datav1.Value { return value.ToProto(value.Integer(n)) }
func keyOf(v ...*datav1.Value) *datav1.Key {
	return &datav1.Key{Values: v}
}

// orders is a mesh in which ann and bob are writers, and each sees their own orders: of odd ids ann, of even ones bob.
type orders struct {
	*world

	ann, bob         string // tokens
	annID, bobID     string
	everywhere, edge []string
}

func startOrders(t *testing.T) *orders {
	t.Helper()
	w := &orders{world: start(t, meshtest.Options{}), everywhere: []string{east, west, ""}, edge: []string{east, west}}
	w.annID = w.user(west, "ann", grant(authv1.Role_ROLE_WRITER)).GetId()
	w.bobID = w.user(west, "bob", grant(authv1.Role_ROLE_WRITER)).GetId()
	w.Exec("", shop, `CREATE TABLE orders (id INTEGER PRIMARY KEY, owner TEXT, note TEXT, number INTEGER UNIQUE)`)
	w.Exec("", shop, `CREATE INDEX orders_by_note ON orders (note)`)
	w.Exec("", shop, `CREATE VIEW all_orders AS SELECT * FROM orders`)
	w.Exec("", shop, `CREATE TABLE lines (id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders (id) ON DELETE CASCADE)`)
	for i := 1; i <= 20; i++ {
		owner, note := w.annID, fmt.Sprint("anns-", i)
		if i%2 == 0 {
			owner, note = w.bobID, fmt.Sprint(secret, "-", i)
		}
		w.Exec("", shop, fmt.Sprintf("INSERT INTO orders VALUES (%d, '%s', '%s', %d)", i, owner, note, 1000+i))
	}
	w.Exec("", shop, fmt.Sprintf("INSERT INTO orders VALUES (100, NULL, '%s-of-nobody', 1100), (101, '', '%s-of-nobody', 1101)", secret, secret))
	w.Exec("", shop, "INSERT INTO lines VALUES (1, 1), (2, 2)")
	w.ann, w.bob = w.mustLogin(west, "ann").GetAccessToken(), w.mustLogin(west, "bob").GetAccessToken()
	w.WaitSync(shop)
	// What the admin has read is in memory, and results too.
	for _, region := range w.edge {
		for i := int64(1); i <= 20; i++ {
			if _, err := w.order(region, w.AdminToken(), i); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.query(region, w.AdminToken(), "SELECT * FROM orders"); err != nil {
			t.Fatal(err)
		}
	}
	w.put("", "own-orders", ownOrders)
	for _, region := range w.edge {
		w.Eventually("the policy is in "+region, func(ctx context.Context) error {
			res, err := w.policies(region, w.AdminToken()).ExplainPolicy(ctx, connect.NewRequest(&authv1.ExplainPolicyRequest{
				Question: &authv1.PolicyQuestion{Account: "ann", Action: "read", Database: shop, Table: "orders"},
			}))
			if err == nil && len(res.Msg.GetDecision().GetRows()) == 0 {
				err = errors.New("not yet")
			}
			return err
		})
	}
	return w
}

func (w *orders) order(region, token string, id int64) (*datav1.Row, error) {
	res, err := w.data(region, token).Get(context.Background(), connect.NewRequest(&datav1.GetRequest{
		Database: shop, Table: "orders", Key: keyOf(integerOf(id)),
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetRow(), nil
}

func (w *orders) query(region, token, sql string, parameters ...*datav1.Value) (*datav1.QueryResponse, error) {
	res, err := w.data(region, token).Query(context.Background(), connect.NewRequest(&datav1.QueryRequest{
		Database: shop, Statement: &datav1.Statement{Sql: sql, Parameters: parameters},
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func (w *orders) transact(region, token string, ops ...*datav1.Operation) (*datav1.TransactResponse, error) {
	res, err := w.data(region, token).Transact(context.Background(), connect.NewRequest(&datav1.TransactRequest{
		Database: shop, Operations: ops,
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func TestHiddenRowsAreNotRead(t *testing.T) {
	w := startOrders(t)
	ctx := context.Background()
	for _, region := range w.everywhere {
		at := " at " + region
		for i := int64(1); i <= 20; i++ {
			row, err := w.order(region, w.ann, i)
			if err != nil || (row != nil) != (i%2 == 1) {
				t.Errorf("get %d%s: %v, %v", i, at, row, err)
			}
		}
		for id, want := range map[int64]bool{1: true, 2: false} {
			res, err := w.data(region, w.ann).Get(ctx, connect.NewRequest(&datav1.GetRequest{
				Database: shop, Table: "orders", Key: keyOf(integerOf(id)), Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY},
			}))
			if err != nil || (res.Msg.GetRow() != nil) != want || !res.Msg.GetAnswer().GetServedByPrimary() {
				t.Errorf("get %d from the primary%s: %v, %v", id, at, res, err)
			}
		}
		list, err := w.data(region, w.ann).List(ctx, connect.NewRequest(&datav1.ListRequest{
			Database: shop, Table: "orders", Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY},
		}))
		if err != nil || len(list.Msg.GetRows()) != 10 || strings.Contains(list.Msg.String(), secret) {
			t.Errorf("list from the primary%s: %v, %v", at, list, err)
		}
		// By a unique index, and in a batch, a hidden row is like one that is not there.
		batch, err := w.data(region, w.ann).BatchGet(ctx, connect.NewRequest(&datav1.BatchGetRequest{
			Database: shop, Table: "ORDERS", Keys: []*datav1.Key{
				keyOf(integerOf(1)), keyOf(integerOf(2)), keyOf(integerOf(999)), keyOf(integerOf(100)), keyOf(integerOf(101)),
			},
		}))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range batch.Msg.GetResults() {
			if (r.GetRow() != nil) != (i == 0) {
				t.Errorf("batch%s: %d: %v", at, i, r)
			}
		}
		if n := batch.Msg.GetAnswer().GetRowsRead(); n > 1 {
			t.Errorf("batch%s tells that it read %d rows", at, n)
		}
		index := w.uniqueIndex(region)
		for _, number := range []int64{1002, 999} {
			hidden, err := w.data(region, w.ann).Get(ctx, connect.NewRequest(&datav1.GetRequest{
				Database: shop, Table: "orders", Key: &datav1.Key{Index: index, Values: []*datav1.Value{integerOf(number)}},
			}))
			if err != nil || hidden.Msg.GetRow() != nil || hidden.Msg.GetAnswer().GetRowsRead() > 0 {
				t.Errorf("by unique index%s: %v, %v", at, hidden, err)
			}
		}
		w.listsOwn(t, region, "")
		w.listsOwn(t, region, "orders_by_note")
	}
}

func (w *orders) uniqueIndex(region string) string {
	w.t.Helper()
	res, err := w.data(region, w.AdminToken()).GetDatabase(context.Background(), connect.NewRequest(&datav1.GetDatabaseRequest{Name: shop}))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, table := range res.Msg.GetDatabase().GetTables() {
		for _, ix := range table.GetIndexes() {
			if table.GetName() == "orders" && ix.GetUnique() {
				return ix.GetName()
			}
		}
	}
	w.t.Fatal("no unique index")
	return ""
}

// listsOwn goes through ann's pages of a few rows: neither they nor their tokens tell of others.
func (w *orders) listsOwn(t *testing.T, region, index string) {
	t.Helper()
	token, seen := "", 0
	for {
		res, err := w.data(region, w.ann).List(context.Background(), connect.NewRequest(&datav1.ListRequest{
			Database: shop, Table: "orders", Index: index, PageSize: 3, PageToken: token,
		}))
		if err != nil {
			t.Fatal(err)
		}
		rows := res.Msg.GetRows()
		for _, r := range rows {
			if r.GetValues()[1].GetText() != w.annID {
				t.Errorf("list by %q at %s: %v", index, region, r)
			}
		}
		if seen += len(rows); len(rows) < 3 && res.Msg.GetNextPageToken() != "" {
			t.Errorf("list by %q at %s: a page of %d rows that is not the last", index, region, len(rows))
		}
		if res.Msg.GetAnswer().GetRowsRead() > 4 {
			t.Errorf("list by %q at %s tells that it read %d rows", index, region, res.Msg.GetAnswer().GetRowsRead())
		}
		if strings.Contains(res.Msg.String(), secret) {
			t.Errorf("list by %q at %s: %v", index, region, res.Msg)
		}
		if token = res.Msg.GetNextPageToken(); token == "" {
			break
		}
	}
	if seen != 10 {
		t.Errorf("list by %q at %s: %d rows of 10", index, region, seen)
	}
	// Somebody else's page token goes on behind a hidden row, and shows none.
	admins, err := w.data(region, w.AdminToken()).List(context.Background(), connect.NewRequest(&datav1.ListRequest{
		Database: shop, Table: "orders", Index: index, PageSize: 2,
	}))
	if err != nil {
		t.Fatal(err)
	}
	res, err := w.data(region, w.ann).List(context.Background(), connect.NewRequest(&datav1.ListRequest{
		Database: shop, Table: "orders", Index: index, PageSize: 2, PageToken: admins.Msg.GetNextPageToken(),
	}))
	if err == nil && strings.Contains(res.Msg.String(), secret) {
		t.Errorf("with another one's page token: %v", res.Msg)
	}
}

// TestStatementsDoNotReachHiddenRows tries to get round the filter with SQL. Each statement has its answer where ann's rows are
// all there are.
func TestStatementsDoNotReachHiddenRows(t *testing.T) {
	w := startOrders(t)
	ctx := context.Background()
	for _, region := range w.edge {
		for sql, want := range map[string]string{
			"SELECT count(*) FROM orders":                                                                 "10",
			"SELECT count(*) AS n FROM orders;":                                                           "10",
			"SELECT count(1) FROM orders":                                                                 "10",
			"SELECT count(*) FROM all_orders":                                                             "10",
			"SELECT count(*) FROM orders WHERE 1":                                                         "10",
			"SELECT sum(number) FROM orders":                                                              "10100",
			"SELECT max(id) FROM orders":                                                                  "19",
			"SELECT min(id) FROM orders WHERE id > 1":                                                     "3",
			"SELECT max(rowid) FROM orders":                                                               "19",
			"SELECT count(*) FROM orders WHERE id = 2":                                                    "0",
			"SELECT count(*) FROM orders WHERE rowid = 2":                                                 "0",
			"SELECT count(*) FROM orders WHERE number = 1002":                                             "0",
			"SELECT count(*) FROM orders WHERE number IN (1001, 1002)":                                    "1",
			"SELECT count(*) FROM orders WHERE note LIKE 'bob%'":                                          "0",
			"SELECT count(*) FROM orders WHERE note >= 'b'":                                               "0",
			"SELECT count(*) FROM orders NOT INDEXED WHERE number = 1002":                                 "0",
			"SELECT count(*) FROM orders WHERE owner IS NULL OR owner = '' OR owner <> '" + w.annID + "'": "0",
			"SELECT count(*) FROM orders a JOIN orders b ON b.number = a.number + 1":                      "0",
			"SELECT count(*) FROM lines l JOIN orders o ON o.id = l.order_id":                             "1",
			"SELECT count(*) FROM lines l LEFT JOIN orders o ON o.id = l.order_id WHERE o.id IS NULL":     "1",
			"SELECT count(*) FROM orders a, orders b":                                                     "100",
			"SELECT count(*) FROM orders a JOIN orders b ON a.note < b.note":                              "45",
			"SELECT count(*) FROM orders a JOIN orders b ON a.owner = b.owner":                            "100",
			"SELECT count(*) FROM lines l JOIN orders o ON o.note LIKE 'bob%' AND o.owner = o.owner":      "0",
			"SELECT (SELECT count(*) FROM orders)":                                                        "10",
			"SELECT EXISTS (SELECT 1 FROM orders WHERE id = 2)":                                           "0",
			"SELECT count(*) FROM (SELECT note FROM orders UNION ALL SELECT note FROM all_orders)":        "20",
			"WITH RECURSIVE r (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 20) SELECT count(o.id) FROM r JOIN orders o ON o.id = r.i": "10",
			"SELECT count(*) FROM orders WHERE CASE WHEN note LIKE 'bob%' THEN abs(-9223372036854775808) ELSE 1 END":                              "10",
			"SELECT count(*) FROM (SELECT row_number() OVER (ORDER BY id) FROM orders)":                                                           "10",
			"SELECT coalesce(group_concat(note), '') LIKE '%bob%' FROM orders":                                                                    "0",
			"SELECT count(*) FROM orders GROUP BY owner":                                                                                          "10",
			"SELECT count(DISTINCT owner) FROM orders":                                                                                            "1",
			"SELECT count(*) FROM orders WHERE id BETWEEN 2 AND 2":                                                                                "0",
			"SELECT id FROM orders ORDER BY id DESC LIMIT 1":                                                                                      "19",
			"SELECT id FROM orders ORDER BY note DESC LIMIT 1 OFFSET 9":                                                                           "1",
		} {
			for range 2 { // the second time from memory
				res, err := w.query(region, w.ann, sql)
				if err != nil {
					t.Errorf("%s at %s: %v", sql, region, err)
					break
				}
				got := fmt.Sprint(res.GetResult().GetRows()[0].GetValues()[0].GetInteger())
				if n := len(res.GetResult().GetRows()); n != 1 || got != want {
					t.Errorf("%s at %s: %s in %d rows, want %s", sql, region, got, n, want)
				}
				if res.GetAnswer().GetRowsRead() != 0 {
					t.Errorf("%s at %s tells that it read %d rows", sql, region, res.GetAnswer().GetRowsRead())
				}
			}
		}
		// Results are kept by who sees what: of all three callers each gets their own, in whatever order they ask.
		for i, token := range []string{w.AdminToken(), w.ann, w.bob, w.ann, w.AdminToken(), w.bob} {
			res, err := w.query(region, token, "SELECT count(*), max(id) FROM orders")
			want := []string{"22 101", "10 19", "10 20", "10 19", "22 101", "10 20"}[i]
			if err != nil {
				t.Fatal(err)
			}
			v := res.GetResult().GetRows()[0].GetValues()
			if got := fmt.Sprint(v[0].GetInteger(), " ", v[1].GetInteger()); got != want {
				t.Errorf("caller %d at %s: %s, want %s", i, region, got, want)
			}
		}
		for _, sql := range []string{
			"EXPLAIN SELECT * FROM orders", "EXPLAIN QUERY PLAN SELECT * FROM orders WHERE note = 'x'",
			"SELECT * FROM sqlite_stat1", "SELECT * FROM dbstat", "SELECT * FROM pragma_page_count",
		} {
			if res, err := w.query(region, w.ann, sql); err == nil {
				t.Errorf("%s at %s: %v", sql, region, res)
			} else if strings.Contains(err.Error(), secret) {
				t.Errorf("%s at %s: %v", sql, region, err)
			}
		}
		for _, sql := range []string{
			"INSERT INTO orders (owner) VALUES ('x')", "UPDATE orders SET note = 'x'", "DELETE FROM orders",
			"INSERT INTO orders SELECT * FROM orders WHERE 0", "CREATE TABLE copy AS SELECT * FROM orders", "DROP TABLE orders",
			"WITH x AS (SELECT 1) DELETE FROM orders", "DELETE FROM orders RETURNING note", "EXPLAIN SELECT * FROM orders",
		} {
			_, err := w.data(region, w.ann).Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
				Database: shop, Statement: &datav1.Statement{Sql: sql},
			}))
			expect(t, sql+" at "+region, err, "PERMISSION_DENIED")
		}
		res, err := w.data(region, w.ann).Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
			Database: shop, Statement: &datav1.Statement{Sql: "SELECT note FROM orders"},
		}))
		if err != nil || len(res.Msg.GetResult().GetRows()) != 10 || strings.Contains(res.Msg.String(), secret) {
			t.Errorf("execute at %s: %v, %v", region, res, err)
		}
		stream, err := w.data(region, w.ann).QueryStream(ctx, connect.NewRequest(&datav1.QueryStreamRequest{
			Database: shop, Statement: &datav1.Statement{Sql: "SELECT note FROM orders"},
		}))
		if err != nil {
			t.Fatal(err)
		}
		rows := 0
		for stream.Receive() {
			rows += len(stream.Msg().GetRows())
			if strings.Contains(stream.Msg().String(), secret) {
				t.Errorf("stream at %s: %v", region, stream.Msg())
			}
		}
		if stream.Err() != nil || rows != 10 {
			t.Errorf("stream at %s: %d rows, %v", region, rows, stream.Err())
		}
		stream.Close()
		_, err = w.data(region, w.ann).Query(ctx, connect.NewRequest(&datav1.QueryRequest{
			Database: shop, Statement: &datav1.Statement{Sql: "SELECT * FROM orders"},
			Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY},
		}))
		expect(t, "asking for the primary at "+region, err, "PERMISSION_DENIED")
	}
	// The primary runs SQL in SQLite itself, and so not for her.
	_, err := w.query("", w.ann, "SELECT 1")
	expect(t, "SQL at the primary", err, "PERMISSION_DENIED")
	_, err = w.query("", w.AdminToken(), "SELECT 1")
	expect(t, "the admin's", err, "")
	for _, region := range w.everywhere {
		export, err := w.data(region, w.ann).Export(ctx, connect.NewRequest(&datav1.ExportRequest{Database: shop}))
		if err != nil {
			t.Fatal(err)
		}
		for export.Receive() {
			t.Errorf("an export at %s: %v", region, export.Msg())
		}
		expect(t, "export at "+region, export.Err(), "PERMISSION_DENIED")
		export.Close()
	}
}
