package changelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/encoding/protowire"
)

// previousChecksum returns the checksum of its predecessor that an encoded record holds, without decoding the rest. It shares
// record's memory.
func previousChecksum(record []byte) ([]byte, error) {
	const field = 3 // CommitRecord.previous_checksum
	for b := record; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, fmt.Errorf("%w: record: %w", ErrCorrupt, protowire.ParseError(n))
		}
		b = b[n:]
		if number == field && kind == protowire.BytesType {
			sum, n := protowire.ConsumeBytes(b)
			if n < 0 || len(sum) != ChecksumSize {
				return nil, fmt.Errorf("%w: record without its predecessor's checksum", ErrCorrupt)
			}
			return sum, nil
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return nil, fmt.Errorf("%w: record: %w", ErrCorrupt, protowire.ParseError(n))
		}
		b = b[n:]
	}
	return nil, fmt.Errorf("%w: record without its predecessor's checksum", ErrCorrupt)
}

// fits tests a record's checksum against what the record after it says, or against the head where it is the newest.
func fits(version uint64, sum Checksum, next []byte, head Head) error {
	switch {
	case next != nil:
		want, err := previousChecksum(next)
		if err != nil {
			return fmt.Errorf("version %d: %w", version+1, err)
		}
		if !bytes.Equal(want, sum[:]) {
			return fmt.Errorf("%w: record %d has checksum %x, record %d follows %x", ErrCorrupt, version, sum, version+1, want)
		}
	case version == head.Version && sum != head.Checksum:
		return fmt.Errorf("%w: record %d has checksum %x, %x was published", ErrCorrupt, version, sum, head.Checksum)
	}
	return nil
}

// CheckChain reads the records of a database up to a head and checks that they are in their places and that each has the
// checksum that the next one, or the head, says. A broken chain is ErrCorrupt. Records that were trimmed are not missed; a
// record of the head's version must be there unless that is 0. It returns ctx's error when ctx ends.
func (l *Log) CheckChain(ctx context.Context, database uint32, head Head) (err error) {
	iter, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: versionKey(spaceRecord, database, 0), UpperBound: versionKey(spaceRecord, database, head.Version+1),
	})
	if err != nil {
		return fmt.Errorf("check log: %w", err)
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	var last Head
	for ok := iter.First(); ok; ok = iter.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		record, err := iter.ValueAndErr()
		if err != nil {
			return fmt.Errorf("check log: %w", err)
		}
		version := versionOf(iter.Key())
		if last.Version != 0 && version != last.Version+1 {
			return fmt.Errorf("%w: version %d follows %d", ErrCorrupt, version, last.Version)
		}
		if last.Version != 0 {
			if err := fits(last.Version, last.Checksum, record, head); err != nil {
				return err
			}
		}
		next, err := headOf(record, version)
		if err != nil {
			return err
		}
		if next.Epoch < last.Epoch {
			return fmt.Errorf("%w: record %d is of epoch %d, the one before of %d", ErrCorrupt, version, next.Epoch, last.Epoch)
		}
		last = next
	}
	if err := iter.Error(); err != nil {
		return fmt.Errorf("check log: %w", err)
	}
	if last.Version != head.Version {
		return fmt.Errorf("%w: the log ends at %d, %d was published", ErrCorrupt, last.Version, head.Version)
	}
	return fits(last.Version, last.Checksum, nil, head)
}
