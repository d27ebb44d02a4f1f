package callers_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

// TestCommands goes through the commands for accounts.
func TestCommands(t *testing.T) {
	w := start(t, meshtest.Options{})
	run := func(stdin string, args ...string) (code int, stdout, stderr string) {
		t.Helper()
		var out, errs bytes.Buffer
		code = cli.Main(t.Context(), cli.System{
			Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs,
			Environ: []string{"NEARSIDE_URL=" + w.URL(west), "NEARSIDE_TOKEN=" + w.AdminToken()},
		}, args)
		return code, out.String(), errs.String()
	}
	must := func(stdin string, args ...string) string {
		t.Helper()
		code, stdout, stderr := run(stdin, args...)
		if code != 0 {
			t.Fatalf("%v: %d %s", args, code, stderr)
		}
		return strings.TrimSpace(stdout)
	}
	if got := must("", "token"); got != w.AdminToken() {
		t.Error("token shows another one")
	}
	if got := must(password+"\n", "user", "create", "ann", "--role", "reader:"+shop); !strings.HasPrefix(got, "user ann (u_") {
		t.Error(got)
	}
	token := must(password+"\n", "login", "ann")
	expect(t, "ann", w.get(west, token), "")
	must("", "user", "revoke", "ann", "reader:"+shop)
	expect(t, "ann without a role", w.get(west, token), "PERMISSION_DENIED")
	must("", "user", "grant", "ann", "owner:"+shop)
	expect(t, "ann with another role", w.get(west, token), "")
	must("", "user", "disable", "ann")
	expect(t, "ann disabled", w.get(west, token), "TOKEN_INVALID")
	must("", "user", "create", "bot", "--service", "--role", "writer:"+shop)
	key := must("", "token", "--account", "bot")
	expect(t, "bot", w.get(west, key), "")
	if got := must("", "user", "list", "--json"); !strings.Contains(got, `"roles":["writer:shop"]`) || strings.Contains(got, key) {
		t.Error(got)
	}
	must("", "limit", "set", "method", datav1connect.DataServiceGetProcedure, "--rate", "0.001", "--burst", "1")
	expect(t, "bot", w.get(west, key), "")
	expect(t, "bot again", w.get(west, key), "RATE_LIMITED")
	must("", "limit", "delete", "method", datav1connect.DataServiceGetProcedure)
	expect(t, "bot without the limit", w.get(west, key), "")
	for _, wrong := range [][]string{
		{"user", "grant", "ann", "king"}, {"user", "grant", "ann", "admin:shop"}, {"user", "create", "x", "--role", "reader"},
		{"limit", "set", "moon"}, {"login"},
	} {
		if code, _, stderr := run("", wrong...); code != 2 {
			t.Errorf("%v: %d %s", wrong, code, stderr)
		}
	}
	for _, failing := range [][]string{{"user", "grant", "nobody", "admin"}, {"user", "revoke-key", "k_1"}, {"limit", "set", "method"}} {
		if code, _, stderr := run("", failing...); code != 1 {
			t.Errorf("%v: %d %s", failing, code, stderr)
		}
	}
}
