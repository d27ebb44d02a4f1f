package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/meshtest"
)

// TestQuick runs the whole program on a few rows: every measurement works and has a number.
func TestQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a mesh of processes")
	}
	dir := t.TempDir()
	for name, pkg := range map[string]string{"nearside": "../cmd/nearside", "bench": "."} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, out)
		}
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "bench"),
		"-quick", "-nearside", filepath.Join(dir, "nearside"), "-dir", dir)
	cmd.Stdout, cmd.Stderr, cmd.Env = &stdout, &stderr, meshtest.Environ()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	out := stdout.String()
	for _, want := range []string{
		"bare connect-go echo", "Get by key", "BatchGet", "List", "sidecar's memory", "of a caller with a token", "GetUser, Connect", "REST", "GraphQL", "at the primary", "through a sidecar",
		"three regions", "cold sidecar takes", "apply, one database",
		"under read load", "in a region, p50", "wire bytes per one-row commit",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing about %q", want)
		}
	}
	if bad := regexp.MustCompile(`NaN|Inf|\| 0(\.0+)? \|`).FindString(out); bad != "" {
		t.Errorf("%q is no measurement", bad)
	}
	if t.Failed() {
		t.Log(out)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "nearside-bench-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, args := range [][]string{
		{"-rows", "0"}, {"-clients", "0"}, {"-rate", "0"}, {"-duration", "0s"}, {"argument"}, {"-unknown"}, {"-nearside", "/nonexistent"},
	} {
		var out bytes.Buffer
		if err := run(t.Context(), append([]string{"-dir", t.TempDir()}, args...), &out, &out); err == nil {
			t.Errorf("%v runs", args)
		}
	}
}
