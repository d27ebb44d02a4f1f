package rowcodec_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// valuesEqual lets go-cmp compare values.
var valuesEqual = cmp.Comparer(value.Equal)

// sqlTable is a table, its catalog entry, and the ORDER BY terms of its key.
type sqlTable struct {
	schema  string
	catalog *catalog.Table
	order   string
}

func columns() []catalog.Column {
	return []catalog.Column{
		{ID: 1, Name: "a", Affinity: catalog.AffinityText, Collation: catalog.CollationNoCase},
		{ID: 2, Name: "b", Affinity: catalog.AffinityInteger},
		{ID: 5, Name: "c", Affinity: catalog.AffinityReal, Fill: value.Real(1.5)},
		{ID: 7, Name: "v", Affinity: catalog.AffinityBlob, Generated: catalog.GeneratedVirtual},
		{ID: 8, Name: "d", Affinity: catalog.AffinityBlob},
	}
}

func indexes() []catalog.Index {
	return []catalog.Index{
		{ID: 20, Name: "by_c", Parts: []catalog.KeyPart{
			{Column: 2, Desc: true}, {Column: 0, Collation: catalog.CollationNoCase},
		}},
		{ID: 21, Name: "by_a", Parts: []catalog.KeyPart{{Column: 0, Collation: catalog.CollationRTrim}}},
		{ID: 22, Name: "by_b", Parts: []catalog.KeyPart{{Column: 1}, {Column: 4, Desc: true}}},
	}
}

// indexOrders has the ORDER BY terms of indexes().
var indexOrders = []string{"c DESC, a COLLATE NOCASE", "a COLLATE RTRIM", "b, d DESC"}

func tables() map[string]sqlTable {
	const body = "a TEXT COLLATE NOCASE, b %s, c REAL, v AS (b + 1), d"
	intKey := 1
	return map[string]sqlTable{
		"rowid": {
			schema: fmt.Sprintf("CREATE TABLE t (%s)", fmt.Sprintf(body, "INTEGER")),
			catalog: &catalog.Table{
				ID: 10, Name: "t", Identity: catalog.IdentityRowid, IntegerKey: -1, Columns: columns(), Indexes: indexes(),
			},
			order: "rowid",
		},
		"integer key": {
			schema: fmt.Sprintf("CREATE TABLE t (%s)", fmt.Sprintf(body, "INTEGER PRIMARY KEY")),
			catalog: &catalog.Table{
				ID: 11, Name: "t", Identity: catalog.IdentityIntegerKey, IntegerKey: intKey, Columns: columns(), Indexes: indexes(),
			},
			order: "b",
		},
		"declared key": {
			schema: fmt.Sprintf("CREATE TABLE t (%s, PRIMARY KEY (a, b DESC, c))",
				strings.ReplaceAll(fmt.Sprintf(body, "INTEGER NOT NULL"), "REAL", "REAL NOT NULL")),
			catalog: &catalog.Table{
				ID: 12, Name: "t", Identity: catalog.IdentityDeclared, IntegerKey: -1, Columns: columns(), Indexes: indexes(),
				Key: []catalog.KeyPart{{Column: 0, Collation: catalog.CollationNoCase}, {Column: 1, Desc: true}, {Column: 2}},
			},
			order: "a, b DESC, c",
		},
		"without rowid": {
			schema: fmt.Sprintf("CREATE TABLE t (%s, PRIMARY KEY (b, a COLLATE RTRIM DESC, c)) WITHOUT ROWID",
				fmt.Sprintf(body, "INTEGER")),
			catalog: &catalog.Table{
				ID: 13, Name: "t", WithoutRowid: true, Identity: catalog.IdentityDeclared, IntegerKey: -1, Columns: columns(),
				Indexes: indexes(),
				Key: []catalog.KeyPart{
					{Column: 1}, {Column: 0, Collation: catalog.CollationRTrim, Desc: true}, {Column: 2},
				},
			},
			order: "b, a COLLATE RTRIM DESC, c",
		},
	}
}

// fill writes random rows, few of whose columns are alike, and leaves out those that break a constraint.
func (s sqlTable) fill(t *testing.T, db *sql.DB) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(5, 6))
	execSQL(t, db, s.schema)
	for range 1000 {
		anyValue := func() value.Value {
			switch rnd.IntN(8) {
			case 0:
				return value.Null()
			case 1:
				return value.Blob([]byte{byte(rnd.IntN(2)), 0})
			case 2:
				return value.Real(float64(rnd.IntN(8)) / 4)
			case 3:
				return value.Integer(1<<53 + rnd.Int64N(4))
			case 4:
				return value.Text(fmt.Sprint(rnd.IntN(4)))
			default:
				return value.Integer(rnd.Int64N(600) - 300)
			}
		}
		text := value.Text([]string{"x", "X", "x ", "y", "Y\x00z", "y\x00", "", "5"}[rnd.IntN(8)])
		if rnd.IntN(3) == 0 {
			text = anyValue()
		}
		execSQL(t, db, "INSERT OR IGNORE INTO t (a, b, c, d) SELECT ?1, ?2, ?3, ?4 WHERE typeof(?2) = 'integer'",
			bindAll([]value.Value{text, anyValue(), anyValue(), anyValue()})...)
	}
}

// rows returns the table's rows in an order of SQLite's.
func (s sqlTable) rows(t *testing.T, db *sql.DB, suffix string, args ...any) []rowcodec.Row {
	t.Helper()
	rowid := "rowid"
	if s.catalog.WithoutRowid {
		rowid = "0"
	}
	cells := query(t, db, "SELECT typeof("+rowid+"), "+rowid+
		", typeof(a), a, typeof(b), b, typeof(c), c, 'null', NULL, typeof(d), d FROM t "+suffix, args...)
	rows := make([]rowcodec.Row, len(cells))
	for i, c := range cells {
		rows[i] = rowcodec.Row{Rowid: c[0].Integer(), Values: c[1:]}
	}
	return rows
}

func TestTablesAgainstSQLite(t *testing.T) {
	for name, table := range tables() {
		t.Run(name, func(t *testing.T) {
			db := openSQLite(t)
			table.fill(t, db)
			c := table.catalog
			rows := table.rows(t, db, "ORDER BY "+table.order)
			if len(rows) < 100 {
				t.Fatalf("only %d rows", len(rows))
			}
			keys := make([][]byte, len(rows))
			for i, row := range rows {
				keys[i] = rowcodec.AppendRowKey(nil, c, row)
				if i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 {
					t.Fatalf("keys of rows %d and %d are not in order", i-1, i)
				}
				checkRow(t, c, keys[i], row)
			}
			for i := range c.Indexes {
				checkIndex(t, table, &c.Indexes[i], rows, table.rows(t, db, "ORDER BY "+indexOrders[i]+", "+table.order))
			}
			for _, a := range []value.Value{value.Text("X"), value.Integer(5), value.Text("Y\x00x"), value.Blob([]byte{0, 0})} {
				checkPrefix(t, c, rows, a, len(table.rows(t, db, "WHERE a = ?", bind(a))))
			}
		})
	}
}

// checkPrefix checks that as many index entries begin with a's prefix as SQLite finds rows with a in the first column.
func checkPrefix(t *testing.T, c *catalog.Table, rows []rowcodec.Row, a value.Value, want int) {
	t.Helper()
	ix := &catalog.Index{Parts: []catalog.KeyPart{{Column: 0, Collation: catalog.CollationNoCase}}}
	prefix, err := rowcodec.AppendIndexPrefix(nil, c, ix, []value.Value{a})
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for _, row := range rows {
		if bytes.HasPrefix(rowcodec.AppendIndexKey(nil, c, ix, row, nil), prefix) {
			got++
		}
	}
	if got != want || want == 0 {
		t.Errorf("a = %s: %d entries have its prefix, SQLite finds %d rows", show(a), got, want)
	}
}

// checkRow checks that a row survives encoding and that its key can be had from its key's values.
func checkRow(t *testing.T, c *catalog.Table, key []byte, row rowcodec.Row) {
	t.Helper()
	got, err := rowcodec.DecodeRow(c, key, rowcodec.AppendRow(nil, c, row))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(row, got, valuesEqual); diff != "" {
		t.Fatalf("row changed (-want +got):\n%s", diff)
	}
	var keyValues []value.Value
	for _, p := range c.KeyColumns() {
		if p.Column < 0 {
			keyValues = append(keyValues, value.Text(fmt.Sprintf(" %d.0", row.Rowid)))
		} else {
			keyValues = append(keyValues, row.Values[p.Column])
		}
	}
	if c.Identity == catalog.IdentityRowid && row.Rowid >= 1<<53 {
		t.Fatal("test rowids are too great to be written as reals")
	}
	again, err := rowcodec.AppendKey(nil, c, keyValues)
	if err != nil || !bytes.Equal(again, key) {
		t.Fatalf("key of values %x, error %v, want %x", again, err, key)
	}
	rowid, err := rowcodec.RowidFromKey(c, key)
	switch {
	case c.Identity == catalog.IdentityDeclared:
		if !errors.Is(err, rowcodec.ErrNoRowid) {
			t.Fatalf("rowid of a declared key: %d, error %v", rowid, err)
		}
	case err != nil || rowid != row.Rowid:
		t.Fatalf("rowid %d, error %v, want %d", rowid, err, row.Rowid)
	}
}

// checkIndex checks that the index's entries sort as SQLite sorts the rows and lead back to them.
func checkIndex(t *testing.T, table sqlTable, ix *catalog.Index, rows, sorted []rowcodec.Row) {
	t.Helper()
	c := table.catalog
	var entries [][]byte
	for _, row := range rows {
		rowKey := rowcodec.AppendRowKey(nil, c, row)
		entry := rowcodec.AppendIndexKey(nil, c, ix, row, rowKey)
		got, err := rowcodec.IndexRowKey(ix, entry)
		if err != nil || !bytes.Equal(got, rowKey) {
			t.Fatalf("index %s: row key %x, error %v, want %x", ix.Name, got, err, rowKey)
		}
		var vals []value.Value
		for _, p := range ix.Parts {
			vals = append(vals, row.Values[p.Column])
		}
		for n := range len(vals) + 1 {
			prefix, err := rowcodec.AppendIndexPrefix(nil, c, ix, vals[:n])
			if err != nil || !bytes.HasPrefix(entry, prefix) {
				t.Fatalf("index %s: prefix %x of %x, error %v", ix.Name, prefix, entry, err)
			}
		}
		entries = append(entries, entry)
	}
	slices.SortFunc(entries, bytes.Compare)
	for i, row := range sorted {
		rowKey, err := rowcodec.IndexRowKey(ix, entries[i])
		if err != nil {
			t.Fatal(err)
		}
		if want := rowcodec.AppendRowKey(nil, c, row); !bytes.Equal(rowKey, want) {
			t.Fatalf("entry %d of index %s is of row %x, SQLite has %x there", i, ix.Name, rowKey, want)
		}
	}
}

func TestKeyValueCounts(t *testing.T) {
	c := tables()["declared key"].catalog
	for _, n := range []int{0, 2, 4} {
		if _, err := rowcodec.AppendKey(nil, c, make([]value.Value, n)); !errors.Is(err, rowcodec.ErrKeyValues) {
			t.Errorf("%d key values: error %v", n, err)
		}
	}
	_, err := rowcodec.AppendIndexPrefix(nil, c, &c.Indexes[0], make([]value.Value, 3))
	if !errors.Is(err, rowcodec.ErrKeyValues) {
		t.Errorf("3 values of a two-column index: error %v", err)
	}
}

func TestRowidParts(t *testing.T) {
	for _, name := range []string{"rowid", "integer key"} {
		c := tables()[name].catalog
		row := rowcodec.Row{Rowid: 7, Values: make([]value.Value, len(c.Columns))}
		ix := &catalog.Index{Name: "ix", Parts: []catalog.KeyPart{{Column: -1, Desc: true}}}
		prefix, err := rowcodec.AppendIndexPrefix(nil, c, ix, []value.Value{value.Text("7")})
		if err != nil {
			t.Fatal(err)
		}
		if got := rowcodec.AppendIndexKey(nil, c, ix, row, nil); !bytes.Equal(got, prefix) {
			t.Errorf("%s: entry %x, want %x", name, got, prefix)
		}
	}
}

func TestCorruptKeys(t *testing.T) {
	c := tables()["rowid"].catalog
	good := rowcodec.AppendRowKey(nil, c, rowcodec.Row{Rowid: 1})
	for name, key := range map[string][]byte{
		"empty": nil, "short": good[:5], "trailing": append(slices.Clone(good), 0),
		"text": rowcodec.AppendKeyValue(nil, value.Text("1"), 0, false),
		"real": rowcodec.AppendKeyValue(nil, value.Real(1.5), 0, false),
	} {
		if _, err := rowcodec.RowidFromKey(c, key); !errors.Is(err, rowcodec.ErrCorrupt) {
			t.Errorf("%s key: error %v", name, err)
		}
		if _, err := rowcodec.DecodeRow(c, key, []byte{1}); !errors.Is(err, rowcodec.ErrCorrupt) {
			t.Errorf("row with %s key: error %v", name, err)
		}
	}
	if _, err := rowcodec.IndexRowKey(&c.Indexes[0], good); !errors.Is(err, rowcodec.ErrCorrupt) {
		t.Errorf("index entry cut short: error %v", err)
	}
}
