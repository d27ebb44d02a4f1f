package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/nearside-dev/nearside/internal/cli"
)

// screen collects what a terminal was sent.
type screen struct {
	t    *testing.T
	tty  *os.File
	mu   sync.Mutex
	text []byte
	more chan struct{} // has an element when there is more
}

func (s *screen) read() {
	buf := make([]byte, 4096)
	for {
		n, err := s.tty.Read(buf)
		s.mu.Lock()
		s.text = append(s.text, buf[:n]...)
		s.mu.Unlock()
		select {
		case s.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// expect waits until all of the texts were sent, one after the other, since the last expect.
func (s *screen) expect(texts ...string) {
	s.t.Helper()
	timeout := time.NewTimer(30 * time.Second)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		at := 0
		for _, text := range texts {
			i := bytes.Index(s.text[at:], []byte(text))
			if i < 0 {
				at = -1
				break
			}
			at += i + len(text)
		}
		if at >= 0 {
			s.text = s.text[at:]
			s.mu.Unlock()
			return
		}
		got := string(s.text)
		s.mu.Unlock()
		select {
		case <-s.more:
		case <-timeout.C:
			s.t.Fatalf("the screen shows %q, want %q", got, texts)
		}
	}
}

func (s *screen) keys(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.tty, text); err != nil {
		s.t.Fatal(err)
	}
}

// TestPromptAtTerminal types into the real program at a terminal.
func TestPromptAtTerminal(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "demo")
	s.must("sql", "CREATE TABLE customers (id INTEGER PRIMARY KEY, surname TEXT); INSERT INTO customers VALUES (1, 'Lovelace')")
	history := filepath.Join(t.TempDir(), "state", "history")
	cmd := exec.Command(program, "sql", "--url", s.url, "--history", history)
	cmd.Env = []string{"TERM=xterm", "PATH=" + os.Getenv("PATH")}
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 200})
	if err != nil {
		t.Fatal(err)
	}
	on := &screen{t: t, tty: tty, more: make(chan struct{}, 1)}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		on.read()
	}()
	defer func() {
		_ = cmd.Process.Kill() // it has ended, if all went well
		_ = cmd.Wait()
		tty.Close()
		<-closed
	}()

	on.expect(".help", "demo> ")
	on.keys("select surn\t from cust\t")
	on.expect("select surname", "from customers")
	on.keys("\r")
	on.expect("...> ")
	on.keys("where id = 1;\r")
	on.expect("Lovelace", "(1 row, ", "home PRIMARY)", "demo> ")

	on.keys(".mode line\r")
	on.expect("demo> ")
	on.keys("\x1b[A\x1b[A\r") // up, up: the statement again
	on.expect("surname = Lovelace", "demo> ")

	// Ctrl-C stops the statement, and not the session.
	on.keys("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;\r")
	on.expect("FROM n;")
	stop := time.NewTicker(100 * time.Millisecond) // nothing shows when the statement has begun
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		on.expect("stopped by Ctrl-C", "demo> ")
	}()
	for stopped := false; !stopped; {
		select {
		case <-stop.C:
			on.keys("\x03")
		case <-shown:
			stopped = true
		}
	}
	stop.Stop()
	on.keys("select 1,\r")
	on.expect("...> ")
	on.keys("\x03")
	on.expect("demo> ")
	on.keys(".tables\r")
	on.expect("customers", "demo> ")
	on.keys(".schema cust%\r")
	on.expect("CREATE TABLE customers", "demo> ")

	on.keys("\x04")
	if err := cmd.Wait(); err != nil {
		t.Errorf("Ctrl-D: %v", err)
	}
	info, err := os.Stat(history)
	if err != nil || info.Mode() != fs.FileMode(0o600) {
		t.Fatalf("history: %v, %v", info, err)
	}
	text, err := os.ReadFile(history)
	if err != nil || !strings.HasPrefix(string(text), "select surname from customers where id = 1;\n.mode line\n") {
		t.Errorf("history: %v, %q", err, text)
	}
}

// TestPromptPlain has a person at standard input whose answers go to a file.
func TestPromptPlain(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "demo")
	s.must("db", "create", "other")
	in := strings.Join([]string{
		"CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x');", ".mode csv", "SELECT *", "FROM t;", "SELEC;", ".mode json",
		"SELECT 1 AS one;", ".mode xml", ".timer off", ".mode table", "SELECT 2 AS two;", ".tables", ".databases", ".db other",
		"SELECT * FROM t;", ".db", ".frob", ".help", ".timer", ".tables a b", "quit", "SELECT 3;",
	}, "\n")
	var out, errs bytes.Buffer
	code := cli.Main(t.Context(), cli.System{
		Stdin: strings.NewReader(in), Stdout: &out, Stderr: &errs, StdinTerminal: true, Environ: []string{"NEARSIDE_URL=" + s.url},
	}, []string{"sql"})
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{
		"(0 rows changed, ", "a,b\n1,x\n", `{"columns":["one"],"rows":[[1]]`, "the mode is json; there are table, json, csv, line\n",
		"two\n---\n  2\nt\ndemo\nother\n", "the database is other\n", "there is no .frob", ".schema [NAME]", "want .timer on", "one argument",
	} {
		i := strings.Index(out.String(), want)
		if i < 0 {
			t.Fatalf("%q lacks %q, or has it too early", out.String(), want)
		}
		out.Next(i + len(want))
	}
	for _, want := range []string{"demo> ", "near \"SELEC\"", "no such table: t", "other> "} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("%q lacks %q", errs.String(), want)
		}
	}
	if strings.Contains(out.String(), "3") {
		t.Errorf("it went on after quit: %q", out.String())
	}
}

func TestFormats(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "demo")
	if got := s.must("sql", "--format", "csv", "SELECT 1 AS a, NULL AS b"); got != "a,b\n1,\n" {
		t.Errorf("CSV %q", got)
	}
	if got := s.must("sql", "--format", "line", "SELECT 1 AS a, 'x' AS bcd"); !strings.HasPrefix(got, "  a = 1\nbcd = x\n(1 row, ") {
		t.Errorf("line %q", got)
	}
	if got := rowsOf(t, s.must("sql", "--format", "json", "SELECT 1")); got != "[[1]]" {
		t.Errorf("JSON %q", got)
	}
	if got := s.must("db", "list", "--format", "csv"); !strings.HasPrefix(got, "name,version,regions,created\ndemo,0,all,") {
		t.Errorf("list %q", got)
	}
	if got := s.must("db", "list", "--format", "json"); !strings.HasPrefix(got, `{"databases":[{"name":"demo"`) {
		t.Errorf("list %q", got)
	}
	for _, args := range []string{"sql --format xml x", "sql --json --format csv x", "db list --format line"} {
		if r := s.run(strings.Fields(args)...); r.code != 2 || r.stdout != "" {
			t.Errorf("%s: %+v", args, r)
		}
	}
	if r := s.run("sql", "--format", "json", "SELEC"); r.code != 1 || !strings.HasPrefix(r.stdout, `{"error":{`) {
		t.Errorf("%+v", r)
	}
}
