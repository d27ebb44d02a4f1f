package wire

import (
	"slices"
	"testing"

	"buf.build/go/protovalidate"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
)

func seeds(f *testing.F) [][]byte {
	f.Helper()
	values := value.ToProtos([]value.Value{
		value.Integer(-1), value.Integer(1 << 40), value.Real(0.5), value.Text("t"), value.Blob([]byte{0}), value.TextBytes([]byte{0xff}),
	})
	var all [][]byte
	for _, c := range []*datav1.Consistency{nil, {}, {Level: datav1.Consistency_LEVEL_AT_LEAST, Bookmark: "b"}} {
		for _, m := range []proto.Message{
			&datav1.GetRequest{Database: "d", Table: "t", Key: &datav1.Key{Values: values}, Consistency: c},
			&datav1.BatchGetRequest{
				Database: "d", Table: "t", Keys: []*datav1.Key{{Values: values[:1]}, {Values: values[2:]}, {Index: "i"}}, Consistency: c,
			},
		} {
			b, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			all = append(all, b, b[:len(b)/2], append(slices.Clip(b), b...), append(slices.Clip(b), 0x28, 1))
		}
	}
	return all
}

// FuzzGet: what is read of a GetRequest is what package proto reads, and it breaks no rule.
func FuzzGet(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		if !r.ParseGet(b) {
			return
		}
		values, ok := AppendKey(nil, r.Keys[0])
		if !ok {
			return
		}
		var m datav1.GetRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatalf("package proto: %v", err)
		}
		if err := protovalidate.Validate(&m); err != nil {
			t.Error(err)
		}
		if len(m.ProtoReflect().GetUnknown()) > 0 {
			t.Error("unknown fields were passed over")
		}
		same(t, &r, m.Database, m.Table, m.Consistency)
		sameKey(t, values, m.Key)
	})
}

// FuzzBatchGet is FuzzGet for BatchGetRequests.
func FuzzBatchGet(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		if !r.ParseBatchGet(b) {
			return
		}
		keys := make([][]value.Value, len(r.Keys))
		for i, k := range r.Keys {
			var ok bool
			if keys[i], ok = AppendKey(nil, k); !ok {
				return
			}
		}
		var m datav1.BatchGetRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatalf("package proto: %v", err)
		}
		if err := protovalidate.Validate(&m); err != nil {
			t.Error(err)
		}
		same(t, &r, m.Database, m.Table, m.Consistency)
		if len(keys) != len(m.Keys) {
			t.Fatalf("%d keys, want %d", len(keys), len(m.Keys))
		}
		for i, k := range m.Keys {
			sameKey(t, keys[i], k)
		}
	})
}

func same(t *testing.T, r *Request, database, table string, c *datav1.Consistency) {
	t.Helper()
	if string(r.Database) != database || string(r.Table) != table || r.Level != c.GetLevel() ||
		string(r.Bookmark) != c.GetBookmark() || c.GetMaxWait() != nil || c.GetMaxStaleness() != nil {
		t.Errorf("read %+v, want %q, %q, %v", r, database, table, c)
	}
}

func sameKey(t *testing.T, got []value.Value, want *datav1.Key) {
	t.Helper()
	if diff := cmp.Diff(value.FromProtos(want.Values), got, cmp.Comparer(value.Equal)); diff != "" || want.Index != "" {
		t.Errorf("key of index %q (-want +got):\n%s", want.Index, diff)
	}
}
