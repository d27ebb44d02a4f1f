package docstest

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var metricRow = regexp.MustCompile("^\\| (\\*?)`(nearside_[a-z0-9_]+)`\\*? \\| ([a-z]+) \\| (.*) \\|$")

// TestMetricsTable compares docs/metrics.md with what a running mesh exports, and with the names that stand in the source.
func TestMetricsTable(t *testing.T) {
	documented, quiet := metricsTable(t)
	dir, port := t.TempDir(), freePort(t)
	startMesh(t, build(t), dir, port)
	exported := make(map[string]string) // name → kind and help
	for _, admin := range []int{port - 10, port + 1000, port + 1001, port + 1002} {
		scrape(t, fmt.Sprintf("http://127.0.0.1:%d/metrics", admin), exported)
	}
	if len(exported) < 50 {
		t.Fatalf("only %d metrics are exported", len(exported))
	}
	for name, tells := range exported {
		if documented[name] != tells {
			t.Errorf("docs/metrics.md must have the row | `%s` | %s |, and has %q", name, tells, documented[name])
		}
	}
	source := namesInSource(t)
	for name := range documented {
		if _, ok := exported[name]; ok {
			continue
		}
		if !quiet[name] {
			t.Errorf("docs/metrics.md has %s, which a new mesh does not export: it is gone, or its name is in italics", name)
		}
		if !source[name] && !source[strings.TrimPrefix(name, "nearside_replication_")] && !source[strings.TrimPrefix(name, "nearside_replica_")] {
			t.Errorf("docs/metrics.md has %s, which is nowhere in the source", name)
		}
	}
	for name := range source {
		if strings.HasPrefix(name, "nearside_") && documented[name] == "" {
			t.Errorf("docs/metrics.md has no row for %s, which stands in the source", name)
		}
	}
}

// metricsTable returns the kind and the help of each row, and which names are in italics.
func metricsTable(t *testing.T) (documented map[string]string, quiet map[string]bool) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented, quiet = make(map[string]string), make(map[string]bool)
	var names []string
	for line := range strings.Lines(string(text)) {
		if m := metricRow.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			documented[m[2]], quiet[m[2]] = m[3]+" | "+m[4], m[1] != ""
			names = append(names, m[2])
		}
	}
	if !slices.IsSorted(names) || len(names) != len(documented) {
		t.Error("the rows of docs/metrics.md are not in the order of their names, or one is there twice")
	}
	return documented, quiet
}

func scrape(t *testing.T, url string, into map[string]string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	help := make(map[string]string)
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		rest, isHelp := strings.CutPrefix(lines.Text(), "# HELP nearside_")
		kind, isKind := strings.CutPrefix(lines.Text(), "# TYPE nearside_")
		switch {
		case isHelp:
			name, text, _ := strings.Cut(rest, " ")
			help[name] = text
		case isKind:
			name, kind, _ := strings.Cut(kind, " ")
			into["nearside_"+name] = kind + " | " + strings.ReplaceAll(help[name], "|", `\|`)
		}
	}
}

var metricName = regexp.MustCompile(`(?:Name:\s*|NewDesc\(\s*|Name: name, |counter\(|gauge\()"([a-z0-9_]+)"`)

// namesInSource returns the names that metrics are given in the source, without their name space where that is given apart.
func namesInSource(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	for _, dir := range []string{"services", "sidecar", "internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range metricName.FindAllStringSubmatch(string(text), -1) {
				names[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}
