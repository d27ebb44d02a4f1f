package replica

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// verify checks that the copy is what the primary has: version, rows, index entries in both directions, row counts, and
// nothing else under the database's generation.
func verify(tb testing.TB, s *Store, id uint32, p *replicatest.Primary, tables ...*catalog.Table) {
	tb.Helper()
	snap := snapshot(tb, s, id)
	defer snap.Close()
	if snap.Version() != p.Version() {
		tb.Fatalf("version %d, want %d", snap.Version(), p.Version())
	}
	keys := 0
	for _, declared := range tables {
		table := snap.Catalog().TableByID(declared.ID)
		if table == nil {
			tb.Fatalf("table %s is not in the catalog", declared.Name)
		}
		want := p.Rows(table)
		got := make(map[string][]byte)
		rows, err := snap.NewRowIter(table, nil, nil, false)
		if err != nil {
			tb.Fatal(err)
		}
		for rows.Next() {
			v, _, err := rows.Value()
			if err != nil {
				tb.Fatal(err)
			}
			if v, err = rowcodec.CanonicalRow(new([]byte), table, v); err != nil {
				tb.Fatal(err)
			}
			got[string(rows.Key())] = bytes.Clone(v)
		}
		if err := rows.Close(); err != nil {
			tb.Fatal(err)
		}
		if !maps.EqualFunc(want, got, bytes.Equal) { // Diff alone takes long where there is none
			tb.Fatalf("rows of %s (-primary +copy):\n%s", table.Name, cmp.Diff(want, got))
		}
		if n, err := snap.RowCount(table); err != nil || n != uint64(len(want)) {
			tb.Fatalf("row count of %s: %d, %v, want %d", table.Name, n, err, len(want))
		}
		for i := range table.Indexes {
			verifyIndex(tb, snap, table, &table.Indexes[i], want)
		}
		keys += len(want) * (1 + len(table.Indexes))
	}
	if n := dataKeys(tb, s, id); n != keys {
		tb.Fatalf("%d keys of rows and entries, want %d", n, keys)
	}
}

func verifyIndex(tb testing.TB, snap *Snapshot, table *catalog.Table, ix *catalog.Index, rows map[string][]byte) {
	tb.Helper()
	var want [][]byte
	for key, val := range rows {
		row, err := rowcodec.DecodeRow(table, []byte(key), val)
		if err != nil {
			tb.Fatal(err)
		}
		want = append(want, rowcodec.AppendIndexKey(nil, table, ix, row, []byte(key)))
	}
	slices.SortFunc(want, bytes.Compare)
	for _, reverse := range []bool{false, true} {
		var got [][]byte
		it, err := snap.NewIndexIter(table, ix, nil, nil, reverse)
		if err != nil {
			tb.Fatal(err)
		}
		for it.Next() {
			got = append(got, bytes.Clone(it.Key()))
			rowKey, err := it.RowKey()
			if err != nil {
				tb.Fatal(err)
			}
			if _, ok := rows[string(rowKey)]; !ok {
				tb.Fatalf("entry of %s for row %x, which is not there", ix.Name, rowKey)
			}
		}
		if err := it.Close(); err != nil {
			tb.Fatal(err)
		}
		if !slices.EqualFunc(want, got, bytes.Equal) {
			tb.Fatalf("entries of %s (-want +got):\n%s", ix.Name, cmp.Diff(want, got))
		}
		slices.Reverse(want)
	}
}

// dataKeys counts the keys of all generations of a database.
func dataKeys(tb testing.TB, s *Store, id uint32) int {
	tb.Helper()
	return countKeys(tb, s, id, spaceData)
}

func countKeys(tb testing.TB, s *Store, id uint32, space byte) int {
	tb.Helper()
	it, err := s.db.NewIter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	lower, upper := spaceRange(id, space)
	n := 0
	for ok := it.SeekGE(lower); ok && bytes.Compare(it.Key(), upper) < 0; ok = it.Next() {
		n++
	}
	if err := it.Close(); err != nil {
		tb.Fatal(err)
	}
	return n
}
