package replica

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// FuzzApplyRecords applies arbitrary bytes behind a good record. They may be refused, but must not panic, nor leave a copy
// that cannot be read.
func FuzzApplyRecords(f *testing.F) {
	u := users()
	p := replicatest.NewPrimary()
	first := p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1), user(2, "b", 2)))
	start := *p
	seed := func(changes ...replicatest.Change) {
		q := start
		f.Add(q.Commit(changes...))
	}
	f.Add([]byte{})
	f.Add([]byte("not a record"))
	seed()
	f.Add(p.Commit(replicatest.Put(u, user(3, "c", 3)), replicatest.Delete(u, user(1, "", 0))))
	seed(replicatest.Schema(replicatest.WithIndex(replicatest.WithColumn(u, "note", value.Text("x")), 30, "by_note", true, "note", "age")))
	seed(replicatest.Schema(replicatest.MeshDatabases, replicatest.MeshPlacements), replicatest.Put(replicatest.MeshPlacements, replicatest.MeshPlacement(1, "eu")))
	seed(replicatest.Schema())

	f.Fuzz(func(t *testing.T, record []byte) {
		s := openMem(t, Options{})
		apply(t, s, shop, first)
		tryRecord(t, s, record, 2)
		// Few arbitrary records get past the checks of their place in the log, so those are met.
		var r replicationv1.CommitRecord
		if proto.Unmarshal(record, &r) != nil {
			return
		}
		d := database(t, s, shop)
		a := d.state.Load()
		r.Version, r.Epoch, r.PreviousChecksum, r.MeshVersion = a.version+1, a.epoch, a.checksum[:], 0
		placed, err := proto.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		if d.Problem() == nil {
			tryRecord(t, s, placed, a.version+1)
		}
	})
}

// tryRecord applies a record and checks that the copy has that version or is as before, and can be read or says why not.
func tryRecord(t *testing.T, s *Store, record []byte, version uint64) {
	t.Helper()
	err := s.ApplyRecords(shop, [][]byte{record})
	d := database(t, s, shop)
	if errors.Is(err, ErrDiverged) {
		if d.Problem() == nil {
			t.Fatal("a copy that diverged is served")
		}
		return
	}
	snap := snapshot(t, s, shop)
	defer snap.Close()
	if snap.Version() != version && snap.Version() != version-1 || (err == nil) != (snap.Version() == version) {
		t.Fatalf("version %d after record %d: %v", snap.Version(), version, err)
	}
	for _, table := range snap.Catalog().Tables {
		rows, err := snap.NewRowIter(table, nil, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		n := uint64(0)
		for rows.Next() {
			n++
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
		if want, err := snap.RowCount(table); err != nil || want != n {
			t.Fatalf("%d rows counted as %d, %v", n, want, err)
		}
		for i := range table.Indexes {
			entries, err := snap.NewIndexIter(table, &table.Indexes[i], nil, nil, false)
			if err != nil {
				t.Fatal(err)
			}
			for entries.Next() {
				if _, err := entries.RowKey(); err != nil {
					t.Fatal(err)
				}
				n--
			}
			if err := entries.Close(); err != nil {
				t.Fatal(err)
			}
			if n != 0 {
				t.Fatalf("index %s has %d entries too few", table.Indexes[i].Name, n)
			}
			n, _ = snap.RowCount(table)
		}
	}
}

func FuzzDecodeApplied(f *testing.F) {
	a := newApplied(7, problemFork)
	a.epoch, a.version, a.epochs = 3, 1<<40, []epochStart{{1, 0}, {3, 1 << 39}}
	f.Add(a.encode())
	f.Add(newApplied(0, problemNone).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeApplied(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := decodeApplied(a.encode())
		if err != nil || !bytes.Equal(again.encode(), a.encode()) {
			t.Fatalf("%+v becomes %+v, %v", a, again, err)
		}
	})
}
