package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nearside-dev/nearside/internal/catalog"
)

// ErrTailGap means that the log's tail does not have a record any more, or no longer continues what was read of it before:
// the copy was made anew meanwhile.
var ErrTailGap = errors.New("record is not in the log's tail")

// TailRecord is a commit as the log's tail has it. It is immutable.
type TailRecord struct {
	Version uint64
	Epoch   uint32
	// Catalog is the schema after the commit, if it changed.
	Catalog *catalog.Catalog
	Tables  []TailTable
	// Dropped has the ids of tables whose rows are gone.
	Dropped []uint32
	// Bytes is about what the record takes in memory.
	Bytes int
}

// TailTable is what a commit did to a table.
type TailTable struct {
	ID uint32
	// Replaced says that all rows were made anew, and that the record does not have them.
	Replaced bool
	// OldKnown says that Rows have their Old.
	OldKnown bool
	Rows     []TailRow
}

// TailRow is the final state of a row that a commit touched.
type TailRow struct {
	Key   []byte
	Value []byte // nil where the commit deleted it, or it was not there at its end
	Old   []byte // nil where it was not there before
}

// TailPosition is a place in a log's tail: after a version of one making of the copy.
type TailPosition struct {
	Version    uint64
	generation uint32
}

// SameCopy reports whether both places are in the same making of the copy: only then can their versions be compared.
func (p TailPosition) SameCopy(other TailPosition) bool { return p.generation == other.generation }

// TailPosition returns the place of a snapshot: what follows it in the tail is what was committed since.
func (s *Snapshot) TailPosition() TailPosition {
	return TailPosition{Version: s.applied.version, generation: s.applied.generation}
}

// Reached reports whether the snapshot is at least as fresh as a bookmark. ErrBookmarkLost means that it never will be.
func (s *Snapshot) Reached(epoch uint32, version uint64) (bool, error) {
	return s.applied.reaches(epoch, version)
}

// TailFirst returns the version of the oldest record in the tail; one more than the snapshot's where there is none.
func (s *Snapshot) TailFirst() uint64 { return s.applied.tailFirst }

// SchemaVersion returns the version of the commit that made the snapshot's schema.
func (s *Snapshot) SchemaVersion() uint64 { return s.applied.catalogVersion }

// AwaitRecord waits until there is a record after a place in the tail. Errors are ErrTailGap, Problem's, ErrClosed and ctx's.
func (d *Database) AwaitRecord(ctx context.Context, after TailPosition) error {
	for {
		changed := d.nextChange()
		if err := d.Problem(); err != nil {
			return err
		}
		a := d.state.Load()
		if a.generation != after.generation || a.version < after.Version || a.tailFirst > after.Version+1 {
			return fmt.Errorf("database %d: %w: %d", d.id, ErrTailGap, after.Version+1)
		}
		if a.version > after.Version {
			return nil
		}
		select {
		case <-changed:
		case <-d.store.failed:
		case <-d.store.closing:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// nextChange returns a channel that is closed at the next change of the copy.
func (d *Database) nextChange() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.changed
}

// ReadTail returns the records after a place in the tail, in order, and the place after them: at most as many records as
// asked for, and no more once they have that many bytes; none where there are none yet. Errors are ErrTailGap, Problem's and
// those of the store.
func (d *Database) ReadTail(after TailPosition, records, bytes int) (_ []*TailRecord, next TailPosition, err error) {
	s, err := d.Snapshot()
	if err != nil {
		return nil, after, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	a := s.applied
	if a.generation != after.generation || a.version < after.Version || a.tailFirst > after.Version+1 {
		return nil, after, fmt.Errorf("database %d: %w: %d", d.id, ErrTailGap, after.Version+1)
	}
	iter, err := s.snap.NewIter(&pebble.IterOptions{
		LowerBound: tailKey(d.id, after.Version+1), UpperBound: tailKey(d.id, a.version+1),
	})
	if err != nil {
		return nil, after, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	next = after
	var list []*TailRecord
	total := 0
	for ok := iter.First(); ok && len(list) < records && total < bytes; ok = iter.Next() {
		stored, err := iter.ValueAndErr()
		if err != nil {
			return nil, after, err
		}
		old, err := get(s.snap, oldKey(d.id, next.Version+1))
		if err != nil {
			return nil, after, err
		}
		r, err := decodeTail(stored, old)
		if err == nil && r.Version != next.Version+1 {
			err = fmt.Errorf("%w: record %d in the place of %d", ErrCorrupt, r.Version, next.Version+1)
		}
		if err != nil {
			return nil, after, fmt.Errorf("database %d: log tail: %w", d.id, err)
		}
		next.Version = r.Version
		total += r.Bytes
		list = append(list, r)
	}
	if err := iter.Error(); err != nil {
		return nil, after, err
	}
	if len(list) == 0 && a.version > after.Version {
		return nil, after, fmt.Errorf("%w: record %d is missing", ErrCorrupt, after.Version+1)
	}
	return list, next, nil
}

// decodeTail decodes a record of the tail, whose bytes it copies, and what is known of the rows that it replaced.
func decodeTail(stored, old []byte) (*TailRecord, error) {
	stored = append(make([]byte, 0, len(stored)), stored...)
	var r record
	if err := r.decode(stored); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	t := &TailRecord{
		Version: r.version, Epoch: r.epoch, Dropped: r.dropped, Tables: make([]TailTable, len(r.tables)),
		Bytes: len(stored) + len(old),
	}
	if r.catalog != nil {
		var err error
		if t.Catalog, err = catalog.FromProto(r.catalog); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	for i := range r.tables {
		change := &r.tables[i]
		rows := make([]TailRow, len(change.rows))
		for j := range change.rows {
			rows[j] = TailRow{Key: change.rows[j].key, Value: change.rows[j].value}
		}
		t.Tables[i] = TailTable{ID: change.id, Replaced: change.replaced, Rows: rows}
	}
	return t, decodeOldRows(old, t.Tables)
}
