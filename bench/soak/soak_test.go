package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestShort soaks a mesh for a moment: it starts, serves, is judged and leaves nothing behind.
func TestShort(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a mesh of processes")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "nearside")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../cmd/nearside")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var out bytes.Buffer
	args := []string{"-nearside", binary, "-dir", dir, "-keys", "1000", "-rate", "100", "-connections", "6", "-writes", "20"}
	if err := run(t.Context(), append(args, "-duration", "2s", "-max-p95", "10s"), &out); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	for _, want := range []string{"after ", "get  ", "write  ", "all  ", "primary  ", "ap-southeast-1", "0.0000 % failed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("nothing about %q:\n%s", want, &out)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "nearside-soak-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	err := run(t.Context(), append(args, "-duration", "200ms", "-max-p95", "1ns"), &out)
	if err == nil || !strings.Contains(err.Error(), "p95 is ") {
		t.Errorf("an aim that was missed: %v", err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, args := range [][]string{
		{"-rate", "0"}, {"-writes", "101"}, {"-keys", "0"}, {"-duration", "0s"}, {"argument"}, {"-unknown"}, {"-nearside", "/nonexistent"},
	} {
		if err := run(t.Context(), append([]string{"-dir", t.TempDir()}, args...), new(bytes.Buffer)); err == nil {
			t.Errorf("%v runs", args)
		}
	}
}
