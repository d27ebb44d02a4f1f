// Package keyread plans the keyed reads Get, BatchGet and List. The primary runs a plan as SQL, a region's replica as reads
// of encoded keys; both resolve names, convert values and page in here, so that they answer alike and a page token of one
// is good at the other.
//
// Values are converted as SQLite converts the right side of a comparison with the column, not as it stores them: an integer
// that a REAL column would round equals no stored value.
//
// Plans point into the catalog they were made from and share bytes with the request. They are immutable once returned.
package keyread

import (
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// Limits of answers.
const (
	DefaultPageSize  = 100
	MaxPageSize      = 10_000
	MaxPageBytes     = 4 << 20  // a page ends before the row that would exceed it, unless that is its first
	MaxResponseBytes = 64 << 20 // of all other answers
)

// Table finds a table by name. The error is TABLE_NOT_FOUND.
func Table(cat *catalog.Catalog, name string) (*catalog.Table, error) {
	if t := cat.TableByName(name); t != nil {
		return t, nil
	}
	return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_TABLE_NOT_FOUND, "no such table: %s", name).With("table", name)
}

func indexNotFound(t *catalog.Table, name, why string) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_INDEX_NOT_FOUND, "%s: %s.%s", why, t.Name, name).
		With("table", t.Name).With("index", name)
}

// operand returns v as SQLite compares it with the column of a key part.
func operand(t *catalog.Table, part catalog.KeyPart, v value.Value) value.Value {
	if part.Column < 0 {
		return value.Numeric(v)
	}
	switch a := t.Columns[part.Column].Affinity; a {
	case catalog.AffinityReal:
		return value.Numeric(v) // Apply would round what is compared exactly
	default:
		return a.Apply(v)
	}
}

// operands converts values for the first of the parts. There must not be more values than parts.
func operands(t *catalog.Table, parts []catalog.KeyPart, protos []*datav1.Value) []value.Value {
	values := make([]value.Value, len(protos))
	for i, p := range protos {
		values[i] = operand(t, parts[i], value.FromProto(p))
	}
	return values
}
