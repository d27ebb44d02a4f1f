package docstest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/cli"
)

// program is a program of a guide in Go or TypeScript, and what it prints.
var program = regexp.MustCompile("(?s)<!-- run -->\n```(go|ts)\n(.*?)```\n\n```text\n(.*?)```")

// TestPrograms runs the guides' programs against a mesh. Those in Go are built as if they stood in this module, those in
// TypeScript as if the client in web/ were installed beside them.
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
			t.Run(filepath.Base(path)+" "+m[1], func(t *testing.T) {
				run := runGo
				if m[1] == "ts" {
					run = runTypeScript
					if missing := missingForTypeScript(); missing != "" {
						t.Skip("missing tool: " + missing)
					}
				}
				dir, port := t.TempDir(), freePort(t)
				startMesh(t, bin, dir, port)
				admin, err := cli.ReadAdmin(filepath.Join(dir, ".nearside", "admin.json"))
				if err != nil {
					t.Fatal(err)
				}
				got := run(t, dir, moved(m[2], port), append(environment(bin), "NEARSIDE_TOKEN="+admin.Token))
				ok, err := matches(m[3], got)
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					t.Errorf("the program prints\n%s\nwant\n%s", got, m[3])
				}
			})
		}
	}
	if total == 0 {
		t.Error("the guides have no programs")
	}
}

// runGo runs a program in Go and returns what it prints.
func runGo(t *testing.T, dir, program string, env []string) string {
	t.Helper()
	source, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
	writeFile(t, source, program)
	module := absolute(t, root)
	replaced, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(module, "internal", "docstest", "program", "main.go"): source},
	})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, overlay, string(replaced))
	return output(t, module, append(env, "GOFLAGS=-buildvcs=false"), "go", "run", "-overlay", overlay, "./internal/docstest/program")
}

const (
	clientDir = root + "/web"
	compiler  = clientDir + "/node_modules/.bin/tsc"
)

// missingForTypeScript returns what lacks for programs in TypeScript, or "".
func missingForTypeScript() string {
	if _, err := exec.LookPath("node"); err != nil {
		return "node"
	}
	for _, path := range []string{compiler, clientDir + "/dist/node.js"} {
		if _, err := os.Stat(path); err != nil {
			return path + " (make web)"
		}
	}
	return ""
}

// runTypeScript checks a program in TypeScript, runs it and returns what it prints.
func runTypeScript(t *testing.T, dir, program string, env []string) string {
	t.Helper()
	client := absolute(t, clientDir)
	modules := filepath.Join(dir, "node_modules", "@nearside")
	if err := os.MkdirAll(modules, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(client, filepath.Join(modules, "client")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "package.json"), `{"type":"module"}`)
	writeFile(t, filepath.Join(dir, "program.ts"), program)
	output(t, dir, env, absolute(t, compiler), "--module", "nodenext", "--target", "es2022", "--strict", "--noUncheckedIndexedAccess",
		"--skipLibCheck", "--typeRoots", filepath.Join(client, "node_modules", "@types"), "--types", "node", "program.ts")
	return output(t, dir, env, "node", "program.js")
}

// output runs a command and returns what it prints.
func output(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, env
	got, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, got)
	}
	return string(got)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// TestCallersShowsEachWay holds docs/callers.md to showing one call in each way, all of them run by the tests above.
func TestCallersShowsEachWay(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "callers.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := make(map[string]string)
	for section := range strings.SplitSeq(string(text), "\n## ") {
		title, body, _ := strings.Cut(section, "\n")
		sections[title] = body
	}
	for title, language := range map[string]string{
		"curl, REST": "sh", "curl, Connect": "sh", "GraphQL": "sh", "grpcurl": "sh", "buf curl": "sh", "ghz": "sh", "Go": "go", "TypeScript": "ts",
	} {
		body := sections[title]
		run := len(program.FindAllString(body, -1)) > 0
		if language == "sh" {
			list, err := parse(body)
			run = err == nil && len(list) > 0 && list[0].check
		}
		if !run || !strings.Contains(body, "```"+language+"\n") {
			t.Errorf("%s: no example that is run and compared", title)
		}
	}
}
