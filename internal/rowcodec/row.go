package rowcodec

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/value"
)

// rowFormat begins every row value.
const rowFormat = 1

// Kinds of column values in a row value.
const (
	kindNull    = 0
	kindInteger = 1
	kindReal    = 2
	kindText    = 3
	kindBlob    = 4
)

const realSize = 8

// AppendRow appends the canonical value of a row: what its key does not hold, without the columns that equal their fill
// and virtual generated columns. row must have a value for each column of t.
func AppendRow(dst []byte, t *catalog.Table, row Row) []byte {
	dst = append(dst, rowFormat)
	if carriesRowid(t) {
		dst = binary.AppendVarint(dst, row.Rowid)
	}
	if ascending(t.Columns) {
		for i := range t.Columns {
			dst = appendColumn(dst, t, i, row.Values[i])
		}
		return dst
	}
	after := int64(-1)
	for range t.Columns {
		i := nextColumn(t.Columns, after)
		after = int64(t.Columns[i].ID)
		dst = appendColumn(dst, t, i, row.Values[i])
	}
	return dst
}

// ascending reports whether columns stand in the order of their ids, as they do unless a table was rebuilt with its
// columns in another order.
func ascending(columns []catalog.Column) bool {
	for i := 1; i < len(columns); i++ {
		if columns[i-1].ID >= columns[i].ID {
			return false
		}
	}
	return true
}

// nextColumn returns the index of the column with the least id greater than after.
func nextColumn(columns []catalog.Column, after int64) int {
	next := 0
	least := int64(math.MaxInt64)
	for i := range columns {
		if id := int64(columns[i].ID); id > after && id < least {
			next, least = i, id
		}
	}
	return next
}

func appendColumn(dst []byte, t *catalog.Table, i int, v value.Value) []byte {
	c := &t.Columns[i]
	if !inRowValue(t, i) || value.Equal(v, c.Fill) {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(c.ID))
	switch v.Kind() {
	case value.KindInteger:
		return binary.AppendVarint(append(dst, kindInteger), v.Integer())
	case value.KindReal:
		return binary.BigEndian.AppendUint64(append(dst, kindReal), math.Float64bits(v.Real()))
	case value.KindText:
		return appendBytes(append(dst, kindText), v.Bytes())
	case value.KindBlob:
		return appendBytes(append(dst, kindBlob), v.Bytes())
	default:
		return append(dst, kindNull)
	}
}

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// inRowValue reports whether a column's values are in row values at all.
func inRowValue(t *catalog.Table, column int) bool {
	return t.Columns[column].Generated != catalog.GeneratedVirtual && !isIntegerKey(t, column)
}

// DecodeRow returns the row of t with the given key and canonical value. Columns that t no longer has are skipped,
// those not in val have their fill. Truncated, trailing or disordered bytes are ErrCorrupt, as is a key that is no
// rowid where one is due; other keys are not looked at. Text and blobs share val's memory: the row is valid as long as
// val is not changed.
func DecodeRow(t *catalog.Table, key, val []byte) (Row, error) {
	var row Row
	err := DecodeRowInto(&row, t, key, val)
	return row, err
}

// DecodeRowInto is DecodeRow into row, whose Values it reuses if they are large enough. After an error row's content is
// undefined.
func DecodeRowInto(row *Row, t *catalog.Table, key, val []byte) error {
	row.Values = slices.Grow(row.Values[:0], len(t.Columns))[:len(t.Columns)]
	row.Rowid = 0
	for i := range t.Columns {
		if t.Columns[i].Generated == catalog.GeneratedVirtual {
			row.Values[i] = value.Null()
		} else {
			row.Values[i] = t.Columns[i].Fill
		}
	}
	if t.Identity != catalog.IdentityDeclared {
		rowid, err := RowidFromKey(t, key)
		if err != nil {
			return err
		}
		row.Rowid = rowid
		if t.Identity == catalog.IdentityIntegerKey {
			row.Values[t.IntegerKey] = value.Integer(rowid)
		}
	}
	if err := decodeValue(row, t, val); err != nil {
		return fmt.Errorf("row of table %s: %w", t.Name, err)
	}
	return nil
}

func decodeValue(row *Row, t *catalog.Table, val []byte) (err error) {
	if len(val) == 0 {
		return corrupt("value is empty")
	}
	if val[0] != rowFormat {
		return corrupt("value has format %d", val[0])
	}
	r := reader{val[1:]}
	if carriesRowid(t) {
		if row.Rowid, err = r.varint(); err != nil {
			return err
		}
	}
	columns := t.Columns
	sorted := ascending(columns)
	last, next := int64(-1), 0
	for len(r.b) > 0 {
		id, err := r.columnID()
		if err != nil {
			return err
		}
		if int64(id) <= last {
			return corrupt("column id %d follows %d", id, last)
		}
		last = int64(id)
		v, err := r.value()
		if err != nil {
			return err
		}
		if !sorted {
			next = 0
		}
		for next < len(columns) && columns[next].ID != id && (!sorted || columns[next].ID < id) {
			next++
		}
		if next == len(columns) || columns[next].ID != id {
			continue // of a dropped column
		}
		if !inRowValue(t, next) {
			return corrupt("column %s has a value, id %d", columns[next].Name, id)
		}
		row.Values[next] = v
	}
	return nil
}

// CanonicalRow returns a stored value without the columns that t no longer has: val itself where it has none of them, else
// bytes in buf's memory, which it may replace by more. A value that cannot be read is ErrCorrupt.
func CanonicalRow(buf *[]byte, t *catalog.Table, val []byte) ([]byte, error) {
	if !t.ColumnsDropped {
		return val, nil
	}
	if len(val) == 0 || val[0] != rowFormat {
		return nil, fmt.Errorf("row of table %s: %w", t.Name, corrupt("value of %d bytes", len(val)))
	}
	r := reader{val[1:]}
	if carriesRowid(t) {
		if _, err := r.varint(); err != nil {
			return nil, fmt.Errorf("row of table %s: %w", t.Name, err)
		}
	}
	out, kept := (*buf)[:0], 0 // what is to stay of val up to kept is in out
	next := 0
	for len(r.b) > 0 {
		begin := len(val) - len(r.b)
		id, err := r.columnID()
		if err == nil {
			err = r.skip()
		}
		if err != nil {
			return nil, fmt.Errorf("row of table %s: %w", t.Name, err)
		}
		// Nearly always the columns stand in the order of their ids.
		for next < len(t.Columns) && t.Columns[next].ID < id {
			next++
		}
		if next < len(t.Columns) && t.Columns[next].ID == id || t.ColumnByID(id) >= 0 {
			continue
		}
		out = append(out, val[kept:begin]...)
		kept = len(val) - len(r.b)
	}
	if kept == 0 {
		return val, nil
	}
	out = append(out, val[kept:]...)
	*buf = out
	return out, nil
}

// reader reads the parts of a row value off its front.
type reader struct{ b []byte }

func (r *reader) columnID() (uint32, error) {
	id, err := r.uvarint()
	if err == nil && id > math.MaxUint32 {
		return 0, corrupt("column id %d", id)
	}
	return uint32(id), err
}

func (r *reader) value() (value.Value, error) {
	if len(r.b) == 0 {
		return value.Null(), corrupt("value ends after a column id")
	}
	kind := r.b[0]
	r.b = r.b[1:]
	switch kind {
	case kindNull:
		return value.Null(), nil
	case kindInteger:
		i, err := r.varint()
		return value.Integer(i), err
	case kindReal:
		if len(r.b) < realSize {
			return value.Null(), corrupt("value has %d bytes of a real", len(r.b))
		}
		f := math.Float64frombits(binary.BigEndian.Uint64(r.b))
		if math.IsNaN(f) {
			return value.Null(), corrupt("value has a real that is not a number")
		}
		r.b = r.b[realSize:]
		return value.Real(f), nil
	case kindText:
		b, err := r.bytes()
		return value.TextBytes(b), err
	case kindBlob:
		b, err := r.bytes()
		return value.Blob(b), err
	default:
		return value.Null(), corrupt("value has kind %d", kind)
	}
}

// skip reads over a value.
func (r *reader) skip() error {
	_, err := r.value()
	return err
}

func (r *reader) bytes() ([]byte, error) {
	n, err := r.uvarint()
	if err != nil {
		return nil, err
	}
	if n > uint64(len(r.b)) {
		return nil, corrupt("value has %d of %d bytes of text or a blob", len(r.b), n)
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b, nil
}

func (r *reader) varint() (int64, error) {
	u, err := r.uvarint()
	return int64(u>>1) ^ -int64(u&1), err
}

// uvarint refuses encodings longer than needed, because a number has one encoding.
func (r *reader) uvarint() (uint64, error) {
	u, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 {
		return 0, corrupt("value has a malformed number")
	}
	r.b = r.b[n:]
	return u, nil
}
