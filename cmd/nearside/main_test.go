package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.uber.org/goleak"

	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/config"
	"github.com/nearside-dev/nearside/services/primary"
)

// program is the real program, built once.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "nearside-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "nearside")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v\n%s", err, out))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			panic(err)
		}
		os.Exit(code)
	}))
}

// startPrimary runs a primary until the test ends and returns its URL.
func startPrimary(t *testing.T) string {
	t.Helper()
	p, err := primary.Start(t.Context(), primary.Config{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", Region: "home",
		Logger: slog.New(slog.DiscardHandler), NoAuth: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p.URL()
}

// shell runs commands against one mesh, in this process.
type shell struct {
	t     *testing.T
	url   string
	token string // "" is none
}

// result is what a command left behind.
type result struct {
	code           int
	stdout, stderr string
}

func (s shell) feed(stdin io.Reader, args ...string) result {
	s.t.Helper()
	var out, errs bytes.Buffer
	code := cli.Main(s.t.Context(), cli.System{
		Stdin: stdin, Stdout: &out, Stderr: &errs, Environ: []string{"NEARSIDE_URL=" + s.url, "NEARSIDE_TOKEN=" + s.token},
	}, args, upCommand, primaryCommand, sidecarCommand)
	return result{code, out.String(), errs.String()}
}

func (s shell) run(args ...string) result {
	s.t.Helper()
	return s.feed(strings.NewReader(""), args...)
}

// must runs a command that has to succeed, and returns what it printed.
func (s shell) must(args ...string) string {
	s.t.Helper()
	r := s.run(args...)
	if r.code != 0 {
		s.t.Fatalf("%q: exit code %d, %s%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// rows returns a query's rows as JSON.
func (s shell) rows(db, query string) string {
	s.t.Helper()
	return rowsOf(s.t, s.must("sql", "--json", "--db", db, query))
}

func rowsOf(t *testing.T, line string) string {
	t.Helper()
	var answer struct{ Rows json.RawMessage }
	if err := json.Unmarshal([]byte(line), &answer); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	return string(answer.Rows)
}

// decode reads JSON that a command printed.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}

// TestRoleDefaults checks that a role's command without flags runs what package config says are the defaults.
func TestRoleDefaults(t *testing.T) {
	app := &cli.App{}
	up, primaryDefaults, sidecarDefaults := config.DefaultUp(), config.DefaultPrimary(), config.DefaultSidecar()
	logs, limits := config.DefaultLog(), config.DefaultLimits()
	for _, test := range []struct {
		cmd  *cobra.Command
		want map[string]string
	}{
		{upCommand(app), map[string]string{
			"dir": up.Dir, "port": fmt.Sprint(up.Port), "regions": "[" + strings.Join(up.Regions, ",") + "]",
			"listen-host": up.ListenHost, "insecure-listen": "false", "log-level": logs.Level, "log-format": logs.Format,
			"max-open-databases": fmt.Sprint(up.MaxOpen), "sqlite-memory-mib": fmt.Sprint(up.SQLiteMiB),
			"cache-bytes": fmt.Sprint(up.Cache.Bytes), "cache-database-percent": fmt.Sprint(up.Cache.Percent),
			"tls-cert": "", "tls-key": "", "require-node-certificates": "true",
			"sql-image-bytes": fmt.Sprint(up.Cache.Images),
			"log-keep-age":    up.LogKeepAge.String(), "log-keep-mib": fmt.Sprint(up.LogKeepMiB),
			"max-watchers": fmt.Sprint(up.MaxWatchers), "watch-progress": up.WatchProgress.String(),
			"max-watchers-per-database": fmt.Sprint(up.MaxPerDatabase), "max-watchers-per-client": fmt.Sprint(up.MaxPerClient),
			"watch-query-interval": up.QueryInterval.String(), "watch-query-result-bytes": fmt.Sprint(up.QueryResultBytes),
			"watch-query-bytes": fmt.Sprint(up.QueryBytes), "graphql-introspection": up.GraphQL.Introspection,
			"insecure-no-auth": fmt.Sprint(up.NoAuth), "token-lifetime": up.TokenLifetime.String(), "token-grace": up.TokenGrace.String(),
			"audit-keep-age": up.AuditKeepAge.String(), "audit-keep-entries": fmt.Sprint(up.AuditKeepEntries),
			"max-failed-logins": fmt.Sprint(up.FailedLogins),
		}},
		{primaryCommand(app), map[string]string{
			"dir": primaryDefaults.Dir, "listen": primaryDefaults.Listen, "region": primaryDefaults.Region,
			"log-keep-age": primaryDefaults.LogKeepAge.String(), "log-keep-mib": fmt.Sprint(primaryDefaults.LogKeepMiB),
			"insecure-listen": "false", "log-level": logs.Level, "log-format": logs.Format,
			"tls-cert": "", "tls-key": "", "require-node-certificates": "true",
			"max-open-databases": fmt.Sprint(primaryDefaults.MaxOpen),
			"sqlite-memory-mib":  fmt.Sprint(primaryDefaults.SQLiteMiB), "max-connections": fmt.Sprint(limits.Connections),
			"max-connections-per-client": fmt.Sprint(limits.ConnectionsPerClient),
			"max-requests-per-client":    fmt.Sprint(limits.RequestsPerClient),
			"max-answer-bytes":           fmt.Sprint(limits.AnswerBytes),
			"insecure-no-auth":           fmt.Sprint(primaryDefaults.NoAuth), "token-lifetime": primaryDefaults.TokenLifetime.String(),
			"audit-keep-age": primaryDefaults.AuditKeepAge.String(), "audit-keep-entries": fmt.Sprint(primaryDefaults.AuditKeepEntries),
		}},
		{sidecarCommand(app), map[string]string{
			"dir": sidecarDefaults.Dir, "listen": sidecarDefaults.Listen, "region": sidecarDefaults.Region,
			"primary": sidecarDefaults.Primary, "join": "", "tls-cert": "", "tls-key": "",
			"advertise-url": "", "insecure-listen": "false", "business": fmt.Sprint(sidecarDefaults.Business),
			"cache-bytes": fmt.Sprint(sidecarDefaults.Cache.Bytes), "cache-database-percent": fmt.Sprint(sidecarDefaults.Cache.Percent),
			"sql-image-bytes": fmt.Sprint(sidecarDefaults.Cache.Images),
			"log-level":       logs.Level, "log-format": logs.Format,
			"max-service-calls": fmt.Sprint(sidecarDefaults.MaxServices),
			"max-primary-calls": fmt.Sprint(sidecarDefaults.MaxCalls), "max-connections": fmt.Sprint(limits.Connections),
			"max-connections-per-client": fmt.Sprint(limits.ConnectionsPerClient),
			"max-requests-per-client":    fmt.Sprint(limits.RequestsPerClient),
			"max-answer-bytes":           fmt.Sprint(limits.AnswerBytes),
			"insecure-no-auth":           fmt.Sprint(sidecarDefaults.NoAuth), "token-grace": sidecarDefaults.TokenGrace.String(),
			"max-failed-logins": fmt.Sprint(sidecarDefaults.FailedLogins),
			"sqlite-memory-mib": fmt.Sprint(sidecarDefaults.SQLiteMiB),
			"max-watchers":      fmt.Sprint(sidecarDefaults.MaxWatchers),
			"watch-progress":    sidecarDefaults.WatchProgress.String(),

			"max-watchers-per-database": fmt.Sprint(sidecarDefaults.MaxPerDatabase),
			"max-watchers-per-client":   fmt.Sprint(sidecarDefaults.MaxPerClient),
			"watch-query-interval":      sidecarDefaults.QueryInterval.String(),
			"watch-query-result-bytes":  fmt.Sprint(sidecarDefaults.QueryResultBytes),
			"watch-query-bytes":         fmt.Sprint(sidecarDefaults.QueryBytes),
			"graphql-introspection":     sidecarDefaults.GraphQL.Introspection,
		}},
	} {
		got := map[string]string{}
		for _, name := range config.Names(test.cmd.Flags()) {
			got[name] = test.cmd.Flags().Lookup(name).DefValue
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.cmd.Name(), diff)
		}
	}
}

func TestRoleUsage(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		args   string
		stderr []string
	}{
		{"up --port 99", []string{`--port "99"`}},
		{"up --regions a,a --listen-host 0.0.0.0 --dir " + dir, []string{"twice", "--insecure-listen"}},
		{"up --log-keep-age 0s --log-keep-mib -1 --dir " + dir, []string{"--log-keep-age", "--log-keep-mib"}},
		{"up now", []string{"unknown command", "now"}},
		{"primary --listen 127.0.0.1:70000 --dir " + dir, []string{"--listen"}},
		{"primary --listen :7070 --require-node-certificates=false --region /x --dir " + dir, []string{"--listen", "--region"}},
		{"sidecar --dir " + dir, []string{"--region"}},
		{"sidecar --region a --primary nowhere", []string{"--primary"}},
		{"sidecar --region a --log-level loud --log-format xml", []string{"--log-level", "--log-format"}},
	} {
		r := shell{t: t}.run(strings.Fields(test.args)...)
		if r.code != cli.ExitUsage || r.stdout != "" {
			t.Errorf("%s: exit code %d, %s", test.args, r.code, r.stdout)
		}
		for _, part := range test.stderr {
			if !strings.Contains(r.stderr, part) {
				t.Errorf("%s: %q lacks %q", test.args, r.stderr, part)
			}
		}
	}
}
