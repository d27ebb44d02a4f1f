package callers_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
)

func put(id int64, values ...any) *datav1.Operation {
	p := &datav1.Put{Table: "orders", Values: map[string]*datav1.Value{"id": integerOf(id)}}
	for i := 0; i < len(values); i += 2 {
		switch v := values[i+1].(type) {
		case string:
			p.Values[values[i].(string)] = textOf(v)
		case int:
			p.Values[values[i].(string)] = integerOf(int64(v))
		}
	}
	return &datav1.Operation{Operation: &datav1.Operation_Put{Put: p}}
}

func update(id int64, column, text string) *datav1.Operation {
	return &datav1.Operation{Operation: &datav1.Operation_Update{Update: &datav1.Update{
		Table: "orders", Key: keyOf(integerOf(id)), Set: map[string]*datav1.Value{column: textOf(text)},
	}}}
}

func remove(table string, id int64) *datav1.Operation {
	return &datav1.Operation{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{Table: table, Key: keyOf(integerOf(id))}}}
}

func TestHiddenRowsAreNotWritten(t *testing.T) {
	w := startOrders(t)
	ctx := context.Background()
	before := w.all()
	for _, region := range w.everywhere {
		for name, ops := range map[string][]*datav1.Operation{
			"a row of another":                       {put(200, "owner", w.bobID)},
			"a row of nobody":                        {put(200, "note", "x")},
			"over a hidden row":                      {put(2, "owner", w.annID, "note", "mine now")},
			"over a hidden row, without its owner":   {put(2, "note", "x")},
			"to another":                             {update(1, "owner", w.bobID)},
			"to nobody":                              {put(1, "owner", "")},
			"a good one and then a bad one":          {update(1, "note", "x"), put(200, "owner", w.bobID)},
			"SQL":                                    {{Operation: &datav1.Operation_Statement{Statement: &datav1.Statement{Sql: "SELECT 1"}}}},
			"a good one and then SQL":                {update(1, "note", "x"), {Operation: &datav1.Operation_Statement{Statement: &datav1.Statement{Sql: "UPDATE orders SET note = 'x'"}}}},
			"away and back under the key of another": {remove("orders", 1), put(2, "owner", w.annID)},
		} {
			_, err := w.transact(region, w.ann, ops...)
			expect(t, name+" at "+region, err, "PERMISSION_DENIED")
			if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), w.bobID)) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// What is hidden is like what is not there.
		for _, id := range []int64{2, 100, 101, 999} {
			for name, op := range map[string]*datav1.Operation{"update": update(id, "note", "x"), "delete": remove("orders", id)} {
				res, err := w.transact(region, w.ann, op)
				if err != nil || res.GetResults()[0].GetRowsAffected() != 0 || res.GetAnswer().GetRowsWritten() != 0 || res.GetAnswer().GetRowsRead() != 0 {
					t.Errorf("%s of %d at %s: %v, %v", name, id, region, res, err)
				}
			}
			for name, c := range map[string]*datav1.Precondition{
				"if it exists": {Condition: &datav1.Precondition_IfExists{IfExists: true}}, "if it has a version": {Condition: &datav1.Precondition_IfVersion{IfVersion: 3}},
			} {
				op := update(id, "note", "x")
				op.GetUpdate().Precondition = c
				_, err := w.transact(region, w.ann, op)
				expect(t, fmt.Sprint(name, " of ", id, " at ", region), err, "PRECONDITION_FAILED")
				if err != nil && !strings.Contains(err.Error(), "present version is 0") {
					t.Errorf("%s of %d: %v", name, id, err)
				}
			}
		}
		_, err := w.data(region, w.ann).BatchInsert(ctx, connect.NewRequest(&datav1.BatchInsertRequest{
			Database: shop, Table: "orders", Columns: []string{"id", "owner"},
			Rows: []*datav1.Row{{Values: []*datav1.Value{integerOf(300), textOf(w.annID)}}, {Values: []*datav1.Value{integerOf(301), textOf(w.bobID)}}},
		}))
		expect(t, "insert at "+region, err, "PERMISSION_DENIED")
		_, err = w.data(region, w.ann).BatchInsert(ctx, connect.NewRequest(&datav1.BatchInsertRequest{
			Database: shop, Table: "orders", Columns: []string{"id", "owner"}, OnConflict: datav1.BatchInsertRequest_ON_CONFLICT_UPDATE,
			Rows: []*datav1.Row{{Values: []*datav1.Value{integerOf(2), textOf(w.annID)}}},
		}))
		expect(t, "insert over a hidden row at "+region, err, "PERMISSION_DENIED")
		// A taken number is told, and not whose it is: SQLite says the same of every row.
		for _, number := range []int{1001, 1002} {
			_, err = w.transact(region, w.ann, put(200, "owner", w.annID, "number", number))
			expect(t, fmt.Sprint("a taken number at ", region), err, "CONSTRAINT_FAILED")
			if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), w.bobID)) {
				t.Error(err)
			}
		}
	}
	if after := w.all(); !slices.Equal(before, after) {
		t.Errorf("rows are not what they were:\n%v\n%v", before, after)
	}
	for i, region := range w.everywhere {
		id := int64(500 + i)
		if _, err := w.transact(region, w.ann, put(id, "owner", w.annID, "note", "hers"), update(id, "note", "still hers")); err != nil {
			t.Errorf("her own at %s: %v", region, err)
		}
		if res, err := w.transact(region, w.ann, remove("orders", id)); err != nil || res.GetResults()[0].GetRowsAffected() != 1 {
			t.Errorf("delete of her own at %s: %v, %v", region, res, err)
		}
	}
}

func (w *orders) all() (rows []string) {
	res := w.Exec("", shop, "SELECT id, owner, note, number FROM orders ORDER BY id").GetResult()
	for _, r := range res.GetRows() {
		rows = append(rows, fmt.Sprint(value.FromProtos(r.GetValues())))
	}
	return rows
}

// TestWatchersSeeTheirRows: what comes into view is there, what leaves it is deleted, and of the rest nothing is told.
func TestWatchersSeeTheirRows(t *testing.T) {
	w := startOrders(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for _, region := range w.edge {
		stream, err := w.data(region, w.ann).Watch(ctx, connect.NewRequest(&datav1.WatchRequest{Database: shop, Table: "orders"}))
		if err != nil {
			t.Fatal(err)
		}
		counts, err := w.data(region, w.ann).WatchQuery(ctx, connect.NewRequest(&datav1.WatchQueryRequest{
			Database: shop, Statement: &datav1.Statement{Sql: "SELECT count(*), max(note) FROM orders"},
		}))
		if err != nil {
			t.Fatal(err)
		}
		admins, err := w.data(region, w.AdminToken()).WatchQuery(ctx, connect.NewRequest(&datav1.WatchQueryRequest{
			Database: shop, Statement: &datav1.Statement{Sql: "SELECT count(*), max(note) FROM orders"},
		}))
		if err != nil {
			t.Fatal(err)
		}
		if !stream.Receive() || !counts.Receive() || !admins.Receive() {
			t.Fatal(stream.Err(), counts.Err(), admins.Err())
		}
		if n := counts.Msg().GetResult().GetRows()[0].GetValues()[0].GetInteger(); n != 10 {
			t.Errorf("a watched count at %s: %d", region, n)
		}
		if n := admins.Msg().GetResult().GetRows()[0].GetValues()[0].GetInteger(); n != 22 {
			t.Errorf("the admin's at %s: %d", region, n)
		}
		w.Exec("", shop, "UPDATE orders SET note = note || '!' WHERE id = 2")                                          // bob's
		w.Exec("", shop, fmt.Sprintf("UPDATE orders SET owner = '%s' WHERE id = 4", w.annID))                          // becomes hers
		w.Exec("", shop, fmt.Sprintf("UPDATE orders SET owner = '%s', note = '%s-now' WHERE id = 1", w.bobID, secret)) // leaves
		w.Exec("", shop, "DELETE FROM orders WHERE id = 6")                                                            // bob's
		w.Exec("", shop, fmt.Sprintf("INSERT INTO orders VALUES (700, '%s', 'end', 1700)", w.annID))
		var got []string
		for done := false; !done && stream.Receive(); {
			for _, c := range stream.Msg().GetChanges() {
				what := "put"
				if c.GetRow() == nil {
					what = "delete"
				}
				if c.GetLeft() {
					what = "left"
				}
				id := c.GetKey()[0].GetInteger()
				got = append(got, fmt.Sprint(what, " ", id))
				done = done || id == 700
			}
		}
		if want := []string{"put 4", "delete 1", "put 700"}; !slices.Equal(got, want) {
			t.Errorf("at %s: %v (%v), want %v", region, got, stream.Err(), want)
		}
		if strings.Contains(stream.Msg().String(), "now") {
			t.Error("what became of a row that has left")
		}
		// What she may see changes: the streams end, to be begun again.
		w.put("", "nothing", `@unless_row("note == principal.id") forbid (principal, action, resource == Table::"shop/orders") unless { principal in Role::"admin" };`)
		w.Exec("", shop, fmt.Sprintf("INSERT INTO orders VALUES (701, '%s', 'later', 1701)", w.annID))
		for stream.Receive() {
			if strings.Contains(stream.Msg().String(), "later") {
				t.Errorf("at %s, what she may see no more: %v", region, stream.Msg())
			}
		}
		expect(t, "the watch at "+region, stream.Err(), "WATCH_INTERRUPTED")
		for counts.Receive() {
			if strings.Contains(counts.Msg().String(), "later") {
				t.Errorf("at %s, an answer from what she may see no more: %v", region, counts.Msg())
			}
		}
		expect(t, "the watched query at "+region, counts.Err(), "WATCH_INTERRUPTED")
		stream.Close()
		counts.Close()
		admins.Close()
		w.drop("", "nothing")
		w.Exec("", shop, "DELETE FROM orders WHERE id >= 700")
		w.Exec("", shop, fmt.Sprintf("UPDATE orders SET owner = '%s', note = 'anns-1' WHERE id = 1", w.annID))
		w.Exec("", shop, fmt.Sprintf("UPDATE orders SET owner = '%s' WHERE id = 4", w.bobID))
		w.Exec("", shop, fmt.Sprintf("INSERT INTO orders VALUES (6, '%s', '%s-6', 1006)", w.bobID, secret))
		w.WaitSync(shop)
		w.Eventually("the policies are as before in "+east+" and "+west, func(ctx context.Context) error {
			for _, r := range w.edge {
				res, err := w.policies(r, w.AdminToken()).ExplainPolicy(ctx, connect.NewRequest(&authv1.ExplainPolicyRequest{
					Question: &authv1.PolicyQuestion{Account: "ann", Action: "read", Database: shop, Table: "orders"},
				}))
				if err != nil || len(res.Msg.GetDecision().GetRows()) != 1 {
					return fmt.Errorf("%v, %w", res, err)
				}
			}
			return nil
		})
	}
}

// TestTablesStayUnderTheirPolicies: a table that a policy names keeps its name.
func TestTablesStayUnderTheirPolicies(t *testing.T) {
	w := startOrders(t)
	rename := func(sql string) error {
		_, err := w.data(west, w.AdminToken()).Execute(context.Background(), connect.NewRequest(&datav1.ExecuteRequest{
			Database: shop, Statement: &datav1.Statement{Sql: sql},
		}))
		return err
	}
	expect(t, "away", rename("ALTER TABLE orders RENAME TO others"), "STATEMENT_DENIED")
	expect(t, "another table", rename("ALTER TABLE lines RENAME TO positions"), "")
	w.drop("", "own-orders")
	expect(t, "without the policy", rename("ALTER TABLE orders RENAME TO others"), "")
}

// TestColumnsOfFilters: a column that is not there, or holds something else than text, hides all rows.
func TestColumnsOfFilters(t *testing.T) {
	w := startOrders(t)
	w.drop("", "own-orders")
	for column, rows := range map[string]int{"owner": 10, "OWNER": 10, "gone": 0, "number": 0, "id": 0} {
		w.put(west, "filter", fmt.Sprintf(`@unless_row("%s == principal.id") forbid (principal, action, resource == Table::"shop/orders") unless { principal in Role::"admin" };`, column))
		res, err := w.query(west, w.ann, "SELECT count(*) FROM orders")
		if err != nil || res.GetResult().GetRows()[0].GetValues()[0].GetInteger() != int64(rows) {
			t.Errorf("by %s: %v, %v", column, res, err)
		}
		list, err := w.data("", w.ann).List(context.Background(), connect.NewRequest(&datav1.ListRequest{Database: shop, Table: "orders"}))
		if err != nil || len(list.Msg.GetRows()) != rows {
			t.Errorf("by %s at the primary: %v, %v", column, list, err)
		}
	}
	w.put(west, "filter", `@unless_row("owner == principal.tenant") forbid (principal, action, resource == Table::"shop/orders") unless { principal in Role::"admin" };`)
	res, err := w.query(west, w.ann, "SELECT count(*) FROM orders")
	if err != nil || res.GetResult().GetRows()[0].GetValues()[0].GetInteger() != 0 {
		t.Errorf("of who has no tenant: %v, %v", res, err) // there is a row whose owner is ''
	}
}
