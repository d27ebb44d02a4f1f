package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
)

// ErrTail means that the copy's log tail does not have the records that were asked for, or more of them than fit.
var ErrTail = errors.New("not in the log tail")

// Checksum returns the checksum of the record of the newest commit in the snapshot.
func (s *Snapshot) Checksum() [checksumSize]byte { return s.applied.checksum }

// StoredSum returns the set-sum and the row count that the copy keeps of a table.
func (s *Snapshot) StoredSum(t *catalog.Table) (sum rowcodec.Sum, rows uint64, err error) {
	stored, err := readSum(s.snap, s.id, t.ID)
	if err = errors.Join(err, s.store.Failed()); err != nil {
		return sum, 0, s.readError(err)
	}
	return stored.sum, stored.rows, nil
}

// HasEntry reports whether an index has an entry of exactly this key.
func (s *Snapshot) HasEntry(t *catalog.Table, ix *catalog.Index, key []byte) (bool, error) {
	s.key = appendDataPrefix(s.key[:0], s.id, s.applied.generationOf(t.ID), t.ID, ix.ID)
	s.key = append(s.key, key...)
	_, closer, err := s.snap.Get(s.key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, s.store.Failed()
	}
	if err == nil {
		err = closer.Close()
	}
	if err = errors.Join(err, s.store.Failed()); err != nil {
		return false, s.readError(err)
	}
	return true, nil
}

// RecordsAfter calls f with each record after a version, in order. It returns ErrTail where the tail does not begin there any
// more or has more than maxBytes, before f sees what is too much, and ErrCorrupt where the records do not continue each other
// from the given checksum to the snapshot's own.
func (s *Snapshot) RecordsAfter(
	version uint64, checksum [checksumSize]byte, maxBytes int, f func(*replicationv1.CommitRecord) error,
) error {
	if version+1 < s.applied.tailFirst || version > s.applied.version {
		return fmt.Errorf("%w: version %d of database %d", ErrTail, version, s.id)
	}
	size := 0
	return s.tail(version, func(b []byte, r *replicationv1.CommitRecord) error {
		if !bytes.Equal(r.PreviousChecksum, checksum[:]) {
			return fmt.Errorf("%w: record %d follows checksum %x, not %x", ErrCorrupt, r.Version, r.PreviousChecksum, checksum)
		}
		if size += len(b); size > maxBytes {
			return fmt.Errorf("%w: more than %d bytes after version %d of database %d", ErrTail, maxBytes, version, s.id)
		}
		var err error
		if checksum, err = checksumOf(b); err != nil {
			return fmt.Errorf("%w: record %d: %w", ErrCorrupt, r.Version, err)
		}
		if r.Version == s.applied.version && checksum != s.applied.checksum {
			return fmt.Errorf("%w: record %d has checksum %x, %x was applied", ErrCorrupt, r.Version, checksum, s.applied.checksum)
		}
		return f(r)
	})
}

// CheckTail checks that the records of the tail are all there and continue each other up to the snapshot's version. What is
// wrong is ErrCorrupt. It returns ctx's error when ctx ends.
func (s *Snapshot) CheckTail(ctx context.Context) error {
	var last [checksumSize]byte
	have := false
	err := s.tail(s.applied.tailFirst-1, func(b []byte, r *replicationv1.CommitRecord) error {
		if have && !bytes.Equal(r.PreviousChecksum, last[:]) {
			return fmt.Errorf("%w: record %d follows checksum %x, not %x", ErrCorrupt, r.Version, r.PreviousChecksum, last)
		}
		var err error
		if last, err = checksumOf(b); err != nil {
			return fmt.Errorf("%w: record %d: %w", ErrCorrupt, r.Version, err)
		}
		have = true
		return ctx.Err()
	})
	if err == nil && have && last != s.applied.checksum {
		err = fmt.Errorf("%w: record %d has checksum %x, %x was applied", ErrCorrupt, s.applied.version, last, s.applied.checksum)
	}
	return err
}

// tail calls f with the records after a version, which are valid until it returns.
func (s *Snapshot) tail(after uint64, f func([]byte, *replicationv1.CommitRecord) error) (err error) {
	iter, err := s.snap.NewIter(&pebble.IterOptions{
		LowerBound: tailKey(s.id, after+1), UpperBound: tailKey(s.id, s.applied.version+1),
	})
	if err != nil {
		return s.readError(err)
	}
	defer func() { err = errors.Join(err, iter.Error(), iter.Close(), s.store.Failed()) }()
	want := after + 1
	var r replicationv1.CommitRecord
	for ok := iter.First(); ok; ok = iter.Next() {
		b, err := iter.ValueAndErr()
		if err != nil {
			return s.readError(err)
		}
		if err := proto.Unmarshal(b, &r); err != nil {
			return fmt.Errorf("%w: record %d: %w", ErrCorrupt, want, err)
		}
		if r.Version != want || !bytes.Equal(iter.Key(), tailKey(s.id, want)) {
			return fmt.Errorf("%w: record %d stands where %d should", ErrCorrupt, r.Version, want)
		}
		if err := f(b, &r); err != nil {
			return err
		}
		want++
	}
	if want != s.applied.version+1 {
		return fmt.Errorf("%w: record %d is missing", ErrCorrupt, want)
	}
	return nil
}

// Damage is what was found to be wrong with a copy.
type Damage struct {
	Tables []uint32 // ids of tables whose rows, index entries or sums are wrong
	Log    bool     // the log's tail is wrong
	All    bool     // what no copy of a table mends, as the schema
}

// MarkDiverged notes what a check found wrong with what the copy has in s. Tables are not read any more and copied anew by
// themselves; the log's tail is cut; All has the whole copy made anew, and not served until then. It does nothing, and
// returns false, for what was noted or made anew since.
func (d *Database) MarkDiverged(s *Snapshot, damage Damage) (marked bool, err error) {
	if err := d.store.acquire(); err != nil {
		return false, err
	}
	defer d.store.release()
	d.writer.Lock()
	defer d.writer.Unlock()
	a := d.state.Load()
	if a.generation != s.applied.generation || a.problem != problemNone {
		return false, nil
	}
	if damage.All {
		err = d.setProblemLocked(problemDiverged)
		marked = err == nil
		d.store.metrics.divergences.Inc()
	} else {
		marked, err = d.markDamage(s, a, damage)
	}
	if err != nil {
		return false, fmt.Errorf("mark database %d as diverged: %w", d.id, err)
	}
	if marked {
		d.store.logger.Error("copy found to differ from the primary", slog.Uint64("database", uint64(d.id)),
			slog.Any("tables", damage.Tables), slog.Bool("log", damage.Log), slog.Bool("all", damage.All))
		d.store.marked.Store(true)
	}
	return marked, nil
}

// markDamage notes tables and cuts the tail. The caller holds d.writer.
func (d *Database) markDamage(s *Snapshot, a *applied, damage Damage) (marked bool, err error) {
	cat, err := a.loadCatalog(d.store.db, d.id)
	if err != nil {
		return false, err
	}
	next := *a
	batch := d.store.db.NewBatch()
	defer func() { _ = batch.Close() }() // gives memory back; there is nothing to lose
	for _, table := range damage.Tables {
		if cat.TableByID(table) != nil && a.generationOf(table) == s.applied.generationOf(table) && next.diverge(table) {
			d.store.metrics.divergences.Inc()
			marked = true
		}
	}
	if damage.Log && a.tailFirst <= s.applied.version {
		lower, upper := spaceRange(d.id, spaceTail)
		oldLower, oldUpper := spaceRange(d.id, spaceOld)
		if err := errors.Join(batch.DeleteRange(lower, upper, nil), batch.DeleteRange(oldLower, oldUpper, nil)); err != nil {
			return false, err
		}
		next.tailFirst, next.tailBytes = a.version+1, 0
		d.store.metrics.divergences.Inc()
		marked = true
	}
	if !marked {
		return false, nil
	}
	if err := batch.Set(stateKey(d.id), next.encode(), nil); err != nil {
		return false, err
	}
	return true, d.commit(batch, &next, everything)
}

// Diverged notes that a reader found rows or index entries of a table that contradict each other, as why says. It returns
// an error that is ErrDiverged and why: the table is read at the primary until it was copied anew.
func (s *Snapshot) Diverged(t *catalog.Table, why error) error {
	err := s.readError(fmt.Errorf("table %s: %w: %w", t.Name, ErrDiverged, why))
	if d, ok := s.store.Database(s.id); ok {
		_, markErr := d.MarkDiverged(s, Damage{Tables: []uint32{t.ID}})
		err = errors.Join(err, markErr)
	}
	return err
}
