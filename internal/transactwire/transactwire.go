// Package transactwire reads and writes the requests that most writes are, short transactions of puts, as they go over the wire.
// It is on the way of each such write at the primary and in a region, where package proto, which knows nothing of them, spends
// as much time on a request as SQLite on its row. What it does not know it leaves to package proto.
package transactwire

import (
	"math"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// Numbers of the fields; the tests compare them with package proto's.
const (
	requestDatabase, requestOperations, requestKey = 1, 2, 3
	operationPut                                   = 2
	putTable, putValues                            = 1, 2
	entryKey, entryValue                           = 1, 2
	valueNull, valueInteger, valueReal, valueText  = 1, 2, 3, 4
	valueBlob                                      = 5
)

// request is the memory of a request of one put, which nearly all are.
type request struct {
	message    datav1.TransactRequest
	operations [1]*datav1.Operation
	put        put
}

type put struct {
	operation datav1.Operation
	of        datav1.Operation_Put
	put       datav1.Put
}

// slot is the memory of one value.
type slot struct {
	value   datav1.Value
	integer datav1.Value_Integer
	text    datav1.Value_Text
}

// Parse returns the message of an encoded TransactRequest of which it knows every field: a database, puts without preconditions,
// and perhaps an idempotency key, each once. It is what proto.Unmarshal returns, and keeps nothing of encoded. It returns nil
// for all others, invalid ones among them.
func Parse(encoded []byte) *datav1.TransactRequest {
	all := string(encoded) // all strings of the message are parts of this one
	count := countOf(all, requestOperations)
	if count < 1 {
		return nil
	}
	r := &request{}
	r.message.Operations = r.operations[:0]
	if count > 1 {
		r.message.Operations = make([]*datav1.Operation, 0, count)
	}
	seenDatabase, seenKey := false, false
	for rest := all; rest != ""; {
		field, content, after, ok := next(rest)
		if !ok {
			return nil
		}
		rest = after
		switch field {
		case requestDatabase:
			if seenDatabase || !utf8.ValidString(content) {
				return nil
			}
			r.message.Database, seenDatabase = content, true
		case requestKey:
			if seenKey || !utf8.ValidString(content) {
				return nil
			}
			r.message.IdempotencyKey, seenKey = content, true
		case requestOperations:
			p := &r.put
			if len(r.message.Operations) > 0 {
				p = &put{}
			}
			if !p.parse(content) {
				return nil
			}
			r.message.Operations = append(r.message.Operations, &p.operation)
		default:
			return nil
		}
	}
	return &r.message
}

// next returns the next field of a message, which must be a length and that many bytes.
func next(rest string) (field protowire.Number, content, after string, ok bool) {
	tag, n := varint(rest)
	if n == 0 || tag&7 != uint64(protowire.BytesType) || tag>>3 > 15 {
		return 0, "", "", false
	}
	size, m := varint(rest[n:])
	if rest = rest[n+m:]; m == 0 || size > uint64(len(rest)) {
		return 0, "", "", false
	}
	return protowire.Number(tag >> 3), rest[:size], rest[size:], true
}

// varint is protowire.ConsumeVarint of a string; n is 0 where there is none.
func varint(s string) (v uint64, n int) {
	for i := 0; i < len(s) && i < 10; i++ {
		b := s[i]
		if i == 9 && b > 1 {
			return 0, 0
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// countOf returns how often a field is in a message of fields that next can read, and -1 for other messages.
func countOf(message string, wanted protowire.Number) (n int) {
	for message != "" {
		field, _, after, ok := next(message)
		if !ok {
			return -1
		}
		if field == wanted {
			n++
		}
		message = after
	}
	return n
}

func (p *put) parse(operation string) bool {
	field, content, after, ok := next(operation)
	if !ok || field != operationPut || after != "" {
		return false
	}
	count := countOf(content, putValues)
	if count < 0 {
		return false
	}
	p.operation.Operation, p.of.Put = &p.of, &p.put
	slots := make([]slot, count)
	if count > 0 {
		p.put.Values = make(map[string]*datav1.Value, count)
	}
	seenTable, used := false, 0
	for rest := content; rest != ""; {
		field, content, after, ok := next(rest)
		if !ok {
			return false
		}
		rest = after
		switch field {
		case putTable:
			if seenTable || !utf8.ValidString(content) {
				return false
			}
			p.put.Table, seenTable = content, true
		case putValues:
			if !p.entry(content, &slots[used]) {
				return false
			}
			used++
		default:
			return false
		}
	}
	return true
}

// entry reads a column's name and its value, in this order.
func (p *put) entry(content string, s *slot) bool {
	field, name, rest, ok := next(content)
	if !ok || field != entryKey || !utf8.ValidString(name) {
		return false
	}
	field, encoded, rest, ok := next(rest)
	if !ok || field != entryValue || rest != "" || !s.parse(encoded) {
		return false
	}
	if _, twice := p.put.Values[name]; twice {
		return false
	}
	p.put.Values[name] = &s.value
	return true
}

func (s *slot) parse(encoded string) bool {
	tag, n := varint(encoded)
	if n == 0 {
		return false
	}
	rest := encoded[n:]
	switch tag {
	case protowire.EncodeTag(valueNull, protowire.VarintType):
		s.value.Kind = &datav1.Value_Null{}
		return rest == "\x00"
	case protowire.EncodeTag(valueInteger, protowire.VarintType):
		v, n := varint(rest)
		s.integer.Integer, s.value.Kind = int64(v), &s.integer
		return n > 0 && n == len(rest)
	case protowire.EncodeTag(valueReal, protowire.Fixed64Type):
		v, n := protowire.ConsumeFixed64([]byte(rest))
		s.value.Kind = &datav1.Value_Real{Real: math.Float64frombits(v)}
		return n > 0 && n == len(rest)
	case protowire.EncodeTag(valueText, protowire.BytesType):
		_, content, after, ok := next(encoded)
		s.text.Text, s.value.Kind = content, &s.text
		return ok && after == "" && utf8.ValidString(content)
	case protowire.EncodeTag(valueBlob, protowire.BytesType):
		_, content, after, ok := next(encoded)
		s.value.Kind = &datav1.Value_Blob{Blob: append([]byte{}, content...)}
		return ok && after == ""
	default:
		return false
	}
}

// AppendRequest appends the deterministic encoding of a message of Parse, with another idempotency key or none.
func AppendRequest(dst []byte, r *datav1.TransactRequest, key string) []byte {
	dst = appendString(dst, requestDatabase, r.GetDatabase())
	var names []string
	for _, o := range r.GetOperations() {
		p := o.GetPut()
		names = names[:0]
		size := sizeOfString(putTable, p.GetTable())
		for name, v := range p.GetValues() {
			names = append(names, name)
			size += protowire.SizeTag(putValues) + protowire.SizeBytes(sizeOfEntry(name, v))
		}
		slices.Sort(names)
		dst = protowire.AppendTag(dst, requestOperations, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(protowire.SizeTag(operationPut)+protowire.SizeBytes(size)))
		dst = protowire.AppendTag(dst, operationPut, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(size))
		dst = appendString(dst, putTable, p.GetTable())
		for _, name := range names {
			v := p.GetValues()[name]
			dst = protowire.AppendTag(dst, putValues, protowire.BytesType)
			dst = protowire.AppendVarint(dst, uint64(sizeOfEntry(name, v)))
			dst = protowire.AppendString(protowire.AppendTag(dst, entryKey, protowire.BytesType), name)
			dst = protowire.AppendTag(dst, entryValue, protowire.BytesType)
			dst = protowire.AppendVarint(dst, uint64(sizeOfValue(v)))
			dst = appendValue(dst, v)
		}
	}
	return appendString(dst, requestKey, key)
}

func appendString(dst []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, field, protowire.BytesType), s)
}

func sizeOfString(field protowire.Number, s string) int {
	if s == "" {
		return 0
	}
	return protowire.SizeTag(field) + protowire.SizeBytes(len(s))
}

func sizeOfEntry(name string, v *datav1.Value) int {
	return protowire.SizeTag(entryKey) + protowire.SizeBytes(len(name)) +
		protowire.SizeTag(entryValue) + protowire.SizeBytes(sizeOfValue(v))
}

func sizeOfValue(v *datav1.Value) int {
	switch k := v.GetKind().(type) {
	case *datav1.Value_Null:
		return 2
	case *datav1.Value_Integer:
		return 1 + protowire.SizeVarint(uint64(k.Integer))
	case *datav1.Value_Real:
		return 1 + protowire.SizeFixed64()
	case *datav1.Value_Text:
		return 1 + protowire.SizeBytes(len(k.Text))
	case *datav1.Value_Blob:
		return 1 + protowire.SizeBytes(len(k.Blob))
	default:
		return 0 // not a value of Parse
	}
}

func appendValue(dst []byte, v *datav1.Value) []byte {
	switch k := v.GetKind().(type) {
	case *datav1.Value_Null:
		return protowire.AppendVarint(protowire.AppendTag(dst, valueNull, protowire.VarintType), 0)
	case *datav1.Value_Integer:
		return protowire.AppendVarint(protowire.AppendTag(dst, valueInteger, protowire.VarintType), uint64(k.Integer))
	case *datav1.Value_Real:
		return protowire.AppendFixed64(protowire.AppendTag(dst, valueReal, protowire.Fixed64Type), math.Float64bits(k.Real))
	case *datav1.Value_Text:
		return protowire.AppendString(protowire.AppendTag(dst, valueText, protowire.BytesType), k.Text)
	case *datav1.Value_Blob:
		return protowire.AppendBytes(protowire.AppendTag(dst, valueBlob, protowire.BytesType), k.Blob)
	default:
		return dst
	}
}
