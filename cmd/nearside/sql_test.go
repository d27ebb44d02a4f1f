package main

import (
	"bufio"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/cli"
)

type sqlAnswer struct {
	Columns         []string
	RowsAffected    int
	LastInsertRowid *int64
	Bookmark        string
	Region          string
	Source          string
	ServedByPrimary bool
	Error           *struct {
		Code, Message, Reason string
		Line                  int
	}
}

func TestSQLValues(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "demo")
	for _, test := range []struct{ sql, want string }{
		{"SELECT 9223372036854775807, -9223372036854775808, 9007199254740993", `[[9223372036854775807,-9223372036854775808,9007199254740993]]`},
		{"SELECT 1.0, 0.1, 1e300, 5e-324, 1e21, -0.5", `[[1.0,0.1,1e+300,5e-324,1e+21,-0.5]]`},
		{"SELECT 9e999, -9e999, NULL", `[[{"real":"Inf"},{"real":"-Inf"},null]]`},
		{"SELECT x'00ff', x'', CAST(x'ff61' AS TEXT)", `[[{"base64":"AP8="},{"base64":""},{"base64":"/2E="}]]`},
		{"SELECT 'a\"\\\n' || char(0) || 'é日🙂'", `[["a\"\\\n\u0000é日🙂"]]`},
		{"SELECT 1 WHERE 0", `[]`},
		{"-- a comment first\nSELECT 1", `[[1]]`},
	} {
		if got := s.rows("demo", test.sql); got != test.want {
			t.Errorf("%s: got %s, want %s", test.sql, got, test.want)
		}
	}
	created := decode[sqlAnswer](t, s.must("sql", "--json", "CREATE TABLE t (a INTEGER PRIMARY KEY, b)"))
	if created.Columns == nil || created.LastInsertRowid != nil || created.RowsAffected != 0 {
		t.Errorf("create: %+v", created)
	}
	written := decode[sqlAnswer](t, s.must("sql", "--json", "INSERT INTO t VALUES (7, 'x'), (9, 'y')"))
	if written.RowsAffected != 2 || written.LastInsertRowid == nil || *written.LastInsertRowid != 9 || written.Bookmark == "" ||
		written.Region != "home" || written.Source != "PRIMARY" || !written.ServedByPrimary {
		t.Errorf("insert: %+v", written)
	}
	for _, args := range [][]string{{"--primary"}, {"--at-least", written.Bookmark}} {
		if got := rowsOf(t, s.must(append(args, "sql", "--json", "SELECT a FROM t")[len(args):]...)); got != "[[7],[9]]" {
			t.Errorf("%q: %s", args, got)
		}
		if got := rowsOf(t, s.must(append([]string{"sql", "--json", "SELECT a FROM t"}, args...)...)); got != "[[7],[9]]" {
			t.Errorf("%q: %s", args, got)
		}
	}
	r := s.run("sql", "--json", "--at-least", "nonsense", "SELECT a FROM t")
	if e := decode[sqlAnswer](t, r.stdout).Error; r.code != 1 || e == nil || e.Reason != "BOOKMARK_MALFORMED" {
		t.Errorf("bad bookmark: %+v", r)
	}
}

func TestSQLTable(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "demo")
	out := s.must("sql", "SELECT 1 AS n, 'x' AS name UNION ALL SELECT 1000, NULL")
	lines := strings.Split(out, "\n")
	want := []string{"   n  name", "----  ----", "   1  x", "1000  NULL"}
	if diff := cmp.Diff(want, lines[:4]); diff != "" {
		t.Error(diff)
	}
	if summary := lines[4]; !strings.HasPrefix(summary, "(2 rows, ") || !strings.HasSuffix(summary, " ms, home PRIMARY)") {
		t.Errorf("summary %q", summary)
	}
	r := s.run("sql", "SELECT * FROM absent")
	if r.code != 1 || r.stdout != "" || !strings.HasPrefix(r.stderr, "nearside: invalid_argument: no such table: absent") {
		t.Errorf("got %+v", r)
	}
}

// TestSQLSession feeds statements one by one and waits for each answer before the next one is written.
func TestSQLSession(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "demo")
	in, feed := io.Pipe()
	answers, out := io.Pipe()
	var stderr strings.Builder
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Main(t.Context(), cli.System{
			Stdin: in, Stdout: out, Stderr: &stderr, Environ: []string{"NEARSIDE_URL=" + s.url},
		}, []string{"sql", "--json"})
		out.Close()
	}()
	lines := bufio.NewScanner(answers)
	ask := func(text string) sqlAnswer {
		t.Helper()
		if _, err := io.WriteString(feed, text); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() {
			t.Fatalf("no answer to %q", text)
		}
		return decode[sqlAnswer](t, lines.Text())
	}
	if a := ask("-- nothing yet\n;\nCREATE TABLE t (a);"); a.Error != nil {
		t.Errorf("create: %+v", a.Error)
	}
	inserted := ask("INSERT INTO t\nVALUES ('a;b');")
	if inserted.RowsAffected != 1 {
		t.Errorf("insert: %+v", inserted)
	}
	read := ask("SELECT a FROM t;")
	if read.Bookmark < inserted.Bookmark {
		t.Errorf("read at %s, before %s", read.Bookmark, inserted.Bookmark)
	}
	if e := ask("\nSELEC 1;").Error; e == nil || e.Code != "invalid_argument" || e.Line != 5 || e.Message == "" {
		t.Errorf("bad statement: %+v", e)
	}
	if a := ask("CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t WHERE a = 1; END;"); a.Error != nil {
		t.Errorf("trigger: %+v", a.Error)
	}
	if _, err := io.WriteString(feed, "-- the end\nSELECT 2"); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	if !lines.Scan() || rowsOf(t, lines.Text()) != "[[2]]" {
		t.Errorf("the last statement needs no semicolon: %q", lines.Text())
	}
	if lines.Scan() {
		t.Errorf("one line too many: %q", lines.Text())
	}
	if code := <-ended; code != 1 || stderr.String() != "nearside: 1 of 6 statements failed\n" {
		t.Errorf("exit code %d, %q", code, stderr.String())
	}
}

func TestSQLInput(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "demo")
	for _, test := range []struct {
		name   string
		in     string
		args   []string
		code   int
		lines  int
		stderr string
	}{
		{name: "nothing", in: ""},
		{name: "comments", in: "-- a\n/* b; */ ;;\n"},
		{name: "good", in: "SELECT 1; SELECT 2;", lines: 2},
		{name: "goes on", in: "SELECT 1; SELEC 2; SELECT 3", code: 1, lines: 3, stderr: "nearside: 1 of 3 statements failed\n"},
		{name: "stops", in: "SELECT 1; SELEC 2; SELECT 3", args: []string{"--stop-on-error"}, code: 1, lines: 2, stderr: "nearside: 1 of 2 statements failed\n"},
		{name: "not UTF-8", in: "SELECT '\xff';", code: 1, lines: 1, stderr: "nearside: 1 of 1 statements failed\n"},
		{name: "argument", args: []string{"SELECT 1; SELEC 2; SELECT 3"}, code: 1, lines: 3, stderr: "nearside: 1 of 3 statements failed\n"},
		{name: "no database", args: []string{"--db", "none", "SELECT 1"}, code: 1, lines: 1, stderr: "nearside: not_found: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := s.feed(strings.NewReader(test.in), append([]string{"sql", "--json"}, test.args...)...)
			if r.code != test.code || strings.Count(r.stdout, "\n") != test.lines || !strings.HasPrefix(r.stderr, test.stderr) {
				t.Errorf("got %+v", r)
			}
		})
	}
	r := s.feed(strings.NewReader("SELECT 1;\n\nSELEC 2;"), "sql")
	if r.code != 1 || !strings.HasPrefix(r.stderr, "nearside: line 3: invalid_argument: ") {
		t.Errorf("got %+v", r)
	}
}
