package replica

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// FuzzDecodeRecord compares decode with proto.Unmarshal: both refuse the same bytes and find the same in the others.
func FuzzDecodeRecord(f *testing.F) {
	u := users()
	p := replicatest.NewPrimary()
	p.MeshVersion = 7
	add := func(m *replicationv1.CommitRecord) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, b...)) // scalars are replaced, messages united, lists continued
	}
	f.Add(p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1))))
	f.Add(p.Commit(replicatest.Schema(replicatest.WithColumn(u, "note", value.Text("x"))), replicatest.Delete(u, user(1, "", 0))))
	f.Add(p.Commit(replicatest.Schema()))
	add(&replicationv1.CommitRecord{
		Version: 1 << 60, Epoch: 1 << 31, PreviousChecksum: []byte{}, DroppedTableIds: []uint32{1, 2, 1 << 31}, Actor: "ä", CallerAddress: []byte{0xff, 0, 2, 1},
		Tables:  []*replicationv1.TableChange{{TableId: 9, Replaced: true}, {TableId: 3, Rows: []*replicationv1.RowChange{{Value: []byte{}, Fresh: true}, {Key: []byte("k")}}}, {}},
		Catalog: &replicationv1.Catalog{Version: 3}, Migration: &replicationv1.AppliedMigration{Name: "m"},
		Sequences: []*replicationv1.Sequence{{TableId: 1}},
	})
	f.Add(protowire.AppendString(protowire.AppendTag(nil, 10, protowire.BytesType), "\xff"))
	f.Add(protowire.AppendVarint(protowire.AppendTag(nil, 8, protowire.VarintType), 1<<40|5)) // not packed
	f.Add(protowire.AppendFixed32(protowire.AppendTag(nil, 1, protowire.Fixed32Type), 5))     // of another kind
	f.Add(protowire.AppendTag(nil, 200, protowire.StartGroupType))
	f.Add([]byte{0x3a, 0x02, 0x22, 0x05})
	f.Add([]byte("2\x0102\x010"))           // two halves of a message
	f.Add([]byte("\x88\x88\x88\x880\x8e0")) // a field number that is too great
	var r record
	f.Fuzz(func(t *testing.T, b []byte) {
		var want replicationv1.CommitRecord
		err := r.decode(b)
		if wantErr := proto.Unmarshal(b, &want); (err == nil) != (wantErr == nil) {
			t.Fatalf("decode says %v, proto.Unmarshal %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if r.version != want.Version || r.epoch != want.Epoch || r.meshVersion != want.MeshVersion ||
			!bytes.Equal(r.previousChecksum, want.PreviousChecksum) {
			t.Fatalf("got %+v, want %v", r, &want)
		}
		if diff := cmp.Diff(want.Catalog, r.catalog, protocmp.Transform()); diff != "" {
			t.Fatalf("catalog (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(append([]uint32{}, want.DroppedTableIds...), append([]uint32{}, r.dropped...)); diff != "" {
			t.Fatalf("dropped tables (-want +got):\n%s", diff)
		}
		if len(r.tables) != len(want.Tables) {
			t.Fatalf("%d tables, want %d", len(r.tables), len(want.Tables))
		}
		for i, table := range want.Tables {
			got := &r.tables[i]
			if got.id != table.TableId || got.rowCount != table.RowCount || !bytes.Equal(got.sum, table.Sum) || got.replaced != table.Replaced ||
				len(got.rows) != len(table.Rows) {
				t.Fatalf("got %+v, want %v", got, table)
			}
			for j, row := range table.Rows {
				if !bytes.Equal(got.rows[j].key, row.Key) || !bytes.Equal(got.rows[j].value, row.Value) ||
					(got.rows[j].value == nil) != (row.Value == nil) || got.rows[j].fresh != row.Fresh {
					t.Fatalf("row %d is %+v, want %v", j, got.rows[j], row)
				}
			}
		}
	})
}
