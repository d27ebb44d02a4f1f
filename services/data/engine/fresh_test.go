package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
)

// TestFreshRowsAreWhatReadingThemGives inserts rows of all kinds into tables of all kinds. What the hook saw of them went into
// the log's sums; what the tables have must add up to the same.
func TestFreshRowsAreWhatReadingThemGives(t *testing.T) {
	f := newFixture(t)
	kinds := []string{"", "INTEGER", "REAL", "TEXT", "BLOB", "NUMERIC", "ANY"}
	var columns []string
	for i, kind := range kinds {
		columns = append(columns, fmt.Sprintf("c%d %s", i, strings.ReplaceAll(kind, "ANY", "FLOAT")))
	}
	body := strings.Join(columns, ", ") + `, d REAL DEFAULT 7, e TEXT DEFAULT 'x', s AS (c1 || 'é') STORED, v AS (c2 + 1)`
	for _, sql := range []string{
		"CREATE TABLE plain (" + body + ")",
		"CREATE TABLE keyed (id INTEGER PRIMARY KEY, " + body + ")",
		"CREATE TABLE real_key (id REAL NOT NULL PRIMARY KEY, " + body + ")",
		"CREATE TABLE without (id TEXT COLLATE NOCASE, c2b REAL, " + body + ", PRIMARY KEY (id DESC, c2b)) WITHOUT ROWID",
		"CREATE TABLE strict_one (id INT NOT NULL PRIMARY KEY, r REAL, a ANY, t TEXT) STRICT",
		"CREATE TABLE watched (id INTEGER PRIMARY KEY, " + body + ")",
		"CREATE TRIGGER later AFTER INSERT ON watched BEGIN UPDATE watched SET c1 = 5, d = id WHERE id = new.id; END",
		"CREATE TABLE replaced (id INTEGER PRIMARY KEY, u UNIQUE ON CONFLICT REPLACE, r REAL)",
	} {
		f.exec(sql)
	}
	random := rand.New(rand.NewPCG(1, 2))
	some := func() value.Value {
		switch random.IntN(9) {
		case 0:
			return value.Null()
		case 1:
			return value.Integer(random.Int64() >> random.IntN(64))
		case 2:
			return value.Real(float64(random.IntN(100)))
		case 3:
			return value.Real(math.Copysign(0, -1))
		case 4:
			return value.Real(random.NormFloat64() * 1e300)
		case 5:
			return value.Text([]string{"", "1", "1.0", " 7e2 ", "0x10", "a\x00b", "\xff", "É"}[random.IntN(8)])
		case 6:
			return value.Blob([]byte{0, 1, 255}[:random.IntN(4)])
		case 7:
			return value.Integer(math.MaxInt64 - random.Int64N(3))
		default:
			return value.Text(strings.Repeat("long", random.IntN(2000)))
		}
	}
	put := func(table string, names ...string) error {
		values := make(map[string]*datav1.Value)
		for _, name := range names {
			if random.IntN(4) > 0 || name == names[0] {
				values[name] = value.ToProto(some())
			}
		}
		_, err := f.db.Transact(t.Context(), &Transaction{Operations: []Operation{
			putOperation{&datav1.Put{Table: table, Values: values}},
		}})
		return err
	}
	all := []string{"c0", "c1", "c2", "c3", "c4", "c5", "c6", "d", "e"}
	for range 300 {
		_ = put("plain", all...)
		_ = put("keyed", append([]string{"id"}, all...)...)
		_ = put("real_key", append([]string{"id"}, all...)...)
		_ = put("without", append([]string{"id", "c2b"}, all...)...)
		_ = put("strict_one", "id", "r", "a", "t")
		_ = put("watched", append([]string{"id"}, all...)...)
		_ = put("replaced", "id", "u", "r")
		_, _ = f.try("INSERT INTO plain (c0, c2, c4) VALUES (zeroblob(20), ?1, zeroblob(3)), (?2, ?1, ?2)", some(), some())
	}
	f.sumsHold()
	if n := f.count("keyed") + f.count("without") + f.count("strict_one"); n < 100 {
		t.Errorf("only %d rows were put", n)
	}
}

func (f *fixture) count(table string) (n int) {
	f.t.Helper()
	err := f.db.View(context.Background(), func(v *View) error {
		return v.ScanTable(v.Catalog().TableByName(table), false, func(_, _ []byte) error {
			n++
			return nil
		})
	})
	if err != nil {
		f.t.Error(err)
	}
	return n
}

// failing puts a row and then fails, as no operation should.
type failing struct{ putOperation }

var errAfterwards = errors.New("afterwards")

func (o failing) run(x *execution) (*datav1.ResultSet, error) {
	if _, err := o.putOperation.run(x); err != nil {
		return nil, err
	}
	return nil, errAfterwards
}

// TestWhatFailsWithoutSavepointFailsAlone has transactions without a savepoint fail after they changed something: they leave
// nothing, and those of their group are done.
func TestWhatFailsWithoutSavepointFailsAlone(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			row := putOperation{&datav1.Put{Table: "t", Values: map[string]*datav1.Value{"id": value.ToProto(value.Integer(int64(i)))}}}
			if i%20 != 0 {
				if _, err := f.db.Transact(t.Context(), &Transaction{Operations: []Operation{row}}); err != nil {
					t.Error(err)
				}
			} else if _, err := f.db.Transact(t.Context(), &Transaction{Operations: []Operation{failing{row}}}); !errors.Is(err, errAfterwards) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f.want("SELECT count(*), sum(id % 20 = 0) FROM t", "190|0")
	f.sumsHold()
}

// TestPlainTables says of which tables a change of a row needs no savepoint.
func TestPlainTables(t *testing.T) {
	f := newFixture(t)
	for _, sql := range []string{
		"CREATE TABLE plain (id INTEGER PRIMARY KEY, a UNIQUE)", "CREATE TABLE Parent (id INTEGER PRIMARY KEY)",
		"CREATE TABLE child (id INTEGER PRIMARY KEY, p REFERENCES PARENT (id))",
		"CREATE TABLE itself (id INTEGER PRIMARY KEY, p REFERENCES itself (id))",
		"CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)",
		"CREATE TABLE Watched (id INTEGER PRIMARY KEY)", "CREATE TRIGGER w AFTER DELETE ON wAtched BEGIN DELETE FROM plain; END",
	} {
		f.exec(sql)
	}
	plain := func(name string) (is bool) {
		_, err := f.db.Transact(t.Context(), &Transaction{Operations: []Operation{looking{func(x *execution) {
			x.w.guard.trusted = true
			is = x.w.tables[name].isPlain(x.w.session)
			x.w.guard.trusted = false
		}}}})
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	for name, want := range map[string]bool{
		"plain": true, "parent": false, "child": false, "itself": false, "counted": false, "watched": false,
	} {
		if got := plain(name); got != want {
			t.Errorf("%s is plain: %v", name, got)
		}
	}
	f.exec("DROP TRIGGER w")
	f.exec("CREATE TRIGGER p AFTER INSERT ON plain BEGIN SELECT 1; END")
	if !plain("watched") || plain("plain") {
		t.Error("a table is what it was before a trigger went or came")
	}
}

// looking is an operation that looks at the writer.
type looking struct{ f func(*execution) }

func (o looking) run(x *execution) (*datav1.ResultSet, error) {
	o.f(x)
	return &datav1.ResultSet{}, nil
}

// TestPutTellsNothingOfOthers has a table whose default tells what changes() and last_insert_rowid() are.
func TestPutTellsNothingOfOthers(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b DEFAULT (changes() || '/' || last_insert_rowid()))")
	f.exec("INSERT INTO t (a) VALUES (1), (2), (3)")
	for id := range int64(3) {
		op := putOperation{&datav1.Put{Table: "t", Values: map[string]*datav1.Value{"id": value.ToProto(value.Integer(100 + id))}}}
		if _, err := f.db.Transact(t.Context(), &Transaction{Operations: []Operation{op}}); err != nil {
			t.Fatal(err)
		}
	}
	f.want("SELECT b, count(*) FROM t WHERE id >= 100 GROUP BY b", "0/0|3")
}

// TestRecordsSayWhichRowsAreFresh asks the records of statements which of their rows they call fresh: those that were not there before
// the transaction, and no others, because a region does not look for what such a row was.
func TestRecordsSayWhichRowsAreFresh(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, u UNIQUE, n)")
	f.exec("CREATE TABLE w (k TEXT PRIMARY KEY, n) WITHOUT ROWID")
	f.exec("CREATE TABLE log (id INTEGER PRIMARY KEY, n)")
	f.exec("CREATE TRIGGER tells AFTER INSERT ON t WHEN new.n = 'told' BEGIN INSERT INTO log (n) VALUES (new.id); END")
	for _, tt := range []struct {
		sql  string
		want string // of the rows in the order of their tables and keys: fresh, changed or deleted
	}{
		{"INSERT INTO t VALUES (1, 'a', 1)", "fresh"},
		{"INSERT INTO t VALUES (2, 'b', 1), (3, 'c', 1)", "fresh fresh"},
		{"UPDATE t SET n = 2 WHERE id = 1", "changed"},
		{"INSERT INTO t VALUES (1, 'a', 3) ON CONFLICT (id) DO UPDATE SET n = excluded.n", "changed"},
		{"INSERT OR REPLACE INTO t VALUES (1, 'a', 4)", "changed"},
		{"INSERT OR REPLACE INTO t VALUES (4, 'b', 1)", "deleted fresh"}, // in the place of 2
		{"UPDATE t SET id = 5 WHERE id = 3", "deleted fresh"},
		{"DELETE FROM t WHERE id = 5", "deleted"},
		{"INSERT INTO t VALUES (5, 'e', 1)", "fresh"},
		{"INSERT INTO t VALUES (6, 'f', 'told')", "fresh fresh"},
		{"INSERT INTO w VALUES ('x', 1), ('y', 1)", "fresh fresh"},
		{"REPLACE INTO w VALUES ('x', 2), ('z', 1)", "changed fresh"},
		{"UPDATE w SET k = k || '!' WHERE k = 'y'", "deleted fresh"},
	} {
		commit := f.exec(tt.sql)
		var got []string
		for _, table := range f.record(commit.Version).GetTables() {
			for _, row := range table.GetRows() {
				switch {
				case row.GetFresh():
					got = append(got, "fresh")
				case row.Value == nil:
					got = append(got, "deleted")
				default:
					got = append(got, "changed")
				}
			}
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.sql, got, tt.want)
		}
	}
}
