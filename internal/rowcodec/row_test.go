package rowcodec_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// The bytes are a contract with every log, replica and peer there is: this test fails when they change.
func TestFormats(t *testing.T) {
	vals := []value.Value{
		value.Text("Ab"), value.Integer(-3), value.Real(2.5), value.Integer(99), value.Blob([]byte{0, 0xff}),
	}
	for name, want := range map[string]struct{ key, val, entry, sum string }{
		"rowid": {
			key:   "20c01c000000000000",
			val:   "0101030241620201050502400400000000000008040200ff",
			entry: "df3ffbffffffffffff306162000120c01c000000000000",
			sum:   "2f74148209fe096a0926648c92e4a6fb",
		},
		"integer key": {
			key:   "20c01c000000000000",
			val:   "0101030241620502400400000000000008040200ff",
			entry: "df3ffbffffffffffff306162000120c01c000000000000",
			sum:   "3e78635cb2ef82605dad66d6ae5c5e22",
		},
		"declared key": {
			key:   "3061620001dfc00800000000000020c004000000000000",
			val:   "010e01030241620201050502400400000000000008040200ff",
			entry: "df3ffbffffffffffff30616200013061620001dfc00800000000000020c004000000000000",
			sum:   "3a67c189bc8d3fd582280cf9791715c2",
		},
		"without rowid": {
			key:   "203ff7ffffffffffffcfbe9dfffe20c004000000000000",
			val:   "0101030241620201050502400400000000000008040200ff",
			entry: "df3ffbffffffffffff3061620001203ff7ffffffffffffcfbe9dfffe20c004000000000000",
			sum:   "6cb1b8a7e0fa596319837380678abeae",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := tables()[name].catalog
			row := rowcodec.Row{Rowid: 7, Values: vals}
			key, val := rowcodec.AppendRowKey(nil, c, row), rowcodec.AppendRow(nil, c, row)
			if got := hex.EncodeToString(key); got != want.key {
				t.Errorf("key %s, want %s", got, want.key)
			}
			if got := hex.EncodeToString(val); got != want.val {
				t.Errorf("value %s, want %s", got, want.val)
			}
			if got := hex.EncodeToString(rowcodec.AppendIndexKey(nil, c, &c.Indexes[0], row, key)); got != want.entry {
				t.Errorf("index entry %s, want %s", got, want.entry)
			}
			if got := rowcodec.RowSum(c.ID, key, val).String(); got != want.sum {
				t.Errorf("sum %s, want %s", got, want.sum)
			}
		})
	}
	for i, want := range map[int64]string{
		0:                 "208000000000000000",
		1:                 "20bff0000000000000",
		-1:                "20400fffffffffffff",
		1 << 53:           "20c3400000000000000000",
		1<<53 + 1:         "20c3400000000000000001",
		-1 << 53:          "203cbfffffffffffff0000",
		-1<<53 - 1:        "203cbffffffffffffe0001",
		math.MaxInt64:     "20c3dfffffffffffff03ff",
		math.MinInt64:     "203c1fffffffffffff0000",
		math.MinInt64 + 1: "203c1fffffffffffff0001",
	} {
		if got := hex.EncodeToString(rowcodec.AppendKeyValue(nil, value.Integer(i), 0, false)); got != want {
			t.Errorf("key value of %d is %s, want %s", i, got, want)
		}
	}
}

func decodeHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRowValueLeavesOut(t *testing.T) {
	c := tables()["rowid"].catalog
	fill := rowcodec.Row{Rowid: 1, Values: make([]value.Value, len(c.Columns))}
	for i := range c.Columns {
		fill.Values[i] = c.Columns[i].Fill
	}
	empty := rowcodec.AppendRow(nil, c, fill)
	if !bytes.Equal(empty, []byte{1}) {
		t.Errorf("a row of fills is %x", empty)
	}
	fill.Values[3] = value.Text("virtual")
	if again := rowcodec.AppendRow(nil, c, fill); !bytes.Equal(again, empty) {
		t.Errorf("a virtual column is written: %x", again)
	}
	fill.Values[2] = value.Null() // not the column's fill
	fill.Values[3] = value.Null()
	row, err := rowcodec.DecodeRow(c, rowcodec.AppendRowKey(nil, c, fill), rowcodec.AppendRow(nil, c, fill))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fill, row, valuesEqual); diff != "" {
		t.Errorf("a NULL in a filled column (-want +got):\n%s", diff)
	}
}

// After columns were dropped, added and put in another order, rows written before read as SQLite would read them.
func TestRowValueAcrossSchemas(t *testing.T) {
	old := &catalog.Table{Name: "t", IntegerKey: -1, Columns: []catalog.Column{
		{ID: 1, Name: "one"}, {ID: 2, Name: "two"}, {ID: 3, Name: "three"}, {ID: 300, Name: "last"},
	}}
	row := rowcodec.Row{Rowid: 1, Values: []value.Value{
		value.Integer(1), value.Text("2"), value.Real(3), value.Blob([]byte("300")),
	}}
	key, val := rowcodec.AppendRowKey(nil, old, row), rowcodec.AppendRow(nil, old, row)
	for _, test := range []struct {
		name    string
		columns []catalog.Column
		want    []value.Value
	}{
		{"first dropped", old.Columns[1:], row.Values[1:]},
		{"middle dropped", append(old.Columns[:1:1], old.Columns[2:]...), append(row.Values[:1:1], row.Values[2:]...)},
		{"last dropped", old.Columns[:3], row.Values[:3]},
		{"all dropped", nil, nil},
		{
			"one added", append(old.Columns[:4:4], catalog.Column{ID: 301, Fill: value.Text("fill")}),
			append(row.Values[:4:4], value.Text("fill")),
		},
		{
			"another order", []catalog.Column{{ID: 300}, {ID: 2}, {ID: 9, Fill: value.Integer(9)}, {ID: 1}},
			[]value.Value{row.Values[3], row.Values[1], value.Integer(9), row.Values[0]},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			table := &catalog.Table{Name: "t", IntegerKey: -1, Columns: test.columns}
			got, err := rowcodec.DecodeRow(table, key, val)
			if err != nil {
				t.Fatal(err)
			}
			want := rowcodec.Row{Rowid: 1, Values: test.want}
			if diff := cmp.Diff(want, got, valuesEqual); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			again, err := rowcodec.DecodeRow(table, key, rowcodec.AppendRow(nil, table, got))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, again, valuesEqual); diff != "" {
				t.Errorf("written again (-want +got):\n%s", diff)
			}
		})
	}
	shuffled := &catalog.Table{Name: "t", IntegerKey: -1, Columns: []catalog.Column{{ID: 300}, {ID: 2}, {ID: 3}, {ID: 1}}}
	moved := rowcodec.Row{Rowid: 1, Values: []value.Value{row.Values[3], row.Values[1], row.Values[2], row.Values[0]}}
	if got := rowcodec.AppendRow(nil, shuffled, moved); !bytes.Equal(got, val) {
		t.Errorf("the columns' order changes the row's value: %x, want %x", got, val)
	}
}

func TestDecodeRowRefuses(t *testing.T) {
	all := tables()
	key := rowcodec.AppendKeyValue(nil, value.Integer(7), 0, false)
	for _, test := range []struct{ name, table, val string }{
		{"nothing", "rowid", ""},
		{"unknown format", "rowid", "02"},
		{"rowid missing", "declared key", "01"},
		{"rowid cut short", "declared key", "0180"},
		{"column id alone", "rowid", "0101"},
		{"column id cut short", "rowid", "0180"},
		{"column id not minimal", "rowid", "01810000"},
		{"column id over 32 bits", "rowid", "01808080801000"},
		{"column id over 64 bits", "rowid", "01ffffffffffffffffff7f00"},
		{"column twice", "rowid", "0101000100"},
		{"columns descending", "rowid", "0102000100"},
		{"unknown columns descending", "rowid", "0163006200"},
		{"unknown kind", "rowid", "010105"},
		{"unknown kind in an unknown column", "rowid", "016305"},
		{"integer cut short", "rowid", "010101"},
		{"integer not minimal", "rowid", "0101018000"},
		{"real cut short", "rowid", "01010200000000000000"},
		{"real not a number", "rowid", "0101027ff8000000000000"},
		{"text cut short", "rowid", "0101030261"},
		{"blob length absurd", "rowid", "010104ffffffffffffffffff01"},
		{"virtual column", "rowid", "010700"},
		{"column that is the key", "integer key", "01020102"},
	} {
		t.Run(test.name, func(t *testing.T) {
			row, err := rowcodec.DecodeRow(all[test.table].catalog, key, decodeHex(t, test.val))
			if !errors.Is(err, rowcodec.ErrCorrupt) {
				t.Errorf("decoded to %v, error %v", row, err)
			}
		})
	}
}

func TestDecodeRowIntoReuses(t *testing.T) {
	c := tables()["rowid"].catalog
	row := rowcodec.Row{Rowid: 7, Values: make([]value.Value, len(c.Columns))}
	row.Values[4] = value.Text("x")
	key := rowcodec.AppendRowKey(nil, c, row)
	full, bare := rowcodec.AppendRow(nil, c, row), []byte{1}
	var got rowcodec.Row
	if err := rowcodec.DecodeRowInto(&got, c, key, full); err != nil {
		t.Fatal(err)
	}
	if err := rowcodec.DecodeRowInto(&got, c, key, bare); err != nil {
		t.Fatal(err)
	}
	if !got.Values[4].IsNull() {
		t.Errorf("%s is left of the row before", show(got.Values[4]))
	}
	allocs := testing.AllocsPerRun(10, func() {
		if err := rowcodec.DecodeRowInto(&got, c, key, full); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func FuzzDecodeRow(f *testing.F) {
	all := tables()
	row := rowcodec.Row{Rowid: -7, Values: []value.Value{
		value.Text("a"), value.Integer(-7), value.Real(math.Inf(1)), value.Null(), value.Blob([]byte{0}),
	}}
	for _, table := range all {
		key := rowcodec.AppendRowKey(nil, table.catalog, row)
		f.Add(key, rowcodec.AppendRow(nil, table.catalog, row))
		f.Add(key, []byte{1})
	}
	f.Add([]byte{}, []byte("\x01\x0e\x63\x01\x02"))
	f.Fuzz(func(t *testing.T, key, val []byte) {
		for name, table := range all {
			row, err := rowcodec.DecodeRow(table.catalog, key, val)
			if err != nil {
				if !errors.Is(err, rowcodec.ErrCorrupt) {
					t.Fatalf("%s: error %v is not ErrCorrupt", name, err)
				}
				continue
			}
			rowKey := rowcodec.AppendRowKey(nil, table.catalog, row)
			if table.catalog.Identity != catalog.IdentityDeclared && !bytes.Equal(rowKey, key) {
				t.Fatalf("%s: key %x becomes %x", name, key, rowKey)
			}
			again, err := rowcodec.DecodeRow(table.catalog, rowKey, rowcodec.AppendRow(nil, table.catalog, row))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(row, again, valuesEqual); diff != "" {
				t.Fatalf("%s: row changed (-want +got):\n%s", name, diff)
			}
		}
	})
}

func FuzzRowRoundTrip(f *testing.F) {
	all := tables()
	f.Add(int64(1), []byte("a\x00"), int64(math.MinInt64), 1.5, []byte{})
	f.Add(int64(math.MaxInt64), []byte("\xff"), int64(1<<53+1), math.Copysign(0, -1), []byte{0, 0xff})
	f.Fuzz(func(t *testing.T, rowid int64, text []byte, i int64, r float64, blob []byte) {
		for name, table := range all {
			row := rowcodec.Row{Rowid: rowid, Values: []value.Value{
				value.TextBytes(text), value.Integer(i), value.Real(r), value.Null(), value.Blob(blob),
			}}
			switch {
			case table.catalog.WithoutRowid:
				row.Rowid = 0
			case table.catalog.Identity == catalog.IdentityIntegerKey:
				row.Rowid = i
			}
			key := rowcodec.AppendRowKey(nil, table.catalog, row)
			val := rowcodec.AppendRow(nil, table.catalog, row)
			got, err := rowcodec.DecodeRow(table.catalog, key, val)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(row, got, valuesEqual); diff != "" {
				t.Fatalf("%s: row changed (-want +got):\n%s", name, diff)
			}
			if again := rowcodec.AppendRow(nil, table.catalog, got); !bytes.Equal(again, val) {
				t.Fatalf("%s: value %x becomes %x", name, val, again)
			}
		}
	})
}
