package replica

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// damaged is a copy with two tables, of which the first has something wrong.
type damaged struct {
	t        *testing.T
	s        *Store
	d        *Database
	p        *replicatest.Primary
	u, other *catalog.Table
	registry *prometheus.Registry
}

func newDamaged(t *testing.T) *damaged {
	t.Helper()
	h := &damaged{t: t, p: replicatest.NewPrimary(), u: users(), other: replicatest.Table(11, "other", "id"), registry: prometheus.NewRegistry()}
	h.s = openMem(t, Options{Registerer: h.registry})
	h.s.repairs.Store(true)
	apply(t, h.s, shop, h.p.Commit(replicatest.Schema(h.u, h.other),
		replicatest.Put(h.u, user(1, "a", 1), user(2, "b", 2), user(3, "c", 3)), replicatest.Put(h.other, replicatest.Row(1))))
	h.d = database(t, h.s, shop)
	return h
}

// entry is the stored key of a row's entry in the first index.
func (h *damaged) entry(row rowcodec.Row) []byte {
	ix := &h.u.Indexes[0]
	key := appendDataPrefix(nil, shop, h.d.state.Load().generationOf(h.u.ID), h.u.ID, ix.ID)
	return rowcodec.AppendIndexKey(key, h.u, ix, row, rowcodec.AppendRowKey(nil, h.u, row))
}

// flip changes a bit of a stored key.
func (h *damaged) flip(key []byte, at int) {
	h.t.Helper()
	other := bytes.Clone(key)
	other[at] ^= 1
	if err := errors.Join(h.s.db.Delete(key, pebble.NoSync), h.s.db.Set(other, nil, pebble.NoSync)); err != nil {
		h.t.Fatal(err)
	}
}

// found checks that the first table alone was found to differ, once, and that a copy of it mends that.
func (h *damaged) found() {
	h.t.Helper()
	if got := h.d.DivergedTables(); !slices.Equal(got, []uint32{h.u.ID}) || h.d.Problem() != nil {
		h.t.Fatalf("tables %v differ, problem %v", got, h.d.Problem())
	}
	if n := gather(h.t, h.registry)["nearside_replica_divergences_total"]; n != 1 {
		h.t.Errorf("%v divergences are counted", n)
	}
	snap := snapshot(h.t, h.s, shop)
	if err := snap.TableProblem(h.u); !errors.Is(err, ErrDiverged) {
		h.t.Errorf("the table can be read: %v", err)
	}
	if err := errors.Join(snap.TableProblem(h.other), snap.Close()); err != nil {
		h.t.Error(err)
	}
	h.repair(h.u, h.other)
	verify(h.t, h.s, shop, h.p, h.u, h.other)
}

func (h *damaged) repair(tables ...*catalog.Table) {
	h.t.Helper()
	messages := parts(h.p, tables...)
	messages = append(messages[:2:2], messages[len(messages)-1]) // the first table's alone
	if done, err := takeAll(h.t, h.s, []uint32{h.u.ID}, messages...); !done || err != nil {
		h.t.Fatal(done, err)
	}
}

func TestMissingEntryIsFoundByTheNextChange(t *testing.T) {
	for name, change := range map[string]func(*catalog.Table) replicatest.Change{
		"update": func(u *catalog.Table) replicatest.Change { return replicatest.Put(u, user(2, "new", 2)) },
		"delete": func(u *catalog.Table) replicatest.Change { return replicatest.Delete(u, user(2, "", 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newDamaged(t)
			key := h.entry(user(2, "b", 2))
			h.flip(key, len(key)-1)
			apply(t, h.s, shop, h.p.Commit(replicatest.Put(h.u, user(1, "x", 9))), h.p.Commit(replicatest.Put(h.other, replicatest.Row(2))))
			if got := h.d.DivergedTables(); len(got) != 0 {
				t.Fatalf("found too early: %v", got)
			}
			apply(t, h.s, shop, h.p.Commit(change(h.u)), h.p.Commit(replicatest.Put(h.other, replicatest.Row(3))))
			h.found()
		})
	}
}

// TestMissingEntryWithoutRepair has a primary that sends no single tables: then the whole copy is not served.
func TestMissingEntryWithoutRepair(t *testing.T) {
	h := newDamaged(t)
	h.s.repairs.Store(false)
	key := h.entry(user(2, "b", 2))
	h.flip(key, len(key)-1)
	err := h.s.ApplyRecords(shop, [][]byte{h.p.Commit(replicatest.Delete(h.u, user(2, "", 0)))})
	if !errors.Is(err, ErrDiverged) || !errors.Is(h.d.Problem(), ErrDiverged) {
		t.Errorf("apply: %v; problem: %v", err, h.d.Problem())
	}
}

func TestReaderMarksATable(t *testing.T) {
	h := newDamaged(t)
	snap := snapshot(t, h.s, shop)
	defer snap.Close()
	why := errors.New("an entry without a row")
	for range 2 { // the second is no news
		if err := snap.Diverged(h.u, why); !errors.Is(err, ErrDiverged) || !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
	}
	h.found()
	if err := snap.Diverged(h.u, why); !errors.Is(err, ErrDiverged) {
		t.Errorf("got %v", err)
	}
	if got := h.d.DivergedTables(); len(got) != 0 {
		t.Errorf("an old snapshot marks the new copy of tables %v", got)
	}
}

// TestDamagedLogIsCut flips a bit in a record of the tail. What was applied is right; the tail begins anew.
func TestDamagedLogIsCut(t *testing.T) {
	h := newDamaged(t)
	apply(t, h.s, shop, h.p.Commit(replicatest.Put(h.u, user(4, "d", 4))), h.p.Commit(replicatest.Put(h.u, user(5, "e", 5))))
	flipValue(t, h.s, tailKey(shop, 2))
	snap := snapshot(t, h.s, shop)
	defer snap.Close()
	if err := snap.CheckTail(t.Context()); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("the flipped bit is not found: %v", err)
	}
	for _, want := range []bool{true, false} {
		if marked, err := h.d.MarkDiverged(snap, Damage{Log: true}); marked != want || err != nil {
			t.Fatal(marked, err)
		}
	}
	none := func(*replicationv1.CommitRecord) error { return nil }
	now := snapshot(t, h.s, shop)
	defer now.Close()
	if err := now.RecordsAfter(1, [checksumSize]byte{}, 1<<20, none); !errors.Is(err, ErrTail) {
		t.Errorf("records before the cut: %v", err)
	}
	checksum := h.p.Checksum()
	apply(t, h.s, shop, h.p.Commit(replicatest.Put(h.u, user(6, "f", 6))))
	later := snapshot(t, h.s, shop)
	defer later.Close()
	if err := errors.Join(later.CheckTail(t.Context()), later.RecordsAfter(3, checksum, 1<<20, none)); err != nil {
		t.Error(err)
	}
	verify(t, h.s, shop, h.p, h.u, h.other)
}

// TestRepairDoesNotTrustTheLog copies a table that a damaged record of the tail would have to bring up to date: the copy is
// begun anew, of a later version.
func TestRepairDoesNotTrustTheLog(t *testing.T) {
	for name, version := range map[string]uint64{"first record": 2, "last record": 3} {
		t.Run(name, func(t *testing.T) {
			h := newDamaged(t)
			messages := parts(h.p, h.u)
			apply(t, h.s, shop, h.p.Commit(replicatest.Put(h.other, replicatest.Row(4))), h.p.Commit(replicatest.Put(h.u, user(5, "e", 5))))
			flipValue(t, h.s, tailKey(shop, version))
			if _, err := takeAll(t, h.s, []uint32{h.u.ID}, messages...); !errors.Is(err, errBuildStale) && !errors.Is(err, ErrDiverged) {
				t.Fatalf("got %v", err)
			}
			if err := h.d.discardBuild(); err != nil {
				t.Fatal(err)
			}
			h.repair(h.u, h.other)
			verify(t, h.s, shop, h.p, h.u, h.other)
		})
	}
}

// TestEntriesOfChangedSchemasAreThere makes sure that the looks for entries do not blame a copy that is right, whatever becomes of
// its indexes.
func TestEntriesOfChangedSchemasAreThere(t *testing.T) {
	h := newDamaged(t)
	note := replicatest.WithColumn(h.u, "note", value.Text("none"))
	wide := replicatest.WithIndex(note, 40, "by_note", false, "note", "age")
	row := func(id int64, note string) rowcodec.Row {
		return replicatest.Row(id, value.Text("mail"), value.Integer(id), value.Text(note))
	}
	apply(t, h.s, shop, h.p.Commit(replicatest.Schema(note, h.other)), h.p.Commit(replicatest.Schema(wide, h.other), replicatest.Put(wide, row(2, "x"))))
	apply(t, h.s, shop, h.p.Commit(replicatest.Put(wide, row(1, "y"), row(2, "z")), replicatest.Delete(wide, row(3, ""))))
	if got := h.d.DivergedTables(); len(got) != 0 {
		t.Errorf("tables %v are taken to differ", got)
	}
	verify(t, h.s, shop, h.p, wide, h.other)
}

// flipValue changes a bit in the middle of a stored value.
func flipValue(t *testing.T, s *Store, key []byte) {
	t.Helper()
	stored, err := get(s.db, key)
	if err != nil || stored == nil {
		t.Fatal(err)
	}
	stored[len(stored)/2] ^= 1
	if err := s.db.Set(key, stored, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
}
