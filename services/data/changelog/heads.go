package changelog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/encoding/protowire"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
)

// LastRecord is the end of a database's log, or why it cannot be read.
type LastRecord struct {
	Head

	Err error
}

// LastRecords returns the end of the log of every database that has one, by id. It reads one record of each and skips the
// others, so that a process can say what it has without opening anything.
func (l *Log) LastRecords() (map[uint32]LastRecord, error) {
	iter, err := l.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceRecord}, UpperBound: []byte{spaceRecord + 1}})
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	last := make(map[uint32]LastRecord)
	for ok := iter.Last(); ok && err == nil; {
		key := iter.Key()
		id := binary.BigEndian.Uint32(key[1:])
		var record []byte
		if record, err = iter.ValueAndErr(); err != nil {
			break
		}
		var r LastRecord
		if r.Head, r.Err = headOf(record, versionOf(key)); r.Err != nil {
			r.Err = fmt.Errorf("last record of database %d: %w", id, r.Err)
		}
		last[id] = r
		ok = iter.SeekLT(appendDatabaseKey(nil, spaceRecord, id))
	}
	if err = errors.Join(err, iter.Error(), iter.Close()); err != nil {
		return nil, fmt.Errorf("read the ends of the logs: %w", err)
	}
	return last, nil
}

// headOf reads a record's place and checks that it is the expected one.
func headOf(record []byte, version uint64) (Head, error) {
	gotVersion, epoch, err := placeOf(record)
	if err != nil {
		return Head{}, fmt.Errorf("%w: record of version %d: %w", ErrCorrupt, version, err)
	}
	if gotVersion != version {
		return Head{}, fmt.Errorf("%w: record of version %d stands at %d", ErrCorrupt, gotVersion, version)
	}
	return Head{Epoch: epoch, Version: version, Checksum: ChecksumOf(record)}, nil
}

var (
	recordFields = (*replicationv1.CommitRecord)(nil).ProtoReflect().Descriptor().Fields()
	versionField = recordFields.ByName("version").Number()
	epochField   = recordFields.ByName("epoch").Number()
)

// placeOf reads a record's version and epoch and skips its rows, which may be many.
func placeOf(record []byte) (version uint64, epoch uint32, err error) {
	for len(record) > 0 {
		field, kind, n := protowire.ConsumeTag(record)
		if n < 0 {
			return 0, 0, protowire.ParseError(n)
		}
		record = record[n:]
		if kind != protowire.VarintType || field != versionField && field != epochField {
			n = protowire.ConsumeFieldValue(field, kind, record)
		} else {
			var v uint64
			v, n = protowire.ConsumeVarint(record)
			if field == versionField {
				version = v
			} else {
				epoch = uint32(v)
			}
		}
		if n < 0 {
			return 0, 0, protowire.ParseError(n)
		}
		record = record[n:]
	}
	return version, epoch, nil
}
