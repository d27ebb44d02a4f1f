package watch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/keyread"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// schema is a watched table as callers take it. It is immutable.
type schema struct {
	table *catalog.Table
	shape *keyread.Shape
	print string // of all that matters to those who watch
}

func newSchema(t *catalog.Table) (*schema, error) {
	of, err := Fingerprint(t)
	return &schema{table: t, shape: keyread.NewShape(t), print: of}, err
}

// Fingerprint returns a text that is the same as long as rows of the table are told in the same way: its id, its name, its
// columns and its key. Indexes do not matter.
func Fingerprint(t *catalog.Table) (string, error) {
	bare := *t
	bare.Indexes = nil
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal((&catalog.Catalog{Tables: []*catalog.Table{&bare}}).ToProto())
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8]), nil
}

// keyColumns returns the names of the columns of a row's key.
func (s *schema) keyColumns() (names []string) {
	for _, part := range s.table.KeyColumns() {
		name := "rowid"
		if part.Column >= 0 {
			name = s.table.Columns[part.Column].Name
		}
		names = append(names, name)
	}
	return names
}

// target is what a caller watches of a table. It is immutable.
type target struct {
	*schema

	// Of the rows' encoded keys: from lower on, before upper if that is not nil.
	lower, upper []byte
	equal        []equality
	rows         *policy.Rows // that the caller may see; nil is all
}

// equality is a column and what it must be, encoded as in a key.
type equality struct {
	column int
	want   []byte
}

// newTarget resolves a request. Errors are TABLE_NOT_FOUND, COLUMN_NOT_FOUND, FIELD_INVALID and SCHEMA_UNSUPPORTED.
func newTarget(cat *catalog.Catalog, req *datav1.WatchRequest, filter *policy.Filter) (*target, error) {
	t, err := keyread.Table(cat, req.GetTable())
	if err != nil {
		return nil, err
	}
	if t.HasVirtualColumns() {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_SCHEMA_UNSUPPORTED,
			"table %s has virtual columns, which are not in the log", t.Name).
			With("object", t.Name).With("feature", "virtual column")
	}
	s, err := newSchema(t)
	if err != nil {
		return nil, err
	}
	w := &target{schema: s, rows: filter.Of(t)}
	if w.lower, w.upper, err = keyread.KeyRange(t, req.GetPrefix(), req.GetStart(), req.GetEnd()); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(req.GetEqual())) {
		column := t.ColumnByName(name)
		if column < 0 {
			return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_COLUMN_NOT_FOUND, "no such column: %s.%s", t.Name, name).
				With("table", t.Name).With("column", name)
		}
		v := keyread.Operand(t, column, value.FromProto(req.GetEqual()[name]))
		w.equal = append(w.equal, equality{column: column, want: appendComparable(nil, t, column, v)})
	}
	return w, nil
}

// appendComparable appends a column's value in a form that is the same for values that SQLite takes for equal.
func appendComparable(dst []byte, t *catalog.Table, column int, v value.Value) []byte {
	return rowcodec.AppendKeyValue(dst, v, t.Columns[column].Collation, false)
}

// whole reports whether all rows are watched.
func (w *target) whole() bool { return !w.selects() && len(w.lower) == 0 && w.upper == nil }

// selects reports whether what a row has decides on whether it is watched.
func (w *target) selects() bool { return len(w.equal) > 0 || w.rows != nil }

// inRange reports whether the row of a key may be watched.
func (w *target) inRange(key []byte) bool {
	return bytes.Compare(key, w.lower) >= 0 && (w.upper == nil || bytes.Compare(key, w.upper) < 0)
}

// equals reports whether a row has what is watched.
func (w *target) equals(row *rowcodec.Row, scratch []byte) bool {
	if !w.rows.Has(row.Values) {
		return false
	}
	for _, e := range w.equal {
		if !bytes.Equal(appendComparable(scratch[:0], w.table, e.column, row.Values[e.column]), e.want) {
			return false
		}
	}
	return true
}

func (w *target) changed(version uint64, format string, args ...any) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_SCHEMA_CHANGED, format, args...).
		With("table", w.table.Name).With("version", strconv.FormatUint(version, 10))
}
