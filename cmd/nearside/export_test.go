package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

type exportAnswer struct {
	Tables, Rows     int
	Bookmark, Output string
	Error            *struct{ Code, Message, Reason string }
}

// dataFile returns a file or folder of the sample data, which lies in NEARSIDE_DATA or beside the repository; or it skips the test.
func dataFile(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("NEARSIDE_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("the sample data is not there (set NEARSIDE_DATA): %v", err)
	}
	return path
}

// schemaOf and rowsIn are how two databases are compared: what makes them, and each row with its rowid.
const schemaOf = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_nearside\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type, name"

// same compares two databases whole.
func (s shell) same(a, b string) {
	s.t.Helper()
	if diff := cmp.Diff(s.rows(a, schemaOf), s.rows(b, schemaOf)); diff != "" {
		s.t.Errorf("schemas differ: %s", diff)
	}
	var tables [][]string
	if err := json.Unmarshal([]byte(s.rows(a, "SELECT name, CASE WHEN wr THEN '0' ELSE 'rowid' END FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE '\\_nearside\\_%' ESCAPE '\\' AND name NOT IN ('sqlite_schema', 'sqlite_temp_schema') ORDER BY name")), &tables); err != nil {
		s.t.Fatal(err)
	}
	if len(tables) == 0 {
		s.t.Error("there are no tables")
	}
	for _, table := range tables {
		query := fmt.Sprintf(`SELECT %s, * FROM "%s" ORDER BY 1, 2`, table[1], strings.ReplaceAll(table[0], `"`, `""`))
		if diff := cmp.Diff(s.rows(a, query), s.rows(b, query)); diff != "" {
			s.t.Errorf("table %s differs: %s", table[0], diff)
		}
	}
}

// TestExportChinook exports what was imported, imports that, and compares.
func TestExportChinook(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("import", "--db", "chinook", dataFile(t, "chinook.sql"))
	dump := filepath.Join(t.TempDir(), "chinook.sql")
	got := decode[exportAnswer](t, s.must("export", "--json", "--db", "chinook", "--output", dump))
	if got.Tables != 11 || got.Rows != 15607 || got.Bookmark == "" || got.Output != dump {
		t.Errorf("got %+v", got)
	}
	s.must("import", "--db", "copy", dump)
	s.same("chinook", "copy")
}

// awkward is a schema and rows that are not easily written as text.
const awkward = `
CREATE TABLE "odd ""name" (id INTEGER PRIMARY KEY AUTOINCREMENT, "a b" TEXT DEFAULT 'x', twice AS (id * 2), kept AS (id + 1) STORED);
CREATE TABLE bare (v, "rowid");
CREATE TABLE pairs (a TEXT COLLATE NOCASE, b INT, PRIMARY KEY (b, a)) WITHOUT ROWID;
CREATE TABLE refers (id INTEGER PRIMARY KEY, pair INT REFERENCES late (id));
CREATE TABLE late (id INTEGER PRIMARY KEY);
CREATE INDEX by_v ON bare (v, "rowid") WHERE v > 1;
CREATE VIEW seen AS SELECT v FROM bare;
CREATE TRIGGER adds AFTER INSERT ON late BEGIN INSERT INTO bare (v) VALUES (new.id); END;
INSERT INTO "odd ""name" ("a b") VALUES ('it''s; "quoted"'), (''), (NULL), ('Zeile
zwei'), (CAST(x'ff00' AS TEXT)), (CAST(x'610062' AS TEXT)), ('日本語');
DELETE FROM "odd ""name" WHERE id = 7;
INSERT INTO bare VALUES (x'', 1), (x'00ff', 2), (9e999, 3), (-9e999, 4), (1.0, 5), (9223372036854775807, 6), (-9223372036854775808, 7), (0.1, 8), (1e300, 9);
DELETE FROM bare WHERE "rowid" = 3;
INSERT INTO pairs VALUES ('b', 1), ('A', 1), ('c', 0);
INSERT INTO late VALUES (4);
INSERT INTO refers VALUES (1, 4);
`

func TestExportAwkward(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "odd")
	if r := s.feed(strings.NewReader(awkward), "sql", "--db", "odd"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	// Reals of all sizes, and a row larger than a statement may be.
	var values []string
	random := rand.New(rand.NewPCG(1, 2))
	for len(values) < 2000 {
		if f := math.Float64frombits(random.Uint64()); !math.IsNaN(f) && !math.IsInf(f, 0) {
			values = append(values, fmt.Sprintf("(%.17e, 100)", f))
		}
	}
	in := "INSERT INTO bare VALUES " + strings.Join(values, ",") + ";\nINSERT INTO bare VALUES (zeroblob(1500000), 200);"
	if r := s.feed(strings.NewReader(in), "sql", "--db", "odd"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	r := s.run("export", "--db", "odd")
	if r.code != 0 || !strings.HasSuffix(r.stdout, "COMMIT;\n") || !strings.Contains(r.stderr, " of 6 tables from odd, ") {
		t.Fatalf("%d, %s", r.code, r.stderr)
	}
	if r := s.feed(strings.NewReader(r.stdout), "import", "--db", "copy", "-"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	s.same("odd", "copy")
}

func TestExportText(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "demo")
	s.must("sql", "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x,\"y\"'), (NULL, ''), (1.5, x'00ff'), (9e999, 'two\nlines'); CREATE TABLE \"o/p\" (c); INSERT INTO \"o/p\" VALUES (9007199254740993)")
	if got, want := s.must("export", "--format", "csv", "--table", "T"), "a,b\n1,\"x,\"\"y\"\"\"\n,\"\"\n1.5,x'00ff'\nInf,\"two\nlines\"\n"; got != want {
		t.Errorf("CSV:\n%s", got)
	}
	dir := filepath.Join(t.TempDir(), "out")
	s.must("export", "--format", "jsonl", "--output", dir+"/")
	text, err := os.ReadFile(filepath.Join(dir, "t.jsonl"))
	if want := `{"a":1,"b":"x,\"y\""}` + "\n" + `{"a":null,"b":""}` + "\n" + `{"a":1.5,"b":{"base64":"AP8="}}` + "\n" + `{"a":{"real":"Inf"},"b":"two\nlines"}` + "\n"; err != nil || string(text) != want {
		t.Errorf("%v, JSON lines:\n%s", err, text)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "o%2Fp.jsonl")); err != nil || string(text) != "{\"c\":9007199254740993}\n" {
		t.Errorf("%v, %s", err, text)
	}
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"--format xml", 2, "want sql, csv or jsonl"},
		{"--format csv", 2, "one --table"},
		{"--json", 2, "--output"},
		{"--nonsense", 2, "unknown flag"},
		{"--format csv --output " + dir, 1, "is there already"},
		{"--table none", 1, "there is no table none"},
		{"--db none", 1, "not_found"},
		{"--at-least nonsense", 1, "not a bookmark"},
		{"--output " + filepath.Join(dir, "none", "x.sql"), 1, "no such file"},
	} {
		r := s.run(append([]string{"export"}, strings.Fields(test.args)...)...)
		if r.code != test.code || !strings.Contains(r.stderr, test.want) {
			t.Errorf("%s: %+v", test.args, r)
		}
	}
}

// TestExportIsOfOneVersion exports while transactions move rows between two tables.
func TestExportIsOfOneVersion(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "demo")
	s.must("sql", "CREATE TABLE a (n INTEGER PRIMARY KEY); CREATE TABLE b (n INTEGER PRIMARY KEY); WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 20000) INSERT INTO a SELECT i FROM s")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			in := fmt.Sprintf("INSERT INTO b SELECT n FROM a WHERE n = %d; DELETE FROM a WHERE n = %[1]d", i)
			s.feed(strings.NewReader(in), "sql", "--json")
		}
	}()
	for range 3 {
		r := s.run("export", "--format", "sql")
		if r.code != 0 {
			t.Fatalf("%+v", r)
		}
		// Two statements are two versions: between them a row is in both tables, never in none.
		if n := strings.Count(r.stdout, "\n("); n != 20000 && n != 20001 {
			t.Errorf("%d rows", n)
		}
	}
	close(stop)
	<-stopped
}

// TestExportKilled kills an export in the middle: nothing has the final name, and an older file keeps it.
func TestExportKilled(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "demo")
	s.must("sql", "CREATE TABLE t (a); WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 200) INSERT INTO t SELECT randomblob(100000) FROM s")
	s.must("sql", "CREATE TABLE empty (a)")
	t.Run("bounded", func(t *testing.T) { exportsAreBounded(t, s.url) })
	s.exportable()
	dir := t.TempDir()
	output := filepath.Join(dir, "dump.sql")
	if err := os.WriteFile(output, []byte("older"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := faultproxy.Start(t, strings.TrimPrefix(s.url, "http://")) // slow: on a fast one it may have ended before it is looked for
	link.Set(faultproxy.Down, faultproxy.Link{BytesPerSecond: 2 << 20})
	cmd := exec.Command(program, "export", "--url", "http://"+link.Addr(), "--output", output)
	var errs bytes.Buffer
	cmd.Env = slices.DeleteFunc(os.Environ(), func(pair string) bool { return strings.HasPrefix(pair, "NEARSIDE_") })
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for partial := int64(0); partial < 1<<20; {
		files, err := filepath.Glob(filepath.Join(dir, ".dump.sql.partial-*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) > 0 {
			if info, err := os.Stat(files[0]); err == nil {
				partial = info.Size()
			}
		}
		select {
		case err := <-ended:
			t.Fatalf("it ended before it could be killed: %v %s", err, errs.String())
		case <-look.C:
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if text, err := os.ReadFile(output); err != nil || string(text) != "older" {
		t.Errorf("%v, %d bytes under the final name", err, len(text))
	}
	s.exportable()
	s.must("export", "--output", output)
	if text, err := os.ReadFile(output); err != nil || !strings.HasSuffix(string(text), "COMMIT;\n") {
		t.Errorf("%v, %d bytes", err, len(text))
	}
}

// exportable waits until the primary has ended an export whose caller has gone.
func (s shell) exportable() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		r := s.run("export", "--table", "empty")
		if r.code == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("not in time: %+v", r)
		}
	}
}

// exportsAreBounded holds two exports, which nobody reads, and asks for a third.
func exportsAreBounded(t *testing.T, url string) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	data := datav1connect.NewDataServiceClient(&http.Client{Transport: transport}, url)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for n := range 3 {
		in, err := data.Export(ctx, connect.NewRequest(&datav1.ExportRequest{Database: "demo"}))
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			cancel()
			in.Close()
		}()
		if begun := in.Receive(); begun != (n < 2) {
			t.Fatalf("export %d began: %v, %v", n, begun, in.Err())
		}
		if e, ok := rpcerr.FromError(in.Err()); n == 2 &&
			(!ok || e.Reason() != datav1.ErrorReason_ERROR_REASON_OVERLOADED || e.RetryAfter() == 0) {
			t.Errorf("the third: %v", in.Err())
		}
	}
}
