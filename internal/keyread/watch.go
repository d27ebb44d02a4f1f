package keyread

import (
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// Operand returns v as SQLite compares it with a column of the table.
func Operand(t *catalog.Table, column int, v value.Value) value.Value {
	return operand(t, catalog.KeyPart{Column: column}, v)
}

// KeyRange returns the encoded keys between which the rows of a table are whose key, by KeyColumns, begins with the prefix and
// is from start to end: lower is included, upper is not and nil is none. Errors are FIELD_INVALID.
func KeyRange(t *catalog.Table, prefix []*datav1.Value, start, end *datav1.ListRequest_Bound) (lower, upper []byte, err error) {
	p := &ListPlan{Table: t, Order: t.KeyColumns()}
	if err := p.setRange(&datav1.ListRequest{Prefix: prefix, Start: start, End: end}); err != nil {
		return nil, nil, err
	}
	for i, values := range [][]value.Value{p.Prefix, p.Start, p.End} {
		// No rowid is text: somebody takes a column for the key.
		if t.Identity == catalog.IdentityRowid && len(values) > 0 && values[0].Kind() > value.KindReal {
			return nil, nil, rpcerr.InvalidField([]string{"prefix", "start.values", "end.values"}[i],
				"rows of %s are identified by their rowid, which is an integer", t.Name)
		}
	}
	lower, upper = p.Bounds()
	return lower, upper, nil
}
