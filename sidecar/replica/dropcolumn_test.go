package replica

import (
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// dropping is a table with a column before those that are indexed, and the same without it.
type dropping struct {
	t            *testing.T
	s            *Store
	p            *replicatest.Primary
	before, then *catalog.Table
}

func newDropping(t *testing.T, fs vfs.FS) *dropping {
	t.Helper()
	u := replicatest.Table(10, "users", "id", "note", "email", "age")
	h := &dropping{t: t, s: openOn(t, fs, Options{}), p: replicatest.NewPrimary()}
	h.before = replicatest.WithIndex(replicatest.WithIndex(u, 20, "by_email", true, "email"), 21, "by_age", false, "age", "email")
	h.then = replicatest.WithoutColumn(h.before, "note")
	h.s.repairs.Store(true)
	apply(t, h.s, shop, h.p.Commit(replicatest.Schema(h.before), replicatest.Put(h.before, h.old(1, "a"), h.old(2, "b"), h.old(3, "c"))))
	return h
}

func (h *dropping) old(id int64, email string) rowcodec.Row {
	return replicatest.Row(id, value.Text("note"), value.Text(email), value.Integer(id))
}

func (h *dropping) same(tables ...*catalog.Table) {
	h.t.Helper()
	if got := database(h.t, h.s, shop).DivergedTables(); len(got) > 0 {
		h.t.Fatalf("tables %v differ", got)
	}
	verify(h.t, h.s, shop, h.p, tables...)
}

// TestDropColumn has a column dropped, and the rows from before changed in all ways: alone, with rows of its own commit, in a
// group with commits before and after, and after the store was opened again.
func TestDropColumn(t *testing.T) {
	narrow := func(email string, id int64) rowcodec.Row { return user(id, email, id) }
	for name, steps := range map[string]func(h *dropping) [][]byte{
		"alone": func(h *dropping) [][]byte { return [][]byte{h.p.Commit(replicatest.Schema(h.then))} },
		"with rows": func(h *dropping) [][]byte {
			return [][]byte{h.p.Commit(replicatest.Schema(h.then), replicatest.Put(h.then, narrow("x", 2), narrow("new", 9)))}
		},
		"in a group": func(h *dropping) [][]byte {
			return [][]byte{
				h.p.Commit(replicatest.Put(h.before, h.old(3, "cc"), h.old(4, "d"))),
				h.p.Commit(replicatest.Schema(h.then)),
				h.p.Commit(replicatest.Put(h.then, narrow("e", 4))),
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			h := newDropping(t, fs)
			apply(t, h.s, shop, steps(h)...)
			h.same(h.then)
			if err := h.s.Close(); err != nil {
				t.Fatal(err)
			}
			h.s = openOn(t, fs, Options{})
			defer h.s.Close()
			h.same(h.then)
			apply(t, h.s, shop, h.p.Commit(replicatest.Put(h.then, narrow("aa", 1))), h.p.Commit(replicatest.Delete(h.then, narrow("", 3))))
			h.same(h.then)
			wider := replicatest.WithIndex(replicatest.WithColumn(h.then, "note", value.Text("fill")), 22, "by_note", false, "age")
			wider.Columns[len(wider.Columns)-1].ID = 77 // another column than the one of its name
			apply(t, h.s, shop, h.p.Commit(replicatest.Schema(wider)), h.p.Commit(replicatest.Delete(wider, narrow("", 2))))
			h.same(wider)
			last := replicatest.WithoutColumn(wider, "note")
			apply(t, h.s, shop, h.p.Commit(replicatest.Schema(last)))
			h.same(last)
		})
	}
}

// TestDropColumnTellsOldRows: those who read the tail get what rows were, without what is no longer there.
func TestDropColumnTellsOldRows(t *testing.T) {
	h := newDropping(t, vfs.NewMem())
	defer h.s.Close()
	apply(t, h.s, shop, h.p.Commit(replicatest.Schema(h.then)))
	snap := snapshot(t, h.s, shop)
	at := snap.TailPosition()
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	apply(t, h.s, shop, h.p.Commit(replicatest.Put(h.then, user(2, "x", 2))))
	records, _, err := database(t, h.s, shop).ReadTail(at, 10, 1<<20)
	if err != nil || len(records) != 1 || len(records[0].Tables) != 1 || len(records[0].Tables[0].Rows) != 1 {
		t.Fatalf("tail has %+v: %v", records, err)
	}
	want := rowcodec.AppendRow(nil, h.then, user(2, "b", 2))
	if row := records[0].Tables[0].Rows[0]; string(row.Old) != string(want) {
		t.Errorf("the row was %x, want %x", row.Old, want)
	}
}

// TestDropColumnFindsWhatDiffers: sums are made anew over the rows that are there, so a row that changed by itself is found
// then, and a sum that the primary has of other rows too.
func TestDropColumnFindsWhatDiffers(t *testing.T) {
	for name, damage := range map[string]func(h *dropping) []byte{
		"row": func(h *dropping) []byte {
			key := rowcodec.AppendRowKey(nil, h.before, h.old(2, ""))
			flipLast(h.t, h.s, append(appendDataPrefix(nil, shop, database(h.t, h.s, shop).state.Load().generation, h.before.ID, rowsIndex), key...))
			return h.p.Commit(replicatest.Schema(h.then))
		},
		"sum": func(h *dropping) []byte {
			return reencode(h.t, h.p.Commit(replicatest.Schema(h.then)), func(r *replicationv1.CommitRecord) { r.Tables[0].Sum[3] ^= 1 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newDropping(t, vfs.NewMem())
			defer h.s.Close()
			apply(t, h.s, shop, damage(h))
			d := database(t, h.s, shop)
			if got := d.DivergedTables(); !slices.Equal(got, []uint32{h.then.ID}) {
				t.Fatalf("tables %v differ", got)
			}
			snap := snapshot(t, h.s, shop)
			if err := snap.TableProblem(h.then); !errors.Is(err, ErrDiverged) {
				t.Errorf("the table can be read: %v", err)
			}
			if err := snap.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestDropColumnInASnapshot has a column dropped while a snapshot is taken: its chunks are from before, or from after.
func TestDropColumnInASnapshot(t *testing.T) {
	for _, late := range []bool{false, true} {
		h := newDropping(t, vfs.NewMem())
		begin := parts(h.p, h.before) // as it was
		records := [][]byte{
			h.p.Commit(replicatest.Put(h.before, h.old(2, "bb"))),
			h.p.Commit(replicatest.Schema(h.then)),
			h.p.Commit(replicatest.Put(h.then, user(3, "cc", 3))),
		}
		end := parts(h.p, h.then)
		if late {
			begin[1] = end[1]
		}
		messages := []*replicationv1.SnapshotResponse{begin[0], begin[1], {Message: &replicationv1.SnapshotResponse_Records{
			Records: &replicationv1.Records{Records: records},
		}}, end[2]}
		if done, err := takeAll(t, h.s, nil, messages...); !done || err != nil {
			t.Fatalf("late %v: %v, %v", late, done, err)
		}
		h.same(h.then)
		apply(t, h.s, shop, h.p.Commit(replicatest.Put(h.then, user(1, "x", 1), user(2, "y", 2))))
		h.same(h.then)
		if err := h.s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// flipLast flips a bit in the last byte of what a key has: of a row, that is not in a column that comes before others.
func flipLast(t *testing.T, s *Store, key []byte) {
	t.Helper()
	stored, err := get(s.db, key)
	if err != nil || stored == nil {
		t.Fatal(err)
	}
	stored[len(stored)-1] ^= 1
	if err := s.db.Set(key, stored, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
}
