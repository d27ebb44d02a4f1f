package keyread

import (
	"encoding/binary"
	"math"
	"unicode/utf8"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// AppendPrimaryKey appends the encoded key of the row that values name by the table's primary key, whose parts they are
// compared with, and reports true; or it reports false where that takes a plan: values of no row, or an error.
func AppendPrimaryKey(dst []byte, t *catalog.Table, parts []catalog.KeyPart, values []value.Value) (key []byte, ok bool) {
	if len(values) != len(parts) {
		return dst, false
	}
	for i, v := range values {
		v = operand(t, parts[i], v)
		if v.IsNull() || parts[i].Column < 0 && v.Kind() > value.KindReal {
			return dst, false
		}
		dst = rowcodec.AppendKeyValue(dst, v, parts[i].Collation, parts[i].Desc)
	}
	return dst, true
}

// Tags of the fields of Row and Value: number and wire type, of which a varint is 0.
const (
	tagValues  = 1<<3 | 2
	tagVersion = 2 << 3

	tagNull      = 1 << 3
	tagInteger   = 2 << 3
	tagReal      = 3<<3 | 1
	tagText      = 4<<3 | 2
	tagBlob      = 5<<3 | 2
	tagTextBytes = 6<<3 | 2
)

// AppendRow appends a row's wire form, what Row returns, with the length before it, and returns that length.
func (s *Shape) AppendRow(dst []byte, row rowcodec.Row, version uint64) (out []byte, size int) {
	for _, place := range s.places {
		n := valueSize(row.Values[place])
		size += 1 + uvarintSize(uint64(n)) + n
	}
	if version > 0 {
		size += 1 + uvarintSize(version)
	}
	dst = binary.AppendUvarint(dst, uint64(size))
	for _, place := range s.places {
		v := row.Values[place]
		dst = binary.AppendUvarint(append(dst, tagValues), uint64(valueSize(v)))
		dst = appendWireValue(dst, v)
	}
	if version > 0 {
		dst = binary.AppendUvarint(append(dst, tagVersion), version)
	}
	return dst, size
}

func appendWireValue(dst []byte, v value.Value) []byte {
	switch v.Kind() {
	case value.KindInteger:
		return binary.AppendUvarint(append(dst, tagInteger), uint64(v.Integer()))
	case value.KindReal:
		return binary.LittleEndian.AppendUint64(append(dst, tagReal), math.Float64bits(v.Real()))
	case value.KindText, value.KindBlob:
		tag := byte(tagBlob)
		if v.Kind() == value.KindText {
			if tag = tagText; !utf8.Valid(v.Bytes()) {
				tag = tagTextBytes
			}
		}
		return append(binary.AppendUvarint(append(dst, tag), uint64(len(v.Bytes()))), v.Bytes()...)
	default:
		return append(dst, tagNull, 0)
	}
}

func valueSize(v value.Value) int {
	switch v.Kind() {
	case value.KindInteger:
		return 1 + uvarintSize(uint64(v.Integer()))
	case value.KindReal:
		return 1 + 8
	case value.KindText, value.KindBlob:
		return 1 + uvarintSize(uint64(len(v.Bytes()))) + len(v.Bytes())
	default:
		return 2
	}
}

func uvarintSize(u uint64) int {
	n := 1
	for ; u >= 0x80; u >>= 7 {
		n++
	}
	return n
}
