package rowcodec_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// narrower returns t without a column, or nil where its key or an index has it.
func narrower(t *catalog.Table, column int) *catalog.Table {
	plain := *t
	plain.Indexes = nil
	return plain.WithoutColumn(column)
}

// TestCanonicalRow drops each column that can be dropped: what is left of a row's value is what the row without the column
// is encoded to.
func TestCanonicalRow(t *testing.T) {
	for name, table := range tables() {
		t.Run(name, func(t *testing.T) {
			db := openSQLite(t)
			table.fill(t, db)
			c := table.catalog
			backwards := *c // columns that are not in the order of their ids
			backwards.Columns = slices.Clone(c.Columns)
			backwards.Columns[2].ID, backwards.Columns[4].ID = backwards.Columns[4].ID, backwards.Columns[2].ID
			dropped := 0
			for _, c := range []*catalog.Table{c, &backwards} {
				for i := range c.Columns {
					next := narrower(c, i)
					if next == nil {
						continue
					}
					dropped++
					var buf []byte
					for _, row := range table.rows(t, db, "") {
						left := rowcodec.Row{Rowid: row.Rowid, Values: slices.Delete(slices.Clone(row.Values), i, i+1)}
						stored := rowcodec.AppendRow(nil, c, row)
						before := bytes.Clone(stored)
						got, err := rowcodec.CanonicalRow(&buf, next, stored)
						if want := rowcodec.AppendRow(nil, next, left); err != nil || !bytes.Equal(got, want) {
							t.Fatalf("without %s: %x, %v, want %x", c.Columns[i].Name, got, err, want)
						}
						if !bytes.Equal(stored, before) {
							t.Fatal("the stored value was changed")
						}
					}
				}
			}
			if dropped < 4 {
				t.Errorf("%d columns could be dropped", dropped)
			}
		})
	}
}

// FuzzCanonicalRow: of any bytes it makes what decodes to the same row and stays as it is, or says that they are no row.
func FuzzCanonicalRow(f *testing.F) {
	all := tables()
	for name, table := range all {
		row := rowcodec.Row{Rowid: 3, Values: []value.Value{
			value.Text("x"), value.Integer(3), value.Real(2.5), value.Null(), value.Blob([]byte("d")),
		}}
		f.Add(name, 4, rowcodec.AppendRow(nil, table.catalog, row))
		f.Add(name, 3, []byte{1, 0, 0})
	}
	f.Fuzz(func(t *testing.T, name string, column int, stored []byte) {
		table, ok := all[name]
		if !ok || column < 0 || column >= len(table.catalog.Columns) {
			return
		}
		next := narrower(table.catalog, column)
		if next == nil {
			return
		}
		next.ColumnsDropped = true
		got, err := rowcodec.CanonicalRow(new([]byte), next, stored)
		if err != nil {
			if !errors.Is(err, rowcodec.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := rowcodec.CanonicalRow(new([]byte), next, got)
		if err != nil || !bytes.Equal(got, again) {
			t.Fatalf("%x became %x: %v", got, again, err)
		}
		key := rowcodec.AppendRowKey(nil, next, rowcodec.Row{Rowid: 3, Values: make([]value.Value, len(next.Columns))})
		a, errA := rowcodec.DecodeRow(next, key, stored)
		b, errB := rowcodec.DecodeRow(next, key, got)
		if errA != nil {
			return // such a row has its columns in another order, or one that cannot be there
		}
		if errB != nil || !slices.EqualFunc(a.Values, b.Values, value.Equal) || a.Rowid != b.Rowid {
			t.Fatalf("%x decodes to %v, %x to %v: %v", stored, a, got, b, errB)
		}
	})
}

func BenchmarkCanonicalRow(b *testing.B) {
	c := tables()["rowid"].catalog
	next := narrower(c, 4)
	row := rowcodec.Row{Rowid: 3, Values: []value.Value{
		value.Text("some text"), value.Integer(3), value.Real(2.5), value.Null(), value.Blob(make([]byte, 180)),
	}}
	stored := rowcodec.AppendRow(nil, c, row)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		if _, err := rowcodec.CanonicalRow(&buf, next, stored); err != nil {
			b.Fatal(err)
		}
	}
}
