package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

const shop = 100 // the database of most tests

func users() *catalog.Table {
	t := replicatest.Table(10, "users", "id", "email", "age")
	return replicatest.WithIndex(replicatest.WithIndex(t, 20, "by_email", true, "email"), 21, "by_age", false, "age", "email")
}

func user(id int64, email string, age int64) rowcodec.Row {
	return replicatest.Row(id, value.Text(email), value.Integer(age))
}

func TestApply(t *testing.T) {
	u := users()
	s, p := openMem(t, Options{}), replicatest.NewPrimary()
	steps := []struct {
		name    string
		commits [][]replicatest.Change // one record each, all of them one group
	}{
		{"schema", [][]replicatest.Change{{replicatest.Schema(u)}}},
		{"insert", [][]replicatest.Change{{replicatest.Put(u, user(1, "a", 30), user(2, "b", 30), user(-3, "c", 7))}}},
		{"update without index", [][]replicatest.Change{{replicatest.Put(u, user(1, "a", 30))}}},
		{"update of one index", [][]replicatest.Change{{replicatest.Put(u, user(1, "a", 31))}}},
		{"unique values change places", [][]replicatest.Change{{replicatest.Put(u, user(1, "b", 31), user(2, "a", 30))}}},
		{"key changes", [][]replicatest.Change{{replicatest.Delete(u, user(1, "", 0)), replicatest.Put(u, user(11, "b", 31))}}},
		{"delete what is not there", [][]replicatest.Change{{replicatest.Delete(u, user(999, "", 0))}}},
		{"one row many times in a group", [][]replicatest.Change{
			{replicatest.Put(u, user(5, "x", 1))}, {replicatest.Put(u, user(5, "y", 2))}, {replicatest.Delete(u, user(5, "", 0))}, {replicatest.Put(u, user(5, "z", 3))},
			{replicatest.Put(u, user(2, "n", 9))}, {replicatest.Delete(u, user(2, "", 0))},
		}},
		{"nothing changes", [][]replicatest.Change{{}}},
		{"all gone", [][]replicatest.Change{{replicatest.Delete(u, user(11, "", 0), user(-3, "", 0), user(5, "", 0))}}},
	}
	for _, step := range steps {
		var group [][]byte
		for _, changes := range step.commits {
			group = append(group, p.Commit(changes...))
		}
		if err := s.ApplyRecords(shop, group); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		verify(t, s, shop, p, u)
	}
}

func TestRowVersionIsOfTheLastChange(t *testing.T) {
	u := users()
	s, p := openMem(t, Options{}), replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(u)), p.Commit(replicatest.Put(u, user(1, "a", 1), user(2, "b", 2))), p.Commit(replicatest.Put(u, user(2, "b", 3))))
	snap := snapshot(t, s, shop)
	defer snap.Close()
	for id, want := range map[int64]uint64{1: 2, 2: 3} {
		key := rowcodec.AppendRowKey(nil, u, user(id, "", 0))
		val, version, ok, err := snap.GetRow(u, key)
		if err != nil || !ok || version != want || string(val) != string(p.Rows(u)[string(key)]) {
			t.Errorf("row %d: %x, version %d, %v, %v; want version %d", id, val, version, ok, err, want)
		}
	}
	if _, _, ok, err := snap.GetRow(u, rowcodec.AppendRowKey(nil, u, user(3, "", 0))); ok || err != nil {
		t.Errorf("row that is not there: %v, %v", ok, err)
	}
	prefix, err := rowcodec.AppendIndexPrefix(nil, u, &u.Indexes[0], []value.Value{value.Text("b")})
	if err != nil {
		t.Fatal(err)
	}
	rowKey, ok, err := snap.GetUnique(u, &u.Indexes[0], prefix)
	if err != nil || !ok || string(rowKey) != string(rowcodec.AppendRowKey(nil, u, user(2, "", 0))) {
		t.Errorf("by email b: %x, %v, %v", rowKey, ok, err)
	}
	prefix, _ = rowcodec.AppendIndexPrefix(nil, u, &u.Indexes[0], []value.Value{value.Text("c")})
	if _, ok, err := snap.GetUnique(u, &u.Indexes[0], prefix); ok || err != nil {
		t.Errorf("by email c: %v, %v", ok, err)
	}
}

// TestApplyRandom groups random histories at random and compares the copy after each group.
func TestApplyRandom(t *testing.T) {
	u := users()
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s, p := openMem(t, Options{MemTableBytes: 256 << 10, TailRecords: 16}), replicatest.NewPrimary()
		group := [][]byte{p.Commit(replicatest.Schema(u))}
		for range 60 {
			var changes []replicatest.Change
			for range rnd.IntN(4) {
				row := user(rnd.Int64N(12), fmt.Sprint(rnd.IntN(1000)), rnd.Int64N(3))
				if rnd.IntN(3) == 0 {
					changes = append(changes, replicatest.Delete(u, row))
				} else {
					changes = append(changes, replicatest.Put(u, row))
				}
			}
			group = append(group, p.Commit(changes...))
			if rnd.IntN(4) == 0 {
				apply(t, s, shop, group...)
				verify(t, s, shop, p, u)
				group = nil
			}
		}
	}
}

func TestSchemaChanges(t *testing.T) {
	plain := replicatest.Table(10, "users", "id", "email", "age")
	indexed := replicatest.WithIndex(plain, 20, "by_email", true, "email")
	wider := replicatest.WithIndex(replicatest.WithColumn(indexed, "note", value.Text("none")), 21, "by_note", false, "note")
	reindexed := replicatest.WithIndex(replicatest.WithColumn(plain, "note", value.Text("none")), 22, "by_age", false, "age")
	other := replicatest.WithIndex(replicatest.Table(11, "orders", "id", "total"), 23, "by_total", false, "total")
	remade := replicatest.WithIndex(replicatest.Table(12, "users", "id", "email"), 24, "by_email", true, "email")

	s, p := openMem(t, Options{}), replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(plain), replicatest.Put(plain, user(1, "a", 1), user(2, "b", 2))))
	verify(t, s, shop, p, plain)

	t.Run("index on rows of the same group", func(t *testing.T) {
		apply(t, s, shop, p.Commit(replicatest.Put(plain, user(3, "c", 3))), p.Commit(replicatest.Schema(indexed), replicatest.Put(indexed, user(1, "z", 1))))
		verify(t, s, shop, p, indexed)
	})
	t.Run("column with a fill and an index on it", func(t *testing.T) {
		row := user(4, "d", 4)
		row.Values = append(row.Values, value.Text("some"))
		apply(t, s, shop, p.Commit(replicatest.Schema(wider), replicatest.Put(wider, row)))
		verify(t, s, shop, p, wider)
	})
	t.Run("indexes dropped and another made", func(t *testing.T) {
		apply(t, s, shop, p.Commit(replicatest.Schema(reindexed)))
		verify(t, s, shop, p, reindexed)
	})
	t.Run("second table", func(t *testing.T) {
		apply(t, s, shop, p.Commit(replicatest.Schema(reindexed, other), replicatest.Put(other, replicatest.Row(1, value.Integer(10)))))
		verify(t, s, shop, p, reindexed, other)
	})
	t.Run("table replaced under another id", func(t *testing.T) {
		apply(t, s, shop, p.Commit(replicatest.Schema(remade, other), replicatest.Put(remade, replicatest.Row(1, value.Text("a")))))
		verify(t, s, shop, p, remade, other)
	})
	t.Run("tables dropped", func(t *testing.T) {
		apply(t, s, shop, p.Commit(replicatest.Schema(other)), p.Commit(replicatest.Schema()))
		verify(t, s, shop, p)
		if n := countKeys(t, s, shop, spaceSum); n != 0 {
			t.Errorf("%d sums of no tables", n)
		}
	})
}

// TestIndexOfManyRows builds an index that takes several batches.
func TestIndexOfManyRows(t *testing.T) {
	plain := replicatest.Table(10, "users", "id", "email", "age")
	indexed := replicatest.WithIndex(plain, 20, "by_email", false, "email")
	s, p := openMem(t, Options{}), replicatest.NewPrimary()
	rows := make([]rowcodec.Row, 2*buildBytes/1000)
	for i := range rows {
		rows[i] = user(int64(i), fmt.Sprint(i%7)+strings.Repeat("x", 1000), 0)
	}
	apply(t, s, shop, p.Commit(replicatest.Schema(plain), replicatest.Put(plain, rows...)))
	apply(t, s, shop, p.Commit(replicatest.Schema(indexed)), p.Commit(replicatest.Delete(indexed, rows[0])))
	verify(t, s, shop, p, indexed)
}

// reencode changes a record.
func reencode(t *testing.T, record []byte, change func(*replicationv1.CommitRecord)) []byte {
	t.Helper()
	var r replicationv1.CommitRecord
	if err := proto.Unmarshal(record, &r); err != nil {
		t.Fatal(err)
	}
	change(&r)
	b, err := proto.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestApplyRefuses(t *testing.T) {
	u := users()
	for _, test := range []struct {
		name   string
		change func(*replicationv1.CommitRecord)
		want   error
	}{
		{"gap", func(r *replicationv1.CommitRecord) { r.Version++ }, ErrGap},
		{"repeat", func(r *replicationv1.CommitRecord) { r.Version-- }, ErrGap},
		{"other predecessor", func(r *replicationv1.CommitRecord) { r.PreviousChecksum[3] ^= 1 }, ErrFork},
		{"no predecessor", func(r *replicationv1.CommitRecord) { r.PreviousChecksum = nil }, ErrFork},
		{"older epoch", func(r *replicationv1.CommitRecord) { r.Epoch = 1 }, ErrFork},
		{"newer _mesh", func(r *replicationv1.CommitRecord) { r.MeshVersion = 3 }, ErrMeshBehind},
		{"unknown table", func(r *replicationv1.CommitRecord) { r.Tables[0].TableId = 77 }, ErrRecord},
		{"short sum", func(r *replicationv1.CommitRecord) { r.Tables[0].Sum = r.Tables[0].Sum[1:] }, ErrRecord},
		{"value of no row", func(r *replicationv1.CommitRecord) { r.Tables[0].Rows[0].Value = []byte{9} }, ErrRecord},
		{"key of no row", func(r *replicationv1.CommitRecord) { r.Tables[0].Rows[0].Key = []byte{9} }, ErrRecord},
		{"drop of a table in the schema", func(r *replicationv1.CommitRecord) { r.DroppedTableIds = []uint32{u.ID} }, ErrRecord},
		{"catalog that contradicts itself", func(r *replicationv1.CommitRecord) {
			r.Catalog = &replicationv1.Catalog{Tables: []*replicationv1.Catalog_Table{{Id: 5, Identity: 9}}}
		}, ErrRecord},
		{"table with id 0", func(r *replicationv1.CommitRecord) {
			r.Catalog = (&catalog.Catalog{Tables: []*catalog.Table{replicatest.Table(0, "zero", "id")}}).ToProto()
		}, ErrRecord},
		{"two tables with an id", func(r *replicationv1.CommitRecord) {
			r.Catalog = (&catalog.Catalog{Tables: []*catalog.Table{u, replicatest.Table(u.ID, "twin", "id")}}).ToProto()
		}, ErrRecord},
		{"index with other columns", func(r *replicationv1.CommitRecord) {
			changed := replicatest.WithIndex(replicatest.Table(10, "users", "id", "email", "age"), 20, "by_email", true, "age")
			r.Catalog = (&catalog.Catalog{Tables: []*catalog.Table{changed}}).ToProto()
		}, ErrRecord},
		{"other sum", func(r *replicationv1.CommitRecord) { r.Tables[0].Sum[0] ^= 1 }, ErrDiverged},
		{"other row count", func(r *replicationv1.CommitRecord) { r.Tables[0].RowCount++ }, ErrDiverged},
		{"changed value", func(r *replicationv1.CommitRecord) {
			v := r.Tables[0].Rows[0].Value
			v[len(v)-1] ^= 1
		}, ErrDiverged},
		{"fresh row that is there", func(r *replicationv1.CommitRecord) {
			rows := r.Tables[0].Rows
			rows[len(rows)-1].Fresh = true
		}, ErrDiverged},
		{"row left out", func(r *replicationv1.CommitRecord) { r.Tables[0].Rows = r.Tables[0].Rows[1:] }, ErrDiverged},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, p, mesh := openMem(t, Options{}), replicatest.NewPrimary(), replicatest.NewPrimary()
			apply(t, s, meshdb.DatabaseID, mesh.Commit(), mesh.Commit())
			p.Epoch, p.MeshVersion = 2, 2
			apply(t, s, shop, p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1), user(2, "b", 2))))
			before := *p
			good := p.Commit(replicatest.Put(u, user(3, "c", 3), user(1, "a", 9)))
			bad := reencode(t, good, test.change)

			// In a group of its own, and behind a good record: neither leaves anything.
			next := p.Commit(replicatest.Put(u, user(4, "d", 4)))
			badNext := reencode(t, next, test.change)
			groups := [][][]byte{{bad}}
			if !errors.Is(test.want, ErrDiverged) {
				groups = append(groups, [][]byte{good, badNext})
			}
			for _, group := range groups {
				if err := s.ApplyRecords(shop, group); !errors.Is(err, test.want) {
					t.Fatalf("got %v, want %v", err, test.want)
				}
			}
			if _, version := database(t, s, shop).Applied(); version != before.Version() {
				t.Fatalf("version %d after a refused group", version)
			}
			if errors.Is(test.want, ErrDiverged) {
				if err := database(t, s, shop).Problem(); !errors.Is(err, ErrDiverged) {
					t.Errorf("problem %v", err)
				}
				if _, err := database(t, s, shop).Snapshot(); !errors.Is(err, ErrDiverged) {
					t.Errorf("snapshot of a diverged copy: %v", err)
				}
				if err := s.ApplyRecords(shop, [][]byte{good}); !errors.Is(err, ErrDiverged) {
					t.Errorf("apply to a diverged copy: %v", err)
				}
				return
			}
			apply(t, s, shop, good, next)
			verify(t, s, shop, p, u)
		})
	}
}

func TestDivergedIsWipedAndFollowedAnew(t *testing.T) {
	u := users()
	s, p := openMem(t, Options{}), replicatest.NewPrimary()
	history := [][]byte{p.Commit(replicatest.Schema(u)), p.Commit(replicatest.Put(u, user(1, "a", 1))), p.Commit(replicatest.Put(u, user(2, "b", 2)))}
	apply(t, s, shop, history[:2]...)
	bad := reencode(t, history[2], func(r *replicationv1.CommitRecord) { r.Tables[0].RowCount++ })
	if err := s.ApplyRecords(shop, [][]byte{bad}); !errors.Is(err, ErrDiverged) {
		t.Fatal(err)
	}
	d := database(t, s, shop)
	if err := d.wipe(); err != nil {
		t.Fatal(err)
	}
	if err := d.Problem(); !errors.Is(err, ErrSyncing) {
		t.Fatalf("after the wipe: %v", err)
	}
	apply(t, s, shop, history...)
	if err := d.Problem(); !errors.Is(err, ErrSyncing) {
		t.Fatalf("before anybody says that it is complete: %v", err)
	}
	if err := d.setProblem(problemNone); err != nil {
		t.Fatal(err)
	}
	verify(t, s, shop, p, u)
}

func TestTailIsBounded(t *testing.T) {
	u := users()
	s, p := openMem(t, Options{TailRecords: 80}), replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(u)))
	for range 500 {
		apply(t, s, shop, p.Commit(replicatest.Put(u, user(1, "a", 1))))
		if n := countKeys(t, s, shop, spaceTail); n > 90 {
			t.Fatalf("%d records in the tail", n)
		}
	}
	if n := countKeys(t, s, shop, spaceTail); n < 80 {
		t.Errorf("%d records in the tail, want at least 80", n)
	}
	s, p = openMem(t, Options{TailBytes: 8000}), replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(u)))
	for range 200 {
		apply(t, s, shop, p.Commit(replicatest.Put(u, user(1, strings.Repeat("x", 1000), 1))))
		if n := countKeys(t, s, shop, spaceTail); n > 9 {
			t.Fatalf("%d records of a thousand bytes in the tail", n)
		}
	}
}

// TestTailCountsItsBytes cuts a tail again and again whose records have replaced rows or not: what it says of its size is what is there.
func TestTailCountsItsBytes(t *testing.T) {
	u := users()
	s, p := openMem(t, Options{TailRecords: 40}), replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(u)))
	d := database(t, s, shop)
	random := rand.New(rand.NewPCG(5, 6))
	cuts, first := 0, d.state.Load().tailFirst
	for range 400 {
		row := user(1+random.Int64N(40), strings.Repeat("x", random.IntN(500)), 1)
		if random.IntN(5) == 0 {
			apply(t, s, shop, p.Commit(replicatest.Delete(u, row)))
		} else {
			apply(t, s, shop, p.Commit(replicatest.Put(u, row)))
		}
		n := d.state.Load()
		if n.tailFirst != first {
			cuts, first = cuts+1, n.tailFirst
		}
		stored := uint64(0)
		for v := n.tailFirst; v <= n.version; v++ {
			for _, key := range [][]byte{tailKey(shop, v), oldKey(shop, v)} {
				b, closer, err := s.db.Get(key)
				if errors.Is(err, pebble.ErrNotFound) {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				stored += uint64(len(b))
				if err := closer.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n.tailBytes != stored {
			t.Fatalf("version %d: the tail says %d bytes and has %d", n.version, n.tailBytes, stored)
		}
	}
	if cuts < 10 {
		t.Errorf("it was cut %d times", cuts)
	}
}
