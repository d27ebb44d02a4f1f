package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/config"
)

// run runs the command line and returns its exit code and what it wrote.
func run(t *testing.T, environ []string, stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(t.Context(), System{Stdin: stdin, Stdout: &out, Stderr: &errs, Environ: environ}, args)
	return code, out.String(), errs.String()
}

// nowhere is a URL that nothing listens on: a listener that is closed.
func nowhere() string {
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	return s.URL
}

func TestExitCodes(t *testing.T) {
	away := []string{"NEARSIDE_URL=" + nowhere()}
	for _, test := range []struct {
		name    string
		environ []string
		args    string // separated by |
		code    int
		stderr  string // a part of it
	}{
		{name: "nothing", code: 2, stderr: "command"},
		{name: "unknown", args: "frobnicate", code: 2, stderr: `unknown command "frobnicate"`},
		{name: "bench: mix", args: "bench|--mix|get=99", code: 2, stderr: "sums up to 99"},
		{name: "bench: kind", args: "bench|--mix|put=100", code: 2, stderr: "put=100"},
		{name: "bench: distribution", args: "bench|--distribution|normal", code: 2, stderr: "uniform or zipf"},
		{name: "bench: zipf", args: "bench|--zipf|1", code: 2, stderr: "--zipf 1"},
		{name: "bench: protocol", args: "bench|--protocol|soap", code: 2, stderr: "--protocol"},
		{name: "bench: numbers", args: "bench|--connections|0", code: 2, stderr: "--connections 0"},
		{name: "later: backup", args: "backup|create", code: 2, stderr: `unknown command "backup"`},
		{name: "later: backup help", args: "backup|--help", code: 2, stderr: `unknown command "backup"`},
		{name: "later: db fork", args: "db|fork", code: 2, stderr: `unknown command "fork" for "nearside db"`},
		{name: "half a command", args: "db", code: 2, stderr: "nearside db"},
		{name: "help", args: "--help"},
		{name: "help of a command", args: "sql|--help"},
		{name: "help first", args: "help|db|create"},
		{name: "help of nothing", args: "help|backup", code: 2, stderr: `unknown command "backup"`},
		{name: "version", args: "version"},
		{name: "version flag", args: "--version"},
		{name: "unknown flag", args: "sql|--frob|SELECT 1", code: 2, stderr: "--frob"},
		{name: "bad value", args: "sql|--timeout|soon|SELECT 1", code: 2, stderr: `"soon" for "--timeout"`},
		{name: "bad URL", args: "sql|--url|ftp://x|SELECT 1", code: 2, stderr: `--url "ftp://x"`},
		{name: "two statements", args: "sql|SELECT|1", code: 2, stderr: "quotes"},
		{name: "no statement", args: "sql|-- nothing", code: 2, stderr: "no statement"},
		{name: "two consistencies", args: "sql|--primary|--at-least|b|SELECT 1", code: 2, stderr: "at-least"},
		{name: "delete without yes", args: "db|delete|x", code: 2, stderr: "--yes"},
		{name: "create without name", args: "db|create", code: 2, stderr: "accepts 1 arg"},
		{name: "import without file", args: "import", code: 2, stderr: "accepts 1 arg"},
		{name: "batch of none", args: "import|--batch-statements|0|x.sql", code: 2, stderr: "--batch-statements 0"},
		{name: "unknown variable", environ: []string{"NEARSIDE_ULR=x"}, args: "version", code: 2, stderr: "NEARSIDE_ULR"},
		{name: "bad variable", environ: []string{"NEARSIDE_TIMEOUT=x"}, args: "status", code: 2, stderr: "NEARSIDE_TIMEOUT"},
		{name: "no config", args: "version|--config|/does/not/exist", code: 2, stderr: "/does/not/exist"},

		{name: "completion of nothing", args: "completion", code: 2, stderr: "bash, zsh, fish"},
		{name: "completion of another shell", args: "completion|tcsh", code: 2, stderr: "bash, zsh, fish"},
		{name: "watch: table", args: "watch", code: 2, stderr: "the table"},
		{name: "watch: condition", args: "watch|t|--where|=x", code: 2, stderr: "COLUMN=TEXT"},
		{name: "watch: twice", args: "watch|t|--where|a=x|--where|a:=1", code: 2, stderr: "twice"},
		{name: "watch: json", args: "watch|t|--where|a:=[1]", code: 2, stderr: "want a number"},
		{name: "watch too often", args: "status|--watch=1ms", code: 2, stderr: "--watch=1ms"},
		{name: "unreachable: status", environ: away, args: "status", code: 1, stderr: "unavailable"},
		{name: "unreachable: bench", environ: away, args: "bench", code: 1, stderr: "unavailable"},
		{name: "unreachable: sql", environ: away, args: "sql|SELECT 1", code: 1, stderr: "unavailable"},
		{name: "unreachable: db", environ: away, args: "db|list", code: 1, stderr: "unavailable"},
		{name: "no file", environ: away, args: "import|/does/not/exist", code: 1, stderr: "/does/not/exist"},
		{name: "no folder", environ: away, args: "migrate|/does/not/exist", code: 1, stderr: "/does/not/exist"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var args []string
			if test.args != "" {
				args = strings.Split(test.args, "|")
			}
			code, stdout, stderr := run(t, test.environ, strings.NewReader(""), args...)
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if !strings.Contains(stderr, test.stderr) {
				t.Errorf("standard error %q lacks %q", stderr, test.stderr)
			}
			if code != 0 && stdout != "" {
				t.Errorf("standard output %q", stdout)
			}
			if code == 2 && !strings.Contains(stderr, "--help' for how it is used") {
				t.Errorf("standard error %q does not say where help is", stderr)
			}
			if code == 0 && stderr != "" {
				t.Errorf("standard error %q", stderr)
			}
		})
	}
}

func TestFlagsAnywhere(t *testing.T) {
	url := nowhere()
	for _, args := range [][]string{
		{"sql", "--json", "--url", url, "SELECT 1"},
		{"sql", "SELECT 1", "--url", url, "--json"},
		{"sql", "--url=" + url, "SELECT 1", "--json"},
		{"--json", "sql", "SELECT 1", "--url", url},
		{"--url", url, "--json", "sql", "SELECT 1"},
	} {
		code, stdout, stderr := run(t, nil, strings.NewReader(""), args...)
		var got struct{ Error struct{ Code string } }
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || got.Error.Code != "unavailable" || code != 1 || stderr == "" {
			t.Errorf("%q: exit code %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

func TestCredentials(t *testing.T) {
	var token string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token = r.Header.Get("Authorization")
		w.WriteHeader(http.StatusTeapot)
	}))
	defer server.Close()
	dir := t.TempDir()
	admin, err := json.Marshal(map[string]string{"url": server.URL, "token": "from-admin"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "admin.json"), admin, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		environ []string
		args    []string
		want    string
	}{
		{"none", nil, []string{"--url", server.URL}, ""},
		{"flag", []string{"NEARSIDE_TOKEN=from-env"}, []string{"--url", server.URL, "--token", "from-flag"}, "Bearer from-flag"},
		{"variable", []string{"NEARSIDE_TOKEN=from-env"}, []string{"--url", server.URL}, "Bearer from-env"},
		{"folder", nil, []string{"--dir", dir}, "Bearer from-admin"},
		{"folder by variable", []string{"NEARSIDE_DIR=" + dir}, nil, "Bearer from-admin"},
		{"variable before folder", []string{"NEARSIDE_TOKEN=from-env"}, []string{"--dir", dir}, "Bearer from-env"},
		{"folder without file", nil, []string{"--dir", t.TempDir(), "--url", server.URL}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			token = "not called"
			code, _, stderr := run(t, test.environ, nil, append([]string{"status"}, test.args...)...)
			if code != 1 || token != test.want {
				t.Errorf("exit code %d, sent %q, want %q; %s", code, token, test.want, stderr)
			}
		})
	}
	t.Run("URL before folder's", func(t *testing.T) {
		token = "not called"
		if code, _, _ := run(t, nil, nil, "status", "--dir", dir, "--url", nowhere()); code != 1 || token != "not called" {
			t.Errorf("exit code %d, sent %q", code, token)
		}
	})
	t.Run("broken file", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(dir, "admin.json"), []byte(`{"token":"s3cret`), 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, stderr := run(t, nil, nil, "status", "--dir", dir)
		if code != 1 || !strings.Contains(stderr, "admin.json") || strings.Contains(stderr, "s3cret") {
			t.Errorf("exit code %d, %s", code, stderr)
		}
	})
	t.Run("bad token", func(t *testing.T) {
		code, _, stderr := run(t, nil, nil, "status", "--token", "s3cret s3cret")
		if code != 2 || strings.Contains(stderr, "s3cret") {
			t.Errorf("exit code %d, %s", code, stderr)
		}
	})
}

// TestDefaultsMatchFlags checks that a command without flags gets what package config says are the defaults.
func TestDefaultsMatchFlags(t *testing.T) {
	clients := 0
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		if flag := cmd.LocalFlags().Lookup("url"); flag != nil {
			clients++
			want := config.DefaultClient()
			got := map[string]string{}
			for _, name := range []string{"url", "token", "dir", "timeout"} {
				got[name] = cmd.LocalFlags().Lookup(name).DefValue
			}
			if diff := cmp.Diff(map[string]string{
				"url": want.URL, "token": want.Token, "dir": want.Dir, "timeout": want.Timeout.String(),
			}, got); diff != "" {
				t.Errorf("%s: %s", cmd.CommandPath(), diff)
			}
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit((&App{}).root())
	if clients != 19 {
		t.Errorf("%d commands with --url, want sql, db, import, export, bench, migrate, status, verify, cache, watch, token, user, login, limit, node, service, cors, policy and audit", clients)
	}
}

func TestStatusTables(t *testing.T) {
	regions := []*controlv1.GetStatusResponse_Region{
		{Name: "a", Ready: true, Primary: true, Connected: true, Breaker: "closed"},
		{Name: "b", Reason: "no copy", Breaker: "open", Databases: []*controlv1.GetStatusResponse_Database{
			{Name: "shop", Version: 7, Lag: 3, StalenessMs: 61_500, Problem: "diverged"}, {Name: "ok", Version: 1, StalenessMs: 40},
			{Name: "old", Version: 1, StalenessMs: 1500}, {Name: "never", StalenessMs: 1<<32 - 1},
		}},
	}
	show := func(app *App) string {
		var b strings.Builder
		if err := app.showStatus(&b, regions); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	plain := show(&App{})
	want := "region  role     gateway  link  breaker  state\n" +
		"------  -------  -------  ----  -------  ------------------\n" +
		"a       primary           up    closed   ready\n" +
		"b       replica           down  open     not ready: no copy\n\n"
	if !strings.HasPrefix(plain, want) {
		t.Errorf("got\n%s", plain)
	}
	for _, part := range []string{"1 min 1 s", "1.5 s", "40 ms", "unknown"} {
		if !strings.Contains(plain, part) {
			t.Errorf("%q lacks %q", plain, part)
		}
	}
	colored := show(&App{System: System{StdoutTerminal: true}})
	for _, part := range []string{"\x1b[1mregion\x1b[0m", "\x1b[32mready\x1b[0m", "\x1b[31mnot ready: no copy\x1b[0m", "\x1b[31mdown\x1b[0m", "\x1b[33m3\x1b[0m", "\x1b[33m1.5 s\x1b[0m", "\x1b[31mdiverged\x1b[0m"} {
		if !strings.Contains(colored, part) {
			t.Errorf("%q lacks %q", colored, part)
		}
	}
	bare := regexp.MustCompile("\x1b\\[[0-9]+m").ReplaceAllString(colored, "")
	if diff := cmp.Diff(plain, bare); diff != "" {
		t.Errorf("colours move things: %s", diff)
	}
	if none := show(&App{System: System{StdoutTerminal: true, Environ: []string{"NO_COLOR=1"}}}); none != plain {
		t.Errorf("NO_COLOR: %q", none)
	}
}

func TestStatusJSONOfAnUnknownAge(t *testing.T) {
	b, err := json.Marshal(regionsJSON([]*controlv1.GetStatusResponse_Region{{Databases: []*controlv1.GetStatusResponse_Database{
		{Name: "never", StalenessMs: 1<<32 - 1}, {Name: "new"},
	}}}, false))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`{"name":"never","version":0,"lag":0,"stalenessMs":null}`, `{"name":"new","version":0,"lag":0,"stalenessMs":0}`} {
		if !strings.Contains(string(b), part) {
			t.Errorf("%s lacks %s", b, part)
		}
	}
}

func TestReadMigrations(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"0010_c.sql", "0002_b.sql", "0001_a.sql", "README.md", "0003.SQL"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("-- "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "old.sql"), 0o700); err != nil {
		t.Fatal(err)
	}
	migrations, err := readMigrations(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range migrations {
		got = append(got, m.GetName()+": "+m.GetSql())
	}
	want := []string{"0001_a: -- 0001_a.sql", "0002_b: -- 0002_b.sql", "0010_c: -- 0010_c.sql"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "0011_d.sql"), []byte("-- é\nINSERT INTO t\nVALUES ('\xff')"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readMigrations(dir); err == nil || !strings.Contains(err.Error(), "0011_d.sql:3: not valid UTF-8") {
		t.Errorf("not UTF-8: %v", err)
	}
	if _, err := readMigrations(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no *.sql file") {
		t.Errorf("empty folder: %v", err)
	}
}
