package replication_test

import (
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func items() *catalog.Table {
	return replicatest.WithIndex(replicatest.Table(10, "items", "id", "name"), 20, "by_name", false, "name")
}

func item(id int64, name string) rowcodec.Row { return replicatest.Row(id, value.Text(name)) }

func TestFollow(t *testing.T) {
	p := startPrimary(t)
	r := startRegion(t, p, "eu", vfs.NewMem())
	table := items()
	shop := p.create(100, "shop")
	shop.commit(replicatest.Schema(table), replicatest.Put(table, item(1, "a"), item(2, "b")))
	r.reaches(shop)
	r.same(shop, table)

	// What is committed while connected.
	for i := range int64(50) {
		shop.commit(replicatest.Put(table, item(i, "new")), replicatest.Delete(table, item(i+100, "")))
	}
	r.reaches(shop)
	r.same(shop, table)

	// Databases come, move and go.
	second := p.create(101, "second")
	second.commit(replicatest.Schema(table), replicatest.Put(table, item(7, "x")))
	elsewhere := p.createAt(102, "elsewhere", "us")
	elsewhere.commit(replicatest.Schema(table))
	r.reaches(second)
	r.same(second, table)
	if _, ok := r.store.Database(102); ok {
		t.Error("a copy of what is placed elsewhere")
	}
	handle, _ := r.store.Database(101)
	p.mesh.commit(replicatest.Put(replicatest.MeshPlacements, replicatest.MeshPlacement(101, "us")))
	if err := handle.WaitFor(t.Context(), 1, 1000); !errors.Is(err, replica.ErrDropped) {
		t.Errorf("after the database moved: %v", err)
	}
	p.mesh.commit(replicatest.Delete(replicatest.MeshDatabases, replicatest.MeshDatabase(100, "")))
	handle, _ = r.store.Database(100)
	if err := handle.WaitFor(t.Context(), 1, 1000); !errors.Is(err, replica.ErrDropped) {
		t.Errorf("after the database was deleted: %v", err)
	}
	if id, ok := r.store.Identity(); !ok || id.MeshID != meshID || string(id.BookmarkKey) != bookmarkKey || id.PrimaryRegion != "us" {
		t.Errorf("identity %v", id)
	}
	mesh, _ := r.store.Database(meshdb.DatabaseID)
	if got := mesh.Staleness(time.Now()); got < 0 || got == replica.UnknownStaleness {
		t.Errorf("staleness of _mesh: %v", got)
	}
	r.noErrors()
}

func TestPrimaryRestarts(t *testing.T) {
	p := startPrimary(t)
	table := items()
	shop := p.create(100, "shop")
	shop.commit(replicatest.Schema(table), replicatest.Put(table, item(1, "a")))
	r := startRegion(t, p, "eu", vfs.NewMem())
	r.reaches(shop)
	for i := range int64(3) {
		p.stop()
		r.eventually("disconnected", func() bool { return !r.follower.Connected() })
		d, _ := r.store.Database(100)
		if err := d.Problem(); err != nil {
			t.Fatalf("without a primary: %v", err)
		}
		r.same(shop, table)
		shop.commit(replicatest.Put(table, item(i, "while it was away")))
		p.start()
		r.reaches(shop)
		r.same(shop, table)
	}
	r.eventually("connected", r.follower.Connected)
	if n := r.connects.Load(); n < 4 { // more where all is so slow that a connection counts as stuck
		t.Errorf("OnConnect was called %d times, want 4", n)
	}
	r.noErrors()
}

func TestSidecarRestarts(t *testing.T) {
	p := startPrimary(t)
	table := items()
	shop := p.create(100, "shop")
	shop.commit(replicatest.Schema(table), replicatest.Put(table, item(1, "a")))
	disk := vfs.NewMem()
	r := startRegion(t, p, "eu", disk)
	r.reaches(shop)
	before := shop.Version()
	r.stop()
	shop.commit(replicatest.Put(table, item(2, "b")))
	gone := p.create(101, "short-lived")
	gone.commit(replicatest.Schema(table))
	p.mesh.commit(replicatest.Delete(replicatest.MeshDatabases, replicatest.MeshDatabase(101, "")))
	p.stop()

	r = startRegion(t, p, "eu", disk)
	d, ok := r.store.Database(100)
	if !ok {
		t.Fatal("the copy is gone")
	}
	if err := d.Problem(); err != nil {
		t.Errorf("after a restart without a primary: %v", err)
	}
	if _, version := d.Applied(); version != before {
		t.Errorf("version %d after the restart, want %d", version, before)
	}
	p.start()
	r.reaches(shop)
	r.same(shop, table)
	r.noErrors()
}

// TestFork has a primary come back with another history of a database, and then with the right one again.
func TestFork(t *testing.T) {
	p := startPrimary(t)
	table := items()
	shop, other := p.create(100, "shop"), p.create(101, "other")
	shop.commit(replicatest.Schema(table), replicatest.Put(table, item(1, "a")))
	other.commit(replicatest.Schema(table))
	r := startRegion(t, p, "eu", vfs.NewMem())
	r.reaches(shop)
	r.reaches(other)
	d, _ := r.store.Database(100)
	_, had := d.Applied()

	p.stop()
	right := p.log
	p.log = p.openLog()
	p.mesh.copyTo(p.log)
	other.copyTo(p.log)
	forked := p.database(100)
	for range had {
		forked.commit(replicatest.Schema(table), replicatest.Put(table, item(1, "another")))
	}
	p.start()
	r.eventually("fork found", func() bool { return errors.Is(d.Problem(), replica.ErrFork) })
	if _, version := d.Applied(); version != had {
		t.Errorf("version %d: the copy was touched", version)
	}
	if _, err := d.Snapshot(); !errors.Is(err, replica.ErrFork) {
		t.Errorf("snapshot: %v", err)
	}
	other.log = p.log
	other.commit(replicatest.Put(table, item(5, "goes on")))
	r.reaches(other)

	p.stop()
	p.log = right
	p.start()
	r.eventually("served again", func() bool { return d.Problem() == nil })
	r.same(shop, table)
}

func TestFollowerAhead(t *testing.T) {
	p := startPrimary(t)
	table := items()
	shop := p.create(100, "shop")
	shop.commit(replicatest.Schema(table))
	short := p.openLog()
	p.mesh.copyTo(short)
	shop.copyTo(short)
	shop.commit(replicatest.Put(table, item(1, "a")))
	r := startRegion(t, p, "eu", vfs.NewMem())
	r.reaches(shop)
	p.stop()
	p.log = short
	p.start()
	d, _ := r.store.Database(100)
	r.eventually("found to be ahead", func() bool { return errors.Is(d.Problem(), replica.ErrFollowerAhead) })
	if _, version := d.Applied(); version != 2 {
		t.Errorf("version %d: the copy was touched", version)
	}
}

// TestDivergence has a record with a wrong sum: the copy is wiped, made anew, and wiped again, while others go on.
func TestDivergence(t *testing.T) {
	p := startPrimary(t)
	table := items()
	shop, other := p.create(100, "shop"), p.create(101, "other")
	shop.commit(replicatest.Schema(table), replicatest.Put(table, item(1, "a")))
	other.commit(replicatest.Schema(table))
	r := startRegion(t, p, "eu", vfs.NewMem())
	r.reaches(shop)
	shop.commitWrongSum(replicatest.Put(table, item(2, "b")))
	r.eventually("wiped", func() bool { return r.metric("nearside_replica_divergences_total") >= 2 })
	d, _ := r.store.Database(100)
	if err := d.Problem(); err == nil {
		t.Error("a copy that diverges is served")
	}
	other.commit(replicatest.Put(table, item(1, "goes on")))
	r.reaches(other)
	r.same(other, table)
}

func TestWrongMesh(t *testing.T) {
	p := startPrimary(t)
	table := items()
	shop := p.create(100, "shop")
	shop.commit(replicatest.Schema(table), replicatest.Put(table, item(1, "a")))
	r := startRegion(t, p, "eu", vfs.NewMem())
	r.reaches(shop)
	p.stop()
	p.meshID = [16]byte{66}
	shop.commit(replicatest.Put(table, item(2, "b")))
	p.start()
	attempts := r.metric("nearside_replica_reconnects_total")
	r.eventually("some attempts", func() bool { return r.metric("nearside_replica_reconnects_total") >= attempts+3 })
	d, _ := r.store.Database(100)
	if _, version := d.Applied(); r.follower.Connected() || version != 1 {
		t.Errorf("connected %v, version %d: it followed another mesh", r.follower.Connected(), version)
	}
	p.stop()
	p.meshID = meshID
	p.start()
	r.reaches(shop)
}

// TestCutLink has the link lose everything without a word: the follower must notice, and dial anew.
func TestCutLink(t *testing.T) {
	p := startPrimary(t)
	link := startCable(t, p.addr)
	table := items()
	shop := p.create(100, "shop")
	shop.commit(replicatest.Schema(table))
	r := startRegionAt(t, link.addr, "eu", vfs.NewMem())
	r.reaches(shop)
	for i := range int64(2) {
		link.cut()
		shop.commit(replicatest.Put(table, item(i, "a")))
		r.reaches(shop)
		r.same(shop, table)
	}
	r.noErrors()
}

// TestUnavailable hides a database for a while, as a primary does whose store of it failed.
func TestUnavailable(t *testing.T) {
	p := startPrimary(t)
	table := items()
	shop := p.create(100, "shop")
	shop.commit(replicatest.Schema(table))
	r := startRegion(t, p, "eu", vfs.NewMem())
	r.reaches(shop)
	d, _ := r.store.Database(100)
	p.log.Unpublish(100)
	r.heartbeat()
	r.heartbeat()
	if err := d.Problem(); err != nil {
		t.Errorf("the copy is as good as it was: %v", err)
	}
	shop.commit(replicatest.Put(table, item(1, "a")))
	r.reaches(shop)
	r.same(shop, table)
}

// TestManyCommits streams from two databases that need each other's _mesh versions, across restarts of the primary.
func TestManyCommits(t *testing.T) {
	p := startPrimary(t)
	table := items()
	a, b := p.create(100, "a"), p.create(101, "b")
	a.commit(replicatest.Schema(table))
	b.commit(replicatest.Schema(table))
	r := startRegion(t, p, "eu", vfs.NewMem())
	for i := range int64(600) {
		if i%10 == 0 {
			p.mesh.commit(replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(101, "b")))
		}
		a.commit(replicatest.Put(table, item(i%50, "a")))
		b.commit(replicatest.Put(table, item(i%70, "b")), replicatest.Delete(table, item(i%30, "")))
		if i%200 == 199 {
			p.stop()
			p.start()
		}
	}
	r.reaches(a)
	r.reaches(b)
	r.same(a, table)
	r.same(b, table)
	r.noErrors()
}
