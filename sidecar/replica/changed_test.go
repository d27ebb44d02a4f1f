package replica

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// lastHistory is a random history of two tables with all that can happen to a copy.
type lastHistory struct {
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

func (h *lastHistory) open() {
	h.s = openOn(h.t, h.fs, Options{MemTableBytes: 64 << 10, TailRecords: 16})
}

func (h *lastHistory) commit(changes ...replicatest.Change) []byte {
	record := h.p.Commit(changes...)
	h.records = append(h.records, record)
	return record
}

// row is mostly a new one behind all others.
func (h *lastHistory) row() rowcodec.Row {
	id := h.newest
	if h.rnd.IntN(3) == 0 {
		id = h.rnd.Int64N(h.newest + 4)
	} else {
		h.newest++
	}
	return replicatest.Row(id, value.Text(fmt.Sprint(h.rnd.IntN(1000))), value.Integer(h.rnd.Int64N(3)))
}

func (h *lastHistory) newTable() *catalog.Table {
	h.nextID++
	t := replicatest.Table(h.nextID, fmt.Sprint("t", h.nextID), "id", "email", "age")
	return replicatest.WithIndex(t, h.nextID+1000, fmt.Sprint("i", h.nextID), false, "age", "email")
}

func (h *lastHistory) group() {
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

func (h *lastHistory) step() {
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
		if err := h.s.Close(); err != nil {
			h.t.Fatal(err)
		}
		h.open()
	case 5: // dropped, and there again
		if err := h.s.Drop(shop); err != nil {
			h.t.Fatal(err)
		}
		apply(h.t, h.s, shop, h.records...)
	default:
		h.group()
	}
}

func (h *lastHistory) take(ids []uint32, tables ...*catalog.Table) {
	tables = slices.SortedFunc(slices.Values(tables), func(a, b *catalog.Table) int { return int(a.ID) - int(b.ID) })
	messages := parts(h.p, tables...)
	messages[0].GetBegin().Catalog = (&catalog.Catalog{
		Version: database(h.t, h.s, shop).state.Load().catalogVersion, NextID: 1 << 20, Tables: h.tables,
	}).ToProto()
	if done, err := takeAll(h.t, h.s, ids, messages...); !done || err != nil {
		h.t.Fatal(done, err)
	}
}

// check compares what the copy says of the stored rows with a look at each, and returns how many looks were saved.
func (h *lastHistory) check() (saved int) {
	d := database(h.t, h.s, shop)
	g := d.newGroup(nil)
	defer g.end()
	for _, t := range h.tables {
		changed := g.table(t)
		for id := range h.newest + 4 {
			key := rowcodec.AppendRowKey(nil, t, replicatest.Row(id))
			got, err := g.stored(changed, key)
			if err != nil {
				h.t.Fatal(err)
			}
			var want []byte
			stored, closer, err := h.s.db.Get(append(slices.Clone(changed.prefix), key...))
			if err == nil {
				want, _, err = splitRow(bytes.Clone(stored))
				err = errors.Join(err, closer.Close())
			}
			if err != nil && !errors.Is(err, pebble.ErrNotFound) {
				h.t.Fatal(err)
			}
			if !bytes.Equal(got, want) || (got == nil) != (want == nil) {
				h.t.Fatalf("row %d of %s is taken to be %x, it is %x", id, t.Name, got, want)
			}
			if d.last[t.ID] != nil && bytes.Compare(key, changed.last) > 0 {
				saved++
			}
		}
	}
	return saved
}

// TestLastRowIsExact holds what a copy remembers of its tables' last rows against the rows, after each of many random steps.
func TestLastRowIsExact(t *testing.T) {
	saved := 0
	for seed := range uint64(3) {
		h := &lastHistory{t: t, rnd: rand.New(rand.NewPCG(seed, 3)), fs: vfs.NewMem(), p: replicatest.NewPrimary()}
		h.open()
		h.tables = []*catalog.Table{h.newTable(), h.newTable()}
		apply(t, h.s, shop, h.commit(replicatest.Schema(h.tables...)))
		for range 40 {
			h.step()
			saved += h.check()
			verify(t, h.s, shop, h.p, h.tables...)
		}
		if err := h.s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if saved == 0 {
		t.Error("no look was saved: this test tests nothing")
	}
}

// TestLastRowOfAnOrderedGroup has groups whose last row is a deleted one, or one whose key is too long to be remembered.
func TestLastRowOfAnOrderedGroup(t *testing.T) {
	u := replicatest.Table(10, "users", "id", "email")
	s, p := openMem(t, Options{}), replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(u)))
	put := func(id int64) replicatest.Change { return replicatest.Put(u, replicatest.Row(id, value.Integer(id))) }
	apply(t, s, shop, p.Commit(put(1), put(5), replicatest.Delete(u, replicatest.Row(6))))
	apply(t, s, shop, p.Commit(put(5), put(4)), p.Commit(replicatest.Delete(u, replicatest.Row(5))))
	apply(t, s, shop, p.Commit(put(5)), p.Commit(put(5)))
	verify(t, s, shop, p, u)
	if len(maps.Collect(maps.All(database(t, s, shop).last))) != 1 {
		t.Error("no last row is remembered")
	}
	long := &catalog.Table{ID: 11, Name: "long", WithoutRowid: true, Identity: catalog.IdentityDeclared, IntegerKey: -1,
		Key: []catalog.KeyPart{{Column: 0}}, Columns: []catalog.Column{{ID: 1, Name: "k", NotNull: true}}}
	name := func(n int) replicatest.Change {
		return replicatest.Put(long, rowcodec.Row{Values: []value.Value{value.Text("x" + string(bytes.Repeat([]byte{'y'}, n)))}})
	}
	apply(t, s, shop, p.Commit(replicatest.Schema(u, long), name(1)), p.Commit(name(2*maxLast)))
	apply(t, s, shop, p.Commit(name(3)), p.Commit(name(2*maxLast)))
	verify(t, s, shop, p, u, long)
	if last := database(t, s, shop).last[long.ID]; last != nil {
		t.Errorf("a key of %d bytes is remembered", len(last))
	}
}
