package replica

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
)

// changedTable gathers what a group does to the rows of a table.
type changedTable struct {
	table  *catalog.Table
	prefix []byte // of the rows' stored keys
	rows   []changedRow
	// ordered says that the rows are in the order of their keys, each once: then a row behind the last is a new one.
	ordered bool
	places  map[string]int // of the first rows, as many as it has
}

// changedRow is one row. All bytes but old are those of the records.
type changedRow struct {
	key     []byte
	value   []byte // nil where the row is deleted
	old     []byte // what the store has; nil where it has none
	version uint64 // of the last change
	sum     rowcodec.Sum
}

func (t *changedTable) reset() {
	clear(t.rows)
	clear(t.places)
	*t = changedTable{prefix: t.prefix[:0], rows: t.rows[:0], places: t.places}
}

// table returns what the group does to a table.
func (g *group) table(t *catalog.Table) *changedTable {
	if changed, ok := g.tables[t.ID]; ok {
		return changed
	}
	var changed *changedTable
	if n := len(g.spare); n > 0 {
		changed, g.spare = g.spare[n-1], g.spare[:n-1]
	} else {
		changed = &changedTable{places: make(map[string]int)}
	}
	changed.table, changed.ordered = t, true
	changed.prefix = appendDataPrefix(changed.prefix, g.database.id, g.next.generationOf(t.ID), t.ID, rowsIndex)
	g.tables[t.ID] = changed
	return changed
}

// changeRow notes the new state of a table's row in a record, the one at place, and what it was, and brings the table's sum to it.
func (g *group) changeRow(t *changedTable, sum *tableSum, in *tableChange, place int, version uint64) error {
	change := &in.rows[place]
	row, err := g.find(t, change)
	if err != nil {
		return err
	}
	if row.value != nil {
		g.olds.add(place, row.value)
		sum.sum = sum.sum.Sub(row.sum)
		sum.rows--
	}
	if change.value != nil {
		row.sum = rowcodec.RowSum(t.table.ID, change.key, change.value)
		sum.sum = sum.sum.Add(row.sum)
		sum.rows++
	}
	row.value, row.version = change.value, version
	return nil
}

// find returns what the group has of a row that a record changes, at first what the store has of it.
func (g *group) find(t *changedTable, change *rowChange) (*changedRow, error) {
	key := change.key
	if n := len(t.rows); n > 0 && (!t.ordered || bytes.Compare(key, t.rows[n-1].key) <= 0) {
		for i := len(t.places); i < n; i++ {
			t.places[string(t.rows[i].key)] = i
		}
		if i, ok := t.places[string(key)]; ok {
			return &t.rows[i], nil
		}
		t.ordered = false
		t.places[string(key)] = n
	}
	row := changedRow{key: key}
	if !change.fresh { // a copy that has such a row all the same will not have the primary's sum
		var err error
		if row.old, err = g.stored(t, key); err != nil {
			return nil, err
		}
	}
	if row.old != nil {
		row.value, row.sum = row.old, rowcodec.RowSum(t.table.ID, key, row.old)
	}
	t.rows = append(t.rows, row)
	return &t.rows[len(t.rows)-1], nil
}

// stored returns the value of a row before the group, valid until the group ends, or nil if there is none.
func (g *group) stored(t *changedTable, key []byte) ([]byte, error) {
	g.key = append(append(g.key[:0], t.prefix...), key...)
	stored, closer, err := g.store.db.Get(g.key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	value, _, err := splitRow(stored)
	if err == nil && t.table.ColumnsDropped {
		if value, err = rowcodec.CanonicalRow(&g.value, t.table, value); err != nil {
			err = fmt.Errorf("%w: stored row: %w", ErrCorrupt, err)
		}
	}
	if err == nil {
		if len(value) > cap(g.old)-len(g.old) {
			g.old = make([]byte, 0, max(len(value), min(2*cap(g.old), maxScratch/4), 4<<10)) // rows share what was before
		}
		g.old = append(g.old, value...)
		value = g.old[len(g.old)-len(value) : len(g.old) : len(g.old)]
	}
	return value, errors.Join(err, closer.Close())
}
