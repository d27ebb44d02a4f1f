package operator_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/primary"
)

// Rows of the table that is copied, and the bytes of each row's text.
const (
	copiedRows = 6000
	textBytes  = 400
)

// startLateRegion starts a mesh and takes a region's files away; it comes back through the proxy, and needs a snapshot, for
// the primary trims its logs at once.
func startLateRegion(t *testing.T) (*meshtest.Mesh, *faultproxy.Proxy) {
	t.Helper()
	trimmed := make(chan struct{}, 1)
	var proxy *faultproxy.Proxy
	m := meshtest.Start(t, meshtest.Options{
		Regions: []string{east, west},
		Primary: func(c *primary.Config) {
			c.Keep, c.TrimInterval = changelog.Retention{Age: time.Nanosecond, Bytes: 1 << 40}, 5*time.Millisecond
			c.Failpoint = func(place string) {
				if place != "after-trim" {
					return
				}
				select {
				case trimmed <- struct{}{}:
				default:
				}
			}
		},
		Through: func(region, addr string) string {
			if region != west {
				return addr
			}
			if proxy == nil {
				proxy = faultproxy.Start(t, addr)
			}
			return proxy.Addr()
		},
	})
	m.Create(db)
	m.StopSidecar(west)
	if err := os.RemoveAll(m.RegionDir(west)); err != nil {
		t.Fatal(err)
	}
	m.Exec("", db, "CREATE TABLE item (id INTEGER PRIMARY KEY, v TEXT)")
	m.Exec("", db, fmt.Sprintf("INSERT INTO item WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "+
		"SELECT i, printf('%%%d.%dd', i) FROM n", copiedRows, textBytes, textBytes))
	m.Exec("", db, "CREATE TABLE tick (n INTEGER PRIMARY KEY)")
	for range 8 { // some trims after the rows: one may have been of _mesh, or have come too early
		m.Exec("", db, "INSERT INTO tick DEFAULT VALUES")
		<-trimmed
	}
	return m, proxy
}

type snapshotStatus struct {
	Rows, TotalRows, Bytes uint64
	Table                  string
	Finishing              bool
}

type statusAnswer struct {
	Regions []struct {
		Name      string
		Databases []struct {
			Name     string
			Snapshot *snapshotStatus
		}
	}
}

// snapshotIn is a region's snapshot as status says it; nil if there is none.
func snapshotIn(t *testing.T, m *meshtest.Mesh, region string) *snapshotStatus {
	t.Helper()
	code, out, stderr := nearside(t, m, "status", "--json")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, r := range decode[statusAnswer](t, out).Regions {
		for _, d := range r.Databases {
			if r.Name == region && d.Name == db {
				return d.Snapshot
			}
		}
	}
	return nil
}

// TestStatusShowsASnapshot holds a snapshot in the middle of a table.
func TestStatusShowsASnapshot(t *testing.T) {
	m, proxy := startLateRegion(t)
	held := proxy.HoldAfter(faultproxy.HTTP2, faultproxy.Down, copiedRows*textBytes/2)
	m.StartSidecar(west)
	<-held
	var s *snapshotStatus
	m.Eventually("progress", func(context.Context) error {
		if s = snapshotIn(t, m, west); s == nil || s.Rows == 0 {
			return errors.New("no rows of a snapshot")
		}
		return nil
	})
	if s.Rows >= copiedRows || s.TotalRows < copiedRows || s.TotalRows > copiedRows+100 || s.Finishing || s.Table != "item" {
		t.Errorf("%+v, want some of %d rows of table item", s, copiedRows)
	}
	if s.Bytes < s.Rows*textBytes || s.Bytes > s.Rows*(textBytes+40) {
		t.Errorf("%d bytes of %d rows of %d and a little", s.Bytes, s.Rows, textBytes)
	}
	_, out, _ := nearside(t, m, "status")
	if want := fmt.Sprintf("of %d rows,", s.TotalRows); !strings.Contains(out, want) || !strings.Contains(out, "MiB, in item") {
		t.Errorf("no %q, and in which table, in\n%s", want, out)
	}
	proxy.Heal()
	m.WaitSync(db)
	if s := snapshotIn(t, m, west); s != nil {
		t.Errorf("a snapshot that is done is shown: %+v", s)
	}
	m.CompareAll(db)
}
