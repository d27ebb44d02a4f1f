package changelog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Encode returns what Commit would write, for AppendEncoded. It shares the batch's memory.
func (b *Batch) Encode() []byte { return b.batch.Repr() }

// AppendEncoded makes a batch of one commit durable that Encode gave and that was not committed: the commit at head, which
// must follow the log's last. What is not such a batch is ErrCorrupt, and nothing is written.
func (l *Log) AppendEncoded(database uint32, encoded []byte, head Head) (err error) {
	b := l.NewBatch(database)
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := b.batch.SetRepr(bytes.Clone(encoded)); err != nil {
		return fmt.Errorf("%w: batch: %w", ErrCorrupt, err)
	}
	record, err := b.onlyRecord()
	if err != nil {
		return err
	}
	last, err := l.Head(database)
	if err != nil {
		return err
	}
	at, err := headOf(record, head.Version)
	if err != nil {
		return err
	}
	previous, err := previousChecksum(record)
	if err != nil || at != head || head.Version != last.Version+1 || !bytes.Equal(previous, last.Checksum[:]) {
		return errors.Join(fmt.Errorf("%w: batch of version %d after %d", ErrCorrupt, head.Version, last.Version), err)
	}
	return b.Commit()
}

// onlyRecord returns the batch's one record, after checking that everything in it is of the batch's database.
func (b *Batch) onlyRecord() (record []byte, err error) {
	for r := b.batch.Reader(); ; {
		kind, key, value, ok, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("%w: batch: %w", ErrCorrupt, err)
		}
		if !ok {
			break
		}
		if len(key) < 5 || binary.BigEndian.Uint32(key[1:]) != b.database {
			return nil, fmt.Errorf("%w: batch with key %x", ErrCorrupt, key)
		}
		if key[0] != spaceRecord {
			continue
		}
		if kind != pebble.InternalKeyKindSet || record != nil {
			return nil, fmt.Errorf("%w: batch of more than one record", ErrCorrupt)
		}
		record = value
	}
	if record == nil {
		return nil, fmt.Errorf("%w: batch without a record", ErrCorrupt)
	}
	return record, nil
}
