// Package wirejson writes encoded messages as JSON, or parts of them, without making messages of them: a doorway that only passes
// on what was answered need not know more than where its fields are.
//
// It understands what a message mostly is, and steps aside for the rest: what it does not write is for package protojson, or whoever
// knows the message. What it writes is what they would, which a fuzz test compares.
package wirejson

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxDepth bounds how deep messages may be in each other.
const maxDepth = 64

// ErrUnsupported is what NewObject returns where a field is of a kind that is not written here.
var ErrUnsupported = errors.New("not written from the wire")

// Field is a field of a JSON object.
type Field struct {
	// Key is its name there.
	Key string
	// Constant is its value, as JSON, where it is always the same; Descriptor is nil then.
	Constant string
	// Descriptor is the message's field.
	Descriptor protoreflect.FieldDescriptor
	// Object is how its value, or each of its values, is written, where that is a message of which there are fields.
	Object *Object
	// Enum has the names of the values of an enum; a number that is not among them is written as such if OpenEnum says so, and
	// otherwise not at all.
	Enum     map[protoreflect.EnumNumber]string
	OpenEnum bool
	// Text has a whole number be a string of digits; Int has one not be written that has more than 32 bits with its sign.
	Text, Int bool
	// Absent is JSON for where the message does not have the field; "" leaves the field out.
	Absent string
}

// Object says how messages of one type are written. It is immutable after Fill, and may contain itself.
type Object struct {
	slots []slot
	out   []out
}

// slot is a field of the message.
type slot struct {
	number  protowire.Number
	wire    protowire.Type
	kind    protoreflect.Kind
	list    bool
	packed  bool // elements may come together
	message bool // a second one would be part of the first
}

// out is a field of the object.
type out struct {
	key    string // `"name":`
	slot   int    // -1: constant
	field  Field
	format format
}

type format func(dst, value []byte, f *Field, kind protoreflect.Kind, depth int) ([]byte, bool)

// Fill gives an object its fields, in the order in which they are written. The error is ErrUnsupported, for the first that cannot be.
func (o *Object) Fill(fields []Field) error {
	for _, f := range fields {
		next := out{key: string(append(AppendString(nil, f.Key), ':')), slot: -1, field: f}
		if f.Descriptor != nil {
			var err error
			if next.slot, err = o.slotOf(f.Descriptor); err != nil {
				return err
			}
			if next.format, err = formatOf(&f); err != nil {
				return err
			}
		}
		o.out = append(o.out, next)
	}
	return nil
}

func unsupported(d protoreflect.FieldDescriptor) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, d.FullName())
}

// slotOf returns the place of a field among the slots.
func (o *Object) slotOf(d protoreflect.FieldDescriptor) (int, error) {
	if one := d.ContainingOneof(); d.IsMap() || one != nil && !one.IsSynthetic() || d.Kind() == protoreflect.GroupKind {
		return 0, unsupported(d)
	}
	for i, s := range o.slots {
		if s.number == d.Number() {
			return i, nil
		}
	}
	s := slot{number: d.Number(), kind: d.Kind(), list: d.IsList(), message: d.Message() != nil}
	switch d.Kind() {
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		s.wire = protowire.BytesType
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind:
		s.wire = protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind:
		s.wire = protowire.Fixed64Type
	case protoreflect.FloatKind, protoreflect.DoubleKind, protoreflect.GroupKind:
		return 0, unsupported(d)
	default:
		s.wire = protowire.VarintType
	}
	s.packed = s.list && s.wire != protowire.BytesType
	o.slots = append(o.slots, s)
	return len(o.slots) - 1, nil
}

// span is where a field is in a message: the value, or of a list all from the first element's tag to the last element's end.
type span struct {
	begin, end int
	there      bool
}

// Append appends a message as JSON. ok is false where that is for others to do: then dst has nothing new.
func (o *Object) Append(dst, message []byte) (_ []byte, ok bool) { return o.append(dst, message, 0) }

func (o *Object) append(dst, message []byte, depth int) (_ []byte, ok bool) {
	if depth > maxDepth {
		return dst, false
	}
	var few [16]span
	spans := few[:min(len(o.slots), len(few))]
	if len(o.slots) > len(few) {
		spans = make([]span, len(o.slots))
	}
	for at := 0; at < len(message); {
		number, wire, n := protowire.ConsumeTag(message[at:])
		if n < 0 {
			return dst, false
		}
		size := protowire.ConsumeFieldValue(number, wire, message[at+n:])
		if size < 0 {
			return dst, false
		}
		begin, end := at+n, at+n+size
		if i := o.find(number); i >= 0 {
			s, sp := &o.slots[i], &spans[i]
			switch {
			case wire != s.wire && (!s.packed || wire != protowire.BytesType):
				return dst, false
			case s.list:
				if !sp.there {
					sp.begin = at
				}
				sp.end, sp.there = end, true
			case sp.there && s.message:
				return dst, false
			default:
				*sp = span{begin, end, true}
			}
		}
		at = end
	}
	start := len(dst)
	dst = append(dst, '{')
	for i := range o.out {
		f := &o.out[i]
		there := f.slot >= 0 && spans[f.slot].there
		text := f.field.Constant
		if f.slot >= 0 {
			text = f.field.Absent
		}
		if !there && text == "" {
			continue
		}
		if len(dst) > start+1 {
			dst = append(dst, ',')
		}
		dst = append(dst, f.key...)
		switch {
		case !there:
			dst = append(dst, text...)
			continue
		case o.slots[f.slot].list:
			dst, ok = o.appendList(dst, message[spans[f.slot].begin:spans[f.slot].end], f, depth)
		default:
			dst, ok = f.format(dst, message[spans[f.slot].begin:spans[f.slot].end], &f.field, o.slots[f.slot].kind, depth)
		}
		if !ok {
			return dst[:start], false
		}
	}
	return append(dst, '}'), true
}

func (o *Object) find(number protowire.Number) int {
	for i := range o.slots {
		if o.slots[i].number == number {
			return i
		}
	}
	return -1
}

// appendList appends the elements of a list that are among fields.
func (o *Object) appendList(dst, fields []byte, f *out, depth int) (_ []byte, ok bool) {
	s := &o.slots[f.slot]
	dst = append(dst, '[')
	first := true
	element := func(value []byte) bool {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst, ok = f.format(dst, value, &f.field, s.kind, depth)
		return ok
	}
	for len(fields) > 0 {
		number, wire, n := protowire.ConsumeTag(fields)
		if n < 0 {
			return dst, false
		}
		size := protowire.ConsumeFieldValue(number, wire, fields[n:])
		if size < 0 {
			return dst, false
		}
		value := fields[n : n+size]
		fields = fields[n+size:]
		if number != s.number {
			continue
		}
		if wire == s.wire {
			if !element(value) {
				return dst, false
			}
			continue
		}
		packed, _ := protowire.ConsumeBytes(value)
		for len(packed) > 0 {
			n := protowire.ConsumeFieldValue(number, s.wire, packed)
			if n < 0 || !element(packed[:n]) {
				return dst, false
			}
			packed = packed[n:]
		}
	}
	return append(dst, ']'), true
}

// Only returns the message that a message has in a field, if it has it once.
func Only(message []byte, number protowire.Number) (inner []byte, ok bool) {
	for len(message) > 0 {
		n, wire, size := protowire.ConsumeTag(message)
		if size < 0 {
			return nil, false
		}
		value := protowire.ConsumeFieldValue(n, wire, message[size:])
		if value < 0 {
			return nil, false
		}
		if n == number {
			if ok || wire != protowire.BytesType {
				return nil, false
			}
			inner, _ = protowire.ConsumeBytes(message[size:])
			ok = true
		}
		message = message[size+value:]
	}
	return inner, ok
}
