package rowcodec

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/zeebo/xxh3"
)

// sumSize is the size of a Sum's binary form.
const sumSize = 16

// Sum is a set-sum modulo 2^128: the sum of a table is that of its rows' sums, so it can be kept by adding and
// subtracting rows in any order. Equal sums mean equal rows, but for accidents of a chance of 2^-128; they are no
// defence against rows chosen to collide. The zero Sum is that of no rows.
type Sum struct{ Hi, Lo uint64 }

// RowSum returns the sum of one row: the XXH3 128-bit hash of the table id and the key's length (4 bytes each, big
// endian), the key and the value.
func RowSum(tableID uint32, key, val []byte) Sum {
	var buf [512]byte
	b := binary.BigEndian.AppendUint32(buf[:0], tableID)
	b = binary.BigEndian.AppendUint32(b, uint32(len(key)))
	if len(b)+len(key)+len(val) <= len(buf) {
		b = append(b, key...)
		return Sum(xxh3.Hash128(append(b, val...)))
	}
	var h xxh3.Hasher
	for _, part := range [][]byte{b, key, val} {
		_, _ = h.Write(part) // never fails
	}
	return Sum(h.Sum128())
}

// Add returns s + o.
func (s Sum) Add(o Sum) Sum {
	lo, carry := bits.Add64(s.Lo, o.Lo, 0)
	hi, _ := bits.Add64(s.Hi, o.Hi, carry)
	return Sum{Hi: hi, Lo: lo}
}

// Sub returns s - o.
func (s Sum) Sub(o Sum) Sum {
	lo, borrow := bits.Sub64(s.Lo, o.Lo, 0)
	hi, _ := bits.Sub64(s.Hi, o.Hi, borrow)
	return Sum{Hi: hi, Lo: lo}
}

// String returns s as 32 lowercase hexadecimal digits.
func (s Sum) String() string { return fmt.Sprintf("%016x%016x", s.Hi, s.Lo) }

// AppendBinary appends s as 16 bytes, big endian. It never fails.
func (s Sum) AppendBinary(dst []byte) ([]byte, error) {
	dst = binary.BigEndian.AppendUint64(dst, s.Hi)
	return binary.BigEndian.AppendUint64(dst, s.Lo), nil
}

// ParseSum returns the Sum that AppendBinary wrote as b, or ErrCorrupt if b has not 16 bytes.
func ParseSum(b []byte) (Sum, error) {
	if len(b) != sumSize {
		return Sum{}, corrupt("sum has %d bytes", len(b))
	}
	return Sum{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])}, nil
}
