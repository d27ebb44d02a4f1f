package engine

import (
	"context"
	"fmt"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

func TestTypedOperations(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id TEXT PRIMARY KEY, a, b DEFAULT 5)")
	do := func(ops ...*datav1.Operation) (*Commit, error) {
		tx := &Transaction{}
		for _, o := range ops {
			op, err := OperationOf(o)
			if err != nil {
				t.Fatal(err)
			}
			tx.Operations = append(tx.Operations, op)
		}
		return f.db.Transact(context.Background(), tx)
	}
	text := func(s string) *datav1.Value { return value.ToProto(value.Text(s)) }
	put := func(id, a string, p *datav1.Precondition) *datav1.Operation {
		return &datav1.Operation{Operation: &datav1.Operation_Put{Put: &datav1.Put{
			Table: "t", Values: map[string]*datav1.Value{"id": text(id), "a": text(a)}, Precondition: p,
		}}}
	}
	absent := &datav1.Precondition{Condition: &datav1.Precondition_IfAbsent{IfAbsent: true}}
	exists := &datav1.Precondition{Condition: &datav1.Precondition_IfExists{IfExists: true}}
	version := func(v uint64) *datav1.Precondition {
		return &datav1.Precondition{Condition: &datav1.Precondition_IfVersion{IfVersion: v}}
	}
	c, err := do(put("x", "1", absent))
	if err != nil {
		t.Fatal(err)
	}
	f.want("SELECT * FROM t", "x|1|5")
	_, err = do(put("y", "0", nil), put("x", "2", absent))
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED)
	if e, _ := rpcerr.FromError(err); e.Metadata("operation") != "1" || e.Metadata("present_version") != fmt.Sprint(c.Version) {
		t.Errorf("metadata: %v", e)
	}
	f.want("SELECT count(*) FROM t", "1")
	if _, err = do(put("x", "2", version(c.Version))); err != nil {
		t.Error(err)
	}
	_, err = do(put("x", "3", version(c.Version)))
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED)
	key := &datav1.Key{Values: []*datav1.Value{text("x")}}
	_, err = do(&datav1.Operation{Operation: &datav1.Operation_Update{Update: &datav1.Update{
		Table: "t", Key: key, Set: map[string]*datav1.Value{"b": text("z")}, Precondition: exists,
	}}})
	if err != nil {
		t.Error(err)
	}
	f.want("SELECT * FROM t", "x|2|z")
	_, err = do(&datav1.Operation{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{Table: "t", Key: key}}})
	if err != nil {
		t.Error(err)
	}
	f.want("SELECT count(*) FROM t", "0")
	_, err = do(&datav1.Operation{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{Table: "t", Key: key, Precondition: exists}}})
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED)
}

// TestPutByEveryKindOfKey inserts a row and then overwrites it.
func TestColumnsGivenTwice(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	one, two := value.ToProto(value.Integer(1)), value.ToProto(value.Integer(2))
	set := map[string]*datav1.Value{"a": one, "A": two}
	put, err := OperationOf(&datav1.Operation{Operation: &datav1.Operation_Put{Put: &datav1.Put{Table: "t", Values: set}}})
	if err != nil {
		t.Fatal(err)
	}
	update, err := OperationOf(&datav1.Operation{Operation: &datav1.Operation_Update{Update: &datav1.Update{
		Table: "t", Key: &datav1.Key{Values: []*datav1.Value{one}}, Set: set,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	insert := InsertOperation(&datav1.BatchInsertRequest{
		Table: "t", Columns: []string{"id", "a", "ID"}, Rows: []*datav1.Row{{Values: []*datav1.Value{one, one, two}}},
	})
	for _, op := range []Operation{put, update, insert} {
		_, err := f.db.Transact(t.Context(), &Transaction{Operations: []Operation{op}})
		wantReason(t, err, datav1.ErrorReason_ERROR_REASON_FIELD_INVALID)
	}
	f.want("SELECT count(*) FROM t", "0")
}

func TestPutByEveryKindOfKey(t *testing.T) {
	f := newFixture(t)
	for name, columns := range map[string]string{
		"rowid":             "id INTEGER PRIMARY KEY, a",
		"rowid that counts": "id INTEGER PRIMARY KEY AUTOINCREMENT, a",
		"integer":           "id INT NOT NULL PRIMARY KEY, a",
		"without collation": "id TEXT NOT NULL PRIMARY KEY, a",
		"another collation": "id TEXT COLLATE NOCASE PRIMARY KEY, a",
		"no rowid":          "a, id INTEGER PRIMARY KEY) WITHOUT ROWID --",
	} {
		t.Run(name, func(t *testing.T) {
			f.exec("CREATE TABLE k (" + columns + ")")
			defer f.exec("DROP TABLE k")
			for _, a := range []string{"first", "second"} {
				op, err := OperationOf(&datav1.Operation{Operation: &datav1.Operation_Put{Put: &datav1.Put{
					Table: "k", Values: map[string]*datav1.Value{
						"id": value.ToProto(value.Integer(7)), "a": value.ToProto(value.Text(a)),
					},
				}}})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.db.Transact(t.Context(), &Transaction{Operations: []Operation{op}}); err != nil {
					t.Fatal(err)
				}
				f.want("SELECT id, a FROM k", "7|"+a)
			}
		})
	}
}
