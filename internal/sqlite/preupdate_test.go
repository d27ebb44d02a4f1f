package sqlite

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/value"
)

// describe writes a change as "UPDATE main.t 1->2 depth 0 (old, ...) -> (new, ...)".
func describe(t *testing.T, u *PreUpdate) string {
	t.Helper()
	row := func(get func(int) (value.Value, error)) string {
		var cols []string
		for i := range u.Count() {
			v, err := get(i)
			if err != nil {
				t.Errorf("column %d of %s %s: %v", i, u.Op, u.Table, err)
			}
			switch v.Kind() {
			case value.KindInteger:
				cols = append(cols, fmt.Sprint(v.Integer()))
			case value.KindReal:
				cols = append(cols, fmt.Sprintf("%.1f", v.Real()))
			case value.KindNull:
				cols = append(cols, "NULL")
			default:
				cols = append(cols, fmt.Sprintf("%q", v.Bytes()))
			}
		}
		return "(" + strings.Join(cols, ", ") + ")"
	}
	s := fmt.Sprintf("%s %s.%s %d->%d depth %d", u.Op, u.DB, u.Table, u.OldRowid, u.NewRowid, u.Depth())
	if u.Op != OpInsert {
		s += " " + row(u.Old)
	} else if _, err := u.Old(0); err == nil {
		t.Error("INSERT has an old row")
	}
	if u.Op != OpDelete {
		s += " -> " + row(u.New)
	} else if _, err := u.New(0); err == nil {
		t.Error("DELETE has a new row")
	}
	for _, col := range []int{-1, u.Count(), 1 << 15, 1<<16 + 1, 1<<32 + 1} {
		if _, err := u.Old(col); err == nil {
			t.Errorf("old column %d exists", col)
		}
		if _, err := u.New(col); err == nil {
			t.Errorf("new column %d exists", col)
		}
	}
	return s
}

func TestPreUpdate(t *testing.T) {
	const keyed = "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b REAL); INSERT INTO t VALUES(1, 'one', 1), (2, 'two', 2)"
	tests := []struct {
		name, schema, sql string
		fails             Code
		want              []string
	}{
		{"insert", keyed, "INSERT INTO t VALUES(7, 'x', 0.5), (NULL, NULL, NULL)", 0, []string{
			`INSERT main.t 0->7 depth 0 -> (7, "x", 0.5)`,
			`INSERT main.t 0->8 depth 0 -> (8, NULL, NULL)`,
		}},
		{"update", keyed, "UPDATE t SET b = 9 WHERE id = 1", 0, []string{
			`UPDATE main.t 1->1 depth 0 (1, "one", 1.0) -> (1, "one", 9.0)`,
		}},
		{"update without a change", keyed, "UPDATE t SET b = b WHERE id = 1", 0, []string{
			`UPDATE main.t 1->1 depth 0 (1, "one", 1.0) -> (1, "one", 1.0)`,
		}},
		{"update of the key", keyed, "UPDATE t SET id = 5 WHERE id = 1", 0, []string{
			`UPDATE main.t 1->5 depth 0 (1, "one", 1.0) -> (5, "one", 1.0)`,
		}},
		{"delete", keyed, "DELETE FROM t WHERE a = 'two'", 0, []string{
			`DELETE main.t 2->0 depth 0 (2, "two", 2.0)`,
		}},
		{"delete of all rows", keyed, "DELETE FROM t", 0, []string{
			`DELETE main.t 1->0 depth 0 (1, "one", 1.0)`,
			`DELETE main.t 2->0 depth 0 (2, "two", 2.0)`,
		}},
		{"replace", keyed, "REPLACE INTO t VALUES(2, 'one', 3)", 0, []string{
			`DELETE main.t 2->0 depth 0 (2, "two", 2.0)`,
			`DELETE main.t 1->0 depth 0 (1, "one", 1.0)`,
			`INSERT main.t 0->2 depth 0 -> (2, "one", 3.0)`,
		}},
		{"update or replace", keyed, "UPDATE OR REPLACE t SET a = 'two' WHERE id = 1", 0, []string{
			`DELETE main.t 2->0 depth 0 (2, "two", 2.0)`,
			`UPDATE main.t 1->1 depth 0 (1, "one", 1.0) -> (1, "two", 1.0)`,
		}},
		{"upsert", keyed, "INSERT INTO t VALUES(1, 'x', 5), (3, 'new', 6) ON CONFLICT(id) DO UPDATE SET b = excluded.b", 0, []string{
			`UPDATE main.t 1->1 depth 0 (1, "one", 1.0) -> (1, "one", 5.0)`,
			`INSERT main.t 0->3 depth 0 -> (3, "new", 6.0)`,
		}},
		{"ignored", keyed, "INSERT OR IGNORE INTO t VALUES(1, 'x', 5)", 0, nil},
		{"statement that fails", keyed, "INSERT INTO t VALUES(3, 'x', 1), (1, 'y', 1)", CodeConstraintPrimaryKey, []string{
			`INSERT main.t 0->3 depth 0 -> (3, "x", 1.0)`,
		}},
		{"cascade", "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE k(p REFERENCES p ON DELETE CASCADE ON UPDATE SET NULL); INSERT INTO p VALUES(1), (2); INSERT INTO k VALUES(1), (2)",
			"DELETE FROM p WHERE id = 1; UPDATE p SET id = 3", 0, []string{
				`DELETE main.p 1->0 depth 0 (1)`,
				`DELETE main.k 1->0 depth 1 (1)`,
				`UPDATE main.p 2->3 depth 0 (2) -> (3)`,
				`UPDATE main.k 2->2 depth 1 (2) -> (NULL)`,
			}},
		{"triggers", "CREATE TABLE t(a); CREATE TABLE log(a); CREATE TRIGGER x BEFORE INSERT ON t BEGIN INSERT INTO log VALUES('t' || new.a); END; CREATE TRIGGER y AFTER INSERT ON log BEGIN UPDATE log SET a = a || '!'; END",
			"INSERT INTO t VALUES(1)", 0, []string{
				`INSERT main.log 0->1 depth 1 -> ("t1")`,
				`UPDATE main.log 1->1 depth 2 ("t1") -> ("t1!")`,
				`INSERT main.t 0->1 depth 0 -> (1)`,
			}},
		{"view", "CREATE TABLE t(a); CREATE VIEW v AS SELECT a FROM t; CREATE TRIGGER x INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES(new.a + 1); END",
			"INSERT INTO v VALUES(1)", 0, []string{`INSERT main.t 0->1 depth 1 -> (2)`}},
		{"without rowid", "CREATE TABLE w(b, k PRIMARY KEY) WITHOUT ROWID; INSERT INTO w VALUES(1, 'k')",
			"UPDATE w SET b = 2; UPDATE w SET k = 'l'; REPLACE INTO w VALUES(3, 'l'); INSERT INTO w VALUES(4, 'm'); DELETE FROM w", 0, []string{
				`UPDATE main.w 0->0 depth 0 (1, "k") -> (2, "k")`,
				`UPDATE main.w 0->0 depth 0 (2, "k") -> (2, "l")`,
				`DELETE main.w 0->0 depth 0 (2, "l")`,
				`INSERT main.w 0->0 depth 0 -> (3, "l")`,
				`INSERT main.w 0->0 depth 0 -> (4, "m")`,
				`DELETE main.w 0->0 depth 0 (3, "l")`,
				`DELETE main.w 0->0 depth 0 (4, "m")`,
			}},
		{"stored generated column", "CREATE TABLE g(a, s AS (a * 3) STORED, b)",
			"INSERT INTO g VALUES(1, 'x'); UPDATE g SET a = 2", 0, []string{
				`INSERT main.g 0->1 depth 0 -> (1, 3, "x")`,
				`UPDATE main.g 1->1 depth 0 (1, 3, "x") -> (2, 6, "x")`,
			}},
		{"column added later", "CREATE TABLE t(a); INSERT INTO t VALUES(1); ALTER TABLE t ADD COLUMN b DEFAULT 'd'",
			"UPDATE t SET a = 2; DELETE FROM t", 0, []string{
				`UPDATE main.t 1->1 depth 0 (1, "d") -> (2, "d")`,
				`DELETE main.t 1->0 depth 0 (2, "d")`,
			}},
		{"other databases", "CREATE TEMP TABLE x(a); ATTACH ':memory:' AS \"odd name\"; CREATE TABLE \"odd name\".y(a)",
			"INSERT INTO x VALUES(1); INSERT INTO y VALUES(2)", 0, []string{
				`INSERT temp.x 0->1 depth 0 -> (1)`,
				`INSERT odd name.y 0->1 depth 0 -> (2)`,
			}},
		{"not called", "CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO t VALUES(1)",
			"CREATE TABLE c AS SELECT * FROM t; DROP TABLE c; ALTER TABLE t ADD COLUMN b; ALTER TABLE t DROP COLUMN b; DROP TABLE t", 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := open(t, tt.schema)
			if err := c.EnableForeignKeys(true); err != nil {
				t.Fatal(err)
			}
			var got []string
			if err := c.SetPreUpdate(func(u *PreUpdate) { got = append(got, describe(t, u)) }); err != nil {
				t.Fatal(err)
			}
			if err := c.Exec(tt.sql); tt.fails != 0 {
				wantError(t, err, tt.fails)
			} else if err != nil {
				t.Fatal(err)
			}
			diff(t, got, tt.want)
		})
	}
}

// A DELETE of a whole table compiled before the hook was set would empty it without a call.
func TestPreUpdateOfStatementPreparedBefore(t *testing.T) {
	c := open(t, "CREATE TABLE t(a); INSERT INTO t VALUES(1), (2)")
	s := prepare(t, c, "DELETE FROM t")
	calls := 0
	count := func(*PreUpdate) { calls++ }
	run := func() {
		t.Helper()
		if _, err := s.Step(); err != nil {
			t.Fatal(err)
		}
		if err := s.Reset(); err != nil {
			t.Fatal(err)
		}
	}
	set := func(f func(*PreUpdate)) {
		t.Helper()
		if err := c.SetPreUpdate(f); err != nil {
			t.Fatal(err)
		}
	}
	set(count)
	run()
	if calls != 2 {
		t.Errorf("%d calls, want 2", calls)
	}

	set(nil)
	exec(t, c, "INSERT INTO t VALUES(1), (2), (3)")
	other := prepare(t, c, "DELETE FROM t WHERE true")
	if calls != 2 {
		t.Errorf("called after being cleared")
	}
	set(count)
	if _, err := other.Step(); err != nil {
		t.Fatal(err)
	}
	if calls != 5 {
		t.Errorf("%d calls, want 5", calls)
	}
	if got := s.StmtStatus(StatusReprepare, false); got != 1 {
		t.Errorf("compiled anew %d times, want once", got)
	}
}

func TestPreUpdateVirtualColumn(t *testing.T) {
	for _, table := range []string{
		"CREATE TABLE g(a, v AS (a * 2), s AS (a * 3) STORED, k PRIMARY KEY)",
		"CREATE TABLE g(a, v AS (a * 2), s AS (a * 3) STORED, k PRIMARY KEY) WITHOUT ROWID",
	} {
		c := open(t, table)
		calls := 0
		if err := c.SetPreUpdate(func(u *PreUpdate) {
			calls++
			if n := u.Count(); n != 4 {
				t.Errorf("%d columns", n)
			}
			get := u.New
			if u.Op == OpDelete {
				get = u.Old
			}
			a, err := get(0)
			if err != nil {
				t.Errorf("%s: column 0: %v", u.Op, err)
			}
			for _, col := range []int{1, 4} {
				var e *Error
				if _, err := get(col); !errors.As(err, &e) || e.Code != CodeRange {
					t.Errorf("%s: column %d: %v", u.Op, col, err)
				}
			}
			if s, err := get(2); err != nil || s.Integer() != 3*a.Integer() {
				t.Errorf("%s: column 2: %v, %v", u.Op, s.Integer(), err)
			}
			if k, err := get(3); err != nil || k.Text() != "k" {
				t.Errorf("%s: column 3: %q, %v", u.Op, k.Bytes(), err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		exec(t, c, "INSERT INTO g VALUES(1, 'k'); UPDATE g SET a = 2; DELETE FROM g")
		if calls != 3 {
			t.Errorf("%d calls", calls)
		}
	}
}

func TestPreUpdateAfterItsCall(t *testing.T) {
	c := open(t, "CREATE TABLE t(a)")
	var kept *PreUpdate
	if err := c.SetPreUpdate(func(u *PreUpdate) { kept = u }); err != nil {
		t.Fatal(err)
	}
	exec(t, c, "INSERT INTO t VALUES(1)")
	if _, err := kept.New(0); err == nil || kept.Count() != 0 || kept.Depth() != 0 {
		t.Errorf("still usable: %d columns, error %v", kept.Count(), err)
	}
	if kept.Table != "t" {
		t.Errorf("table %q", kept.Table)
	}
}

// SQLite may put another table's name where a dropped one's was.
func TestPreUpdateTableNames(t *testing.T) {
	c := open(t, "")
	var got, want []string
	if err := c.SetPreUpdate(func(u *PreUpdate) { got = append(got, u.Table) }); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxNames {
		name := fmt.Sprintf("t%04d", i)
		want = append(want, name)
		exec(t, c, fmt.Sprintf("CREATE TABLE %s(a); INSERT INTO %[1]s VALUES(1); DROP TABLE %[1]s", name))
	}
	diff(t, got, want)
	if n := len(c.names.all); n > maxNames {
		t.Errorf("%d names are kept", n)
	}
}
