package history_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// same compares a copy with the primary, both at the version that the primary is at: the schema; all rows, decoded, in the
// order of their keys as SQL has it; the same through each index; and sums and counts, stored and computed anew.
func same(db *engine.DB, s *replica.Store) error {
	d, ok := s.Database(shop)
	if !ok {
		return errors.New("no copy")
	}
	return db.ViewWithSums(context.Background(), func(v *engine.View, sums map[uint32]changelog.TableSum) (err error) {
		snap, err := d.Snapshot()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, snap.Close()) }()
		return sameDatabase(v, sums, snap)
	})
}

func sameDatabase(v *engine.View, sums map[uint32]changelog.TableSum, snap *replica.Snapshot) error {
	if snap.Version() != v.Head().Version || snap.Checksum() != v.Head().Checksum {
		return fmt.Errorf("copy is at version %d, the primary at %d", snap.Version(), v.Head().Version)
	}
	if want, have := v.Catalog().ToProto(), snap.Catalog().ToProto(); !proto.Equal(want, have) {
		return fmt.Errorf("schema: primary %v, copy %v", want, have)
	}
	for _, t := range v.Catalog().Tables {
		if snap.TableProblem(t) != nil {
			continue // replaced, and nobody copies it here
		}
		if err := sameTable(v, sums[t.ID], snap, t); err != nil {
			return fmt.Errorf("table %s (%d): %w", t.Name, t.ID, err)
		}
	}
	return nil
}

func sameTable(v *engine.View, sum changelog.TableSum, snap *replica.Snapshot, t *catalog.Table) error {
	rows, err := readRows(snap, t)
	if err != nil {
		return err
	}
	var computed changelog.TableSum
	have := make([]string, 0, len(rows.keys))
	for _, key := range rows.keys {
		canonical, err := rowcodec.CanonicalRow(new([]byte), t, rows.values[string(key)])
		if err != nil {
			return err
		}
		computed.Sum = computed.Sum.Add(rowcodec.RowSum(t.ID, key, canonical))
		computed.Rows++
		have = append(have, rows.texts[string(key)])
	}
	stored, count, err := snap.StoredSum(t)
	if err != nil {
		return err
	}
	if computed != sum || (changelog.TableSum{Sum: stored, Rows: count}) != sum {
		return fmt.Errorf("rows have sum %v, the copy has %v for %d, the primary %v", computed, stored, count, sum)
	}
	want, err := query(v, t, t.KeyColumns())
	if err != nil {
		return err
	}
	if !slices.Equal(want, have) {
		return fmt.Errorf("rows (-primary +copy):\n%s", cmp.Diff(want, have))
	}
	for i := range t.Indexes {
		if err := sameIndex(v, snap, t, &t.Indexes[i], rows); err != nil {
			return fmt.Errorf("index %s: %w", t.Indexes[i].Name, err)
		}
	}
	return nil
}

// copied is the rows of a table of a copy.
type copied struct {
	keys   [][]byte // in their order
	values map[string][]byte
	rows   map[string]rowcodec.Row
	texts  map[string]string
}

func readRows(snap *replica.Snapshot, t *catalog.Table) (*copied, error) {
	c := &copied{values: make(map[string][]byte), rows: make(map[string]rowcodec.Row), texts: make(map[string]string)}
	it, err := snap.NewRowIter(t, nil, nil, false)
	if err != nil {
		return nil, err
	}
	for it.Next() && err == nil {
		var stored []byte
		var version uint64
		if stored, version, err = it.Value(); err != nil {
			break
		}
		if version == 0 || version > snap.Version() {
			err = fmt.Errorf("row %x is of version %d", it.Key(), version)
			break
		}
		key, stored := bytes.Clone(it.Key()), bytes.Clone(stored)
		var row rowcodec.Row
		if row, err = rowcodec.DecodeRow(t, key, stored); err != nil {
			break
		}
		c.keys = append(c.keys, key)
		c.values[string(key)], c.rows[string(key)], c.texts[string(key)] = stored, row, text(t, row)
	}
	return c, errors.Join(err, it.Close())
}

func sameIndex(v *engine.View, snap *replica.Snapshot, t *catalog.Table, ix *catalog.Index, rows *copied) error {
	want, err := query(v, t, append(slices.Clone(ix.Parts), t.KeyColumns()...))
	if err != nil {
		return err
	}
	it, err := snap.NewIndexIter(t, ix, nil, nil, false)
	if err != nil {
		return err
	}
	var have []string
	for it.Next() && err == nil {
		var key []byte
		if key, err = it.RowKey(); err != nil {
			break
		}
		row, ok := rows.rows[string(key)]
		if !ok || !bytes.Equal(rowcodec.AppendIndexKey(nil, t, ix, row, key), it.Key()) {
			err = fmt.Errorf("entry %x of row %x, which is there: %v", it.Key(), key, ok)
		}
		have = append(have, rows.texts[string(key)])
	}
	if err := errors.Join(err, it.Close()); err != nil {
		return err
	}
	if !slices.Equal(want, have) {
		return fmt.Errorf("entries (-primary +copy):\n%s", cmp.Diff(want, have))
	}
	return nil
}

// query has SQLite answer all rows of a table in an order.
func query(v *engine.View, t *catalog.Table, parts []catalog.KeyPart) ([]string, error) {
	rowid := "NULL"
	for _, name := range []string{"oid", "_rowid_", "rowid"} {
		if !t.WithoutRowid && t.ColumnByName(name) < 0 {
			rowid = name
		}
	}
	columns := []string{rowid}
	for i := range t.Columns {
		if t.Columns[i].Generated == catalog.GeneratedVirtual {
			columns = append(columns, "NULL") // not in a copy's rows
		} else {
			columns = append(columns, quote(t.Columns[i].Name))
		}
	}
	var order []string
	for _, part := range parts {
		expr := rowid
		if part.Column >= 0 {
			expr = quote(t.Columns[part.Column].Name) + " COLLATE " + []string{"BINARY", "NOCASE", "RTRIM"}[part.Collation]
		}
		if part.Desc {
			expr += " DESC"
		}
		order = append(order, expr)
	}
	var sink rowSink
	sql := "SELECT " + strings.Join(columns, ", ") + " FROM " + quote(t.Name) + " ORDER BY " + strings.Join(order, ", ")
	_, err := v.Query(&datav1.Statement{Sql: sql}, &sink)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sql, err)
	}
	rows := make([]string, 0, len(sink))
	for _, values := range sink {
		row := rowcodec.Row{Rowid: values[0].Integer(), Values: values[1:]}
		rows = append(rows, text(t, row))
	}
	return rows, nil
}

type rowSink [][]value.Value

func (s *rowSink) Columns([]*datav1.Column) error { return nil }

func (s *rowSink) Row(row *datav1.Row, _ int) error {
	*s = append(*s, value.FromProtos(row.GetValues()))
	return nil
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func text(t *catalog.Table, row rowcodec.Row) string {
	var b strings.Builder
	if !t.WithoutRowid {
		b.WriteString(strconv.FormatInt(row.Rowid, 10) + ": ")
	}
	for _, v := range row.Values {
		switch v.Kind() {
		case value.KindInteger:
			b.WriteString(strconv.FormatInt(v.Integer(), 10))
		case value.KindReal:
			b.WriteString(strconv.FormatFloat(v.Real(), 'g', -1, 64) + "r")
		default:
			b.WriteString(v.Kind().String() + strconv.Quote(v.Text()))
		}
		b.WriteByte('|')
	}
	return b.String()
}
