package verify

import (
	"bytes"
	"context"
	"errors"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/verify"
)

// entryCheck compares a table's index entries with its rows: at first by their sums, and where those differ one by one.
type entryCheck struct {
	c     *comparison
	table *catalog.Table
	want  []rowcodec.Sum // of the entries that the rows should have, by index
	row   rowcodec.Row
	key   []byte
}

func newEntryCheck(c *comparison, table *catalog.Table) *entryCheck {
	return &entryCheck{c: c, table: table, want: make([]rowcodec.Sum, len(table.Indexes))}
}

// add adds the entries that a row should have. A row that cannot be read has none: that it differs is found elsewhere.
func (e *entryCheck) add(key, value []byte) {
	if len(e.want) == 0 || rowcodec.DecodeRowInto(&e.row, e.table, key, value) != nil {
		return
	}
	for i := range e.table.Indexes {
		ix := &e.table.Indexes[i]
		e.key = rowcodec.AppendIndexKey(e.key[:0], e.table, ix, e.row, key)
		e.want[i] = e.want[i].Add(rowcodec.RowSum(ix.ID, e.key, nil))
	}
}

func (e *entryCheck) finish(ctx context.Context) error {
	for i := range e.table.Indexes {
		ix := &e.table.Indexes[i]
		sum, err := e.sum(ctx, ix)
		if err != nil {
			return err
		}
		if sum == e.want[i] {
			continue
		}
		e.c.blame(e.table)
		if err := errors.Join(e.findMissing(ctx, ix), e.findExtra(ctx, ix)); err != nil {
			return err
		}
	}
	return nil
}

// sum adds up the entries that an index has.
func (e *entryCheck) sum(ctx context.Context, ix *catalog.Index) (sum rowcodec.Sum, err error) {
	it, err := e.c.snap.NewIndexIter(e.table, ix, nil, nil, false)
	if err != nil {
		return sum, err
	}
	for n := 0; it.Next(); n++ {
		if n%contextEvery == 0 && ctx.Err() != nil {
			return sum, errors.Join(ctx.Err(), it.Close())
		}
		sum = sum.Add(rowcodec.RowSum(ix.ID, it.Key(), nil))
	}
	return sum, errors.Join(it.Err(), it.Close())
}

// findMissing goes over the rows and looks for their entries.
func (e *entryCheck) findMissing(ctx context.Context, ix *catalog.Index) (err error) {
	it, err := e.c.snap.NewRowIter(e.table, nil, nil, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Err(), it.Close()) }()
	for n := 0; it.Next(); n++ {
		if n%contextEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		value, _, err := it.Value()
		if err != nil || rowcodec.DecodeRowInto(&e.row, e.table, it.Key(), value) != nil {
			continue // see add
		}
		e.key = rowcodec.AppendIndexKey(e.key[:0], e.table, ix, e.row, it.Key())
		ok, err := e.c.snap.HasEntry(e.table, ix, e.key)
		if err != nil {
			return err
		}
		if !ok {
			e.c.findings.Key(controlv1.FindingKind_FINDING_KIND_ENTRY_MISSING, verify.Place{Table: e.table, Index: ix}, e.key)
		}
	}
	return nil
}

// findExtra goes over the entries and looks for the rows that have them.
func (e *entryCheck) findExtra(ctx context.Context, ix *catalog.Index) (err error) {
	it, err := e.c.snap.NewIndexIter(e.table, ix, nil, nil, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Err(), it.Close()) }()
	for n := 0; it.Next(); n++ {
		if n%contextEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		ok, err := e.hasRow(ix, it.Key())
		if err != nil {
			return err
		}
		if !ok {
			e.c.findings.Key(controlv1.FindingKind_FINDING_KIND_ENTRY_EXTRA, verify.Place{Table: e.table, Index: ix}, it.Key())
		}
	}
	return nil
}

// hasRow reports whether there is a row that has exactly this entry.
func (e *entryCheck) hasRow(ix *catalog.Index, entry []byte) (bool, error) {
	rowKey, err := rowcodec.IndexRowKey(ix, entry)
	if err != nil {
		return false, nil //nolint:nilerr // an entry that is none is what is looked for
	}
	value, _, ok, err := e.c.snap.GetRow(e.table, rowKey)
	if err != nil || !ok {
		return false, err
	}
	if rowcodec.DecodeRowInto(&e.row, e.table, rowKey, value) != nil {
		return false, nil //nolint:nilerr // a row that cannot be read has no entries
	}
	e.key = rowcodec.AppendIndexKey(e.key[:0], e.table, ix, e.row, rowKey)
	return bytes.Equal(e.key, entry), nil
}
