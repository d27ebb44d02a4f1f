// Package value holds the one in-memory form of an SQLite value: null, integer, real, text or blob.
//
// Engine, row codec, replica and handlers all pass these; the wire form is nearside.data.v1.Value (see FromProto and
// ToProto). A value never loses precision: integers are int64, reals are float64, and text is kept as bytes because
// SQLite stores text that is not valid UTF-8.
package value

import (
	"bytes"
	"math"
)

// Kind is an SQLite storage class.
type Kind uint8

// The storage classes, in SQLite's order of comparison (integers and reals compare with each other by value).
const (
	KindNull Kind = iota
	KindInteger
	KindReal
	KindText
	KindBlob
)

// String returns the name that SQLite's typeof() gives.
func (k Kind) String() string {
	switch k {
	case KindNull:
		return "null"
	case KindInteger:
		return "integer"
	case KindReal:
		return "real"
	case KindText:
		return "text"
	case KindBlob:
		return "blob"
	default:
		return "invalid"
	}
}

// Value is one SQLite value. The zero Value is NULL. Values are immutable by convention: whoever holds one may share its
// bytes, so nobody writes to them.
type Value struct {
	kind  Kind
	num   uint64 // int64 or float64 bits
	bytes []byte // text or blob
}

// Null returns NULL.
func Null() Value { return Value{} }

// Integer returns an INTEGER.
func Integer(i int64) Value { return Value{kind: KindInteger, num: uint64(i)} }

// Real returns a REAL. NaN becomes NULL, as in SQLite.
func Real(f float64) Value {
	if math.IsNaN(f) {
		return Null()
	}
	return Value{kind: KindReal, num: math.Float64bits(f)}
}

// Text returns a TEXT.
func Text(s string) Value { return Value{kind: KindText, bytes: []byte(s)} }

// TextBytes returns a TEXT of the given bytes, valid UTF-8 or not. It takes ownership of b.
func TextBytes(b []byte) Value { return Value{kind: KindText, bytes: b} }

// Blob returns a BLOB. It takes ownership of b.
func Blob(b []byte) Value { return Value{kind: KindBlob, bytes: b} }

// Kind returns the storage class.
func (v Value) Kind() Kind { return v.kind }

// IsNull reports whether v is NULL.
func (v Value) IsNull() bool { return v.kind == KindNull }

// Integer returns the integer, or 0 if v is not an INTEGER.
func (v Value) Integer() int64 {
	if v.kind != KindInteger {
		return 0
	}
	return int64(v.num)
}

// Real returns the real, or 0 if v is not a REAL.
func (v Value) Real() float64 {
	if v.kind != KindReal {
		return 0
	}
	return math.Float64frombits(v.num)
}

// Bits returns an INTEGER's or REAL's 64 bits, 0 of other kinds.
func (v Value) Bits() uint64 { return v.num }

// FromBits returns the NULL, INTEGER or REAL whose Kind and Bits are given.
func FromBits(kind Kind, num uint64) Value { return Value{kind: kind, num: num} }

// Bytes returns the bytes of a TEXT or BLOB, or nil. The caller must not change them.
func (v Value) Bytes() []byte { return v.bytes }

// Text returns the bytes of a TEXT or BLOB as a string.
func (v Value) Text() string { return string(v.bytes) }

// Size returns the bytes v occupies in a canonical row, roughly; used for limits and costs.
func (v Value) Size() int { return 1 + 8 + len(v.bytes) }

// Clone returns a Value that shares no memory with v.
func (v Value) Clone() Value {
	v.bytes = bytes.Clone(v.bytes)
	return v
}

// Equal reports whether a and b are the same storage class and the same bits (1 and 1.0 differ, 0.0 and -0.0 differ).
func Equal(a, b Value) bool {
	return a.kind == b.kind && a.num == b.num && bytes.Equal(a.bytes, b.bytes)
}
