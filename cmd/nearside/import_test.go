package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type importAnswer struct {
	Database                string
	Statements, Rows        int
	SkippedStatements       int
	Batches, SkippedBatches int
	Seconds                 float64
	Bookmark                string
	Error                   *struct {
		Code, Message, Reason string
		Line                  int
	}
}

// writeDump writes a file and returns its path.
func writeDump(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dump.sql")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// events is a dump of n rows without a key, so that a row imported twice is there twice.
func events(n int) string {
	var b strings.Builder
	b.WriteString("CREATE TABLE events (n INTEGER, text TEXT);\n")
	for i := range n {
		fmt.Fprintf(&b, "INSERT INTO events VALUES (%d, 'event; number %d');\n", i, i)
	}
	return b.String()
}

const countEvents = "SELECT count(*), count(DISTINCT n), max(n) FROM events"

func TestImport(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	path := writeDump(t, events(1200))
	got := decode[importAnswer](t, s.must("import", "--json", "--db", "shop", path))
	want := importAnswer{
		Database: "shop", Statements: 1201, Rows: 1200, Batches: 4, Seconds: got.Seconds, Bookmark: got.Bookmark,
	}
	if diff := cmp.Diff(want, got); diff != "" || got.Bookmark == "" || got.Seconds <= 0 {
		t.Errorf("%+v %s", got, diff)
	}
	for range 2 { // again, and from standard input: nothing is done twice
		text, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer text.Close()
		r := s.feed(text, "import", "--db", "shop", "-")
		if r.code != 0 || !strings.HasPrefix(r.stdout, "imported 1,200 rows into shop: 1,201 statements in 4 batches, ") ||
			!strings.Contains(r.stdout, "4 batches of an earlier import") {
			t.Errorf("got %+v", r)
		}
	}
	if got := s.rows("shop", countEvents); got != "[[1200,1200,1199]]" {
		t.Errorf("there are %s", got)
	}
	r := s.run("import", "--db", "shop", "--again", path)
	if r.code != 1 || !strings.Contains(r.stderr, path+":1: ") || !strings.Contains(r.stderr, "already exists") {
		t.Errorf("again: %+v", r)
	}
	if r := s.run("import", "--db", "none", "--create=false", path); r.code != 1 || !strings.Contains(r.stderr, "not_found") {
		t.Errorf("without database: %+v", r)
	}
}

func TestImportBadStatement(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	lines := strings.SplitAfter(events(1200), "\n")
	good := lines[700]
	lines[700] = "INSERT INTO\n  events VALUES (1);\n"
	path := writeDump(t, strings.Join(lines, ""))
	r := s.run("import", "--json", "--db", "shop", path)
	e := decode[importAnswer](t, r.stdout).Error
	if r.code != 1 || e == nil || e.Code != "invalid_argument" || e.Line != 701 {
		t.Fatalf("got %+v", r)
	}
	for _, part := range []string{path + ":701: ", "in INSERT INTO events VALUES (1)", "501 statements before it done"} {
		if !strings.Contains(r.stderr, part) {
			t.Errorf("%q lacks %q", r.stderr, part)
		}
	}
	if got := s.rows("shop", countEvents); got != "[[500,500,499]]" {
		t.Errorf("there are %s", got)
	}
	lines[700] = good // repaired, it goes on
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	got := decode[importAnswer](t, s.must("import", "--json", "--db", "shop", path))
	if got.Batches != 4 || got.SkippedBatches != 2 || got.Rows != 1200 {
		t.Errorf("got %+v", got)
	}
	if got := s.rows("shop", countEvents); got != "[[1200,1200,1199]]" {
		t.Errorf("there are %s", got)
	}
}

func TestImportAtomic(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	bad := writeDump(t, events(1200)+"INSERT INTO nowhere VALUES (1);\n")
	if r := s.run("import", "--atomic", "--db", "shop", bad); r.code != 1 || !strings.Contains(r.stderr, "nothing was imported") {
		t.Errorf("got %+v", r)
	}
	if got := s.rows("shop", "SELECT count(*) FROM sqlite_schema WHERE name = 'events'"); got != "[[0]]" {
		t.Errorf("there are %s tables", got)
	}
	got := decode[importAnswer](t, s.must("import", "--atomic", "--json", "--db", "shop", writeDump(t, events(1200))))
	if got.Batches != 1 || got.Rows != 1200 {
		t.Errorf("got %+v", got)
	}
}

// TestImportDump imports what sqlite3's .dump writes of tables that were made, and filled, before those they refer to.
func TestImportDump(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	var b strings.Builder
	b.WriteString("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n")
	b.WriteString("CREATE TABLE people (id INTEGER PRIMARY KEY AUTOINCREMENT, boss INTEGER REFERENCES people, town TEXT REFERENCES \"Towns\");\n")
	const people = 1500
	for i := range people {
		fmt.Fprintf(&b, "INSERT INTO people VALUES(%d,%d,'t%d');\n", i, (i+700)%people, i%3)
	}
	b.WriteString("CREATE TABLE Towns (name TEXT PRIMARY KEY);\n")
	for i := range 3 {
		fmt.Fprintf(&b, "INSERT INTO Towns VALUES('t%d');\n", i)
	}
	b.WriteString("DELETE FROM sqlite_sequence;\nINSERT INTO sqlite_sequence VALUES('people',5000);\n")
	b.WriteString("CREATE INDEX people_town ON people (town);\n")
	b.WriteString("CREATE TRIGGER hired AFTER INSERT ON people BEGIN DELETE FROM Towns WHERE name = 'x'; END;\nCOMMIT;\n")
	path := writeDump(t, b.String())

	dump, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dump.Close()
	if r := s.feed(io.MultiReader(dump), "import", "--db", "piped", "-"); r.code != 0 {
		t.Fatalf("got %+v", r)
	}
	s.must("import", "--db", "file", path)
	s.must("import", "--db", "atomic", "--atomic", path)
	for _, db := range []string{"piped", "file", "atomic"} {
		if got := s.rows(db, "SELECT count(*), count(DISTINCT boss), count(DISTINCT town) FROM people"); got != "[[1500,1500,3]]" {
			t.Errorf("%s: there are %s", db, got)
		}
		r := decode[sqlAnswer](t, s.must("sql", "--json", "--db", db, "INSERT INTO people (town) VALUES ('t1')"))
		if r.LastInsertRowid == nil || *r.LastInsertRowid != 5001 {
			t.Errorf("%s: the counter was not taken over: %+v", db, r)
		}
		if r := s.run("sql", "--db", db, "INSERT INTO people (town) VALUES ('none')"); !strings.Contains(r.stderr, "FOREIGN KEY") {
			t.Errorf("%s: foreign keys are not checked: %+v", db, r)
		}
	}
}

// TestImportLargeValues imports statements that are longer than one may be, and text that is not UTF-8.
func TestImportLargeValues(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("import", "--db", "large", writeDump(t, "CREATE TABLE files (name TEXT, body);\n"+
		"INSERT INTO files VALUES ('blob', x'"+strings.Repeat("00ff", 1<<20)+"');\n"+
		"INSERT INTO files VALUES ('text', '"+strings.Repeat("it''s ", 1<<19)+"');\n"+
		"INSERT INTO files VALUES ('bytes', 'a\xff');\n"))
	got := s.rows("large", "SELECT name, typeof(body), length(CAST(body AS BLOB)) FROM files")
	if want := `[["blob","blob",2097152],["text","text",2621440],["bytes","text",2]]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := s.rows("large", "SELECT body FROM files WHERE name = 'bytes'"); got != `[[{"base64":"Yf8="}]]` {
		t.Errorf("got %s", got)
	}
}

// TestImportChinook imports the sample database of many tutorials, if it is there.
func TestImportChinook(t *testing.T) {
	path := dataFile(t, "chinook.sql")
	s := shell{t: t, url: startPrimary(t)}
	got := decode[importAnswer](t, s.must("import", "--json", "--db", "chinook", path))
	if got.Rows != 15607 {
		t.Errorf("%d rows, want 15607", got.Rows)
	}
	got = decode[importAnswer](t, s.must("import", "--json", "--db", "chinook", path))
	if got.Batches != got.SkippedBatches {
		t.Errorf("done twice: %+v", got)
	}
	s.must("import", "--again", "--db", "chinook", path) // which drops the tables and makes them again
	if got := s.rows("chinook", "SELECT count(*), sum(Milliseconds) FROM Track"); got != "[[3503,1378778040]]" {
		t.Errorf("tracks: %s", got)
	}
}

// TestImportKilled kills an import in the middle and runs it again.
func TestImportKilled(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "shop")
	text := events(5000)
	half, _, _ := strings.Cut(text, "INSERT INTO events VALUES (2300,")
	cmd := exec.Command(program, "import", "--url", s.url, "--db", "shop", "-")
	cmd.Env = []string{"HOME=/"}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, half); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { // 4 batches of 500; the rest of the statements is waiting for more
		r := s.run("sql", "--json", "--db", "shop", "SELECT count(*) FROM events")
		return r.code == 0 && rowsOf(t, r.stdout) == "[[2000]]"
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() //nolint:errcheck // it was killed
	stdin.Close()

	got := decode[importAnswer](t, s.must("import", "--json", "--db", "shop", writeDump(t, text)))
	if got.Batches != 11 || got.SkippedBatches != 5 || got.Rows != 5000 || got.Statements != 5001 {
		t.Errorf("got %+v", got)
	}
	if got := s.rows("shop", countEvents); got != "[[5000,5000,4999]]" {
		t.Errorf("there are %s", got)
	}
}

// waitFor returns when ok does.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

func TestMigrate(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	dir := t.TempDir()
	write := func(name, sql string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(sql), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("0001_users.sql", "CREATE TABLE users (id TEXT PRIMARY KEY);\nINSERT INTO users VALUES ('a');")
	write("0002_orders.sql", "CREATE TABLE orders (id TEXT PRIMARY KEY);")
	if r := s.run("migrate", "--db", "shop", dir); r.code != 1 || !strings.Contains(r.stderr, "not_found") {
		t.Errorf("without database: %+v", r)
	}
	out := s.must("migrate", "--db", "shop", "--create", dir)
	if want := "applied 0001_users (version 1)\napplied 0002_orders (version 2)\n2 migrations applied to shop, 0 before\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	write("0003_items.sql", "CREATE TABLE items (id TEXT PRIMARY KEY);")
	var got struct {
		Database string
		Applied  []struct {
			Name, Checksum string
			Version        int
		}
		AlreadyApplied int
		Bookmark       string
	}
	if err := json.Unmarshal([]byte(s.must("migrate", "--json", "--db", "shop", dir)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Database != "shop" || got.AlreadyApplied != 2 || len(got.Applied) != 1 || got.Applied[0].Name != "0003_items" ||
		got.Applied[0].Version != 3 || len(got.Applied[0].Checksum) != 64 || got.Bookmark == "" {
		t.Errorf("got %+v", got)
	}
	write("0002_orders.sql", "CREATE TABLE orders (id INTEGER PRIMARY KEY);")
	if r := s.run("migrate", "--db", "shop", dir); r.code != 1 || !strings.Contains(r.stderr, "0002_orders") {
		t.Errorf("changed: %+v", r)
	}
}

func TestDB(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	type database struct {
		Name    string
		ID      int
		Version int
		Regions []string
	}
	created := decode[database](t, s.must("db", "create", "shop", "--json", "--region", "a", "--region", "b"))
	if created.Name != "shop" || created.ID == 0 || !cmp.Equal(created.Regions, []string{"a", "b"}) {
		t.Errorf("got %+v", created)
	}
	if r := s.run("db", "create", "shop"); r.code != 1 || !strings.Contains(r.stderr, "already_exists") {
		t.Errorf("twice: %+v", r)
	}
	s.must("db", "create", "shop", "--if-not-exists")
	if r := s.run("db", "create", "no good"); r.code != 1 || !strings.Contains(r.stderr, "invalid_argument: name") {
		t.Errorf("bad name: %+v", r)
	}
	list := decode[struct{ Databases []database }](t, s.must("db", "list", "--json"))
	if len(list.Databases) != 1 || list.Databases[0].Name != "shop" {
		t.Errorf("got %+v", list)
	}
	if out := s.must("db", "list"); !strings.Contains(out, "shop") || !strings.Contains(out, "a, b") {
		t.Errorf("got %q", out)
	}
	if r := s.run("db", "delete", "shop"); r.code != 2 || !strings.Contains(r.stderr, "--yes") {
		t.Errorf("without yes: %+v", r)
	}
	s.must("db", "delete", "--yes", "shop")
	if r := s.run("db", "delete", "shop", "--yes"); r.code != 1 || !strings.Contains(r.stderr, "not_found") {
		t.Errorf("twice: %+v", r)
	}
	if list := decode[struct{ Databases []database }](t, s.must("db", "list", "--json")); list.Databases == nil || len(list.Databases) != 0 {
		t.Errorf("got %+v", list)
	}
}
