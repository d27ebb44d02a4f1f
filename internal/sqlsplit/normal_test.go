package sqlsplit_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

func normal(sql string) string { return string(sqlsplit.AppendNormal(nil, sql)) }

func TestNormal(t *testing.T) {
	for _, same := range [][]string{
		{
			"SELECT a,b + 1 FROM t WHERE a = 'x  y' ORDER BY b",
			"select a,b + 1 from t where a = 'x  y' order by b",
			"  /* c */ SELECT\n\ta ,\n\tb + 1\n FROM t -- why\n WHERE  a =\t'x  y'/**/Order By b ; ;-- end",
			"SELECT a,b + 1 FROM t WHERE a = 'x  y' ORDER BY b;",
		},
		{"SELECT 1", "select 1;", " Select  1 ; /* x */"},
		{
			"SELECT * FROM (SELECT a+ 1 FROM t) WHERE x NOT IN (SELECT b FROM u)",
			"select * from (select  a+ 1  from  t)\nwhere x not in (select b from u)",
		},
		{"VALUES (1), ( 2)", "values (1), (  2)"},
		{"SELECT a IS DISTINCT FROM b, c  + 1 FROM t", "select  a IS DISTINCT FROM b ,c  + 1  from t;"},
		{"WITH w(A) AS (SELECT 1) SELECT A FROM w", "WITH w(A) as  (select 1) select A from w"},
	} {
		want := normal(same[0])
		for _, sql := range same[1:] {
			if diff := cmp.Diff(want, normal(sql)); diff != "" {
				t.Errorf("%s:\n%s", sql, diff)
			}
		}
	}
	for _, differ := range [][2]string{
		{"SELECT a+1 FROM t", "SELECT a + 1 FROM t"}, // the column's name
		{"SELECT a+1 FROM t", "SELECT A+1 FROM t"},   // too
		{"SELECT (SELECT a FROM t)", "SELECT (select a from t)"},
		{"SELECT a /* x */ FROM t", "SELECT a FROM t"},
		{"SELECT a IS DISTINCT FROM b, c  + 1 FROM t", "SELECT a IS DISTINCT FROM b, c + 1 FROM t"},
		{"SELECT a -- c\nFROM t", "SELECT a -- c FROM t"},
		{"SELECT a FROM t WHERE b = 'X'", "SELECT a FROM t WHERE b = 'x'"},
		{"SELECT a FROM t WHERE b = :A", "SELECT a FROM t WHERE b = :a"},
		{"SELECT a FROM t WHERE b = :from", "SELECT a FROM t WHERE b = :FROM"},
		{"SELECT a FROM t WHERE b = \"b  c\"", "SELECT a FROM t WHERE b = \"b c\""},
		{"WITH w(a) AS (SELECT 1) SELECT * FROM w", "WITH w(A) AS (SELECT 1) SELECT * FROM w"},
		{"SELECT 1", "SELECT 1; SELECT 2"},
		{"SELECT - - 1 FROM t WHERE a - - b", "SELECT - - 1 FROM t WHERE a --b"},
		{"SELECT 1 FROM t WHERE x = $a(b  c)", "SELECT 1 FROM t WHERE x = $a(b c)"},
	} {
		if normal(differ[0]) == normal(differ[1]) {
			t.Errorf("%q and %q are one", differ[0], differ[1])
		}
	}
}

func BenchmarkNormal(b *testing.B) {
	const sql = "SELECT id, email, age, bio FROM users WHERE id = ?"
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = sqlsplit.AppendNormal(dst[:0], sql)
	}
}
