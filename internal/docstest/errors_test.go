package docstest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

var errorRow = regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| `([a-z_]+)` \\| .+ \\|$")

// TestErrorsTable compares docs/errors.md with the enum of reasons and their codes.
func TestErrorsTable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "errors.md"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range errorRow.FindAllStringSubmatch(string(text), -1) {
		got = append(got, m[1]+" "+m[2])
	}
	numbers := make([]int32, 0, len(datav1.ErrorReason_name))
	for n := range datav1.ErrorReason_name {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	var want []string
	for _, n := range numbers[1:] { // the first is UNSPECIFIED
		reason := datav1.ErrorReason(n)
		want = append(want, strings.TrimPrefix(reason.String(), "ERROR_REASON_")+" "+rpcerr.New(reason, "").Code().String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/errors.md differs from the enum (-enum +table):\n%s", diff)
	}
}
