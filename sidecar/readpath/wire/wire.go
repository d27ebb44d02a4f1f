// Package wire reads the requests of keyed reads as they come over the wire, without making messages of them.
//
// It reads what clients send: each field at most once, known fields only, names short, text in UTF-8. What it does not read is
// not wrong: package proto and the validator have to look at it. What it reads means what they say, which a fuzz test compares.
package wire

import (
	"encoding/binary"
	"math"
	"unicode/utf8"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
)

// Limits, of the rules of the messages or below them.
const (
	maxName     = 63
	maxValues   = 64
	maxKeys     = 1000
	maxBookmark = 256
)

// Request is a GetRequest or a BatchGetRequest. Its bytes, and those of its keys' values, are the message's.
type Request struct {
	Database []byte
	Table    []byte
	Keys     [][]byte // encoded, one for a GetRequest
	Level    datav1.Consistency_Level
	Bookmark []byte
}

// Tags: field number and wire type, of which a varint is 0.
const (
	tag1Bytes  = 1<<3 | 2
	tag2Bytes  = 2<<3 | 2
	tag3Bytes  = 3<<3 | 2
	tag4Bytes  = 4<<3 | 2
	tag5Bytes  = 5<<3 | 2
	tag6Bytes  = 6<<3 | 2
	tag1Varint = 1 << 3
	tag2Varint = 2 << 3
	tag3Fixed  = 3<<3 | 1
)

// ParseGet reads a GetRequest and reports whether it could. It reuses r.Keys.
func (r *Request) ParseGet(msg []byte) bool { return r.parse(msg, 1) }

// ParseBatchGet reads a BatchGetRequest and reports whether it could. It reuses r.Keys.
func (r *Request) ParseBatchGet(msg []byte) bool { return r.parse(msg, maxKeys) }

func (r *Request) parse(msg []byte, keys int) bool {
	*r = Request{Keys: r.Keys[:0]}
	var consistency []byte
	for len(msg) > 0 {
		tag := msg[0]
		field, rest, ok := bytes(msg[1:])
		if !ok {
			return false
		}
		msg = rest
		switch {
		case tag == tag1Bytes && r.Database == nil:
			r.Database = field
		case tag == tag2Bytes && r.Table == nil:
			r.Table = field
		case tag == tag3Bytes && len(r.Keys) < keys:
			r.Keys = append(r.Keys, field)
		case tag == tag4Bytes && consistency == nil:
			consistency = field
		default:
			return false
		}
	}
	return isName(r.Database) && isName(r.Table) && len(r.Keys) > 0 && r.consistency(consistency)
}

func isName(b []byte) bool { return len(b) > 0 && len(b) <= maxName && utf8.Valid(b) }

func (r *Request) consistency(b []byte) bool {
	for seen := byte(0); len(b) > 0; {
		tag := b[0]
		if tag == seen {
			return false
		}
		seen = tag
		switch tag {
		case tag1Varint:
			level, n := binary.Uvarint(b[1:])
			if n <= 0 || level > uint64(datav1.Consistency_LEVEL_PRIMARY) || r.Level != 0 {
				return false
			}
			r.Level, b = datav1.Consistency_Level(level), b[1+n:]
		case tag2Bytes:
			field, rest, ok := bytes(b[1:])
			if !ok || len(field) > maxBookmark || r.Bookmark != nil || !utf8.Valid(field) {
				return false
			}
			r.Bookmark, b = field, rest
		default:
			return false
		}
	}
	return true
}

// AppendKey appends the values of an encoded Key that names the primary key, and reports whether it could.
func AppendKey(dst []value.Value, key []byte) (values []value.Value, ok bool) {
	for n := 0; len(key) > 0; n++ {
		field, rest, ok := bytes(key[1:])
		if !ok || key[0] != tag1Bytes || n == maxValues {
			return dst, false
		}
		key = rest
		v, ok := valueOf(field)
		if !ok {
			return dst, false
		}
		dst = append(dst, v)
	}
	return dst, len(dst) > 0
}

// valueOf reads a Value that is not NULL.
func valueOf(b []byte) (value.Value, bool) {
	if len(b) < 2 {
		return value.Null(), false
	}
	switch b[0] {
	case tag2Varint:
		u, n := binary.Uvarint(b[1:])
		return value.Integer(int64(u)), n == len(b)-1 && n > 0
	case tag3Fixed:
		if len(b) != 9 {
			return value.Null(), false
		}
		f := math.Float64frombits(binary.LittleEndian.Uint64(b[1:]))
		return value.Real(f), !math.IsNaN(f)
	case tag4Bytes, tag5Bytes, tag6Bytes:
		field, rest, ok := bytes(b[1:])
		if !ok || len(rest) > 0 {
			return value.Null(), false
		}
		if b[0] == tag5Bytes {
			return value.Blob(field), true
		}
		return value.TextBytes(field), b[0] == tag6Bytes || utf8.Valid(field)
	default:
		return value.Null(), false
	}
}

// bytes reads a length and as many bytes. They are not nil.
func bytes(b []byte) (field, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, false
	}
	b = b[size:]
	return b[:n:n], b[n:], true
}
