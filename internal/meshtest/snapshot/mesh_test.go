package snapshot_test

import (
	"fmt"
	"testing"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

func (o *origin) create(name string) uint32 {
	o.t.Helper()
	res, err := o.client.CreateDatabase(o.t.Context(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: name}))
	if err != nil {
		o.t.Fatal(err)
	}
	return res.Msg.GetDatabase().GetId()
}

func (o *origin) drop(name string) {
	o.t.Helper()
	if _, err := o.client.DeleteDatabase(o.t.Context(), connect.NewRequest(&datav1.DeleteDatabaseRequest{Name: name})); err != nil {
		o.t.Fatal(err)
	}
}

// TestDatabasesOfAMeshSnapshot has a region away for longer than the log of _mesh is kept: the databases that were made and
// deleted meanwhile are followed and dropped as soon as it has its snapshot of _mesh, and not at the next commit there.
func TestDatabasesOfAMeshSnapshot(t *testing.T) {
	o := startPrimary(t)
	disk := vfs.NewMem()
	for i := 0; ; i++ {
		gone := o.create(fmt.Sprint("gone", i))
		r := startRegion(t, o, o.addr, disk)
		r.eventually("following the database", func() bool {
			d, ok := r.store.Database(gone)
			return ok && d.Problem() == nil
		})
		r.stop()

		late := o.create(fmt.Sprint("late", i))
		o.drop(fmt.Sprint("gone", i))
		for until := o.trims.Load() + 6<<i; o.trims.Load() < until; {
			o.create("short")
			o.drop("short")
		}
		r = startRegion(t, o, o.addr, disk)
		r.eventually("following the new database", func() bool {
			d, ok := r.store.Database(late)
			return ok && d.Problem() == nil
		})
		r.eventually("rid of the deleted one", func() bool {
			_, ok := r.store.Database(gone)
			return !ok
		})
		snapshots := r.metric("nearside_replica_snapshots_total")
		r.stop()
		if snapshots > 0 {
			return
		}
		t.Log("the log of _mesh was not trimmed: a longer absence")
	}
}
