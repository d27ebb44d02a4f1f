// Package rowcodec turns rows into the bytes that the log, the wire, the replicas and the caches carry, and back: an
// order-preserving key, a canonical value, index entries, and the sum that proves two copies of a table equal.
//
// The primary encodes each changed row once and everyone else passes the bytes on, so both halves are contracts:
// bytes.Compare of two keys is SQLite's comparison of the rows' keys, and equal rows have equal value bytes.
// DESIGN.md beside this file gives the formats and the reasons.
//
// The Append functions allocate only to grow dst, and keep nothing they are given. All functions may be called
// concurrently.
package rowcodec

import (
	"errors"
	"fmt"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/value"
)

// Errors that callers tell apart.
var (
	// ErrCorrupt means that bytes are not what this package writes. Who sees it must stop vouching for their source.
	ErrCorrupt = errors.New("corrupt row encoding")
	// ErrKeyValues means that a caller gave a number of key values that the table or index does not have.
	ErrKeyValues = errors.New("wrong number of key values")
	// ErrNoRowid means that a table's keys hold no rowid.
	ErrNoRowid = errors.New("keys of this table hold no rowid")
)

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}

// Row is one row of a table.
type Row struct {
	// Rowid identifies the row, and is the value of an INTEGER PRIMARY KEY whatever Values holds. It means nothing for
	// a WITHOUT ROWID table.
	Rowid int64
	// Values has one value for each of the table's columns, in their order. Those of virtual generated columns are
	// ignored when encoding and NULL after decoding.
	Values []value.Value
}

// part returns the value of a key part.
func (r Row) part(t *catalog.Table, column int) value.Value {
	if column < 0 || isIntegerKey(t, column) {
		return value.Integer(r.Rowid)
	}
	return r.Values[column]
}

func isIntegerKey(t *catalog.Table, column int) bool {
	return t.Identity == catalog.IdentityIntegerKey && t.IntegerKey == column
}

// carriesRowid reports whether row values have to hold the rowid because the key does not.
func carriesRowid(t *catalog.Table) bool {
	return t.Identity == catalog.IdentityDeclared && !t.WithoutRowid
}
