package rowcodec

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/value"
)

// Tags begin each key value, in SQLite's order of storage classes. Zero is left out so that callers can use it as a
// separator, and so is 0xff, its complement.
const (
	tagNull   = 0x10
	tagNumber = 0x20
	tagText   = 0x30
	tagBlob   = 0x40
)

// Text and blobs end in escape, terminator; a zero byte inside is escape, escapedZero.
const (
	escape      = 0x00
	escapedZero = 0xff
	terminator  = 0x01
)

// exactIntegers is 2^53: from here on float64 leaves integers out, and a number has a remainder.
const exactIntegers = 1 << 53

const (
	numberSize    = 8
	remainderSize = 2
)

// AppendKeyValue appends v as one component of a key and returns the extended buffer. Of two encodings with the same
// coll and desc, bytes.Compare says what SQLite's comparison says of the values, the other way round if desc. No
// encoding is a prefix of another, so components can follow each other. coll matters to text alone.
func AppendKeyValue(dst []byte, v value.Value, coll catalog.Collation, desc bool) []byte {
	start := len(dst)
	switch v.Kind() {
	case value.KindInteger:
		dst = appendInteger(append(dst, tagNumber), v.Integer())
	case value.KindReal:
		dst = appendNumber(append(dst, tagNumber), v.Real(), 0)
	case value.KindText:
		dst = appendText(append(dst, tagText), v.Bytes(), coll)
	case value.KindBlob:
		dst = appendEscaped(append(dst, tagBlob), v.Bytes())
	default:
		dst = append(dst, tagNull)
	}
	if desc {
		for i := start; i < len(dst); i++ {
			dst[i] = ^dst[i]
		}
	}
	return dst
}

func appendInteger(dst []byte, i int64) []byte {
	f := float64(i)
	if -exactIntegers < i && i < exactIntegers {
		return appendNumber(dst, f, 0)
	}
	if f >= 1<<63 || int64(f) > i { // the conversion rounds to nearest; the greatest float64 <= i is wanted
		f = math.Nextafter(f, math.Inf(-1))
	}
	return appendNumber(dst, f, uint16(i-int64(f)))
}

// appendNumber appends the number f + remainder.
func appendNumber(dst []byte, f float64, remainder uint16) []byte {
	if f == 0 {
		f = 0 // -0.0 equals 0.0
	}
	b := math.Float64bits(f)
	if b>>63 == 0 {
		b |= 1 << 63
	} else {
		b = ^b
	}
	dst = binary.BigEndian.AppendUint64(dst, b)
	if math.Abs(f) >= exactIntegers {
		dst = binary.BigEndian.AppendUint16(dst, remainder)
	}
	return dst
}

func appendText(dst, text []byte, coll catalog.Collation) []byte {
	switch coll {
	case catalog.CollationNoCase:
		return appendNoCase(dst, text)
	case catalog.CollationRTrim:
		return appendEscaped(dst, bytes.TrimRight(text, " "))
	default:
		return appendEscaped(dst, text)
	}
}

// appendNoCase folds ASCII letters. SQLite's NOCASE stops comparing at a NUL both texts have and goes on to compare
// their lengths, so all from the first NUL on is written as NULs: the same length, and equal for all it deems equal.
func appendNoCase(dst, text []byte) []byte {
	end := bytes.IndexByte(text, 0)
	if end < 0 {
		end = len(text)
	}
	start := len(dst)
	dst = append(dst, text[:end]...)
	for i := start; i < len(dst); i++ {
		if c := dst[i]; c >= 'A' && c <= 'Z' {
			dst[i] = c + 'a' - 'A'
		}
	}
	for range len(text) - end {
		dst = append(dst, escape, escapedZero)
	}
	return append(dst, escape, terminator)
}

func appendEscaped(dst, b []byte) []byte {
	for {
		i := bytes.IndexByte(b, escape)
		if i < 0 {
			dst = append(dst, b...)
			return append(dst, escape, terminator)
		}
		dst = append(dst, b[:i]...)
		dst = append(dst, escape, escapedZero)
		b = b[i+1:]
	}
}

// SkipKeyValue returns what follows the first component of b. It checks only what it needs to find the end.
func SkipKeyValue(b []byte, desc bool) (rest []byte, err error) {
	_, end, _, err := scanKeyValue(b, complement(desc))
	if err != nil {
		return nil, err
	}
	return b[end:], nil
}

// DecodeKeyValue returns the first component of b and what follows it. A number that is an exact integer decodes as an
// INTEGER, whichever it was. Text decodes to its collation's folded form, which compares equal to what it was. Text and
// blobs share b's memory unless they are descending or hold zero bytes.
func DecodeKeyValue(b []byte, desc bool) (v value.Value, rest []byte, err error) {
	mask := complement(desc)
	tag, end, zeros, err := scanKeyValue(b, mask)
	if err != nil {
		return value.Null(), nil, err
	}
	rest = b[end:]
	switch tag {
	case tagNumber:
		v, err = decodeNumber(b[1:end], mask)
	case tagText:
		v = value.TextBytes(unescape(b[1:end-2], mask, zeros))
	case tagBlob:
		v = value.Blob(unescape(b[1:end-2], mask, zeros))
	default:
	}
	if err != nil {
		return value.Null(), nil, err
	}
	return v, rest, nil
}

// complement returns what each byte is xored with.
func complement(desc bool) byte {
	if desc {
		return 0xff
	}
	return 0
}

// scanKeyValue returns a component's tag, its end in b, and the zero bytes in a text or blob.
func scanKeyValue(b []byte, mask byte) (tag byte, end, zeros int, err error) {
	if len(b) == 0 {
		return 0, 0, 0, corrupt("key ends where a value is due")
	}
	switch tag = b[0] ^ mask; tag {
	case tagNull:
		return tag, 1, 0, nil
	case tagNumber:
		end = 1 + numberSize
		if len(b) < end {
			return 0, 0, 0, corrupt("key has %d bytes of a number", len(b)-1)
		}
		if math.Abs(keyFloat(b[1:], mask)) >= exactIntegers {
			end += remainderSize
		}
		if len(b) < end {
			return 0, 0, 0, corrupt("key has %d bytes of a number", len(b)-1)
		}
		return tag, end, 0, nil
	case tagText, tagBlob:
		for end = 1; ; zeros++ {
			i := bytes.IndexByte(b[end:], escape^mask)
			if i < 0 || end+i+1 >= len(b) {
				return 0, 0, 0, corrupt("key has text or a blob without end")
			}
			end += i + 2
			switch c := b[end-1] ^ mask; c {
			case terminator:
				return tag, end, zeros, nil
			case escapedZero:
			default:
				return 0, 0, 0, corrupt("key has escape 0x%02x", c)
			}
		}
	default:
		return 0, 0, 0, corrupt("key has tag 0x%02x", tag)
	}
}

// keyFloat returns the float64 that b begins with.
func keyFloat(b []byte, mask byte) float64 {
	bits := binary.BigEndian.Uint64(b)
	if mask != 0 {
		bits = ^bits
	}
	if bits>>63 == 0 {
		return math.Float64frombits(^bits)
	}
	return math.Float64frombits(bits &^ (1 << 63))
}

// decodeNumber decodes a number of the right length, with or without a remainder, and refuses what is not written for
// any value: each value has one key.
func decodeNumber(b []byte, mask byte) (value.Value, error) {
	f := keyFloat(b, mask)
	switch {
	case math.IsNaN(f) || f == 0 && math.Signbit(f):
		return value.Null(), corrupt("key has the number %x", b)
	case len(b) == numberSize && f == math.Trunc(f):
		return value.Integer(int64(f)), nil
	case len(b) == numberSize:
		return value.Real(f), nil
	}
	remainder := binary.BigEndian.Uint16(b[numberSize:])
	if mask != 0 {
		remainder = ^remainder
	}
	if f < -1<<63 || f >= 1<<63 {
		if remainder != 0 {
			return value.Null(), corrupt("key has %g with remainder %d", f, remainder)
		}
		return value.Real(f), nil
	}
	i := int64(f) + int64(remainder)
	if next := math.Nextafter(f, math.Inf(1)); i < int64(f) || next < 1<<63 && i >= int64(next) {
		return value.Null(), corrupt("key has %g with remainder %d", f, remainder)
	}
	return value.Integer(i), nil
}

func unescape(b []byte, mask byte, zeros int) []byte {
	if zeros == 0 && mask == 0 {
		return slices.Clip(b)
	}
	out := make([]byte, 0, len(b)-zeros)
	for i := 0; i < len(b); i++ {
		c := b[i] ^ mask
		out = append(out, c)
		if c == escape {
			i++
		}
	}
	return out
}
