package keyread

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// FuzzAppendRow: a row that is encoded at once is what package proto makes of the row's message.
func FuzzAppendRow(f *testing.F) {
	f.Add(int64(0), 0.0, []byte(nil), uint64(0))
	f.Add(int64(-1), -1.5, []byte("text"), uint64(1))
	f.Add(int64(1)<<40, 1e300, bytes.Repeat([]byte("long"), 100), uint64(1)<<63)
	f.Add(int64(127), 0.1, []byte{0xff, 0}, uint64(128))
	users := testCatalog().TableByName("users")
	shape := NewShape(users)
	f.Fuzz(func(t *testing.T, integer int64, float float64, b []byte, version uint64) {
		for _, row := range []rowcodec.Row{
			{Values: []value.Value{value.Integer(integer), value.TextBytes(b), value.Null(), value.Real(float), value.Null()}},
			{Values: []value.Value{value.Integer(integer), value.Blob(b), value.Real(float), value.Integer(integer), value.Blob(b)}},
		} {
			want, err := proto.Marshal(shape.Row(row, version))
			if err != nil {
				t.Fatal(err)
			}
			got, size := shape.AppendRow([]byte("before"), row, version)
			if size != len(want) {
				t.Errorf("size %d, want %d", size, len(want))
			}
			if want = protowire.AppendBytes([]byte("before"), want); !bytes.Equal(got, want) {
				t.Errorf("%x, want %x", got, want)
			}
		}
	})
}

// What AppendPrimaryKey makes of values is the key of PlanGet.
func TestAppendPrimaryKey(t *testing.T) {
	cat := testCatalog()
	for _, values := range [][]value.Value{
		{value.Integer(1)}, {value.Text("1")}, {value.Real(1)}, {value.Real(1.5)}, {value.Null()}, {value.Blob([]byte("x"))}, {value.Text("x")},
		{value.Text("a"), value.Integer(1)}, {value.Integer(1), value.Text("b")}, {value.Text("a"), value.Null()}, {},
	} {
		for _, table := range cat.Tables {
			parts, _ := table.PrimaryKey()
			got, ok := AppendPrimaryKey([]byte("before"), table, parts, values)
			plan, err := PlanGet(cat, table.Name, key("", values...))
			if want := err == nil && !plan.Never; ok != want {
				t.Errorf("%s %v: %v, want %v", table.Name, values, ok, want)
			} else if ok && !bytes.Equal(got, plan.AppendKey([]byte("before"))) {
				t.Errorf("%s %v: %x, want %x", table.Name, values, got, plan.AppendKey([]byte("before")))
			}
		}
	}
}

func key(index string, values ...value.Value) *datav1.Key {
	return &datav1.Key{Index: index, Values: value.ToProtos(values)}
}
