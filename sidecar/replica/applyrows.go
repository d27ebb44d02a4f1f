package replica

import (
	"errors"
	"fmt"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
)

// changeTable applies the rows of one table and compares what it then has with what the primary has.
func (g *group) changeTable(change *tableChange, version uint64) error {
	t := g.catalog.TableByID(change.id)
	if t == nil && change.replaced && len(g.record.withheld) > 0 {
		return nil // what the region is about to be told that it may not hold
	}
	if t == nil {
		return fmt.Errorf("%w: rows of table %d, which is not in the schema", ErrRecord, change.id)
	}
	if g.next.isDiverged(t.ID) {
		return nil // it is being copied anew, from a later version
	}
	if change.replaced {
		g.markDiverged(t.ID) // it has no rows yet: they are to be copied
		return nil
	}
	err := g.changeRows(t, change, version)
	if err != nil {
		return g.passOver(t, fmt.Errorf("record %d: %w", version, err))
	}
	return nil
}

// passOver returns err, unless it says that a table is not what the primary has and it can be copied by itself: then the
// group goes on without the table. A stored row that cannot be read differs as much as one with a wrong value.
func (g *group) passOver(t *catalog.Table, err error) error {
	if !g.repairs || !errors.Is(err, ErrDiverged) && !errors.Is(err, ErrCorrupt) {
		return err
	}
	g.found = append(g.found, err)
	g.markDiverged(t.ID)
	return nil
}

// markDiverged notes that a table is not what the primary has.
func (g *group) markDiverged(table uint32) {
	g.everything = true
	g.next.diverge(table)
	delete(g.tables, table)
	delete(g.sums, table)
}

func (g *group) changeRows(t *catalog.Table, change *tableChange, version uint64) error {
	want, err := rowcodec.ParseSum(change.sum)
	if err != nil {
		return fmt.Errorf("%w: table %s: %w", ErrRecord, t.Name, err)
	}
	sum, err := g.sum(t.ID)
	if err != nil {
		return err
	}
	changed := g.table(t)
	for i := range change.rows {
		if err := g.changeRow(changed, sum, change, i, version); err != nil {
			return fmt.Errorf("table %s: %w", t.Name, err)
		}
	}
	if sum.sum != want || sum.rows != change.rowCount {
		if err := g.checkRows(t, change); err != nil {
			return err
		}
		return fmt.Errorf("%w: table %s has %d rows with sum %v, the primary %d with %v",
			ErrDiverged, t.Name, sum.rows, sum.sum, change.rowCount, want)
	}
	return nil
}

// checkRows returns ErrRecord where what a record has of rows is no row of the table: then the record differs, not the copy.
func (g *group) checkRows(t *catalog.Table, change *tableChange) error {
	for _, row := range change.rows {
		if row.value == nil {
			continue
		}
		if err := rowcodec.DecodeRowInto(&g.row, t, row.key, row.value); err != nil {
			return fmt.Errorf("%w: table %s: %w", ErrRecord, t.Name, err)
		}
	}
	return nil
}

// sum returns a table's sum, to be changed in place.
func (g *group) sum(table uint32) (*tableSum, error) {
	if sum, ok := g.sums[table]; ok {
		return sum, nil
	}
	sum, err := readSum(g.store.db, g.database.id, table)
	if err != nil {
		return nil, err
	}
	g.sums[table] = &sum
	return &sum, nil
}
