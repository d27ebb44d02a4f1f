package changelog

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
)

func TestLastRecords(t *testing.T) {
	l := openLog(t, vfs.NewMem())
	defer func() { _ = l.Close() }()
	want := make(map[uint32]LastRecord)
	for i, n := range []int{3, 1, 700} {
		id := uint32(100 + 200*i)
		want[id] = LastRecord{Head: appendRun(t, l, id, Head{}, n)}
	}
	got, err := l.LastRecords()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
	if err := l.db.Set(versionKey(spaceRecord, 300, 2), []byte("no record"), pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if got, err = l.LastRecords(); err != nil || !errors.Is(got[300].Err, ErrCorrupt) || got[100] != want[100] {
		t.Errorf("one corrupt: %+v, %v", got, err)
	}
	if err := l.Drop(100); err != nil {
		t.Fatal(err)
	}
	if got, err = l.LastRecords(); err != nil || len(got) != 2 {
		t.Errorf("one dropped: %+v, %v", got, err)
	}
}

// FuzzPlaceOf compares the short way to a record's place with the long one.
func FuzzPlaceOf(f *testing.F) {
	f.Add(record(f, 1, Checksum{}, "x"))
	f.Add(record(f, 1<<63, ChecksumOf(nil), ""))
	f.Add([]byte{8, 1, 8, 2, 16, 255, 255, 255, 255, 31})
	f.Add([]byte{10, 1, 0})
	f.Add([]byte{11, 8, 1, 12})
	f.Fuzz(func(t *testing.T, b []byte) {
		version, epoch, err := placeOf(b)
		var r replicationv1.CommitRecord
		if proto.Unmarshal(b, &r) == nil && (err != nil || version != r.GetVersion() || epoch != r.GetEpoch()) {
			t.Errorf("%x: got %d, %d, %v, want %d, %d", b, version, epoch, err, r.GetVersion(), r.GetEpoch())
		}
	})
}
