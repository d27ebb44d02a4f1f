package snapshot_test

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// trimMesh stops the primary, removes all records of _mesh but the last from its log, and starts it again.
func (o *origin) trimMesh() {
	o.t.Helper()
	o.stop()
	log, err := changelog.Open(filepath.Join(o.dir, "log"), changelog.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		o.t.Fatal(err)
	}
	head, err := log.Head(meshdb.DatabaseID)
	if err != nil {
		o.t.Fatal(err)
	}
	log.Publish(meshdb.DatabaseID, head)
	if n, err := log.Trim(meshdb.DatabaseID, head.Version, changelog.Retention{Age: time.Nanosecond, Bytes: 1 << 40}); n == 0 || err != nil {
		o.t.Fatalf("%d records of _mesh trimmed: %v", n, err)
	}
	if err := log.Close(); err != nil {
		o.t.Fatal(err)
	}
	o.start(time.Hour, closed())
}

// TestDatabasesOfAMeshSnapshot has a region away for longer than the log of _mesh is kept: the databases that were made and
// deleted meanwhile are followed and dropped as soon as it has its snapshot of _mesh, and not at the next commit there.
func TestDatabasesOfAMeshSnapshot(t *testing.T) {
	o := startPrimaryThatTrims(t, time.Hour, closed())
	disk := vfs.NewMem()
	gone := o.create("gone")
	r := startRegion(t, o, o.addr, disk)
	r.eventually("following the database", func() bool {
		d, ok := r.store.Database(gone)
		return ok && d.Problem() == nil
	})
	r.stop()

	late := o.create("late")
	if _, err := o.client.DeleteDatabase(t.Context(), connect.NewRequest(&datav1.DeleteDatabaseRequest{Name: "gone"})); err != nil {
		t.Fatal(err)
	}
	o.trimMesh()
	r = startRegion(t, o, o.addr, disk)
	r.eventually("following the new database", func() bool {
		d, ok := r.store.Database(late)
		return ok && d.Problem() == nil
	})
	r.eventually("rid of the deleted one", func() bool {
		_, ok := r.store.Database(gone)
		return !ok
	})
	if n := r.metric("nearside_replica_snapshots_total"); n < 1 {
		t.Errorf("%v snapshots: the log of _mesh still had what the region lacked", n)
	}
}
