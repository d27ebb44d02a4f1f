package rowcodec

import (
	"fmt"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/value"
)

// AppendIndexKey appends the key of a row's entry in ix: the index's parts, then rowKey, the key of the row.
func AppendIndexKey(dst []byte, t *catalog.Table, ix *catalog.Index, row Row, rowKey []byte) []byte {
	for _, p := range ix.Parts {
		dst = AppendKeyValue(dst, row.part(t, p.Column), p.Collation, p.Desc)
	}
	return append(dst, rowKey...)
}

// AppendIndexPrefix appends what the keys of all entries begin with whose first parts equal vals, to which it applies
// the columns' affinities first. More values than ix has parts are ErrKeyValues.
func AppendIndexPrefix(dst []byte, t *catalog.Table, ix *catalog.Index, vals []value.Value) ([]byte, error) {
	if len(vals) > len(ix.Parts) {
		return dst, fmt.Errorf("key of index %s: %w: %d, want at most %d", ix.Name, ErrKeyValues, len(vals), len(ix.Parts))
	}
	return appendConverted(dst, t, ix.Parts, vals), nil
}

// IndexRowKey returns the row key that ends the key of an entry in ix. It shares indexKey's memory.
func IndexRowKey(ix *catalog.Index, indexKey []byte) (rowKey []byte, err error) {
	rowKey = indexKey
	for _, p := range ix.Parts {
		if rowKey, err = SkipKeyValue(rowKey, p.Desc); err != nil {
			return nil, fmt.Errorf("key of index %s: %w", ix.Name, err)
		}
	}
	return rowKey, nil
}
