package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestAnswersShareABudget has a region that may gather little: what is larger is refused wherever it comes from, streams are not.
func TestAnswersShareABudget(t *testing.T) {
	dir := t.TempDir()
	port := freePort(t, 2)
	address := func(offset int) string { return fmt.Sprintf("127.0.0.1:%d", port+offset) }
	startRole(t, "primary", "--listen", address(0), "--dir", dir, "--insecure-no-auth").line(t)
	startRole(t, "sidecar", "--region", "eu-west-1", "--primary", "http://"+address(0), "--listen", address(1), "--dir", dir+"/eu",
		"--insecure-no-auth", "--max-answer-bytes", "4000000").line(t)
	primary, region := shell{t, "http://" + address(0), ""}, shell{t, "http://" + address(1), ""}
	primary.must("db", "create", "demo")
	primary.must("sql", "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
	for range 4 {
		primary.must("sql", "INSERT INTO t (a) VALUES (hex(zeroblob(1000000)))")
	}
	within(t, func() bool {
		r := region.run("sql", "--json", "SELECT count(*) FROM t")
		return r.code == 0 && strings.Contains(r.stdout, "[[4]]") && strings.Contains(r.stdout, `"source":"REPLICA"`)
	})
	for _, tc := range []struct{ reason, flag string }{
		{"OVERLOADED", "--json"},
		{"OUTCOME_UNKNOWN", "--primary"}, // it might have been a write
	} {
		args := []string{"sql", "--json", tc.flag, "SELECT a FROM t"}
		r := region.run(args...)
		if r.code != 1 || !strings.Contains(r.stdout, `"reason":"`+tc.reason) || !strings.Contains(r.stderr, "all the memory they may") {
			t.Errorf("%q: exit code %d, %.200s%s", args, r.code, r.stdout, r.stderr)
		}
		if out := primary.must(args...); len(out) < 8_000_000 {
			t.Errorf("%q at the primary: %d bytes", args, len(out))
		}
	}
	region.must("sql", "SELECT a FROM t WHERE id = 1")
	if out := region.must("export", "--table", "t"); len(out) < 8_000_000 {
		t.Errorf("exported %d bytes", len(out))
	}
	if out := region.must("sql", "--primary", "SELECT count(*) FROM t"); !strings.Contains(out, "4") {
		t.Errorf("a small answer of the primary: %s", out)
	}
}
