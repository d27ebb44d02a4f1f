package faults_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// restoreOlder puts the primary's folder back to what it was when save was called; the primary is stopped for each.
func saveFolder(t *testing.T, m *meshtest.Mesh) (restore func()) {
	t.Helper()
	saved := filepath.Join(t.TempDir(), "saved")
	m.StopPrimary()
	if err := os.CopyFS(saved, os.DirFS(m.PrimaryDir())); err != nil {
		t.Fatal(err)
	}
	m.StartPrimary()
	return func() {
		t.Helper()
		m.StopPrimary()
		if err := os.RemoveAll(m.PrimaryDir()); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(m.PrimaryDir(), os.DirFS(saved)); err != nil {
			t.Fatal(err)
		}
		m.StartPrimary()
	}
}

// waitProblem waits until a region's status names one of the problems of a database.
func waitProblem(t *testing.T, m *meshtest.Mesh, region, database string, problems ...error) {
	t.Helper()
	m.Eventually(region+" names the problem", func(ctx context.Context) error {
		r, err := meshtest.Status(ctx, m.HTTP(), m.URL(region))
		if err != nil {
			return err
		}
		for _, d := range r.GetDatabases() {
			for _, p := range problems {
				if d.GetName() == database && strings.Contains(d.GetProblem(), p.Error()) {
					return nil
				}
			}
		}
		return fmt.Errorf("status %v", r)
	})
}

// anew deletes a region's folder and starts it again: the documented way out.
func anew(t *testing.T, m *meshtest.Mesh, region string) {
	t.Helper()
	m.StopSidecar(region)
	if err := os.RemoveAll(m.RegionDir(region)); err != nil {
		t.Fatal(err)
	}
	m.StartSidecar(region)
}

// TestPrimaryRestored puts an older image of the primary's disk back under sidecars that have seen more, and lets other
// things be written. No region ever serves what the primary has lost: it says what is wrong and asks the primary.
func TestPrimaryRestored(t *testing.T) {
	for name, after := range map[string]int{"ahead": 1, "fork": 20} {
		t.Run(name, func(t *testing.T) {
			m := meshtest.Start(t, meshtest.Options{})
			m.Create(db)
			m.Exec("", db, createTable)
			m.Exec("", db, "INSERT INTO w VALUES (1, 'kept')")
			m.CompareAll(db)
			restore := saveFolder(t, m)
			for i := range 10 {
				m.Exec("", db, fmt.Sprintf("INSERT INTO w VALUES (%d, 'lost')", 100+i))
			}
			m.Exec("", db, "UPDATE w SET v = 'lost' WHERE id = 1")
			lost := m.Exec(west, db, "INSERT INTO w VALUES (3, 'lost')").GetAnswer().GetBookmark()
			m.CompareAll(db)
			m.StopSidecar(west) // one region meets the primary at its start, the other one while it runs
			restore()
			for i := range after {
				m.Exec("", db, fmt.Sprintf("INSERT INTO w VALUES (%d, 'new')", 100+i))
			}
			m.StartSidecar(west)
			for _, region := range []string{east, west} {
				waitProblem(t, m, region, db, replica.ErrFork, replica.ErrFollowerAhead)
				for id, want := range map[int64]string{1: "kept", 3: "", 100: "new"} {
					res, err := get(t.Context(), m, region, "w", id, nil)
					if err != nil {
						t.Fatal(err)
					}
					got := ""
					if res.GetRow() != nil {
						got = res.GetRow().GetValues()[1].GetText()
					}
					if got != want || !res.GetAnswer().GetServedByPrimary() {
						t.Errorf("%s: row %d is %q, want %q: %v", region, id, got, want, res.GetAnswer())
					}
				}
				// A bookmark of the lost time is no reason to serve it either.
				res, err := get(t.Context(), m, region, "w", 3, &datav1.Consistency{
					Bookmark: lost, MaxWait: durationpb.New(10 * time.Millisecond),
				})
				if name == "ahead" {
					wantError(t, err, connect.CodeFailedPrecondition, datav1.ErrorReason_ERROR_REASON_BOOKMARK_AHEAD)
				} else if err == nil && res.GetRow() != nil {
					t.Errorf("%s: %v", region, res)
				}
				if err := insert(t.Context(), m.Client(region), "", "through "+region); err != nil {
					t.Error(err)
				}
			}
			// It is written down: a restart does not forget.
			m.StopSidecar(west)
			m.StopPrimary()
			m.StartSidecar(west)
			if res, err := get(t.Context(), m, west, "w", 3, nil); err == nil {
				t.Errorf("without a primary to ask: %v", res)
			}
			m.StartPrimary()

			for _, region := range []string{east, west} {
				anew(t, m, region)
			}
			m.WaitReady()
			if n := m.CompareAll(db); n != 1+after+2 {
				t.Errorf("%d rows", n)
			}
		})
	}
}

// TestRestoredMesh loses the creation of a database with the older image, and then gives its id to another one: what a
// region thinks of names is of the lost time, and must not be believed.
func TestRestoredMesh(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create(db)
	m.Exec("", db, createTable)
	m.CompareAll(db)
	restore := saveFolder(t, m)
	m.Create("mine")
	m.Create("empty")
	m.Exec("", "mine", createTable)
	m.Exec("", "mine", "INSERT INTO w VALUES (1, 'mine')")
	m.CompareAll("mine")
	m.WaitSync("empty")
	restore()
	create := func(name string) {
		t.Helper()
		req := connect.NewRequest(&datav1.CreateDatabaseRequest{Name: name})
		if _, err := m.Client("").CreateDatabase(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"filler", "yours", "mine"} { // "yours" has the id that "empty" had
		create(name)
		m.Exec("", name, createTable)
		m.Exec("", name, fmt.Sprintf("INSERT INTO w VALUES (1, '%s now')", name))
	}
	for _, region := range []string{east, west} {
		waitProblem(t, m, region, meshdb.Name, replica.ErrFork, replica.ErrFollowerAhead)
		for name, want := range map[string]string{"mine": "mine now", "yours": "yours now", "filler": "filler now", "empty": ""} {
			res, err := m.Client(region).List(t.Context(), connect.NewRequest(&datav1.ListRequest{Database: name, Table: "w"}))
			if want == "" {
				wantError(t, err, connect.CodeNotFound, datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND)
				continue
			}
			if err != nil {
				t.Errorf("%s: %s: %v", region, name, err)
				continue
			}
			if rows := res.Msg.GetRows(); len(rows) != 1 || rows[0].GetValues()[1].GetText() != want {
				t.Errorf("%s: %s has %v", region, name, res.Msg)
			}
		}
	}
	for _, region := range []string{east, west} {
		anew(t, m, region)
	}
	m.WaitReady()
	for _, name := range []string{"filler", "yours", "mine", db} {
		m.CompareAll(name)
	}
}
