package replica

import (
	"testing"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// Whatever changes what a reader sees raises what is kept of it, and a change of rows nothing else.
func TestChangesRaiseStamps(t *testing.T) {
	u, other := users(), replicatest.Table(11, "other", "id", "v")
	key := func(id int64) []byte { return rowcodec.AppendRowKey(nil, u, user(id, "", 0)) }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name                           string
		change                         func(s *Store, p *replicatest.Primary)
		row, sibling, table, elsewhere bool // what still holds
	}{
		{"nothing", func(*Store, *replicatest.Primary) {}, true, true, true, true},
		{"row", func(s *Store, p *replicatest.Primary) {
			apply(t, s, shop, p.Commit(replicatest.Put(u, user(1, "b", 2))))
		}, false, true, false, true},
		{"deleted row", func(s *Store, p *replicatest.Primary) {
			apply(t, s, shop, p.Commit(replicatest.Delete(u, user(1, "", 0))))
		}, false, true, false, true},
		{"row of another table", func(s *Store, p *replicatest.Primary) {
			apply(t, s, shop, p.Commit(replicatest.Put(other, replicatest.Row(1, value.Integer(1)))))
		}, true, true, true, false},
		{"another database", func(s *Store, _ *replicatest.Primary) {
			apply(t, s, shop+1, replicatest.NewPrimary().Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1))))
		}, true, true, true, true},
		{"schema", func(s *Store, p *replicatest.Primary) {
			apply(t, s, shop, p.Commit(replicatest.Schema(u, other, replicatest.Table(12, "new", "id"))))
		}, false, false, false, false},
		{"wipe", func(s *Store, _ *replicatest.Primary) { check(database(t, s, shop).wipe()) }, false, false, false, false},
		{"problem", func(s *Store, _ *replicatest.Primary) {
			check(database(t, s, shop).setProblem(problemFork))
		}, false, false, false, false},
		{"drop", func(s *Store, _ *replicatest.Primary) { check(s.Drop(shop)) }, false, false, false, false},
		{"snapshot", func(s *Store, p *replicatest.Primary) {
			if done, err := takeAll(t, s, nil, parts(p, u, other)...); !done || err != nil {
				t.Fatal(done, err)
			}
		}, false, false, false, false},
		{"table found to differ", func(s *Store, p *replicatest.Primary) {
			s.repairs.Store(true)
			wrong := reencode(t, p.Commit(replicatest.Put(other, replicatest.Row(1, value.Integer(1)))),
				func(r *replicationv1.CommitRecord) { r.Tables[0].RowCount++ })
			apply(t, s, shop, wrong)
			if got := database(t, s, shop).DivergedTables(); len(got) != 1 {
				t.Fatalf("diverged: %v", got)
			}
		}, false, false, false, false},
		{"table copied anew", func(s *Store, p *replicatest.Primary) {
			messages := parts(p, u, other)
			m := []*replicationv1.SnapshotResponse{messages[0], messages[2]} // other's chunk
			done := proto.CloneOf(messages[3].GetDone())
			done.Sums = done.Sums[1:]
			m = append(m, &replicationv1.SnapshotResponse{Message: &replicationv1.SnapshotResponse_Done{Done: done}})
			if done, err := takeAll(t, s, []uint32{other.ID}, m...); !done || err != nil {
				t.Fatal(done, err)
			}
		}, false, false, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, p := openMem(t, Options{}), replicatest.NewPrimary()
			apply(t, s, shop, p.Commit(replicatest.Schema(u, other), replicatest.Put(u, user(1, "a", 1), user(2, "b", 2))))
			snap := snapshot(t, s, shop)
			reading := snap.Reading()
			slots := []stamp.Slot{snap.RowSlot(u.ID, key(1)), snap.RowSlot(u.ID, key(2)), snap.TableSlot(u.ID), snap.TableSlot(other.ID)}
			check(snap.Close())
			if reading.Until == 0 {
				t.Fatal("nothing was on its way, and the reading is not known")
			}
			tt.change(s, p)
			for i, want := range []bool{tt.row, tt.sibling, tt.table, tt.elsewhere} {
				if got := s.Stamps().Holds(reading, s.Stamps().Last(), shop, slots[i]); got != want {
					t.Errorf("slot %d holds: %v, want %v", i, got, want)
				}
			}
		})
	}
}

// A commit that fails publishes nothing, and what it touched is read anew.
func TestFailedChangeIsNotPublished(t *testing.T) {
	u := users()
	s, p := openMem(t, Options{}), replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1))))
	d := database(t, s, shop)
	before, ok := d.Moment()
	if !ok {
		t.Fatal(d.Problem())
	}
	if err := s.ApplyRecords(shop, [][]byte{[]byte("no record")}); err == nil {
		t.Fatal("applied")
	}
	if after, _ := d.Moment(); after != before || after.Version() != 1 || after.Epoch() != 1 {
		t.Errorf("state is %v, was %v", after, before)
	}
	if reached, err := before.Reaches(1, 2); reached || err != nil {
		t.Errorf("reaches the next version: %v, %v", reached, err)
	}
}
