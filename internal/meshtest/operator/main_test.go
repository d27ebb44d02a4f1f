package operator_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	east = "us-east-1"
	west = "eu-west-1"
	db   = "d"
)

// nearside runs a command against the primary's region.
func nearside(t *testing.T, m *meshtest.Mesh, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = cli.Main(t.Context(), cli.System{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Environ: []string{"NEARSIDE_URL=" + m.URL(east)},
	}, args)
	return code, out.String(), errs.String()
}

func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}
