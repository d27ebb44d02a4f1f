package replica

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// freshHistory is a random history of two tables with all that can happen to a copy.
type freshHistory struct {
	t       *testing.T
	rnd     *rand.Rand
	fs      vfs.FS
	s       *Store
	p       *replicatest.Primary
	tables  []*catalog.Table
	records [][]byte
	nextID  uint32
	newest  int64
}

func (h *freshHistory) open() {
	h.s = openOn(h.t, h.fs, Options{MemTableBytes: 64 << 10, TailRecords: 16})
}

func (h *freshHistory) commit(changes ...replicatest.Change) []byte {
	h.p.Silent = h.rnd.IntN(2) == 0
	record := h.p.Commit(changes...)
	h.records = append(h.records, record)
	return record
}

// row is mostly a new one behind all others.
func (h *freshHistory) row() rowcodec.Row {
	id := h.newest
	if h.rnd.IntN(3) == 0 {
		id = h.rnd.Int64N(h.newest + 4)
	} else {
		h.newest++
	}
	return replicatest.Row(id, value.Text(fmt.Sprint(h.rnd.IntN(1000))), value.Integer(h.rnd.Int64N(3)))
}

func (h *freshHistory) newTable() *catalog.Table {
	h.nextID++
	t := replicatest.Table(h.nextID, fmt.Sprint("t", h.nextID), "id", "email", "age")
	return replicatest.WithIndex(t, h.nextID+1000, fmt.Sprint("i", h.nextID), false, "age", "email")
}

func (h *freshHistory) group() {
	var group [][]byte
	for range 1 + h.rnd.IntN(5) {
		var changes []replicatest.Change
		for range h.rnd.IntN(6) {
			t := h.tables[h.rnd.IntN(len(h.tables))]
			switch h.rnd.IntN(4) {
			case 0:
				changes = append(changes, replicatest.Delete(t, h.row()))
			case 1: // the last ones
				changes = append(changes, replicatest.Delete(t, replicatest.Row(h.newest-1), replicatest.Row(h.newest)))
			default:
				changes = append(changes, replicatest.Put(t, h.row()))
			}
		}
		group = append(group, h.commit(changes...))
	}
	apply(h.t, h.s, shop, group...)
}

func (h *freshHistory) step() {
	d := h.s.ensure(shop)
	switch h.rnd.IntN(16) {
	case 0: // a table is replaced, in the middle of a group
		before := h.commit(replicatest.Put(h.tables[0], h.row()))
		h.tables[0] = h.newTable()
		change := h.commit(replicatest.Schema(h.tables...), replicatest.Put(h.tables[0], h.row()))
		apply(h.t, h.s, shop, before, change, h.commit(replicatest.Put(h.tables[0], h.row())))
	case 1: // a snapshot, of a later version
		h.commit(replicatest.Put(h.tables[1], h.row()), replicatest.Delete(h.tables[0], h.row()))
		h.take(nil, h.tables...)
	case 2: // a copy of one table
		h.take([]uint32{h.tables[1].ID}, h.tables[1])
	case 3:
		if err := d.wipe(); err != nil {
			h.t.Fatal(err)
		}
		apply(h.t, h.s, shop, h.records...)
		if err := d.setProblem(problemNone); err != nil {
			h.t.Fatal(err)
		}
	case 4:
		apply(h.t, h.s, shop, h.commit(replicatest.Delete(h.tables[0], replicatest.Row(0))))
		if err := h.s.Close(); err != nil {
			h.t.Fatal(err)
		}
		h.open()
		apply(h.t, h.s, shop, h.commit(replicatest.Put(h.tables[0], replicatest.Row(0, value.Text("a"), value.Integer(1)))))
	case 5: // dropped, and there again
		if err := h.s.Drop(shop); err != nil {
			h.t.Fatal(err)
		}
		apply(h.t, h.s, shop, h.records...)
	default:
		h.group()
	}
}

func (h *freshHistory) take(ids []uint32, tables ...*catalog.Table) {
	tables = slices.SortedFunc(slices.Values(tables), func(a, b *catalog.Table) int { return int(a.ID) - int(b.ID) })
	messages := parts(h.p, tables...)
	messages[0].GetBegin().Catalog = (&catalog.Catalog{
		Version: database(h.t, h.s, shop).state.Load().catalogVersion, NextID: 1 << 20, Tables: h.tables,
	}).ToProto()
	if done, err := takeAll(h.t, h.s, ids, messages...); !done || err != nil {
		h.t.Fatal(done, err)
	}
}

// TestFreshRows brings a copy through many random steps with records that say which of their rows are fresh, and with records that do
// not: after each the copy has the primary's rows, index entries and sums.
func TestFreshRows(t *testing.T) {
	for seed := range uint64(3) {
		h := &freshHistory{t: t, rnd: rand.New(rand.NewPCG(seed, 3)), fs: vfs.NewMem(), p: replicatest.NewPrimary()}
		h.open()
		h.tables = []*catalog.Table{h.newTable(), h.newTable()}
		apply(t, h.s, shop, h.commit(replicatest.Schema(h.tables...)))
		for range 40 {
			h.step()
			verify(t, h.s, shop, h.p, h.tables...)
		}
		if err := h.s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
