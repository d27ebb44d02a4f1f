package replica

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
)

const (
	// entryBytes is how many bytes of index entries are gathered before they are written. Sorted ones are written faster;
	// that is all that depends on it.
	entryBytes = 256 << 10
	// entryLooks is how many of the index entries that a group deletes are looked for first. A group that follows its commits
	// has no more, so that a missing entry is found by the next change of its row; one that catches up has better things to do.
	entryLooks = 64
)

// entryOp puts or deletes the index entry with the key group.entries[from:to].
type entryOp struct {
	from, to int
	gone     bool
}

// writeRows puts the rows that the group changed and their index entries into the batch, in the order of their keys: the
// memtable finds the place of each beside the one before.
func (g *group) writeRows() error {
	looks := entryLooks
	for _, id := range slices.Sorted(maps.Keys(g.tables)) {
		t := g.tables[id]
		if !t.ordered {
			slices.SortFunc(t.rows, func(a, b changedRow) int { return bytes.Compare(a.key, b.key) })
			t.ordered = true
			clear(t.places)
		}
		err := g.writeTable(t)
		if err == nil && len(t.table.Indexes) > 0 {
			err = g.writeEntries(t, &looks)
		}
		if err != nil {
			if err := g.passOver(t.table, fmt.Errorf("table %s: %w", t.table.Name, err)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *group) writeTable(t *changedTable) error {
	for i := range t.rows {
		row := &t.rows[i]
		g.key = append(append(g.key[:0], t.prefix...), row.key...)
		var err error
		switch {
		case row.value != nil:
			g.value = appendRowValue(g.value[:0], row.version, row.value)
			err = g.batch.Set(g.key, g.value, nil)
		case row.old != nil:
			err = g.batch.Delete(g.key, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeEntries replaces the index entries of the changed rows. Those that stay the same are left alone.
func (g *group) writeEntries(t *changedTable, looks *int) error {
	for len(g.ops) < len(t.table.Indexes) {
		g.ops = append(g.ops, nil)
	}
	ops := g.ops[:len(t.table.Indexes)]
	g.entries = g.entries[:0]
	for i := range ops {
		ops[i] = ops[i][:0]
	}
	for i := range t.rows {
		if err := g.addEntries(t, &t.rows[i], ops); err != nil {
			return err
		}
		if len(g.entries) < entryBytes && i < len(t.rows)-1 {
			continue
		}
		for at := range ops {
			err := g.flushEntries(&t.table.Indexes[at], ops[at], looks)
			ops[at] = ops[at][:0]
			if err != nil {
				return err
			}
		}
		g.entries = g.entries[:0]
	}
	return nil
}

// addEntries gathers what becomes of the entries of one row, by index.
func (g *group) addEntries(t *changedTable, row *changedRow, ops [][]entryOp) error {
	if row.old != nil {
		if err := rowcodec.DecodeRowInto(&g.row, t.table, row.key, row.old); err != nil {
			return fmt.Errorf("%w: stored row: %w", ErrCorrupt, err)
		}
		for i := range ops {
			ops[i] = append(ops[i], g.addEntry(t.table, i, row.key, true))
		}
	}
	if row.value == nil {
		return nil
	}
	if err := rowcodec.DecodeRowInto(&g.row, t.table, row.key, row.value); err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	for i := range ops {
		put := g.addEntry(t.table, i, row.key, false)
		if n := len(ops[i]) - 1; n >= 0 && row.old != nil {
			if old := ops[i][n]; bytes.Equal(g.entries[old.from:old.to], g.entries[put.from:put.to]) {
				ops[i] = ops[i][:n]
				continue
			}
		}
		ops[i] = append(ops[i], put)
	}
	return nil
}

func (g *group) addEntry(t *catalog.Table, index int, rowKey []byte, gone bool) entryOp {
	from := len(g.entries)
	g.entries = g.appendEntry(g.entries, t, &t.Indexes[index], g.row, rowKey)
	return entryOp{from: from, to: len(g.entries), gone: gone}
}

// flushEntries writes what was gathered for one index.
func (g *group) flushEntries(ix *catalog.Index, ops []entryOp, looks *int) error {
	key := func(op entryOp) []byte { return g.entries[op.from:op.to] }
	order := func(a, b entryOp) int { return bytes.Compare(key(a), key(b)) }
	if !slices.IsSortedFunc(ops, order) {
		slices.SortFunc(ops, order)
	}
	for _, op := range ops {
		if !op.gone {
			if err := g.batch.Set(key(op), nil, nil); err != nil {
				return err
			}
			continue
		}
		if *looks > 0 {
			*looks--
			if err := g.lookFor(ix, key(op)); err != nil {
				return err
			}
		}
		if err := g.batch.Delete(key(op), nil); err != nil {
			return err
		}
	}
	return nil
}

// lookFor returns ErrDiverged where an index lacks an entry.
func (g *group) lookFor(ix *catalog.Index, key []byte) error {
	_, closer, err := g.store.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return fmt.Errorf("%w: index %s lacks the entry %x", ErrDiverged, ix.Name, key[dataPrefixSize:])
	}
	if err != nil {
		return err
	}
	return closer.Close()
}

// appendEntry appends the whole key of a row's entry in an index.
func (g *group) appendEntry(dst []byte, t *catalog.Table, ix *catalog.Index, row rowcodec.Row, rowKey []byte) []byte {
	dst = appendDataPrefix(dst, g.database.id, g.next.generationOf(t.ID), t.ID, ix.ID)
	return rowcodec.AppendIndexKey(dst, t, ix, row, rowKey)
}
