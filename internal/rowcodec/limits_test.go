package rowcodec_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// roundTrip encodes a row, decodes it and compares, and encodes what was decoded once more.
func roundTrip(t *testing.T, table *catalog.Table, row rowcodec.Row) {
	t.Helper()
	key, val := rowcodec.AppendRowKey(nil, table, row), rowcodec.AppendRow(nil, table, row)
	got, err := rowcodec.DecodeRow(table, key, val)
	if err != nil {
		t.Fatal(err)
	}
	if got.Rowid != row.Rowid {
		t.Errorf("rowid %d, want %d", got.Rowid, row.Rowid)
	}
	for i := range row.Values {
		if !value.Equal(got.Values[i], row.Values[i]) {
			t.Fatalf("column %d is %v of %d bytes, want %v of %d", i, got.Values[i].Kind(), got.Values[i].Size(), row.Values[i].Kind(), row.Values[i].Size())
		}
	}
	if again := rowcodec.AppendRow(nil, table, got); !bytes.Equal(again, val) {
		t.Error("encoded again it is another value")
	}
	if again := rowcodec.AppendRowKey(nil, table, got); !bytes.Equal(again, key) {
		t.Error("encoded again it is another key")
	}
}

// everyKind cycles through the storage classes with their awkward values.
func everyKind(i int) value.Value {
	return []value.Value{
		value.Null(), value.Integer(math.MinInt64), value.Integer(1<<53 + 1), value.Real(math.Inf(1)), value.Real(math.Inf(-1)),
		value.Real(math.Copysign(0, -1)), value.Real(math.SmallestNonzeroFloat64), value.TextBytes([]byte{0xff, 0, 0xc3}), value.Text(""),
		value.Blob(nil), value.Blob([]byte{0, 0xff, 0}), value.Text(fmt.Sprint(i)),
	}[i%12]
}

// TestTwoThousandColumns is as many as SQLite has: in the order of their ids and in no order, as a catalog may have them, half
// of them with a fill, and all in the key.
func TestTwoThousandColumns(t *testing.T) {
	const n = 2000
	for _, disorder := range []int{1, 7} { // 7 and 2000 have no common divisor
		table := &catalog.Table{ID: 1, Name: "wide", WithoutRowid: true, Identity: catalog.IdentityDeclared, IntegerKey: -1}
		row := rowcodec.Row{}
		for i := range n {
			c := catalog.Column{ID: uint32(i*disorder%n + 1), Name: fmt.Sprint("c", i)}
			if i%2 == 0 {
				c.Fill = everyKind(i / 2)
			}
			table.Columns = append(table.Columns, c)
			table.Key = append(table.Key, catalog.KeyPart{Column: n - 1 - i, Desc: i%3 == 0})
			row.Values = append(row.Values, everyKind(i/2+i%4/2)) // its fill in a quarter of the columns
		}
		roundTrip(t, table, row)
	}
}

// TestValuesOf8MiB are texts and blobs of nothing but bytes that are escaped in keys, in the value, the key and an index.
func TestValuesOf8MiB(t *testing.T) {
	zeros := make([]byte, 8<<20)
	for _, v := range []value.Value{value.Blob(zeros), value.TextBytes(zeros), value.Text(strings.Repeat("Aé ", 2<<20)), value.Text(strings.Repeat(" ", 8<<20))} {
		for _, collation := range []catalog.Collation{catalog.CollationBinary, catalog.CollationNoCase, catalog.CollationRTrim} {
			table := &catalog.Table{
				ID: 1, Name: "large", WithoutRowid: true, Identity: catalog.IdentityDeclared, IntegerKey: -1,
				Columns: []catalog.Column{{ID: 1, Name: "k", Collation: collation}, {ID: 2, Name: "v"}},
				Key:     []catalog.KeyPart{{Column: 0, Collation: collation, Desc: true}, {Column: 1}},
				Indexes: []catalog.Index{{ID: 2, Name: "i", Parts: []catalog.KeyPart{{Column: 0, Collation: collation}}}},
			}
			row := rowcodec.Row{Values: []value.Value{v, value.Integer(1)}}
			roundTrip(t, table, row)
			key := rowcodec.AppendRowKey(nil, table, row)
			entry := rowcodec.AppendIndexKey(nil, table, &table.Indexes[0], row, key)
			if got, err := rowcodec.IndexRowKey(&table.Indexes[0], entry); err != nil || !bytes.Equal(got, key) {
				t.Errorf("row key of %d bytes after an entry of %d: %v", len(got), len(entry), err)
			}
		}
	}
}

// TestKeysOrderIntegersAmongDoubles goes over the doubles from 2^53 to 2^63 and beyond, with the integers around them that no
// double equals: keys must be in the order of the numbers, which math.Nextafter and big steps tell here without SQLite.
func TestKeysOrderIntegersAmongDoubles(t *testing.T) {
	key := func(v value.Value) []byte { return rowcodec.AppendKeyValue(nil, v, catalog.CollationBinary, false) }
	for exponent := 53; exponent <= 62; exponent++ {
		f := math.Ldexp(1, exponent)
		base := int64(1) << exponent
		up := math.Nextafter(f, math.Inf(1))
		ascending := []value.Value{
			value.Integer(base - 1), value.Integer(base), value.Integer(base + 1), value.Real(up), value.Integer(int64(up) + 1),
		}
		if exponent == 53 {
			ascending[2] = value.Integer(base + 1) // between 2^53 and 2^53+2
		}
		for i := 1; i < len(ascending); i++ {
			if bytes.Compare(key(ascending[i-1]), key(ascending[i])) >= 0 {
				t.Errorf("2^%d: key %d is not below key %d", exponent, i-1, i)
			}
		}
		if !bytes.Equal(key(value.Integer(base)), key(value.Real(f))) {
			t.Errorf("2^%d and its double have two keys", exponent)
		}
		negative := slices.Clone(ascending)
		for i, v := range ascending {
			if v.Kind() == value.KindReal {
				negative[i] = value.Real(-v.Real())
			} else {
				negative[i] = value.Integer(-v.Integer())
			}
		}
		for i := 1; i < len(negative); i++ {
			if bytes.Compare(key(negative[i-1]), key(negative[i])) <= 0 {
				t.Errorf("-2^%d: key %d is not above key %d", exponent, i-1, i)
			}
		}
	}
	ends := []value.Value{
		value.Null(), value.Real(math.Inf(-1)), value.Real(-math.MaxFloat64), value.Real(math.Nextafter(-1<<63, math.Inf(-1))), value.Integer(math.MinInt64),
		value.Integer(math.MinInt64 + 1), value.Integer(0), value.Integer(math.MaxInt64 - 1), value.Integer(math.MaxInt64), value.Real(1 << 63),
		value.Real(math.MaxFloat64), value.Real(math.Inf(1)), value.Text(""), value.TextBytes([]byte{0}), value.TextBytes([]byte{0xff}), value.Blob(nil),
	}
	for i := 1; i < len(ends); i++ {
		if bytes.Compare(key(ends[i-1]), key(ends[i])) >= 0 {
			t.Errorf("%s is not below %s", show(ends[i-1]), show(ends[i]))
		}
	}
	if !bytes.Equal(key(value.Integer(math.MinInt64)), key(value.Real(-1<<63))) {
		t.Error("-2^63 and its double have two keys")
	}
}

// TestNullKeysStandForThemselves: a table with a nullable key is identified by its rowid, so its entries with NULL are as many
// as its rows.
func TestNullKeysStandForThemselves(t *testing.T) {
	table := &catalog.Table{
		ID: 1, Name: "t", Identity: catalog.IdentityRowid, IntegerKey: -1, Columns: []catalog.Column{{ID: 1, Name: "k"}},
		Indexes: []catalog.Index{{ID: 2, Name: "p", Unique: true, Primary: true, Parts: []catalog.KeyPart{{Column: 0}}}},
	}
	seen := make(map[string]bool)
	for rowid := int64(-1); rowid <= 1; rowid++ {
		row := rowcodec.Row{Rowid: rowid, Values: []value.Value{value.Null()}}
		roundTrip(t, table, row)
		entry := rowcodec.AppendIndexKey(nil, table, &table.Indexes[0], row, rowcodec.AppendRowKey(nil, table, row))
		prefix, err := rowcodec.AppendIndexPrefix(nil, table, &table.Indexes[0], []value.Value{value.Null()})
		if err != nil || !bytes.HasPrefix(entry, prefix) {
			t.Errorf("entry %x does not begin with %x: %v", entry, prefix, err)
		}
		seen[string(entry)] = true
	}
	if len(seen) != 3 {
		t.Errorf("%d entries for 3 rows", len(seen))
	}
}
