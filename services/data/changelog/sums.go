package changelog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nearside-dev/nearside/internal/rowcodec"
)

// TableSum is a table's set-sum and row count.
type TableSum struct {
	Sum  rowcodec.Sum
	Rows uint64
}

// TableSums returns the sums of a database's tables at the last appended record. A table without rows may have none.
func (l *Log) TableSums(database uint32) (map[uint32]TableSum, error) {
	return tableSums(l.db, database)
}

// HeadAndSums is Head and TableSums of one moment.
func (l *Log) HeadAndSums(database uint32) (head Head, sums map[uint32]TableSum, err error) {
	snap := l.db.NewSnapshot()
	defer func() { err = errors.Join(err, snap.Close()) }()
	if head, err = headIn(snap, database); err != nil {
		return Head{}, nil, err
	}
	sums, err = tableSums(snap, database)
	return head, sums, err
}

func tableSums(r pebble.Reader, database uint32) (map[uint32]TableSum, error) {
	iter, err := r.NewIter(&pebble.IterOptions{
		LowerBound: appendDatabaseKey(nil, spaceSum, database),
		UpperBound: appendDatabaseKey(nil, spaceSum, database+1),
	})
	if err != nil {
		return nil, fmt.Errorf("read sums: %w", err)
	}
	sums := make(map[uint32]TableSum)
	for ok := iter.First(); ok && err == nil; ok = iter.Next() {
		var v []byte
		if v, err = iter.ValueAndErr(); err != nil {
			break
		}
		if len(v) != 24 {
			err = fmt.Errorf("%w: sum of %d bytes", ErrCorrupt, len(v))
			break
		}
		var sum TableSum
		if sum.Sum, err = rowcodec.ParseSum(v[:16]); err == nil {
			sum.Rows = binary.BigEndian.Uint64(v[16:])
			sums[binary.BigEndian.Uint32(iter.Key()[5:])] = sum
		}
	}
	if err = errors.Join(err, iter.Error(), iter.Close()); err != nil {
		return nil, fmt.Errorf("sums of database %d: %w", database, err)
	}
	return sums, nil
}

// RowVersions reads the versions of many rows of a table, which must be asked for in the order of their keys. It is for one
// goroutine, and is closed soon: it keeps old log files on the disk.
type RowVersions struct {
	iter *pebble.Iterator
	key  []byte
	size int     // of what precedes a row's key
	all  *uint64 // of rows that have none of their own; nil until asked for
}

// RowVersions returns a reader of a table's row versions. Close it.
func (l *Log) RowVersions(database, table uint32) (*RowVersions, error) {
	prefix := tableKey(spaceRow, database, table)
	iter, err := l.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: tableKey(spaceRow, database, table+1)})
	if err != nil {
		return nil, fmt.Errorf("read row versions: %w", err)
	}
	return &RowVersions{iter: iter, key: append([]byte(nil), prefix...), size: len(prefix)}, nil
}

// Of returns the version of the commit that last changed a row. For a row that is not there it means nothing.
func (r *RowVersions) Of(rowKey []byte) (uint64, error) {
	if r.all == nil {
		all, err := r.read(nil)
		if err != nil {
			return 0, err
		}
		r.all = &all
	}
	version, err := r.read(rowKey)
	if version == 0 {
		version = *r.all
	}
	return version, err
}

func (r *RowVersions) read(rowKey []byte) (uint64, error) {
	r.key = append(r.key[:r.size], rowKey...)
	if !r.iter.SeekGE(r.key) || string(r.iter.Key()) != string(r.key) {
		return 0, r.iter.Error()
	}
	v, err := r.iter.ValueAndErr()
	if err != nil {
		return 0, err
	}
	version, n := binary.Uvarint(v)
	if n <= 0 {
		return 0, fmt.Errorf("%w: row version of %d bytes", ErrCorrupt, len(v))
	}
	return version, nil
}

// Close releases the reader.
func (r *RowVersions) Close() error { return r.iter.Close() }
