package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/verify"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

const sumSize = 16

// contextEvery is how many rows are read between two looks at the context.
const contextEvery = 1024

// tableCheck merges the copy's rows of one table with the primary's. Its iterator stands on the next row of the copy that is
// to be compared with the primary's; rows that newer records changed were compared with those on the way.
type tableCheck struct {
	c     *comparison
	table *catalog.Table
	place verify.Place
	iter  *replica.RowIter
	delta *tableDelta // nil where no newer record touched the table

	has     bool // the iterator stands on a row
	own     rowcodec.Sum
	version uint64

	sum     rowcodec.Sum // of all the copy's rows so far
	count   uint64
	rowsBad bool // rows differ from the primary's

	canonical []byte // memory for a row's value

	entries *entryCheck // nil unless deep
}

func newTableCheck(c *comparison, table *catalog.Table) (*tableCheck, error) {
	iter, err := c.snap.NewRowIter(table, nil, nil, false)
	if err != nil {
		return nil, err
	}
	t := &tableCheck{c: c, table: table, place: verify.Place{Table: table}, iter: iter, delta: c.delta[table.ID]}
	if c.deep {
		t.entries = newEntryCheck(c, table)
	}
	if err := t.next(); err != nil {
		return nil, errors.Join(err, iter.Close())
	}
	return t, nil
}

func (t *tableCheck) close() error { return t.iter.Close() }

// next goes to the copy's next row that is to be compared with the primary's.
func (t *tableCheck) next() error {
	for t.iter.Next() {
		key := t.iter.Key()
		value, version, err := t.iter.Value()
		if errors.Is(err, replica.ErrCorrupt) {
			value, version, err = nil, 0, nil // a row of no bytes, which differs from all
		}
		if err != nil {
			return err
		}
		if canonical, err := rowcodec.CanonicalRow(&t.canonical, t.table, value); err == nil {
			value = canonical // else it differs from all too
		}
		t.own, t.version = rowcodec.RowSum(t.table.ID, key, value), version
		t.sum = t.sum.Add(t.own)
		t.count++
		if t.entries != nil {
			t.entries.add(key, value)
		}
		changed := t.changed(key)
		if changed == nil {
			t.has = true
			return nil
		}
		changed.seen = true
		switch {
		case changed.deleted:
			t.differs(controlv1.FindingKind_FINDING_KIND_ROW_EXTRA, key)
		case !bytes.Equal(value, changed.value):
			t.differs(controlv1.FindingKind_FINDING_KIND_ROW_DIFFERENT, key)
		case version != changed.version:
			t.differs(controlv1.FindingKind_FINDING_KIND_ROW_VERSION, key)
		}
	}
	t.has = false
	return t.iter.Err()
}

// changed returns what newer records than the primary's view did to a row; nil for nothing.
func (t *tableCheck) changed(key []byte) *deltaRow {
	if t.delta == nil {
		return nil
	}
	return t.delta.rows[string(key)]
}

// differs notes a difference of a row. What rows differ is told only deep: cheap, the primary sends none.
func (t *tableCheck) differs(kind controlv1.FindingKind, key []byte) {
	if t.c.deep {
		t.rowsBad = true
		t.c.findings.Key(kind, t.place, key)
	}
}

// merge compares the primary's next row with the copy's. version is 0 where it is not known.
func (t *tableCheck) merge(key []byte, sum rowcodec.Sum, version uint64) error {
	for t.has && bytes.Compare(t.iter.Key(), key) < 0 {
		t.differs(controlv1.FindingKind_FINDING_KIND_ROW_EXTRA, t.iter.Key())
		if err := t.next(); err != nil {
			return err
		}
	}
	switch {
	case t.changed(key) != nil: // the primary's view is older than what the copy was compared with
		return nil
	case !t.has || !bytes.Equal(t.iter.Key(), key):
		t.differs(controlv1.FindingKind_FINDING_KIND_ROW_MISSING, key)
		return nil
	case t.own != sum:
		t.differs(controlv1.FindingKind_FINDING_KIND_ROW_DIFFERENT, key)
	case version != 0 && t.version != version:
		t.differs(controlv1.FindingKind_FINDING_KIND_ROW_VERSION, key)
	}
	return t.next()
}

// finish reads what is left of the copy's rows and compares sums and index entries.
func (t *tableCheck) finish(ctx context.Context, state *controlv1.StateTable) error {
	for n := 0; t.has; n++ {
		if n%contextEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		t.differs(controlv1.FindingKind_FINDING_KIND_ROW_EXTRA, t.iter.Key())
		if err := t.next(); err != nil {
			return err
		}
	}
	if t.delta != nil {
		for key, row := range t.delta.rows {
			if !row.seen && !row.deleted {
				t.differs(controlv1.FindingKind_FINDING_KIND_ROW_MISSING, []byte(key))
			}
		}
	}
	if err := t.compareSums(state); err != nil {
		return err
	}
	if t.entries != nil {
		return t.entries.finish(ctx)
	}
	return nil
}

func (t *tableCheck) compareSums(state *controlv1.StateTable) error {
	read, err := rowcodec.ParseSum(state.GetSum())
	if err != nil {
		return fmt.Errorf("the primary's sum: %w", err)
	}
	want, err := rowcodec.ParseSum(state.GetLoggedSum())
	if err != nil {
		return fmt.Errorf("the primary's logged sum: %w", err)
	}
	// Rows that differ from a primary whose own rows are wrong say nothing against the copy.
	trusted := read == want && state.GetRowCount() == state.GetLoggedRowCount()
	if t.rowsBad && trusted {
		t.c.blame(t.table)
	}

	wantRows := state.GetLoggedRowCount()
	if t.delta != nil {
		want, wantRows = t.delta.sum, t.delta.count
	}
	if t.sum != want {
		t.wrongf(controlv1.FindingKind_FINDING_KIND_SUM, "the rows' sum is %v, the log says %v", t.sum, want)
	}
	if t.count != wantRows {
		t.wrongf(controlv1.FindingKind_FINDING_KIND_ROW_COUNT, "there are %d rows, the log says %d", t.count, wantRows)
	}
	stored, rows, err := t.c.snap.StoredSum(t.table)
	if err != nil {
		return err
	}
	if stored != t.sum || rows != t.count {
		t.wrongf(controlv1.FindingKind_FINDING_KIND_STORED_SUM, "%d rows with sum %v are stored, there are %d with %v",
			rows, stored, t.count, t.sum)
	}
	return nil
}

// wrongf notes what is the copy's own fault.
func (t *tableCheck) wrongf(kind controlv1.FindingKind, format string, args ...any) {
	t.c.blame(t.table)
	t.c.findings.Detail(kind, t.place, fmt.Sprintf(format, args...))
}
