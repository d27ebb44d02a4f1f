package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
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
		sum := sha256.Sum256(b)
		copy(checksum[:], sum[:])
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
		sum := sha256.Sum256(b)
		copy(last[:], sum[:])
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

// MarkDiverged makes a copy one that is not served, because a check found that what it has in s is not what the primary has;
// the follower repairs it. It does nothing and returns false where the copy was made anew since.
func (d *Database) MarkDiverged(s *Snapshot) (marked bool, err error) {
	if err := d.store.acquire(); err != nil {
		return false, err
	}
	defer d.store.release()
	d.writer.Lock()
	defer d.writer.Unlock()
	if a := d.state.Load(); a.generation != s.applied.generation || a.problem != problemNone {
		return false, nil
	}
	if err := d.setProblemLocked(problemDiverged); err != nil {
		return false, fmt.Errorf("mark database %d as diverged: %w", d.id, err)
	}
	d.store.metrics.divergences.Inc()
	d.store.logger.Error("copy found to differ from the primary", slog.Uint64("database", uint64(d.id)))
	d.store.marked.Store(true)
	return true, nil
}
