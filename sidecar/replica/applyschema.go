package replica

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
)

// buildBytes is how large the batches get that an index is built with.
const buildBytes = 4 << 20

// closingEvery is how many rows are read between two looks at whether the store is being closed.
const closingEvery = 4096

// catalogChange is what a new catalog means for the stored keys.
type catalogChange struct {
	catalog *catalog.Catalog
	build   []tableIndex // new indexes of tables that are there already
	remove  []tableIndex
	drop    []uint32         // tables
	shed    []*catalog.Table // that lost columns: their sums begin anew
}

type tableIndex struct {
	table *catalog.Table
	index *catalog.Index
}

// changeSchema goes over to another schema. The records of the group before are committed first: what is gathered of rows is
// under their schema, and indexes are built from rows that are there.
func (g *group) changeSchema(r *record) error {
	change, err := g.planCatalog(r)
	if err != nil {
		return err
	}
	if len(g.records) > 0 {
		if err := g.commit(); err != nil {
			return err
		}
		if err := g.batch.Close(); err != nil {
			return err
		}
		g.begin()
	}
	if err := g.buildIndexes(change.build); err != nil {
		return err
	}
	if err := g.changeCatalog(r, change); err != nil {
		return err
	}
	return g.restartSums(change.shed)
}

// lostColumns reports whether rows of a table may have values of columns that it no longer has.
func lostColumns(old, t *catalog.Table) bool {
	return slices.ContainsFunc(old.Columns, func(c catalog.Column) bool {
		return c.Generated != catalog.GeneratedVirtual && t.ColumnByID(c.ID) < 0
	})
}

// restartSums sums up the rows of tables that lost columns, without those. The rows stay as they are until they are written
// again. Readers are not held up, but the records behind this one are: nothing is kept of the rows that are read.
func (g *group) restartSums(tables []*catalog.Table) error {
	for _, t := range tables {
		sum, err := g.sumRows(t)
		if err != nil {
			if err := g.passOver(t, fmt.Errorf("table %s: %w", t.Name, err)); err != nil {
				return err
			}
			continue
		}
		g.sums[t.ID] = &sum
	}
	return nil
}

func (g *group) sumRows(t *catalog.Table) (sum tableSum, err error) {
	lower, upper := indexRange(g.database.id, g.next.generationOf(t.ID), t.ID, rowsIndex)
	iter, err := g.store.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return sum, err
	}
	for ok := iter.First(); ok && err == nil; ok = iter.Next() {
		if sum.rows%closingEvery == 0 && g.store.closes() {
			err = ErrClosed
			break
		}
		var stored, value []byte
		if stored, err = iter.ValueAndErr(); err != nil {
			break
		}
		if value, _, err = splitRow(stored); err != nil {
			break
		}
		if value, err = rowcodec.CanonicalRow(&g.value, t, value); err != nil {
			err = fmt.Errorf("%w: stored row: %w", ErrCorrupt, err)
			break
		}
		sum.sum = sum.sum.Add(rowcodec.RowSum(t.ID, iter.Key()[dataPrefixSize:], value))
		sum.rows++
	}
	return sum, errors.Join(err, iter.Error(), iter.Close())
}

// planCatalog compares a record's catalog with the present one.
func (g *group) planCatalog(r *record) (catalogChange, error) {
	cat, err := catalog.FromProto(r.catalog)
	if err != nil {
		return catalogChange{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if err := checkIDs(cat); err != nil {
		return catalogChange{}, err
	}
	change := catalogChange{catalog: cat}
	for _, t := range cat.Tables {
		old := g.catalog.TableByID(t.ID)
		if old == nil {
			continue
		}
		for i := range t.Indexes {
			ix := &t.Indexes[i]
			switch before := indexByID(old, ix.ID); {
			case before == nil && slices.Contains(g.next.diverged, t.ID): // the new copy will have it
			case before == nil:
				change.build = append(change.build, tableIndex{t, ix})
			case !old.SameParts(before.Parts, t, ix.Parts):
				return catalogChange{}, fmt.Errorf("%w: index %s has other columns under its old id", ErrRecord, ix.Name)
			}
		}
		if lostColumns(old, t) && !slices.Contains(g.next.diverged, t.ID) {
			change.shed = append(change.shed, t)
		}
		for i := range old.Indexes {
			if indexByID(t, old.Indexes[i].ID) == nil {
				change.remove = append(change.remove, tableIndex{old, &old.Indexes[i]})
			}
		}
	}
	if g.catalog != nil {
		for _, old := range g.catalog.Tables {
			if cat.TableByID(old.ID) == nil {
				change.drop = append(change.drop, old.ID)
			}
		}
	}
	return change, nil
}

// checkIDs refuses ids that are there twice or have no place in the keys: 0 stands for rows, and the greatest has no
// successor to bound its range.
func checkIDs(cat *catalog.Catalog) error {
	tables, indexes := make(map[uint32]bool), make(map[uint32]bool)
	add := func(seen map[uint32]bool, id uint32, name string) error {
		if id == 0 || id == math.MaxUint32 || seen[id] {
			return fmt.Errorf("%w: id %d of %s", ErrRecord, id, name)
		}
		seen[id] = true
		return nil
	}
	for _, t := range cat.Tables {
		if err := add(tables, t.ID, t.Name); err != nil {
			return err
		}
		for _, ix := range t.Indexes {
			if err := add(indexes, ix.ID, ix.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func indexByID(t *catalog.Table, id uint32) *catalog.Index {
	for i := range t.Indexes {
		if t.Indexes[i].ID == id {
			return &t.Indexes[i]
		}
	}
	return nil
}

// changeCatalog puts a new catalog and what it removes into the batch.
func (g *group) changeCatalog(r *record, change catalogChange) error {
	d := g.database
	b, err := proto.Marshal(r.catalog)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if err := g.batch.Set(catalogKey(d.id), b, nil); err != nil {
		return err
	}
	for _, old := range change.remove {
		lower, upper := indexRange(d.id, g.next.generationOf(old.table.ID), old.table.ID, old.index.ID)
		if err := g.batch.DeleteRange(lower, upper, nil); err != nil {
			return err
		}
	}
	for _, id := range change.drop {
		if err := g.dropTable(id); err != nil {
			return err
		}
	}
	g.everything = true // what the names of tables and columns mean
	g.catalog = change.catalog
	g.next.catalogVersion = r.version
	g.next.catalog = new(atomic.Pointer[catalog.Catalog])
	g.next.catalog.Store(change.catalog)
	return nil
}

// dropTable deletes a table's rows, index entries and sum.
func (g *group) dropTable(id uint32) error {
	lower, upper := tableRange(g.database.id, g.next.generationOf(id), id)
	if err := g.batch.DeleteRange(lower, upper, nil); err != nil {
		return err
	}
	g.everything = true
	g.next.forget(id)
	delete(g.sums, id)
	return g.batch.Delete(sumKey(g.database.id, id), nil)
}

// buildIndexes fills new indexes from the rows of their tables. A table may have more rows than a batch can hold, so this
// goes ahead of the record that declares the indexes, in batches of its own: the entries are of an index that no published
// catalog has, so nobody reads them, and what a crash leaves is deleted before the next attempt.
func (g *group) buildIndexes(build []tableIndex) error {
	for _, b := range build {
		if err := g.buildIndex(b.table, b.index); err != nil {
			return fmt.Errorf("build index %s: %w", b.index.Name, err)
		}
	}
	return nil
}

func (g *group) buildIndex(t *catalog.Table, ix *catalog.Index) error {
	s, d := g.store, g.database
	lower, upper := indexRange(d.id, g.next.generationOf(t.ID), t.ID, rowsIndex)
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	batch := s.db.NewBatch()
	defer func() { _ = batch.Close() }() // gives memory back; there is nothing to lose
	lower, upper = indexRange(d.id, g.next.generationOf(t.ID), t.ID, ix.ID)
	err = batch.DeleteRange(lower, upper, nil)
	for ok := iter.First(); ok && err == nil; ok = iter.Next() {
		if err = g.buildEntry(batch, t, ix, iter); err == nil && batch.Len() >= buildBytes {
			err = s.commit(batch)
			batch = renew(s, batch)
		}
	}
	if err = errors.Join(err, iter.Error(), iter.Close()); err != nil {
		return err
	}
	return s.commit(batch)
}

// renew replaces a committed batch with an empty one.
func renew(s *Store, b *pebble.Batch) *pebble.Batch {
	_ = b.Close() // gives memory back; there is nothing to lose
	return s.db.NewBatch()
}

func (g *group) buildEntry(b *pebble.Batch, t *catalog.Table, ix *catalog.Index, iter *pebble.Iterator) error {
	stored, err := iter.ValueAndErr()
	if err != nil {
		return err
	}
	value, _, err := splitRow(stored)
	if err != nil {
		return err
	}
	rowKey := iter.Key()[dataPrefixSize:]
	if err := rowcodec.DecodeRowInto(&g.row, t, rowKey, value); err != nil {
		return fmt.Errorf("%w: stored row: %w", ErrCorrupt, err)
	}
	g.key = g.appendEntry(g.key[:0], t, ix, g.row, rowKey)
	return b.Set(g.key, nil, nil)
}
