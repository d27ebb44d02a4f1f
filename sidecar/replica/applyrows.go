package replica

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
)

// changeTable applies the rows of one table and compares what it then has with what the primary has.
func (g *group) changeTable(change *replicationv1.TableChange, version uint64) error {
	t := g.catalog.TableByID(change.TableId)
	if t == nil {
		return fmt.Errorf("%w: rows of table %d, which is not in the schema", ErrRecord, change.TableId)
	}
	if _, bad := slices.BinarySearch(g.next.diverged, t.ID); bad {
		return nil // it is being copied anew, from a later version
	}
	err := g.changeRows(t, change, version)
	// A stored row that cannot be read differs from the primary's as much as one with a wrong value.
	if g.repairs && (errors.Is(err, ErrDiverged) || errors.Is(err, ErrCorrupt)) {
		g.found = append(g.found, fmt.Errorf("record %d: %w", version, err))
		g.markDiverged(t.ID)
		return nil
	}
	return err
}

// markDiverged notes that a table is not what the primary has.
func (g *group) markDiverged(table uint32) {
	at, _ := slices.BinarySearch(g.next.diverged, table)
	g.touched.Everything = true
	g.next.diverged = slices.Insert(slices.Clone(g.next.diverged), at, table)
}

func (g *group) changeRows(t *catalog.Table, change *replicationv1.TableChange, version uint64) error {
	want, err := rowcodec.ParseSum(change.Sum)
	if err != nil {
		return fmt.Errorf("%w: table %s: %w", ErrRecord, t.Name, err)
	}
	sum, err := g.sum(t.ID)
	if err != nil {
		return err
	}
	g.touched.Slots = append(g.touched.Slots, g.store.stamps.Whole(g.database.id, t.ID))
	for _, row := range change.Rows {
		g.touched.Slots = append(g.touched.Slots, g.store.stamps.Row(g.database.id, t.ID, row.Key))
		if err := g.changeRow(t, sum, row, version); err != nil {
			return fmt.Errorf("table %s: %w", t.Name, err)
		}
	}
	if sum.sum != want || sum.rows != change.RowCount {
		return fmt.Errorf("%w: table %s has %d rows with sum %v, the primary %d with %v",
			ErrDiverged, t.Name, sum.rows, sum.sum, change.RowCount, want)
	}
	return nil
}

// sum returns a table's sum, to be changed in place.
func (g *group) sum(table uint32) (*tableSum, error) {
	if sum, ok := g.sums[table]; ok {
		return sum, nil
	}
	sum, err := readSum(g.batch, g.database.id, table)
	if err != nil {
		return nil, err
	}
	g.sums[table] = &sum
	return &sum, nil
}

// changeRow brings one row, its index entries and its table's sum to what the record says.
func (g *group) changeRow(t *catalog.Table, sum *tableSum, row *replicationv1.RowChange, version uint64) (err error) {
	g.key = appendDataPrefix(g.key[:0], g.database.id, g.next.generationOf(t.ID), t.ID, rowsIndex)
	g.key = append(g.key, row.Key...)

	var old []byte // nil where there is none; valid until the closer is closed
	stored, closer, err := g.batch.Get(g.key)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
	case err != nil:
		return err
	default:
		defer func() { err = errors.Join(err, closer.Close()) }()
		if old, _, err = splitRow(stored); err != nil {
			return err
		}
		sum.sum = sum.sum.Sub(rowcodec.RowSum(t.ID, row.Key, old))
		sum.rows--
	}
	if row.Value != nil {
		sum.sum = sum.sum.Add(rowcodec.RowSum(t.ID, row.Key, row.Value))
		sum.rows++
	}
	if len(t.Indexes) > 0 {
		if err := g.changeEntries(t, row, old); err != nil {
			return err
		}
	}
	if row.Value != nil {
		g.value = appendRowValue(g.value[:0], version, row.Value)
		return g.batch.Set(g.key, g.value, nil)
	}
	if old != nil {
		return g.batch.Delete(g.key, nil)
	}
	return nil
}

// changeEntries replaces the index entries of a row. Those that stay the same are left alone.
func (g *group) changeEntries(t *catalog.Table, row *replicationv1.RowChange, old []byte) error {
	if old != nil {
		if err := rowcodec.DecodeRowInto(&g.oldRow, t, row.Key, old); err != nil {
			return fmt.Errorf("%w: stored row: %w", ErrCorrupt, err)
		}
	}
	if row.Value != nil {
		if err := rowcodec.DecodeRowInto(&g.newRow, t, row.Key, row.Value); err != nil {
			return fmt.Errorf("%w: %w", ErrRecord, err)
		}
	}
	for i := range t.Indexes {
		ix := &t.Indexes[i]
		if old != nil {
			g.oldIndexKey = g.appendEntry(g.oldIndexKey[:0], t, ix, g.oldRow, row.Key)
		}
		if row.Value != nil {
			g.newIndexKey = g.appendEntry(g.newIndexKey[:0], t, ix, g.newRow, row.Key)
		}
		if old != nil && row.Value != nil && bytes.Equal(g.oldIndexKey, g.newIndexKey) {
			continue
		}
		if old != nil {
			if err := g.batch.Delete(g.oldIndexKey, nil); err != nil {
				return err
			}
		}
		if row.Value != nil {
			if err := g.batch.Set(g.newIndexKey, nil, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// appendEntry appends the whole key of a row's entry in an index.
func (g *group) appendEntry(dst []byte, t *catalog.Table, ix *catalog.Index, row rowcodec.Row, rowKey []byte) []byte {
	dst = appendDataPrefix(dst, g.database.id, g.next.generationOf(t.ID), t.ID, ix.ID)
	return rowcodec.AppendIndexKey(dst, t, ix, row, rowKey)
}
