package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// Snapshot is one version of one database. It is for one goroutine at a time; its iterators may be used on goroutines of
// their own. Close it: it keeps old rows on the disk and the store open.
type Snapshot struct {
	store   *Store
	snap    *pebble.Snapshot
	id      uint32
	applied *applied
	catalog *catalog.Catalog
	epoch   uint32 // of the store's readers
	key     []byte // scratch

	floor   stamp.Stamp   // of a state that the snapshot has at least
	reading stamp.Reading // zero where it is not known what state it has
}

// Snapshot returns the newest version, or Problem's error.
func (d *Database) Snapshot() (*Snapshot, error) {
	if err := d.store.acquire(); err != nil {
		return nil, err
	}
	last := d.store.stamps.Last() // before all that follows: no change up to it is still to come unless it is seen to be on its way
	before := d.commits.Load()
	a := d.state.Load()
	epoch := d.store.readers.enter()
	s := &Snapshot{store: d.store, snap: d.store.db.NewSnapshot(), epoch: epoch, id: d.id, floor: a.stamp}
	if before%2 == 0 && d.commits.Load() == before {
		s.reading = stamp.Reading{At: a.stamp, Until: max(a.stamp, last)}
	} else {
		// A commit was in flight: only the Pebble snapshot itself knows whether it has it.
		stored, err := readState(s.snap, d.id)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		switch {
		// What the store has under the id once this handle is dropped may be another copy's.
		case stored == nil || d.state.Load().problem == problemDropped:
			stored = newApplied(0, problemDropped)
		case stored.catalogVersion == a.catalogVersion && stored.generation == a.generation &&
			slices.Equal(stored.withheld, a.withheld):
			stored.catalog = a.catalog
		}
		a = stored
	}
	s.applied = a
	err := a.check(d.id)
	if err == nil {
		s.catalog, err = a.loadCatalog(s.snap, d.id)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close releases the snapshot. Its iterators must be closed before.
func (s *Snapshot) Close() error {
	err := s.snap.Close()
	s.store.readers.leave(s.epoch)
	s.store.release()
	return err
}

// Epoch returns the epoch of the newest commit in the snapshot.
func (s *Snapshot) Epoch() uint32 { return s.applied.epoch }

// Version returns the version of the newest commit in the snapshot.
func (s *Snapshot) Version() uint64 { return s.applied.version }

// Reaches reports whether the snapshot is at least as fresh as a bookmark. The error is ErrBookmarkLost.
func (s *Snapshot) Reaches(epoch uint32, version uint64) (bool, error) {
	return s.applied.reaches(epoch, version)
}

// Catalog returns the schema. It is nil for a database without any.
func (s *Snapshot) Catalog() *catalog.Catalog { return s.catalog }

// GetRow returns the value of the row with the given key, in bytes that belong to the caller, and the version of the commit
// that last changed it; ok is false where there is no such row.
func (s *Snapshot) GetRow(t *catalog.Table, key []byte) (value []byte, rowVersion uint64, ok bool, err error) {
	if err := s.TableProblem(t); err != nil {
		return nil, 0, false, err
	}
	s.key = appendDataPrefix(s.key[:0], s.id, s.applied.generationOf(t.ID), t.ID, rowsIndex)
	s.key = append(s.key, key...)
	stored, closer, err := s.snap.Get(s.key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, 0, false, s.store.Failed()
	}
	if err != nil {
		return nil, 0, false, s.readError(err)
	}
	shared, rowVersion, err := splitRow(stored)
	value = append(make([]byte, 0, len(shared)), shared...)
	if err = errors.Join(err, closer.Close(), s.store.Failed()); err != nil {
		return nil, 0, false, s.readError(err)
	}
	return value, rowVersion, true, nil
}

// GetUnique returns the row key of the first entry of an index whose key begins with prefix (rowcodec.AppendIndexPrefix), in
// bytes that belong to the caller; ok is false where there is none.
func (s *Snapshot) GetUnique(t *catalog.Table, ix *catalog.Index, prefix []byte) (rowKey []byte, ok bool, err error) {
	it, err := s.NewIndexIter(t, ix, prefix, prefixEnd(prefix), false)
	if err != nil {
		return nil, false, err
	}
	if it.Next() {
		var shared []byte
		shared, err = it.RowKey()
		rowKey, ok = append(make([]byte, 0, len(shared)), shared...), true
	}
	if err = errors.Join(err, it.Close()); err != nil {
		return nil, false, err
	}
	return rowKey, ok, nil
}

// TableProblem returns ErrDiverged, wrapped, for a table that is not what the primary has and is being copied anew: it must
// not be read, and reading it returns the same error. It is nil for all others.
func (s *Snapshot) TableProblem(t *catalog.Table) error {
	if _, bad := slices.BinarySearch(s.applied.diverged, t.ID); bad {
		return s.readError(fmt.Errorf("table %s: %w", t.Name, ErrDiverged))
	}
	return nil
}

// RowCount returns how many rows a table has.
func (s *Snapshot) RowCount(t *catalog.Table) (uint64, error) {
	if err := s.TableProblem(t); err != nil {
		return 0, err
	}
	sum, err := readSum(s.snap, s.id, t.ID)
	if err = errors.Join(err, s.store.Failed()); err != nil {
		return 0, s.readError(err)
	}
	return sum.rows, nil
}

func (s *Snapshot) readError(err error) error {
	return fmt.Errorf("read database %d at version %d: %w", s.id, s.applied.version, err)
}

// A stored row is the version of the commit that last changed it, then its value.
func appendRowValue(dst []byte, version uint64, value []byte) []byte {
	return append(binary.AppendUvarint(dst, version), value...)
}

func splitRow(stored []byte) (value []byte, version uint64, err error) {
	version, n := binary.Uvarint(stored)
	if n <= 0 {
		return nil, 0, fmt.Errorf("%w: row of %d bytes", ErrCorrupt, len(stored))
	}
	return stored[n:], version, nil
}

// scan goes over the keys of a table's rows or of an index.
type scan struct {
	store   *Store
	iter    *pebble.Iterator
	bounds  [2][]byte // beginning with the prefix
	whole   bool      // the iterator itself goes over all keys of the table or the index
	reverse bool
	started bool
}

func (s *Snapshot) newScan(table, index uint32, lower, upper []byte, reverse bool) (*scan, error) {
	if _, bad := slices.BinarySearch(s.applied.diverged, table); bad {
		return nil, s.readError(fmt.Errorf("table %d: %w", table, ErrDiverged))
	}
	sc := &scan{store: s.store, reverse: reverse}
	for i := range sc.bounds {
		sc.bounds[i] = appendDataPrefix(nil, s.id, s.applied.generationOf(table), table, index)
	}
	sc.setBounds(lower, upper)
	iter, err := s.snap.NewIter(&pebble.IterOptions{LowerBound: sc.bounds[0], UpperBound: sc.bounds[1]})
	if err != nil {
		return nil, s.readError(err)
	}
	sc.iter = iter
	return sc, nil
}

func (sc *scan) setBounds(lower, upper []byte) {
	sc.bounds[0] = append(sc.bounds[0][:dataPrefixSize], lower...)
	copy(sc.bounds[1][:dataPrefixSize], sc.bounds[0])
	sc.bounds[1] = append(sc.bounds[1][:dataPrefixSize], upper...)
	if upper == nil {
		index := sc.bounds[1][dataPrefixSize-4:]
		binary.BigEndian.PutUint32(index, binary.BigEndian.Uint32(index)+1) // no id is the greatest there is
	}
}

// Reset begins another scan of the same keys. It costs less than a new iterator.
func (sc *scan) Reset(lower, upper []byte, reverse bool) {
	if !sc.whole {
		// Once, and keys are compared from then on: with new bounds an iterator forgets where it is in each level.
		sc.setBounds(nil, nil)
		sc.iter.SetBounds(sc.bounds[0], sc.bounds[1])
		sc.whole = true
	}
	sc.setBounds(lower, upper)
	sc.reverse, sc.started = reverse, false
}

// Next goes to the next key, at first to the first, and reports whether there is one.
func (sc *scan) Next() bool {
	first := !sc.started
	sc.started = true
	var ok bool
	switch {
	case first && sc.reverse:
		ok = sc.iter.SeekLT(sc.bounds[1])
	case first:
		ok = sc.iter.SeekGE(sc.bounds[0])
	case sc.reverse:
		ok = sc.iter.Prev()
	default:
		ok = sc.iter.Next()
	}
	switch {
	case !ok || !sc.whole:
		return ok
	case sc.reverse:
		return bytes.Compare(sc.iter.Key(), sc.bounds[0]) >= 0
	default:
		return bytes.Compare(sc.iter.Key(), sc.bounds[1]) < 0
	}
}

// Key returns the present key, valid until the iterator moves.
func (sc *scan) Key() []byte { return sc.iter.Key()[dataPrefixSize:] }

// Err returns what ended the scan early, or nil. Ask it when Next has returned false.
func (sc *scan) Err() error { return errors.Join(sc.iter.Error(), sc.store.Failed()) }

// Close releases the iterator and returns Err's error.
func (sc *scan) Close() error { return errors.Join(sc.iter.Close(), sc.store.Failed()) }

// RowIter goes over rows in the order of their keys. It is for one goroutine at a time.
type RowIter struct{ *scan }

// NewRowIter returns an iterator over the rows of t with lower <= key < upper; nil is no bound. With reverse it begins at
// the last. Close it.
func (s *Snapshot) NewRowIter(t *catalog.Table, lower, upper []byte, reverse bool) (*RowIter, error) {
	sc, err := s.newScan(t.ID, rowsIndex, lower, upper, reverse)
	if err != nil {
		return nil, err
	}
	return &RowIter{sc}, nil
}

// Value returns the present row's value, valid until the iterator moves, and the version of the commit that last changed it.
func (it *RowIter) Value() (value []byte, rowVersion uint64, err error) {
	stored, err := it.iter.ValueAndErr()
	if err != nil {
		return nil, 0, err
	}
	return splitRow(stored)
}

// IndexIter goes over the entries of an index in the order of their keys, which are the index's parts and then the row's
// key. It is for one goroutine at a time.
type IndexIter struct {
	*scan

	index *catalog.Index
}

// NewIndexIter returns an iterator over the entries of ix with lower <= key < upper; nil is no bound. With reverse it begins
// at the last. Close it.
func (s *Snapshot) NewIndexIter(
	t *catalog.Table, ix *catalog.Index, lower, upper []byte, reverse bool,
) (*IndexIter, error) {
	sc, err := s.newScan(t.ID, ix.ID, lower, upper, reverse)
	if err != nil {
		return nil, err
	}
	return &IndexIter{scan: sc, index: ix}, nil
}

// RowKey returns the key of the row that the present entry stands for, valid until the iterator moves.
func (it *IndexIter) RowKey() ([]byte, error) { return rowcodec.IndexRowKey(it.index, it.Key()) }
