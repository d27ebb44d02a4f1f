package docstest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/nearside-dev/nearside/internal/config"
)

var (
	settingRow = regexp.MustCompile("^\\| `[a-z-]+` \\|.*\\|$")
	variable   = regexp.MustCompile(` \[NEARSIDE_[A-Z_]+\]$`)
)

// TestConfigurationTables compares docs/configuration.md with the settings and their defaults.
func TestConfigurationTables(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	heading := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "## "); ok {
			heading = rest
		}
		if settingRow.MatchString(line) {
			got[heading] = append(got[heading], line)
		}
	}

	up, primary, sidecar := config.DefaultUp(), config.DefaultPrimary(), config.DefaultSidecar()
	limits := config.DefaultLimits()
	log, client := config.DefaultLog(), config.DefaultClient()
	json := false
	want := map[string][]string{}
	for heading, register := range map[string]func(config.Set){
		"All commands":                          func(s config.Set) { s.Bool(&json, "json", "answer in JSON, for programs") },
		"`nearside up`":                         up.Register,
		"`nearside primary`":                    primary.Register,
		"`nearside sidecar`":                    sidecar.Register,
		"Limits of `primary` and `sidecar`":     limits.Register,
		"Logs of `up`, `primary` and `sidecar`": log.Register,
		"Commands that talk to a mesh":          client.Register,
	} {
		flags := pflag.NewFlagSet(heading, pflag.ContinueOnError)
		register(config.NewSet(flags))
		flags.VisitAll(func(f *pflag.Flag) {
			value := strings.Trim(f.DefValue, "[]")
			if value != "" {
				value = "`" + value + "` "
			}
			want[heading] = append(want[heading],
				fmt.Sprintf("| `%s` | %s| %s |", f.Name, value, variable.ReplaceAllString(f.Usage, "")))
		})
		slices.Sort(want[heading])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/configuration.md differs from the settings (-code +table):\n%s", diff)
	}
}
