package replica

import (
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
