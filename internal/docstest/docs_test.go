package docstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/meshtest/tools"
)

// markOwnMesh stands in a guide whose examples start what they need.
const markOwnMesh = "<!-- no mesh"

// root is the repository's.
const root = "../.."

// guides returns the files whose examples are run.
func guides(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{filepath.Join(root, "README.md")}, docs...)
}

// TestExamples runs every guide's examples.
func TestExamples(t *testing.T) {
	bin := build(t)
	total := 0
	for _, path := range guides(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		examples, err := parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		total += len(examples)
		if len(examples) == 0 {
			continue
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			dir, port := t.TempDir(), freePort(t)
			env := environment(bin)
			settle := func() {}
			if !strings.Contains(string(text), markOwnMesh) {
				startMesh(t, bin, dir, port)
				settle = func() { waitRegions(t, bin, dir, port) }
				// The commands' default is the guides' first gateway.
				env = append(env, fmt.Sprintf("NEARSIDE_URL=http://127.0.0.1:%d", port))
			}
			sh := startShell(t, env, dir)
			for _, ex := range examples {
				settle()
				check(t, sh, filepath.Base(path), port, ex)
				if t.Failed() {
					return // the next ones build on this one
				}
			}
		})
	}
	if total == 0 {
		t.Error("the guides have no examples")
	}
}

func check(t *testing.T, sh *shell, file string, port int, ex example) {
	t.Helper()
	at := fmt.Sprintf("%s:%d", file, ex.line)
	if ex.tool != "" {
		if _, err := tools.Find(ex.tool); err != nil {
			if os.Getenv("CI") == "true" { // .ci/run installs it
				t.Errorf("%s: left out: %v", at, err)
				return
			}
			t.Logf("%s: left out: %v", at, err)
			return
		}
	}
	got, failed, err := sh.run(moved(ex.script, port))
	switch {
	case err != nil:
		t.Errorf("%s: %v\n%s", at, err, got)
	case failed == "" && ex.fails:
		t.Errorf("%s: no command failed\n%s", at, got)
	case failed != "" && !ex.fails:
		t.Errorf("%s: this failed: %s\n%s", at, failed, got)
	}
	t.Logf("%s:\n%s", at, got)
	if !ex.check {
		return
	}
	want := moved(ex.want, port)
	ok, err := matches(want, got)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		t.Errorf("%s: the commands print\n%s\nwant\n%s", at, got, want)
	}
}

// TestShell checks the harness with commands that every machine has.
func TestShell(t *testing.T) {
	sh := startShell(t, os.Environ(), t.TempDir())
	for _, tc := range []struct {
		script, output, failed string
	}{
		{"echo one; x=two", "one", ""},
		{"printf $x", "two", ""},
		{"echo before\nls /nowhere/at/all 2>/dev/null\necho after", "before\nafter", "ls /nowhere/at/all 2> /dev/null"},
		{"false || echo caught", "caught", ""},
		{"cat", "", ""},
		{"cat <<'EOF'\na\n\nb\nEOF", "a\n\nb", ""},
		{"echo err >&2", "err", ""},
	} {
		got, failed, err := sh.run(tc.script)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Trim(got, "\n") != tc.output || failed != tc.failed {
			t.Errorf("%q prints %q, failed %q; want %q and %q", tc.script, got, failed, tc.output, tc.failed)
		}
	}
	if _, _, err := sh.run("exit 3"); err == nil {
		t.Error("a shell that ended goes unnoticed")
	}
}

func TestMoved(t *testing.T) {
	const text = "curl http://127.0.0.1:8081/readyz 7070 9082 8070 80800 x8080"
	if got, want := moved(text, 20_000), "curl http://127.0.0.1:20001/readyz 18990 21002 19990 80800 x8080"; got != want {
		t.Errorf("moved to %q, want %q", got, want)
	}
}
