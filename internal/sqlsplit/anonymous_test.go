package sqlsplit

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAnonymous(t *testing.T) {
	for _, tt := range []struct{ sql, want string }{
		{"SELECT * FROM t1 WHERE a = 'secret' AND b=5", "SELECT * FROM t1 WHERE a = ? AND b=?"},
		{"  select\n\t1.5e-3 , .5, 0x1F,1_000 -- 'secret'\n, x'00ff', X'01' /* 7 */ ;", "select ? , ?, ?,? , ?, ? ;"},
		{"SELECT 'it''s', \"a \"\"b\", [odd 1], `c``2` FROM t", "SELECT ?, \"?\", [odd 1], `c``2` FROM t"},
		{"SELECT ?1, :name, @v, $p9, t2.c3", "SELECT ?1, :name, @v, $p9, t2.c3"},
		{"SELECT 'never closed 5", "SELECT ?"},
		{"SELECT [never closed 5", "SELECT \"?\""},
		{"SELECT `never closed 5", "SELECT \"?\""},
		{"SELECT 1 /* never closed", "SELECT ?"},
		{"SELECT 1e5+2, 5-3", "SELECT ?+?, ?-?"},
		{"SELECT é FROM t WHERE é='é'", "SELECT é FROM t WHERE é=?"},
		{"", ""},
	} {
		if got := Anonymous(tt.sql, 200); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.sql, got, tt.want)
		}
	}
	if got := Anonymous("SELECT "+strings.Repeat("é", 100), 20); got != "SELECT ééééé…" {
		t.Errorf("cut: %q", got)
	}
}

// What is in literals is never in the answer, wherever the text is cut and whatever stands before.
func FuzzAnonymous(f *testing.F) {
	for _, seed := range []string{"SELECT 1", "a'b''c", "/*", "--", "\"", "[", "x'", "0x", "1e+", "?", "\x80'", ";"} {
		f.Add(seed, 20)
	}
	f.Fuzz(func(t *testing.T, sql string, limit int) {
		limit = 10 + abs(limit)%1000
		got := Anonymous(sql, limit)
		if len(got) > limit {
			t.Errorf("%d bytes, want %d", len(got), limit)
		}
		if utf8.ValidString(sql) && !utf8.ValidString(got) {
			t.Errorf("%q of %q", got, sql)
		}
		if strings.Contains(got, "'") && !strings.ContainsAny(sql, "[`") { // a name in these may have one
			t.Errorf("a string in %q", got)
		}
		const secret = "zq7Jkq"
		if strings.Contains(sql, secret) {
			return
		}
		for _, quoted := range []string{"'" + secret + "'", "x'" + secret + "'", "--" + secret + "\n", "/*" + secret + "*/"} {
			if got := Anonymous("SELECT "+quoted+" "+sql, limit); strings.Contains(got, secret) {
				t.Errorf("%q tells %q", got, quoted)
			}
		}
	})
}

func abs(i int) int {
	if i < 0 {
		return -(i + 1)
	}
	return i
}
