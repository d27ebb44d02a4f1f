package snapshot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nearside-dev/nearside/sidecar/replica"
)

// fill makes tables of every kind of identity with n rows each.
func (o *origin) fill(n int) {
	o.t.Helper()
	numbers := fmt.Sprintf("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d) ", n)
	o.exec(
		"CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL)",
		"CREATE INDEX item_name ON item (name)",
		"CREATE UNIQUE INDEX item_price ON item (price DESC, id)",
		"CREATE TABLE stock (place TEXT COLLATE NOCASE, item INTEGER, n, PRIMARY KEY (place DESC, item)) WITHOUT ROWID",
		"CREATE TABLE note (body TEXT)",
		numbers+"INSERT INTO item SELECT i, 'name ' || (i % 97), i / 3.0 FROM n",
		numbers+"INSERT INTO stock SELECT 'Place ' || (i % 3), i, zeroblob(i % 50) FROM n",
		numbers+"INSERT INTO note SELECT 'note ' || (i % 10) FROM n",
	)
}

func TestJoinAfterTrim(t *testing.T) {
	o := startPrimary(t)
	o.fill(3500)
	o.trimmed()
	r := startRegion(t, o, o.addr, vfs.NewMem())
	r.same(r.caughtUp())
	if n := r.metric("nearside_replica_snapshots_total"); n < 1 {
		t.Errorf("%v snapshots", n)
	}
	o.exec("UPDATE item SET name = 'new' WHERE id < 10", "DELETE FROM note WHERE rowid < 5")
	r.same(r.caughtUp())
}

// TestJoinWhileWriting joins while 16 writers change rows and one the schema.
func TestJoinWhileWriting(t *testing.T) {
	o := startPrimary(t)
	o.fill(6000)
	o.trimmed()
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for !stop.Load() {
				id := rng.IntN(7000)
				sql := [...]string{
					"INSERT OR REPLACE INTO item (id, name) VALUES (%d, 'w')", "DELETE FROM item WHERE id = %d",
					"INSERT OR REPLACE INTO stock (place, item, n) VALUES ('place 1', %d, 'x')", "DELETE FROM stock WHERE item = %d",
					"INSERT INTO note VALUES ('by %d')", "DELETE FROM note WHERE rowid = %d",
				}[rng.IntN(6)]
				if err := o.try(fmt.Sprintf(sql, id)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			for _, sql := range []string{
				"CREATE TABLE made_%d AS SELECT * FROM item LIMIT 20", "ALTER TABLE item ADD COLUMN c%d DEFAULT 'd'",
				"CREATE INDEX made_%[1]d_i ON note (body, rowid)", "DROP INDEX made_%d_i", "ALTER TABLE made_%[1]d RENAME TO kept_%[1]d",
				"ALTER TABLE item DROP COLUMN c%d", "DROP TABLE kept_%d",
			} {
				if sql == "CREATE INDEX made_%[1]d_i ON note (body, rowid)" {
					sql = "CREATE INDEX made_%d_i ON note (body)"
				}
				if err := o.try(fmt.Sprintf(sql, i)); err != nil {
					t.Errorf("%s: %v", sql, err)
					return
				}
			}
		}
	})
	disk := vfs.NewMem()
	for range 3 {
		r := startRegion(t, o, o.addr, disk)
		r.eventually("snapshot taken", func() bool {
			d, ok := r.store.Database(o.id)
			return ok && d.Problem() == nil
		})
		r.stop()
		disk = vfs.NewMem()
	}
	r := startRegion(t, o, o.addr, disk)
	r.caughtUp()
	stop.Store(true)
	wg.Wait()
	r.same(r.caughtUp())
	if n := r.metric("nearside_replica_divergences_total"); n != 0 {
		t.Errorf("%v divergences", n)
	}
}

// TestCutInTheMiddle cuts the link again and again; each time the snapshot goes on where it was.
func TestCutInTheMiddle(t *testing.T) {
	o := startPrimary(t)
	o.fill(9000)
	o.trimmed()
	c := startCable(t, o.addr)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	c.cutAfter(40_000 + rng.Int64N(60_000))
	r := startRegion(t, o, c.addr, vfs.NewMem())
	before := uint64(0)
	for cuts := 0; cuts < 5; {
		r.eventually("cut", func() bool { return !c.pending() })
		if d, ok := r.store.Database(o.id); ok {
			if p, ok := d.SnapshotProgress(); ok {
				if p.Rows < before {
					t.Errorf("%d rows after a cut, %d before it", p.Rows, before)
				}
				before = p.Rows
			}
		}
		cuts++
		c.cutAfter(60_000 + rng.Int64N(120_000))
	}
	c.cutAfter(-1)
	r.same(r.caughtUp())
	if before == 0 {
		t.Error("no cut was in the middle of the rows")
	}
}

// TestCrashInTheMiddle loses power again and again while a snapshot is taken; the next process goes on with it.
func TestCrashInTheMiddle(t *testing.T) {
	o := startPrimary(t)
	o.fill(9000)
	o.trimmed()
	c := startCable(t, o.addr)
	disk := vfs.NewCrashableMem()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	resumed := uint64(0)
	for range 4 {
		c.cutAfter(40_000 + rng.Int64N(150_000))
		r := startRegion(t, o, c.addr, disk)
		if d, ok := r.store.Database(o.id); ok {
			if p, ok := d.SnapshotProgress(); ok {
				resumed = max(resumed, p.Rows)
			}
		}
		r.eventually("cut", func() bool { return !c.pending() })
		crashed := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 90, RNG: rng})
		r.stop()
		disk = crashed
	}
	r := startRegion(t, o, o.addr, disk)
	r.same(r.caughtUp())
	t.Logf("a process began with %d rows", resumed)
}

// TestRepair flips a bit of a stored row. The next commit that changes the row finds it, and that table alone is copied anew.
func TestRepair(t *testing.T) {
	o := startPrimary(t)
	o.fill(2500)
	disk := vfs.NewMem()
	r := startRegion(t, o, o.addr, disk)
	d := r.caughtUp()
	table := tableID(t, d, "item")
	r.stop()
	flip(t, disk, o.id, table)

	r = startRegion(t, o, o.addr, disk)
	d = r.caughtUp()
	if n := r.metric("nearside_replica_divergences_total"); n != 0 {
		t.Fatalf("%v divergences before a commit to the table", n)
	}
	var stop atomic.Bool
	var reader sync.WaitGroup
	reader.Go(func() {
		for !stop.Load() {
			readOther(t, d)
		}
	})
	o.exec("UPDATE item SET name = 'changed' WHERE id = 1")
	r.eventually("repaired", func() bool { return r.metric("nearside_replica_repairs_total") == 1 })
	stop.Store(true)
	reader.Wait()
	r.same(r.caughtUp())
	if n := r.metric("nearside_replica_divergences_total"); n != 1 {
		t.Errorf("%v divergences, want 1", n)
	}
	if n := r.metric("nearside_replica_snapshots_total"); n != 0 {
		t.Errorf("%v snapshots of whole databases", n)
	}
	o.exec("CREATE INDEX again ON item (price)", "UPDATE item SET price = price + 1", "DROP INDEX item_name")
	r.same(r.caughtUp())
	r.stop()
	r = startRegion(t, o, o.addr, disk)
	o.exec("DELETE FROM item WHERE id % 2")
	r.same(r.caughtUp())
}

// TestRepairWhileWriting repairs a table that changes all the time.
func TestRepairWhileWriting(t *testing.T) {
	o := startPrimary(t)
	o.fill(5000)
	disk := vfs.NewMem()
	r := startRegion(t, o, o.addr, disk)
	table := tableID(t, r.caughtUp(), "item")
	r.stop()
	flip(t, disk, o.id, table)
	var stop atomic.Bool
	var wg sync.WaitGroup
	r = startRegion(t, o, o.addr, disk)
	for w := range 8 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if err := o.try(fmt.Sprintf("UPDATE item SET name = 'n%d' WHERE id %% 100 = %d", i, w)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	r.eventually("repaired", func() bool { return r.metric("nearside_replica_repairs_total") == 1 })
	stop.Store(true)
	wg.Wait()
	r.same(r.caughtUp())
}

func tableID(t *testing.T, d *replica.Database, name string) uint32 {
	t.Helper()
	snap, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	return snap.Catalog().TableByName(name).ID
}

// readOther reads a table that nothing is wrong with.
func readOther(t *testing.T, d *replica.Database) {
	t.Helper()
	snap, err := d.Snapshot()
	if err != nil {
		t.Error(err)
		return
	}
	defer snap.Close()
	it, err := snap.NewRowIter(snap.Catalog().TableByName("note"), nil, nil, false)
	if err != nil {
		t.Error(err)
		return
	}
	rows := 0
	for it.Next() {
		rows++
	}
	if err := it.Close(); err != nil || rows != 2500 {
		t.Errorf("%d rows: %v", rows, err)
	}
}

// flip changes a bit of a stored row.
func flip(t *testing.T, disk vfs.FS, database, table uint32) {
	t.Helper()
	db, err := pebble.Open("replica", &pebble.Options{FS: disk, FormatMajorVersion: pebble.FormatNewest, Logger: noLogger{}})
	if err != nil {
		t.Fatal(err)
	}
	prefix := append(binary.BigEndian.AppendUint32(nil, database), 'g')
	iter, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: append(prefix[:4:4], 'g'+1)})
	if err != nil {
		t.Fatal(err)
	}
	done := false
	for ok := iter.First(); ok && !done; ok = iter.Next() {
		key := iter.Key()
		if binary.BigEndian.Uint32(key[9:]) != table || binary.BigEndian.Uint32(key[13:]) != 0 {
			continue
		}
		done = true
		v := bytes.Clone(iter.Value())
		v[len(v)-1] ^= 1
		err = db.Set(key, v, pebble.Sync)
	}
	if err := errors.Join(err, iter.Close(), db.Close()); err != nil || !done {
		t.Fatal(done, err)
	}
}

type noLogger struct{}

func (noLogger) Infof(string, ...any)  {}
func (noLogger) Errorf(string, ...any) {}
func (noLogger) Fatalf(string, ...any) {}
