package sqlsplit

import (
	"database/sql"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"modernc.org/libc"
	_ "modernc.org/sqlite" // the driver
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteComplete asks SQLite itself. A NUL byte ends the text for it.
func sqliteComplete(t *testing.T, tls *libc.TLS, sql string) bool {
	t.Helper()
	text, err := libc.CString(sql)
	if err != nil {
		t.Fatal(err)
	}
	defer libc.Xfree(tls, text)
	return sqlite3.Xsqlite3_complete(tls, text) != 0
}

// seeds have something of all the lexer knows; the table tests say what is right.
var seeds = []string{
	"",
	";",
	" -- x",
	"/*/ ; */",
	"/* x; **/ SELECT 1 /* y",
	"\xEF\xBB\xBFSELECT 1;\r\nSELECT 2",
	"SELECT 'a;''b', \"c\"\";\", `d;`, [e;]; SELECT 1-1/2 --;\n; -",
	"CREATE TRIGGER a BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; END; SELECT 1;",
	"EXPLAIN QUERY PLAN CREATE TEMP TRIGGER a BEGIN SELECT 1; END x; ; END/**/; SELECT 'x",
	"EXPLAIN CREATE TEMPORARY TABLE a; CREATE TEMP TEMPORARY TRIGGER; end;",
	"CREATE TRIGGERS a; create1 trigger; _end; $end; END",
	"SELECT 1\x00; SELECT 2;",
}

func FuzzIsComplete(f *testing.F) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	tls := libc.NewTLS()
	f.Cleanup(tls.Close)
	f.Fuzz(func(t *testing.T, in string) {
		if strings.ContainsRune(in, 0) {
			return
		}
		if got, want := IsComplete(in), sqliteComplete(t, tls, in); got != want {
			t.Errorf("IsComplete(%q) = %t, SQLite says %t", in, got, want)
		}
	})
}

func FuzzScan(f *testing.F) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	tls := libc.NewTLS()
	f.Cleanup(tls.Close)
	f.Fuzz(func(t *testing.T, in string) { checkScan(t, tls, in) })
}

// Random bytes seldom make a keyword; random tokens often make half a trigger.
func TestScanTokenSoup(t *testing.T) {
	tokens := []string{
		";", ";", " ", "\n", "'", "\"", "`", "[", "]", "--", "/*", "*/", "-", "/", "*", "x", "\x80",
		"CREATE ", "TEMP ", "temporary ", "TRIGGER ", "END", "EXPLAIN ", "CREATE TRIGGER ", ";END;",
	}
	tls := libc.NewTLS()
	defer tls.Close()
	random := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		var in strings.Builder
		for range random.IntN(20) {
			in.WriteString(tokens[random.IntN(len(tokens))])
		}
		checkScan(t, tls, in.String())
		if got, want := IsComplete(in.String()), sqliteComplete(t, tls, in.String()); got != want {
			t.Errorf("IsComplete(%q) = %t, SQLite says %t", in.String(), got, want)
		}
		if t.Failed() {
			break
		}
	}
}

func checkScan(t *testing.T, tls *libc.TLS, in string) {
	t.Helper()
	statements := scanAll(t, strings.NewReader(in), Options{})
	checkLossless(t, in, statements)
	bytewise := scanAll(t, iotest.OneByteReader(strings.NewReader(in)), Options{})
	if diff := cmp.Diff(statements, bytewise); diff != "" {
		t.Errorf("read byte by byte (-whole +bytewise):\n%s", diff)
	}
	for _, statement := range statements {
		checkOneStatement(t, tls, in, statement)
	}
}

// checkLossless checks that the statements stand in the input where they say,
// in order, and that nothing but space, comments and ';' stands between them.
func checkLossless(t *testing.T, in string, statements []Statement) {
	t.Helper()
	var at int64
	if strings.HasPrefix(in, string(byteOrderMark)) {
		at = int64(len(byteOrderMark))
	}
	for _, s := range statements {
		behind := s.Offset + int64(len(s.Text))
		if s.Text == "" || s.Offset < at || s.EndOffset < behind || s.EndOffset > int64(len(in)) || in[s.Offset:behind] != s.Text {
			t.Fatalf("after offset %d: %+v", at, s)
		}
		if gap := in[at:s.Offset]; !isBlank(gap) {
			t.Errorf("%q is lost", gap)
		}
		if rest := in[behind:s.EndOffset]; !isBlank(rest) || strings.Count(stripComments(rest), ";") > 1 {
			t.Errorf("%q is lost behind %q", rest, s.Text)
		}
		if line := 1 + strings.Count(in[:s.Offset], "\n"); s.Line != line || s.EndLine != line+strings.Count(s.Text, "\n") {
			t.Errorf("lines %d to %d, want them from %d: %q", s.Line, s.EndLine, line, s.Text)
		}
		at = s.EndOffset
	}
	if gap := in[at:]; !isBlank(gap) {
		t.Errorf("%q is lost at the end", gap)
	}
}

// isBlank and stripComments are written apart from the lexer, to be judged by
// themselves. They are for text between statements: it has no quotes.
func isBlank(text string) bool {
	return strings.Trim(stripComments(text), " \t\n\f\r;") == ""
}

func stripComments(text string) string {
	for {
		start := strings.Index(text, "--")
		closer := "\n"
		if block := strings.Index(text, "/*"); block >= 0 && (start < 0 || block < start) {
			start, closer = block, "*/"
		}
		if start < 0 {
			return text
		}
		_, rest, _ := strings.Cut(text[start+2:], closer)
		text = text[:start] + "\n" + rest
	}
}

// checkOneStatement checks with SQLite that the statement ends at its ';' and
// not before.
func checkOneStatement(t *testing.T, tls *libc.TLS, in string, s Statement) {
	t.Helper()
	if strings.ContainsRune(s.Text, 0) {
		return
	}
	for i := range len(s.Text) {
		if s.Text[i] == ';' && sqliteComplete(t, tls, s.Text[:i+1]) {
			t.Errorf("%q is two statements", s.Text)
		}
	}
	behind := s.Offset + int64(len(s.Text))
	if terminated := strings.Contains(stripComments(in[behind:s.EndOffset]), ";"); terminated && !sqliteComplete(t, tls, s.Text+";") {
		t.Errorf("%q is not a whole statement", s.Text)
	}
}

// chinook returns the sample database, or skips.
func chinook(tb testing.TB) string {
	tb.Helper()
	folder := os.Getenv("NEARSIDE_DATA")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "data")
	}
	text, err := os.ReadFile(filepath.Join(folder, "chinook.sql"))
	if os.IsNotExist(err) {
		tb.Skipf("no chinook.sql in %s; NEARSIDE_DATA names its folder", folder)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

func TestScanChinook(t *testing.T) {
	in := chinook(t)
	statements := scanAll(t, strings.NewReader(in), Options{})
	checkLossless(t, in, statements)
	kinds := make(map[string]int)
	for _, statement := range statements {
		kinds[Kind(statement.Text)]++
	}
	want := map[string]int{"DROP": 11, "CREATE": 22, "INSERT": 24}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("statements (-want +got):\n%s", diff)
	}

	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	db.SetMaxOpenConns(1) // each connection has its own :memory:
	for _, statement := range statements {
		if _, err := db.Exec(statement.Text); err != nil {
			t.Fatalf("line %d: %v", statement.Line, err)
		}
	}
	var tables, rows int
	if err := db.QueryRow("SELECT count(*) FROM sqlite_schema WHERE type = 'table'").Scan(&tables); err != nil {
		t.Fatal(err)
	}
	if err := db.QueryRow("SELECT total_changes()").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if tables != 11 || rows != 15607 {
		t.Errorf("%d tables with %d rows, want 11 with 15607", tables, rows)
	}
}

func BenchmarkScan(b *testing.B) {
	inputs := map[string]string{
		"inserts": strings.Repeat("INSERT INTO users (id, name, email) VALUES (12345, 'Ada O''Neill', 'ada@example.org');\n", 10_000),
		"blobs":   strings.Repeat("INSERT INTO b VALUES (X'"+strings.Repeat("0a1b", 16<<10)+"');\n", 16),
		"ddl":     strings.Repeat("-- a table\nCREATE TABLE [t] (id INTEGER PRIMARY KEY, n TEXT /* ; */);\nCREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END;\n", 8_000),
	}
	for name, in := range inputs {
		b.Run(name, func(b *testing.B) { benchmarkScan(b, in) })
	}
	b.Run("chinook", func(b *testing.B) { benchmarkScan(b, chinook(b)) })
}

func benchmarkScan(b *testing.B, in string) {
	b.Helper()
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		scanner := NewScanner(strings.NewReader(in), Options{})
		for scanner.Scan() {
		}
		if err := scanner.Err(); err != nil {
			b.Fatal(err)
		}
	}
}
