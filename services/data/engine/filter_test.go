package engine

import (
	"context"
	"slices"
	"strings"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// own is a view in which the rows of some tables are those whose owner is ann.
type own []string

func (o own) Table(name string) (*policy.Filter, error) {
	if slices.Contains(o, name) {
		return &policy.Filter{Terms: []policy.Term{{Column: "owner", Value: "ann"}}, Policy: "own"}, nil
	}
	if name == "forbidden" {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, "forbidden")
	}
	return nil, nil //nolint:nilnil // all rows
}

// TestViewsHoldForWhatTriggersAndCascadesDo: however a row comes to change, it has to be in the view before and afterwards.
func TestViewsHoldForWhatTriggersAndCascadesDo(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, owner TEXT COLLATE NOCASE, note TEXT UNIQUE)")
	f.exec("CREATE TABLE child (id INTEGER PRIMARY KEY, owner TEXT, t_id INTEGER REFERENCES t (id) ON DELETE CASCADE ON UPDATE CASCADE)")
	f.exec("CREATE TABLE plain (id INTEGER PRIMARY KEY, x)")
	f.exec("CREATE TABLE forbidden (id INTEGER PRIMARY KEY)")
	f.exec("CREATE TRIGGER tr AFTER INSERT ON plain WHEN NEW.x = 'all' BEGIN UPDATE t SET note = note || '!'; END")
	f.exec("CREATE TRIGGER tr2 AFTER INSERT ON plain WHEN NEW.x = 'hers' BEGIN UPDATE t SET note = note || '!' WHERE id = 4; END")
	f.exec("CREATE TRIGGER tr3 AFTER INSERT ON plain WHEN NEW.x = 'more' BEGIN INSERT INTO t VALUES (NULL, 'bob', NULL); END")
	f.exec("CREATE TRIGGER tr4 AFTER INSERT ON plain WHEN NEW.x = 'forbidden' BEGIN INSERT INTO forbidden VALUES (1); END")
	f.exec("INSERT INTO t VALUES (1, 'ann', 'a'), (2, 'bob', 'b'), (3, 'Ann', 'c'), (4, 'ann', 'd'), (5, NULL, 'e')")
	f.exec("INSERT INTO child VALUES (1, 'ann', 1), (2, 'bob', 4)")
	text := func(s string) *datav1.Value { return value.ToProto(value.Text(s)) }
	key := func(n int64) *datav1.Key {
		return &datav1.Key{Values: []*datav1.Value{value.ToProto(value.Integer(n))}}
	}
	put := func(table string, values map[string]*datav1.Value) *datav1.Operation {
		return &datav1.Operation{Operation: &datav1.Operation_Put{Put: &datav1.Put{Table: table, Values: values}}}
	}
	update := func(id int64, column string, v *datav1.Value) *datav1.Operation {
		return &datav1.Operation{Operation: &datav1.Operation_Update{Update: &datav1.Update{
			Table: "t", Key: key(id), Set: map[string]*datav1.Value{column: v},
		}}}
	}
	remove := func(id int64) *datav1.Operation {
		return &datav1.Operation{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{Table: "t", Key: key(id)}}}
	}
	do := func(ops ...*datav1.Operation) (*Commit, error) {
		tx := &Transaction{View: own{"t", "child"}}
		for _, o := range ops {
			op, err := OperationOf(o)
			if err != nil {
				t.Fatal(err)
			}
			tx.Operations = append(tx.Operations, op)
		}
		return f.db.Transact(context.Background(), tx)
	}
	rows := func() string { return strings.Join(f.query("SELECT * FROM t ORDER BY id"), "; ") }
	was := rows()
	for name, ops := range map[string][]*datav1.Operation{
		"a trigger that changes all rows":     {put("plain", map[string]*datav1.Value{"x": text("all")})},
		"a trigger that makes a hidden row":   {put("plain", map[string]*datav1.Value{"x": text("more")})},
		"a trigger that writes what may not":  {put("plain", map[string]*datav1.Value{"x": text("forbidden")})},
		"a cascade to a hidden row":           {remove(4)},
		"a cascade of a changed key":          {update(4, "id", value.ToProto(value.Integer(40)))},
		"her row becomes another's":           {update(1, "owner", text("bob"))},
		"of another's name in another case":   {update(1, "owner", text("ANN"))},
		"her row becomes a number's":          {update(1, "owner", value.ToProto(value.Blob([]byte("ann"))))},
		"a hidden row is overwritten":         {put("t", map[string]*datav1.Value{"id": value.ToProto(value.Integer(2)), "owner": text("ann")})},
		"a hidden row is overwritten, partly": {put("t", map[string]*datav1.Value{"id": value.ToProto(value.Integer(5)), "note": text("x")})},
		"a hidden row is made":                {put("t", map[string]*datav1.Value{"note": text("x")})},
		"there and back": {
			put("t", map[string]*datav1.Value{"id": value.ToProto(value.Integer(2)), "owner": text("ann")}), update(2, "owner", text("bob")),
		},
		"SQL": {{Operation: &datav1.Operation_Statement{Statement: &datav1.Statement{Sql: "SELECT 1"}}}},
	} {
		_, err := do(ops...)
		if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED {
			t.Errorf("%s: %v", name, err)
		}
		if now := rows(); now != was {
			t.Errorf("%s: %s", name, now)
		}
	}
	for _, id := range []int64{2, 3, 5, 99} {
		for _, op := range []*datav1.Operation{update(id, "note", text("x")), remove(id)} {
			if c, err := do(op); err != nil || c.Results[0].GetRowsAffected() != 0 || c.Version != 0 {
				t.Errorf("hidden row %d: %+v, %v", id, c, err)
			}
		}
	}
	if _, err := do(put("plain", map[string]*datav1.Value{"x": text("hers")}), remove(1), update(4, "note", text("hers"))); err != nil {
		t.Errorf("her own: %v", err)
	}
	f.want("SELECT id, note FROM t ORDER BY id", "2|b", "3|c", "4|hers", "5|e")
	f.want("SELECT count(*) FROM child WHERE id = 1", "0")
}
