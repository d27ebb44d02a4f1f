package replica

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

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
	// last is a key that no stored row is behind; nil where none is known.
	last []byte
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
	if last, ok := bytes.CutPrefix(g.database.last[t.ID], changed.prefix); ok {
		changed.last = last
	}
	g.tables[t.ID] = changed
	return changed
}

// changeRow notes the new state of a table's row in a record, the one at place, and what it was, and brings the table's sum to it.
func (g *group) changeRow(t *changedTable, sum *tableSum, in *tableChange, place int, version uint64) error {
	change := &in.rows[place]
	row, err := g.find(t, change.key)
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

// find returns what the group has of a row, at first what the store has of it.
func (g *group) find(t *changedTable, key []byte) (*changedRow, error) {
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
	var err error
	if row.old, err = g.stored(t, key); err != nil {
		return nil, err
	}
	if row.old != nil {
		row.value, row.sum = row.old, rowcodec.RowSum(t.table.ID, key, row.old)
	}
	t.rows = append(t.rows, row)
	return &t.rows[len(t.rows)-1], nil
}

// stored returns the value of a row before the group, valid until the group ends, or nil if there is none. Most rows that are
// written are new and behind all others: of those it is known without a look.
func (g *group) stored(t *changedTable, key []byte) ([]byte, error) {
	if t.last == nil {
		if err := g.findLast(t); err != nil {
			return nil, err
		}
	}
	if bytes.Compare(key, t.last) > 0 {
		return nil, nil
	}
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

// findLast reads the last key of a table's rows. The keys of no rows are empty, so an empty one says that there are none.
func (g *group) findLast(t *changedTable) error {
	iter, err := g.store.db.NewIter(&pebble.IterOptions{LowerBound: t.prefix, UpperBound: prefixEnd(t.prefix)})
	if err != nil {
		return err
	}
	t.last = []byte{}
	if iter.Last() {
		t.last = append(t.last, iter.Key()[len(t.prefix):]...)
	}
	return errors.Join(iter.Error(), iter.Close())
}

// maxLast is the length of a key that is not worth remembering.
const maxLast = 1 << 10

// raise returns what is known of the tables' last rows once the group is committed, of what was known before it.
func (g *group) raise(last map[uint32][]byte) map[uint32][]byte {
	for id, t := range g.tables {
		for _, row := range slices.Backward(t.rows) {
			if row.value == nil {
				continue
			}
			if bytes.Compare(row.key, t.last) > 0 {
				t.last = row.key
			}
			if t.ordered {
				break
			}
		}
		switch {
		case len(t.last) > maxLast:
			delete(last, id)
		case len(t.last) > 0:
			if last == nil {
				last = make(map[uint32][]byte)
			}
			last[id] = slices.Concat(t.prefix, t.last)
		}
	}
	return last
}
