package sqlsplit

import (
	"strings"
	"testing"
)

func TestDistinctLists(t *testing.T) {
	known := func(table, column string) bool { return table == "t" && (column == "a" || column == `b "c"`) }
	for _, tc := range []struct{ sql, want string }{
		{"SELECT 1 WHERE x NOT IN (SELECT a FROM t)", "SELECT 1 WHERE x NOT IN (SELECT DISTINCT a FROM t)"},
		{"select 1 where x in(select/**/a\nfrom t)and y IN (SELECT \"b \"\"c\"\"\" FROM [t] ) ;",
			"select 1 where x in(select DISTINCT/**/a\nfrom t)and y IN (SELECT DISTINCT \"b \"\"c\"\"\" FROM [t] ) ;"},
		{"SELECT x IN (SELECT `a` FROM t) IN (SELECT a FROM t)", "SELECT x IN (SELECT DISTINCT `a` FROM t) IN (SELECT DISTINCT a FROM t)"},
		{"SELECT 1 WHERE x IN (SELECT a FROM t WHERE a)", ""},
		{"SELECT 1 WHERE x IN (SELECT a FROM t LIMIT 1)", ""},
		{"SELECT 1 WHERE x IN (SELECT a, a FROM t)", ""},
		{"SELECT 1 WHERE x IN (SELECT a+1 FROM t)", ""},
		{"SELECT 1 WHERE x IN (SELECT b FROM t)", ""},
		{"SELECT 1 WHERE x IN (SELECT a FROM u)", ""},
		{"SELECT 1 WHERE x IN (SELECT 'a' FROM t)", ""},
		{"SELECT 1 WHERE x = (SELECT a FROM t)", ""},
		{"SELECT 'IN (SELECT a FROM t)' -- IN (SELECT a FROM t)", ""},
		{"WITH t(a) AS (SELECT 1) SELECT 1 WHERE x IN (SELECT a FROM t)", ""},
		{"SELECT IN (SELECT a FROM t", ""},
		{"", ""},
	} {
		got, changed := DistinctLists(tc.sql, known)
		if want := tc.want; changed != (want != "") || changed && got != want || !changed && got != tc.sql {
			t.Errorf("%q became %q, %v", tc.sql, got, changed)
		}
	}
}

func FuzzDistinctLists(f *testing.F) {
	f.Add("SELECT 1 WHERE x NOT IN (SELECT a FROM t) AND y IN (SELECT [a] FROM `t`)")
	f.Add("IN(SELECT''FROM\"\")")
	f.Fuzz(func(t *testing.T, sql string) {
		got, changed := DistinctLists(sql, func(string, string) bool { return true })
		if back := strings.ReplaceAll(got, " DISTINCT", ""); changed && back != strings.ReplaceAll(sql, " DISTINCT", "") || !changed && got != sql {
			t.Errorf("%q became %q", sql, got)
		}
	})
}
