package operator_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/sqlite"
)

type finding struct {
	Kind, Table string
	Count       uint64
	Keys        []string
}

type verified struct {
	Region, Database, Error string
	Primary, Repair         bool
	Findings                []finding
}

type verifyAnswer struct {
	Equal   bool
	Results []verified
}

// behindItsBack changes the file of a database without the primary's knowing.
func behindItsBack(t *testing.T, m *meshtest.Mesh, sql string) {
	t.Helper()
	res, err := m.Client("").GetDatabase(t.Context(), connect.NewRequest(&datav1.GetDatabaseRequest{Name: db}))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(m.PrimaryDir(), "db", fmt.Sprint(res.Msg.GetDatabase().GetId(), ".sqlite"))
	conn, err := sqlite.Open(file, sqlite.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.Exec(sql), conn.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestVerifySaysWhatDiffers has a row of the primary's file changed, so that nothing repairs it, and changed back.
func TestVerifySaysWhatDiffers(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east, west}})
	m.Create(db)
	m.Exec("", db, "CREATE TABLE item (id INTEGER PRIMARY KEY, v TEXT)")
	m.Exec("", db, "INSERT INTO item VALUES (1, 'a'), (2, 'b'), (3, 'c')")
	m.WaitSync(db)
	equal := func() {
		t.Helper()
		code, out, stderr := nearside(t, m, "verify", "--deep", "--db", db, "--json")
		if a := decode[verifyAnswer](t, out); code != 0 || stderr != "" || !a.Equal || len(a.Results) != 3 {
			t.Fatalf("exit code %d, %s%s", code, out, stderr)
		}
		if code, out, stderr := nearside(t, m, "verify", "--deep", "--db", db); code != 0 || strings.Contains(out, "different") {
			t.Fatalf("exit code %d, %s%s", code, out, stderr)
		}
	}
	equal()
	behindItsBack(t, m, "UPDATE item SET v = 'x' WHERE id = 2")

	code, out, stderr := nearside(t, m, "verify", "--deep", "--db", db)
	if code != 1 || !strings.Contains(stderr, "3 of 3 differ") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	if n := strings.Count(out, "different"); n != 5 { // three results, and the row in two regions
		t.Errorf("%d times different in\n%s", n, out)
	}
	code, out, stderr = nearside(t, m, "verify", "--deep", "--db", db, "--json")
	if code != 1 || !strings.Contains(stderr, "3 of 3 differ") {
		t.Errorf("--json: exit code %d, %q", code, stderr)
	}
	row := []finding{{Kind: "row different", Table: "item", Count: 1, Keys: []string{"2"}}}
	want := verifyAnswer{Results: []verified{
		{Region: east, Database: db, Primary: true, Findings: []finding{{Kind: "primary sum", Table: "item", Count: 1, Keys: []string{}}}},
		{Region: west, Database: db, Findings: row},
		{Region: east, Database: db, Findings: row},
	}}
	got := decode[verifyAnswer](t, out)
	if len(got.Results) == 3 && got.Results[1].Region == east {
		got.Results[1], got.Results[2] = got.Results[2], got.Results[1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("--json (-want +got):\n%s", diff)
	}
	behindItsBack(t, m, "UPDATE item SET v = 'b' WHERE id = 2")
	equal()

	m.StopSidecar(west)
	if code, _, stderr := nearside(t, m, "verify", "--db", db); code != 1 || !strings.Contains(stderr, "1 of 3 could not be compared") {
		t.Errorf("a region is away: exit code %d, %q", code, stderr)
	}
	if code, _, stderr := nearside(t, m, "verify", "--db", "nowhere"); code != 1 || !strings.Contains(stderr, "nowhere") {
		t.Errorf("no such database: exit code %d, %q", code, stderr)
	}
}
