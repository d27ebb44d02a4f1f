package engine

import (
	"bytes"
	"slices"
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
	spare  *touchedTable            // of the transaction before, to be used again
	values []value.Value            // memory of one row
	bytes  []byte                   // and of its key or value

	written  uint64 // rows changed, by triggers and cascades too
	inserted *int64 // the last rowid that the running statement itself inserted
	err      error

	// whole has the tables that this transaction made or rewrote: they are read whole at its end.
	whole map[uint32]bool
	// shed has those that lost a column: their sums are made anew at its end.
	shed map[uint32]bool
}

// touchedTable is the touched rows of one table. access is nil for a table that is read whole.
type touchedTable struct {
	access *access
	rows   map[string]*touchedRow // by key bytes; nil while there are few
	order  []*touchedRow
}

type touchedRow struct {
	key       []byte
	keyValues []value.Value // of all but fresh ones
	existed   bool
	old       []byte // canonical value before the transaction

	// fresh is a row that was touched once, by the INSERT that made it: the hook sees the very record that the table gets, so
	// what is in now is what reading the row back would give.
	fresh bool
	now   []byte // canonical value of a fresh row
}

// fewRows is how many touched rows are searched one after the other.
const fewRows = 8

func (t *touchedTable) find(key []byte) *touchedRow {
	if t.rows != nil {
		return t.rows[string(key)]
	}
	for _, r := range t.order {
		if bytes.Equal(r.key, key) {
			return r
		}
	}
	return nil
}

func (t *touchedTable) add(r *touchedRow) {
	t.order = append(t.order, r)
	switch {
	case t.rows != nil:
		t.rows[string(r.key)] = r
	case len(t.order) > fewRows:
		t.rows = make(map[string]*touchedRow, 4*fewRows)
		for _, r := range t.order {
			t.rows[string(r.key)] = r
		}
	}
}

// reset makes ready for the next transaction.
func (c *capture) reset() {
	if len(c.tables) == 1 {
		for _, t := range c.tables {
			if cap(t.order) <= fewRows {
				clear(t.order)
				*t = touchedTable{order: t.order[:0]}
				c.spare = t
			}
		}
	}
	if c.tables == nil {
		c.tables = make(map[string]*touchedTable)
	}
	clear(c.tables)
	c.written, c.inserted, c.err, c.whole, c.shed = 0, nil, nil, nil, nil
	if cap(c.bytes) > maxKeptRow {
		c.bytes = nil
	}
}

// maxKeptRow bounds the memory that is kept for the next row's bytes.
const maxKeptRow = 16 << 10

// table returns what is noted of a table, by the name that SQLite has for it.
func (c *capture) table(name string, tables map[string]*access) *touchedTable {
	if t := c.tables[name]; t != nil {
		return t
	}
	t := c.spare
	if c.spare = nil; t == nil {
		t = &touchedTable{}
	}
	t.access = tables[catalog.Fold(name)]
	if t.access != nil && c.whole[t.access.table.ID] {
		t.access = nil
	}
	c.tables[name] = t
	return t
}

// remade notes the tables that are read whole at the end, and those whose sums are made anew.
func (c *capture) remade(d derived) {
	if c.whole == nil {
		c.whole, c.shed = make(map[uint32]bool), make(map[uint32]bool)
	}
	for _, t := range d.replaced {
		c.whole[t.ID] = true
	}
	for _, t := range d.shed {
		c.shed[t.ID] = true
	}
}

// rename has the touched rows stand under the names that their tables now have, and what they were without the columns that are
// gone. Those of tables that are gone, or are read whole, are forgotten.
func (c *capture) rename(next *catalog.Catalog, tables map[string]*access) (err error) {
	touched := c.tables
	c.tables = make(map[string]*touchedTable, len(touched))
	for _, t := range touched {
		if t.access == nil {
			continue
		}
		if now := next.TableByID(t.access.table.ID); now != nil {
			t.access = tables[catalog.Fold(now.Name)]
			c.tables[now.Name] = t
			for _, r := range t.order {
				if r.existed && now.ColumnsDropped {
					if r.old, err = rowcodec.CanonicalRow(new([]byte), now, r.old); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// onChange is the pre-update hook.
func (w *writer) onChange(u *sqlite.PreUpdate) {
	c := &w.capture
	if c.err != nil || u.DB != "main" || strings.HasPrefix(u.Table, internalPrefix) {
		return
	}
	t := c.table(u.Table, w.tables)
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
		c.touch(t, u.OldRowid, u.Old, imageOld)
	}
	switch u.Op {
	case sqlite.OpInsert:
		c.touch(t, u.NewRowid, u.New, imageInserted)
	case sqlite.OpUpdate:
		c.touch(t, u.NewRowid, u.New, imageUpdated)
	case sqlite.OpDelete: // nothing is there any more
	}
}

// image says what a row image is of.
type image uint8

const (
	imageOld      image = iota // a row before its change
	imageInserted              // a row that was not there
	imageUpdated               // what an UPDATE makes of a row
)

// touch notes one row image. The first touch of a key decides what the row was before.
func (c *capture) touch(t *touchedTable, rowid int64, column func(int) (value.Value, error), of image) {
	table := t.access.table
	c.values = slices.Grow(c.values[:0], len(table.Columns))[:len(table.Columns)]
	clear(c.values)
	row := rowcodec.Row{Rowid: rowid, Values: c.values}
	read := func(i int) {
		if c.err == nil && table.Columns[i].Generated != catalog.GeneratedVirtual {
			row.Values[i], c.err = column(i)
			if v := row.Values[i]; v.Kind() == value.KindInteger && table.Columns[i].Affinity == catalog.AffinityReal {
				row.Values[i] = value.Real(float64(v.Integer())) // the hook does not convert the default of a row from before ADD COLUMN
			}
		}
	}
	if table.IntegerKey >= 0 {
		row.Values[table.IntegerKey] = value.Integer(rowid)
	}
	for _, part := range table.Key {
		if part.Column != table.IntegerKey {
			read(part.Column)
		}
	}
	if c.err != nil {
		return
	}
	c.bytes = rowcodec.AppendRowKey(c.bytes[:0], table, row)
	if r := t.find(c.bytes); r != nil {
		if r.fresh {
			r.fresh, r.now, r.keyValues = false, nil, t.access.keyValues(row)
		}
		return
	}
	touched := &touchedRow{key: bytes.Clone(c.bytes), existed: of == imageOld, fresh: of == imageInserted}
	if !touched.fresh {
		touched.keyValues = t.access.keyValues(row)
	}
	if of != imageUpdated {
		for i := range table.Columns {
			if i != table.IntegerKey {
				read(i)
			}
		}
		if c.err != nil {
			return
		}
		c.bytes = rowcodec.AppendRow(c.bytes[:0], table, row)
		if touched.existed {
			touched.old = bytes.Clone(c.bytes)
		} else {
			touched.now = bytes.Clone(c.bytes)
		}
	}
	t.add(touched)
}

// state returns what a touched row is now. Whether a fresh row is that still is not certain after a change of the schema,
// which the hook does not see.
func (t *touchedTable) state(s *session, r *touchedRow, schema bool) (now []byte, ok bool, err error) {
	if r.fresh && !schema {
		return r.now, true, nil
	}
	keyValues := r.keyValues
	if r.fresh {
		if keyValues, err = t.access.keyFromBytes(r.key); err != nil {
			return nil, false, err
		}
	}
	row, ok, err := t.access.read(s, keyValues)
	if ok && err == nil {
		now = rowcodec.AppendRow(nil, t.access.table, row)
	}
	return now, ok, err
}

// rowChange is a row's state after a transaction.
type rowChange struct {
	key     []byte
	value   []byte
	deleted bool
	fresh   bool // it was not there before
}

// readBack reads the touched rows of one table and returns those that are not what they were, and the table's new sum.
func (t *touchedTable) readBack(s *session, sum rowSum, schema bool) (changes []rowChange, after rowSum, err error) {
	id := t.access.table.ID
	changes = make([]rowChange, 0, len(t.order))
	for _, r := range t.order {
		now, ok, err := t.state(s, r, schema)
		if err != nil {
			return nil, sum, err
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
		changes = append(changes, rowChange{key: r.key, value: now, deleted: !ok, fresh: ok && !r.existed})
	}
	return changes, sum, nil
}

// sumRows adds up all rows of a table.
func (a *access) sumRows(s *session) (sum rowSum, err error) {
	var key, val []byte
	err = s.rows(a.readAll, nil, func(st *sqlite.Stmt) error {
		row := a.row(st)
		key, val = rowcodec.AppendRowKey(key[:0], a.table, row), rowcodec.AppendRow(val[:0], a.table, row)
		sum.Sum = sum.Sum.Add(rowcodec.RowSum(a.table.ID, key, val))
		sum.Rows++
		return nil
	})
	return sum, err
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
