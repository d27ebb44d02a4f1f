package wire

import (
	"slices"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/memory"
)

// FuzzQuery: what is read of a QueryRequest is what package proto reads, it breaks no rule, and its parameters are kept under
// the bytes that they came in.
func FuzzQuery(f *testing.F) {
	values := value.ToProtos([]value.Value{
		value.Integer(-1), value.Integer(1 << 40), value.Real(0.5), value.Text("t"), value.Blob([]byte{0}), value.TextBytes([]byte{0xff}),
	})
	for _, m := range []*datav1.QueryRequest{
		{Database: "d", Statement: &datav1.Statement{Sql: "SELECT 1"}},
		{Database: "d", Statement: &datav1.Statement{Sql: "SELECT ?", Parameters: append(values, &datav1.Value{})}},
		{Database: "d", Statement: &datav1.Statement{Sql: "SELECT :a", NamedParameters: map[string]*datav1.Value{"a": values[0]}}},
		{
			Database: "d", Statement: &datav1.Statement{Sql: "SELECT 1"},
			Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_AT_LEAST, Bookmark: "b"},
		},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append(slices.Clip(b), b...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var q Query
		if !q.Parse(b) {
			return
		}
		var m datav1.QueryRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatalf("package proto: %v", err)
		}
		if err := protovalidate.Validate(&m); err != nil {
			t.Error(err)
		}
		if len(m.ProtoReflect().GetUnknown()) > 0 || m.MaxAge != nil {
			t.Error("fields were passed over")
		}
		same(t, &q.Request, m.Database, "", m.Consistency)
		if string(q.SQL) != m.GetStatement().GetSql() || len(m.GetStatement().GetNamedParameters()) > 0 {
			t.Errorf("read %q of %v", q.SQL, &m)
		}
		var st datav1.Statement
		if err := proto.Unmarshal(q.Parameters, &st); err != nil || len(st.GetParameters()) != len(m.GetStatement().GetParameters()) {
			t.Fatalf("parameters %x of %v: %v", q.Parameters, &m, err)
		}
		wire, err := memory.EncodeParameters(&st)
		if err != nil {
			t.Fatal(err)
		}
		again, err := memory.EncodeParameters(m.GetStatement())
		if err != nil || !slices.Equal(wire, again) {
			t.Errorf("parameters %x are %x of %v: %v", q.Parameters, again, &m, err)
		}
	})
}
