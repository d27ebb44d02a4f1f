package rowcodec_test

import (
	"fmt"
	"testing"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// benchTable is a users table of ten columns and about 200 bytes a row, with an integer or a text key.
func benchTable(identity catalog.Identity) (*catalog.Table, rowcodec.Row) {
	t := &catalog.Table{ID: 1, Name: "users", Identity: identity, IntegerKey: -1}
	row := rowcodec.Row{Rowid: 123456}
	add := func(name string, a catalog.Affinity, v value.Value) {
		t.Columns = append(t.Columns, catalog.Column{ID: uint32(len(t.Columns) + 1), Name: name, Affinity: a})
		row.Values = append(row.Values, v)
	}
	add("id", catalog.AffinityInteger, value.Integer(row.Rowid))
	add("uid", catalog.AffinityText, value.Text("01hzy7q3m9d8w5x2k4v6b7n8pq"))
	add("email", catalog.AffinityText, value.Text("someone.with.a.name@example.com"))
	add("name", catalog.AffinityText, value.Text("Someone With A. Name"))
	add("bio", catalog.AffinityText, value.Text(fmt.Sprintf("%096d", 7)))
	add("created", catalog.AffinityInteger, value.Integer(1_790_000_000_000))
	add("score", catalog.AffinityReal, value.Real(3.75))
	add("active", catalog.AffinityInteger, value.Integer(1))
	add("deleted", catalog.AffinityInteger, value.Null())
	add("avatar", catalog.AffinityBlob, value.Blob(make([]byte, 16)))
	switch identity {
	case catalog.IdentityIntegerKey:
		t.IntegerKey = 0
	case catalog.IdentityDeclared:
		t.Key = []catalog.KeyPart{{Column: 1}}
	default:
	}
	return t, row
}

func BenchmarkAppendRow(b *testing.B) {
	t, row := benchTable(catalog.IdentityIntegerKey)
	buf := rowcodec.AppendRow(nil, t, row)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf = rowcodec.AppendRow(buf[:0], t, row)
	}
}

func BenchmarkDecodeRow(b *testing.B) {
	t, row := benchTable(catalog.IdentityIntegerKey)
	key, val := rowcodec.AppendRowKey(nil, t, row), rowcodec.AppendRow(nil, t, row)
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := rowcodec.DecodeRow(t, key, val); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("into", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := rowcodec.DecodeRowInto(&row, t, key, val); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAppendRowKey(b *testing.B) {
	for name, identity := range map[string]catalog.Identity{
		"integer": catalog.IdentityIntegerKey, "text": catalog.IdentityDeclared,
	} {
		b.Run(name, func(b *testing.B) {
			t, row := benchTable(identity)
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				buf = rowcodec.AppendRowKey(buf[:0], t, row)
			}
		})
	}
}

func BenchmarkAppendKey(b *testing.B) {
	t, row := benchTable(catalog.IdentityIntegerKey)
	vals := []value.Value{value.Integer(row.Rowid)}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = rowcodec.AppendKey(buf[:0], t, vals); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIndexRowKey(b *testing.B) {
	t, row := benchTable(catalog.IdentityIntegerKey)
	ix := &catalog.Index{Parts: []catalog.KeyPart{{Column: 2}, {Column: 5, Desc: true}}}
	entry := rowcodec.AppendIndexKey(nil, t, ix, row, rowcodec.AppendRowKey(nil, t, row))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := rowcodec.IndexRowKey(ix, entry); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRowSum(b *testing.B) {
	key := make([]byte, 9)
	for _, size := range []int{200, 4096} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			val := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				rowcodec.RowSum(1, key, val)
			}
		})
	}
}
