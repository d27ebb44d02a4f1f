package replica

import (
	"bytes"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nearside-dev/nearside/internal/catalog"
)

// AppendRow is GetRow into dst, which it extends by the row's value.
func (s *Snapshot) AppendRow(dst []byte, t *catalog.Table, key []byte) (_ []byte, ok bool, err error) {
	if err := s.TableProblem(t); err != nil {
		return dst, false, err
	}
	s.key = appendDataPrefix(s.key[:0], s.id, s.applied.generationOf(t.ID), t.ID, rowsIndex)
	s.key = append(s.key, key...)
	stored, closer, err := s.snap.Get(s.key)
	if errors.Is(err, pebble.ErrNotFound) {
		return dst, false, s.store.Failed()
	}
	if err != nil {
		return dst, false, s.readError(err)
	}
	shared, _, err := splitRow(stored)
	dst = append(dst, shared...)
	if err = errors.Join(err, closer.Close(), s.store.Failed()); err != nil {
		return dst, false, s.readError(err)
	}
	return dst, true, nil
}

// RowSeeker finds rows by their keys, one after the other. It costs less for each than AppendRow, and more to make. It is for
// one goroutine at a time. Close it.
type RowSeeker struct {
	scan *scan
	key  []byte
}

// NewRowSeeker returns a seeker of the rows of t.
func (s *Snapshot) NewRowSeeker(t *catalog.Table) (*RowSeeker, error) {
	sc, err := s.newScan(t.ID, rowsIndex, nil, nil, false)
	if err != nil {
		return nil, err
	}
	return &RowSeeker{scan: sc, key: append([]byte(nil), sc.bounds[0][:dataPrefixSize]...)}, nil
}

// Seek returns the value of the row with the given key, valid until the next call; ok is false where there is none.
func (s *RowSeeker) Seek(key []byte) (value []byte, ok bool, err error) {
	s.key = append(s.key[:dataPrefixSize], key...)
	if !s.scan.iter.SeekGE(s.key) || !bytes.Equal(s.scan.iter.Key(), s.key) {
		return nil, false, s.scan.Err()
	}
	stored, err := s.scan.iter.ValueAndErr()
	if err != nil {
		return nil, false, err
	}
	value, _, err = splitRow(stored)
	return value, err == nil, err
}

// Close releases the seeker.
func (s *RowSeeker) Close() error { return s.scan.Close() }
