package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// runCorpus runs the command, without settings from the environment.
func runCorpus(args ...string) ([]byte, error) {
	cmd := exec.Command(program, append([]string{"sqllogictest"}, args...)...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(pair string) bool { return strings.HasPrefix(pair, "NEARSIDE_") })
	return cmd.CombinedOutput()
}

func TestSQLLogicTest(t *testing.T) {
	sample := filepath.Join("..", "..", "internal", "sqllogictest", "testdata", "sample.test")
	wrong := filepath.Join(t.TempDir(), "wrong.test")
	if err := os.WriteFile(wrong, []byte("query I nosort\nSELECT 1\n----\n2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runCorpus("--edge", sample)
	if want := sample + ": 12 pass, 0 fail, 1 fallback of 8 queries (schema 1), 2 skipped\n"; err != nil || string(out) != want {
		t.Errorf("%v, %q, want %q", err, out, want)
	}
	out, err = runCorpus("--json", wrong)
	if err == nil || !strings.Contains(string(out), `"passed":0,"failed":1`) {
		t.Errorf("a wrong answer: %v, %s", err, out)
	}
}

// TestSQLLogicTestCorpus runs the part of the corpus that is at hand.
func TestSQLLogicTestCorpus(t *testing.T) {
	dir := dataFile(t, "sqllogictest")
	files, err := filepath.Glob(filepath.Join(dir, "evidence", "*.test"))
	if err != nil || len(files) == 0 {
		t.Skipf("no files of the corpus in %s: %v", dir, err)
	}
	files = append(files, filepath.Join(dir, "select1.test"))
	out, err := runCorpus(append([]string{"--edge"}, files...)...)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(files) {
		t.Errorf("%d lines for %d files:\n%s", len(lines), len(files), out)
	}
	for _, line := range lines {
		if !strings.Contains(line, " 0 fail, 0 fallback of ") {
			t.Error(line)
		}
	}
}
