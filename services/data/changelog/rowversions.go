package changelog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// RowVersions reads the versions of a table's rows in the order of their keys, for who reads all of them. It is for one
// goroutine. Close it.
type RowVersions struct {
	iter   *pebble.Iterator
	prefix int
	valid  bool
}

// RowVersions returns the row versions of a table as of now.
func (l *Log) RowVersions(database, table uint32) (*RowVersions, error) {
	lower := tableKey(spaceRow, database, table)
	iter, err := l.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: tableKey(spaceRow, database, table+1)})
	if err != nil {
		return nil, fmt.Errorf("read row versions: %w", err)
	}
	return &RowVersions{iter: iter, prefix: len(lower), valid: iter.First()}, nil
}

// Of returns the version of the commit that last changed a row; 0 if there is no such row. Keys must ascend from call to
// call.
func (r *RowVersions) Of(key []byte) (uint64, error) {
	for r.valid {
		switch c := bytes.Compare(r.iter.Key()[r.prefix:], key); {
		case c > 0:
			return 0, nil
		case c < 0:
			r.valid = r.iter.Next()
			continue
		}
		v, err := r.iter.ValueAndErr()
		if err != nil {
			return 0, fmt.Errorf("read row version: %w", err)
		}
		version, n := binary.Uvarint(v)
		if n <= 0 {
			return 0, fmt.Errorf("%w: row version of %d bytes", ErrCorrupt, len(v))
		}
		return version, nil
	}
	return 0, r.iter.Error()
}

// Close releases the reader and returns what ended it early, if anything.
func (r *RowVersions) Close() error { return errors.Join(r.iter.Error(), r.iter.Close()) }
