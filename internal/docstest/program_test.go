package docstest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// program is a Go program of a guide, and what it prints.
var program = regexp.MustCompile("(?s)<!-- run -->\n```go\n(.*?)```\n\n```text\n(.*?)```")

// TestPrograms runs the guides' Go programs against a mesh. They are built as if they stood in this module.
func TestPrograms(t *testing.T) {
	bin := build(t)
	total := 0
	for _, path := range guides(t) {
		guide, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range program.FindAllStringSubmatch(string(guide), -1) {
			total++
			t.Run(filepath.Base(path), func(t *testing.T) {
				dir, port := t.TempDir(), freePort(t)
				startMesh(t, bin, dir, port)
				source, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
				if err := os.WriteFile(source, []byte(moved(m[1], port)), 0o600); err != nil {
					t.Fatal(err)
				}
				module, err := filepath.Abs(root)
				if err != nil {
					t.Fatal(err)
				}
				replaced, err := json.Marshal(map[string]map[string]string{
					"Replace": {filepath.Join(module, "internal", "docstest", "program", "main.go"): source},
				})
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(overlay, replaced, 0o600); err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(t.Context(), "go", "run", "-overlay", overlay, "./internal/docstest/program")
				cmd.Dir, cmd.Env = module, append(environment(bin), "GOFLAGS=-buildvcs=false")
				got, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, got)
				}
				ok, err := matches(m[2], string(got))
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					t.Errorf("the program prints\n%s\nwant\n%s", got, m[2])
				}
			})
		}
	}
	if total == 0 {
		t.Error("the guides have no programs")
	}
}
