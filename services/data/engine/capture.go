package engine

import (
	"bytes"
	"strings"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// capture notes which rows a transaction touches, and what they were before, from SQLite's pre-update hook. The hook also
// fires for rows of a statement that then fails, so what the rows are afterwards is read back, not noted.
type capture struct {
	tables map[string]*touchedTable // by name as SQLite gives it

	written  uint64 // rows changed, by triggers and cascades too
	inserted *int64 // the last rowid that the running statement itself inserted
	err      error

	// whole has the tables that this transaction made or rewrote: they are read whole at its end.
	whole map[uint32]bool
}

// touchedTable is the touched rows of one table. access is nil for a table that is read whole.
type touchedTable struct {
	access *access
	rows   map[string]*touchedRow // by key bytes
	order  []*touchedRow
}

type touchedRow struct {
	key       []byte
	keyValues []value.Value
	existed   bool
	old       []byte // canonical value before the transaction
}

func (c *capture) reset() {
	*c = capture{tables: make(map[string]*touchedTable), whole: make(map[uint32]bool)}
}

// rename has the touched rows stand under the names that their tables now have. Those of tables that are gone, or are read
// whole, are forgotten.
func (c *capture) rename(next *catalog.Catalog, tables map[string]*access) {
	touched := c.tables
	c.tables = make(map[string]*touchedTable, len(touched))
	for _, t := range touched {
		if t.access == nil {
			continue
		}
		if now := next.TableByID(t.access.table.ID); now != nil {
			t.access = tables[strings.ToLower(now.Name)]
			c.tables[now.Name] = t
		}
	}
}

// onChange is the pre-update hook.
func (w *writer) onChange(u *sqlite.PreUpdate) {
	c := &w.capture
	if c.err != nil || u.DB != "main" || strings.HasPrefix(u.Table, internalPrefix) {
		return
	}
	t := c.tables[u.Table]
	if t == nil {
		t = &touchedTable{access: w.tables[strings.ToLower(u.Table)], rows: make(map[string]*touchedRow)}
		if t.access != nil && c.whole[t.access.table.ID] {
			t.access = nil
		}
		c.tables[u.Table] = t
	}
	c.written++
	if t.access == nil {
		return
	}
	if u.Op == sqlite.OpInsert && !t.access.table.WithoutRowid {
		if u.Depth() == 0 {
			rowid := u.NewRowid
			c.inserted = &rowid
		}
	}
	if u.Op != sqlite.OpInsert {
		c.touch(t, u.OldRowid, u.Old, true)
	}
	if u.Op != sqlite.OpDelete {
		c.touch(t, u.NewRowid, u.New, false)
	}
}

// touch notes one row image. The first touch of a key decides what the row was before.
func (c *capture) touch(t *touchedTable, rowid int64, column func(int) (value.Value, error), existed bool) {
	table := t.access.table
	row := rowcodec.Row{Rowid: rowid, Values: make([]value.Value, len(table.Columns))}
	read := func(i int) {
		if c.err == nil && table.Columns[i].Generated != catalog.GeneratedVirtual {
			row.Values[i], c.err = column(i)
			if v := row.Values[i]; v.Kind() == value.KindInteger && table.Columns[i].Affinity == catalog.AffinityReal {
				row.Values[i] = value.Real(float64(v.Integer())) // the hook does not convert the default of a row from before ADD COLUMN
			}
		}
	}
	for _, part := range table.Key {
		read(part.Column)
	}
	if table.IntegerKey >= 0 {
		row.Values[table.IntegerKey] = value.Integer(rowid)
	}
	if c.err != nil {
		return
	}
	key := rowcodec.AppendRowKey(nil, table, row)
	if t.rows[string(key)] != nil {
		return
	}
	touched := &touchedRow{key: key, keyValues: t.access.keyValues(row), existed: existed}
	if existed {
		for i := range table.Columns {
			read(i)
		}
		if c.err != nil {
			return
		}
		touched.old = rowcodec.AppendRow(nil, table, row)
	}
	t.rows[string(key)] = touched
	t.order = append(t.order, touched)
}

// rowChange is a row's state after a transaction.
type rowChange struct {
	key     []byte
	value   []byte
	deleted bool
}

// readBack reads the touched rows of one table and returns those that are not what they were, and the table's new sum.
func (t *touchedTable) readBack(s *session, sum rowSum) (changes []rowChange, after rowSum, err error) {
	id := t.access.table.ID
	for _, r := range t.order {
		row, ok, err := t.access.read(s, r.keyValues)
		if err != nil {
			return nil, sum, err
		}
		var now []byte
		if ok {
			now = rowcodec.AppendRow(nil, t.access.table, row)
		}
		if ok == r.existed && bytes.Equal(now, r.old) {
			continue
		}
		if r.existed {
			sum.Sum = sum.Sum.Sub(rowcodec.RowSum(id, r.key, r.old))
			sum.Rows--
		}
		if ok {
			sum.Sum = sum.Sum.Add(rowcodec.RowSum(id, r.key, now))
			sum.Rows++
		}
		changes = append(changes, rowChange{key: r.key, value: now, deleted: !ok})
	}
	return changes, sum, nil
}

// framing is about what a record has beside a row's key and value.
const framing = 16

// readWhole reads all rows of a table that is shipped whole, and how many bytes of a record they are. Beyond the limit it reads
// on for the sum alone, and fits is false.
func (a *access) readWhole(s *session, limit int) (changes []rowChange, sum rowSum, size int, fits bool, err error) {
	fits = true
	err = s.rows(a.readAll, nil, func(st *sqlite.Stmt) error {
		row := a.row(st)
		change := rowChange{
			key: rowcodec.AppendRowKey(nil, a.table, row), value: rowcodec.AppendRow(nil, a.table, row),
		}
		sum.Sum = sum.Sum.Add(rowcodec.RowSum(a.table.ID, change.key, change.value))
		sum.Rows++
		if size += len(change.key) + len(change.value) + framing; size > limit {
			changes, fits = nil, false
		}
		if fits {
			changes = append(changes, change)
		}
		return nil
	})
	return changes, sum, size, fits, err
}
