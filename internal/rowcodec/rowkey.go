package rowcodec

import (
	"fmt"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/value"
)

// AppendRowKey appends the key of a row: its declared key's columns or its rowid.
func AppendRowKey(dst []byte, t *catalog.Table, row Row) []byte {
	if t.Identity != catalog.IdentityDeclared {
		return appendRowid(dst, row.Rowid)
	}
	for _, p := range t.Key {
		dst = AppendKeyValue(dst, row.part(t, p.Column), p.Collation, p.Desc)
	}
	return dst
}

func appendRowid(dst []byte, rowid int64) []byte {
	return AppendKeyValue(dst, value.Integer(rowid), catalog.CollationBinary, false)
}

// AppendKey appends the key of the row that key identifies, with a value for each of t.KeyColumns() to which it applies
// the column's affinity first. Any other number of values is ErrKeyValues. A key of values that no row can have, such
// as a rowid of 'x', is no error: no row has it.
func AppendKey(dst []byte, t *catalog.Table, key []value.Value) ([]byte, error) {
	parts := t.KeyColumns()
	if len(key) != len(parts) {
		return dst, fmt.Errorf("key of table %s: %w: %d, want %d", t.Name, ErrKeyValues, len(key), len(parts))
	}
	return appendConverted(dst, t, parts, key), nil
}

// appendConverted appends vals, after conversion to their columns' affinities, as the first parts of a key.
func appendConverted(dst []byte, t *catalog.Table, parts []catalog.KeyPart, vals []value.Value) []byte {
	for i, v := range vals {
		p := parts[i]
		affinity := catalog.AffinityInteger
		if p.Column >= 0 {
			affinity = t.Columns[p.Column].Affinity
		}
		dst = AppendKeyValue(dst, affinity.Apply(v), p.Collation, p.Desc)
	}
	return dst
}

// RowidFromKey returns the rowid that a key of t is. It returns ErrNoRowid if t's rows are identified by a declared key
// and ErrCorrupt if key is not a rowid's key.
func RowidFromKey(t *catalog.Table, key []byte) (int64, error) {
	if t.Identity == catalog.IdentityDeclared {
		return 0, fmt.Errorf("table %s: %w", t.Name, ErrNoRowid)
	}
	v, rest, err := DecodeKeyValue(key, false)
	switch {
	case err != nil:
		return 0, fmt.Errorf("key of table %s: %w", t.Name, err)
	case v.Kind() != value.KindInteger || len(rest) != 0:
		return 0, fmt.Errorf("key of table %s: %w", t.Name, corrupt("%x is not a rowid", key))
	}
	return v.Integer(), nil
}
