package edgesql

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// FuzzNormal: the normal form is a statement that SQLite compiles to the same program, with the same names. So two statements
// of one normal form are the same.
func FuzzNormal(f *testing.F) {
	for _, sql := range []string{
		"SELECT a, b+ 1 , (select c from u) FROM t JOIN u ON t.a=u.c -- x\n WHERE a between 1 AND 2 group by 1 order  by 2 limit 3;;",
		"WITH RECURSIVE w(N) AS (VALUES(1) UNION ALL SELECT n+1 FROM w WHERE n<5) SELECT * FROM w, json_each('[1]') j",
		"SELECT a is not distinct FROM b , count(*) filter (where a > 1) over (order by b) FROM t /* c */ ;",
		"SELECT 'it''s', \"a\", `b`, [c d], x'00', 1e-5, :p, $q::r, ?3 FROM t AS \"from\"",
		"SELECT CASE WHEN a THEN b ELSE NULL END FROM t WHERE a NOTNULL AND b IS NOT NULL AND a IN (1,2) COLLATE nocase",
	} {
		f.Add(sql)
	}
	db, err := sqlite.Open(":memory:", sqlite.ReadWrite|sqlite.Create)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := db.Close(); err != nil {
			f.Error(err)
		}
	})
	if err := db.Exec("CREATE TABLE t (a, b, d); CREATE TABLE u (c, \"e f\")"); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		switch sqlsplit.Kind(sql) {
		case "SELECT", "VALUES", "WITH":
		default:
			return
		}
		want, err := program(db, sql)
		if err != nil {
			return
		}
		form := string(sqlsplit.AppendNormal(nil, sql))
		got, err := program(db, form)
		if err != nil {
			t.Fatalf("%q does not compile as %q: %v", sql, form, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q as %q:\n%s", sql, form, diff)
		}
		if again := string(sqlsplit.AppendNormal(nil, form)); again != form {
			t.Errorf("%q is %q, and that is %q", sql, form, again)
		}
	})
}

// program returns the names of a statement's columns and what SQLite makes of it.
func program(db *sqlite.Conn, sql string) (lines []string, err error) {
	st, tail, err := db.Prepare(sql)
	if err != nil || st == nil {
		return nil, cmpErr(err)
	}
	for i := range st.ColumnCount() {
		lines = append(lines, st.ColumnName(i))
	}
	if err := st.Finalize(); err != nil || sqlsplit.Kind(tail) != "" {
		return nil, cmpErr(err)
	}
	if st, _, err = db.Prepare("EXPLAIN " + sql); err != nil {
		return nil, err
	}
	for {
		row, err := st.Step()
		if err != nil || !row {
			if ferr := st.Finalize(); err == nil {
				err = ferr
			}
			return lines, err
		}
		var cells []string
		for i := range st.ColumnCount() - 1 {
			cells = append(cells, st.Column(i).Text())
		}
		lines = append(lines, strings.Join(cells, " "))
	}
}

func cmpErr(err error) error {
	if err == nil {
		return errNoStatement
	}
	return err
}

var errNoStatement = errors.New("no statement")
