package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func TestSnapshotKeepsItsVersion(t *testing.T) {
	u := users()
	s, p := openMem(t, Options{}), replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1))))
	old := snapshot(t, s, shop)
	defer old.Close()
	apply(t, s, shop, p.Commit(replicatest.Schema(replicatest.Table(11, "other", "id"))))
	verify(t, s, shop, p, replicatest.Table(11, "other", "id"))
	if err := s.Drop(shop); err != nil {
		t.Fatal(err)
	}
	key := rowcodec.AppendRowKey(nil, u, user(1, "", 0))
	if _, version, ok, err := old.GetRow(old.Catalog().TableByName("users"), key); !ok || version != 1 || err != nil {
		t.Errorf("row in the old snapshot: version %d, %v, %v", version, ok, err)
	}
	if old.Version() != 1 || old.Epoch() != 1 {
		t.Errorf("snapshot moved to epoch %d version %d", old.Epoch(), old.Version())
	}
}

// TestSnapshotIsOneVersion has a writer keep two tables equal to the version while readers compare them.
func TestSnapshotIsOneVersion(t *testing.T) {
	a := replicatest.WithIndex(replicatest.Table(10, "a", "id", "n"), 20, "by_n", false, "n")
	b := replicatest.Table(11, "b", "id", "n")
	s, p := openMem(t, Options{MemTableBytes: 256 << 10}), replicatest.NewPrimary()
	put := func() []byte {
		n := replicatest.Row(1, value.Integer(int64(p.Version()+1)), value.Null())
		return p.Commit(replicatest.Put(a, n), replicatest.Put(b, n))
	}
	apply(t, s, shop, p.Commit(replicatest.Schema(a, b)), put())
	d := database(t, s, shop)
	key := rowcodec.AppendRowKey(nil, a, replicatest.Row(1))
	read := func() error {
		snap, err := d.Snapshot()
		if err != nil {
			return err
		}
		defer snap.Close()
		want := rowcodec.AppendRow(nil, a, replicatest.Row(1, value.Integer(int64(snap.Version()))))
		for _, table := range snap.Catalog().Tables {
			got, version, _, err := snap.GetRow(table, key)
			if err != nil {
				return err
			}
			if version != snap.Version() || string(got) != string(want) {
				return fmt.Errorf("table %s at %d: row of %d", table.Name, snap.Version(), version)
			}
		}
		return nil
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := read(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 1500 {
		if i%100 == 50 {
			apply(t, s, shop, p.Commit(replicatest.Schema(a, b), replicatest.Put(a, replicatest.Row(1, value.Integer(int64(p.Version()+1)))),
				replicatest.Put(b, replicatest.Row(1, value.Integer(int64(p.Version()+1))))))
			continue
		}
		apply(t, s, shop, put(), put())
	}
	close(stop)
	readers.Wait()
	verify(t, s, shop, p, a, b)
}

func TestIterators(t *testing.T) {
	u := users()
	s, p := openMem(t, Options{}), replicatest.NewPrimary()
	var rows []rowcodec.Row
	for i := range int64(10) {
		rows = append(rows, user(i, fmt.Sprint("u", i), i/2))
	}
	apply(t, s, shop, p.Commit(replicatest.Schema(u), replicatest.Put(u, rows...)))
	snap := snapshot(t, s, shop)
	defer snap.Close()
	key := func(id int64) []byte {
		if id < 0 {
			return nil
		}
		return rowcodec.AppendRowKey(nil, u, user(id, "", 0))
	}
	it, err := snap.NewRowIter(u, nil, key(0), false)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for _, test := range []struct {
		lower, upper int64
		reverse      bool
		want         []int64
	}{
		{-1, -1, false, []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{-1, -1, true, []int64{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}},
		{3, 6, false, []int64{3, 4, 5}},
		{3, 6, true, []int64{5, 4, 3}},
		{8, -1, false, []int64{8, 9}},
		{-1, 2, true, []int64{1, 0}},
		{5, 5, false, nil},
	} {
		it.Reset(key(test.lower), key(test.upper), test.reverse)
		var got []int64
		for it.Next() {
			id, err := rowcodec.RowidFromKey(u, it.Key())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, id)
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("[%d, %d) reverse %v (-want +got):\n%s", test.lower, test.upper, test.reverse, diff)
		}
	}
	age := func(n int64) []byte {
		prefix, err := rowcodec.AppendIndexPrefix(nil, u, &u.Indexes[1], []value.Value{value.Integer(n)})
		if err != nil {
			t.Fatal(err)
		}
		return prefix
	}
	byAge, err := snap.NewIndexIter(u, &u.Indexes[1], age(1), age(3), true)
	if err != nil {
		t.Fatal(err)
	}
	defer byAge.Close()
	var got []int64
	for byAge.Next() {
		rowKey, err := byAge.RowKey()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := rowcodec.RowidFromKey(u, rowKey)
		got = append(got, id)
	}
	if diff := cmp.Diff([]int64{5, 4, 3, 2}, got); diff != "" {
		t.Errorf("by age (-want +got):\n%s", diff)
	}
}

func TestDrop(t *testing.T) {
	u := users()
	s, p, q := openMem(t, Options{}), replicatest.NewPrimary(), replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1))))
	apply(t, s, shop+1, q.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1))))
	d := database(t, s, shop)
	if err := s.Drop(shop); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(12345); err != nil {
		t.Errorf("drop of what is not there: %v", err)
	}
	if _, err := d.Snapshot(); !errors.Is(err, ErrDropped) {
		t.Errorf("snapshot through an old handle: %v", err)
	}
	if err := d.WaitFor(t.Context(), 1, 5); !errors.Is(err, ErrDropped) {
		t.Errorf("WaitFor through an old handle: %v", err)
	}
	if _, ok := s.Database(shop); ok || len(s.Databases()) != 1 {
		t.Errorf("the dropped database is still listed")
	}
	if n := dataKeys(t, s, shop); n != 0 {
		t.Errorf("%d keys left", n)
	}
	verify(t, s, shop+1, q, u)
	fresh := replicatest.NewPrimary()
	apply(t, s, shop, fresh.Commit(replicatest.Schema(u)))
	verify(t, s, shop, fresh, u)
}

func TestIdentity(t *testing.T) {
	fs := vfs.NewMem()
	s := openOn(t, fs, Options{})
	if _, ok := s.Identity(); ok {
		t.Error("a new store has an identity")
	}
	ours := Identity{MeshID: [16]byte{1, 2}, BookmarkKey: []byte("key"), PrimaryRegion: "us-east-1"}
	if err := s.Adopt(ours); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openOn(t, fs, Options{})
	defer s.Close()
	if got, ok := s.Identity(); !ok || cmp.Diff(ours, got) != "" {
		t.Errorf("after reopening: %v, %v", got, ok)
	}
	if err := s.Adopt(Identity{MeshID: [16]byte{9}, BookmarkKey: []byte("key")}); !errors.Is(err, ErrWrongMesh) {
		t.Errorf("another mesh: %v", err)
	}
	moved := ours
	moved.PrimaryRegion, moved.BookmarkKey = "eu-west-1", []byte("rotated")
	if err := s.Adopt(moved); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Identity(); cmp.Diff(moved, got) != "" {
		t.Errorf("after a takeover: %v", got)
	}
}

func TestProblemsStayOverRestarts(t *testing.T) {
	u := users()
	for _, p := range []problem{problemSyncing, problemFork, problemAhead, problemDiverged} {
		fs, primary := vfs.NewMem(), replicatest.NewPrimary()
		s := openOn(t, fs, Options{})
		apply(t, s, shop, primary.Commit(replicatest.Schema(u)))
		if err := database(t, s, shop).setProblem(p); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openOn(t, fs, Options{})
		if err := database(t, s, shop).Problem(); !errors.Is(err, p.err()) {
			t.Errorf("got %v, want %v", err, p.err())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCloseWaitsForSnapshots(t *testing.T) {
	u := users()
	s, p := openOn(t, vfs.NewMem(), Options{}), replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(u)))
	d := database(t, s, shop)
	snap := snapshot(t, s, shop)
	closed, waited := make(chan error), make(chan error)
	go func() { waited <- d.WaitFor(t.Context(), 1, 99) }()
	go func() { closed <- s.Close() }()
	for {
		// Once Close has begun, new snapshots are refused; the old one still reads.
		other, err := d.Snapshot()
		if err != nil {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("snapshot while closing: %v", err)
			}
			break
		}
		other.Close()
	}
	if _, err := snap.RowCount(u); err != nil {
		t.Error(err)
	}
	if err := <-waited; !errors.Is(err, ErrClosed) {
		t.Errorf("WaitFor: %v", err)
	}
	snap.Close()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := s.ApplyRecords(shop, [][]byte{p.Commit()}); !errors.Is(err, ErrClosed) {
		t.Errorf("apply after close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// TestCorruptBlock flips a bit in a block of each table file, near the beginning, where the rows are: reading it must fail
// and stop the store.
func TestCorruptBlock(t *testing.T) {
	u := users()
	fs, p := vfs.NewMem(), replicatest.NewPrimary()
	s := openOn(t, fs, Options{})
	var rows []rowcodec.Row
	for i := range int64(2000) {
		rows = append(rows, user(i, fmt.Sprint("somebody", i, "@example.org"), i))
	}
	apply(t, s, shop, p.Commit(replicatest.Schema(u), replicatest.Put(u, rows...)))
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := fs.List("replica")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			data, err := fs.UnsafeGetFileDataBuffer("replica/" + name)
			if err != nil {
				t.Fatal(err)
			}
			data[4000] ^= 0x40
		}
	}
	s = openOn(t, fs, Options{Logger: slog.New(slog.DiscardHandler)})
	snap := snapshot(t, s, shop)
	it, err := snap.NewRowIter(u, nil, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for it.Next() {
		n++
	}
	err = it.Close()
	snap.Close()
	closeErr := s.Close()
	if n == len(rows) || !errors.Is(err, ErrStoreFailed) || !errors.Is(err, ErrCorrupt) || !errors.Is(closeErr, ErrStoreFailed) {
		t.Errorf("%d of %d rows, then %v; close: %v", n, len(rows), err, closeErr)
	}
}

func TestReadPlan(t *testing.T) {
	s, mesh := openMem(t, Options{}), replicatest.NewPrimary()
	if _, ok, err := s.readPlan("eu", [2]tableSum{}); ok || err != nil {
		t.Fatalf("without _mesh: %v, %v", ok, err)
	}
	apply(t, s, meshdb.DatabaseID, mesh.Commit())
	if _, ok, err := s.readPlan("eu", [2]tableSum{}); ok || err != nil {
		t.Fatalf("with an empty _mesh: %v, %v", ok, err)
	}
	regions := replicatest.Table(3, meshdb.TableRegions, "id", "url")
	changed := s.MeshChanged()
	apply(t, s, meshdb.DatabaseID, mesh.Commit(
		replicatest.Schema(replicatest.MeshDatabases, replicatest.MeshPlacements, regions),
		replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(100, "everywhere"), replicatest.MeshDatabase(101, "here"), replicatest.MeshDatabase(102, "there"),
			replicatest.MeshDatabase(103, "both")),
		replicatest.Put(replicatest.MeshPlacements, replicatest.MeshPlacement(101, "eu"), replicatest.MeshPlacement(102, "us"), replicatest.MeshPlacement(103, "us"), replicatest.MeshPlacement(103, "eu")),
	))
	<-changed
	plan, ok, err := s.readPlan("eu", [2]tableSum{})
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	want := map[uint32]string{100: "everywhere", 101: "here", 103: "both"}
	if diff := cmp.Diff(want, plan.names); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	apply(t, s, meshdb.DatabaseID, mesh.Commit(replicatest.Put(regions, replicatest.Row(1, value.Text("http://eu")))))
	if again, ok, err := s.readPlan("eu", plan.stamp); again != nil || !ok || err != nil {
		t.Errorf("after a change of another table: %v, %v, %v", again, ok, err)
	}
	if err := database(t, s, meshdb.DatabaseID).setProblem(problemSyncing); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.readPlan("eu", [2]tableSum{}); ok || err != nil {
		t.Errorf("while _mesh is being copied: %v, %v", ok, err)
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	s, p := openMem(t, Options{Registerer: registry}), replicatest.NewPrimary()
	u := users()
	apply(t, s, shop, p.Commit(replicatest.Schema(u)), p.Commit(replicatest.Put(u, user(1, "a", 1))))
	for i := range uint32(150) {
		other := replicatest.NewPrimary()
		apply(t, s, 1000+i, other.Commit())
		name := fmt.Sprint("db", i)
		database(t, s, 1000+i).name.Store(&name)
	}
	name := "shop"
	database(t, s, shop).name.Store(&name)
	database(t, s, shop).heard(1, 5)
	got := gather(t, registry)
	for key, want := range map[string]float64{
		"nearside_replica_applied_version shop":   2,
		"nearside_replica_lag_versions shop":      3,
		"nearside_replica_max_lag_versions":       3,
		"nearside_replica_records_total":          152,
		"nearside_replica_databases true":         151,
		"nearside_replica_apply_batch_seconds":    151,
		"nearside_replica_applied_version series": maxNamedDatabases,
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
}

func gather(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
		got[f.GetName()+" series"] = float64(len(f.GetMetric()))
	}
	return got
}

func TestStateRoundTrip(t *testing.T) {
	a := newApplied(7, problemFork)
	a.epoch, a.version, a.catalogVersion, a.tailFirst, a.tailBytes = 3, 1<<40, 12, 99, 12345
	a.checksum = [16]byte{1, 2, 3}
	a.epochs = []epochStart{{1, 0}, {2, 50}, {3, 1 << 39}}
	b := a.encode()
	got, err := decodeApplied(b)
	if err != nil {
		t.Fatal(err)
	}
	a.catalog, got.catalog = nil, nil
	if diff := cmp.Diff(a, got, cmp.AllowUnexported(applied{}, epochStart{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for n := range b {
		if _, err := decodeApplied(b[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
	if _, err := decodeApplied(binary.AppendUvarint(b, 1)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("with more behind: %v", err)
	}
}
