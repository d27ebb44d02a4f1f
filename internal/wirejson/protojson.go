package wirejson

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Of returns how messages of a type are written as package protojson does with EmitDefaultValues. The error is ErrUnsupported.
func Of(d protoreflect.MessageDescriptor) (*Object, error) {
	return of(d, make(map[protoreflect.FullName]*Object))
}

func of(d protoreflect.MessageDescriptor, known map[protoreflect.FullName]*Object) (*Object, error) {
	if o := known[d.FullName()]; o != nil {
		return o, nil
	}
	if strings.HasPrefix(string(d.FullName()), "google.protobuf.") {
		return nil, ErrUnsupported // JSON has forms of its own for these
	}
	o := &Object{}
	known[d.FullName()] = o
	fields := make([]Field, d.Fields().Len())
	for i := range fields {
		f := d.Fields().Get(i)
		fields[i] = Field{Key: f.JSONName(), Descriptor: f, OpenEnum: true, Text: Is64(f.Kind())}
		if m := f.Message(); m != nil && m.FullName() != timestampName && !f.IsMap() {
			var err error
			if fields[i].Object, err = of(m, known); err != nil {
				return nil, err
			}
		}
		if e := f.Enum(); e != nil {
			if e.FullName() == "google.protobuf.NullValue" {
				return nil, unsupported(f)
			}
			fields[i].Enum = make(map[protoreflect.EnumNumber]string)
			for j := range e.Values().Len() {
				if n := e.Values().Get(j).Number(); fields[i].Enum[n] == "" {
					fields[i].Enum[n] = string(e.Values().Get(j).Name())
				}
			}
		}
		if f.IsList() {
			fields[i].Absent = "[]"
		} else if !f.HasPresence() {
			fields[i].Absent = zero(&fields[i])
		}
	}
	return o, o.Fill(fields)
}

// Is64 reports whether numbers of a kind have 64 bits, which JSON has as strings.
func Is64(kind protoreflect.Kind) bool {
	switch kind {
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return true
	default:
		return false
	}
}

// zero is the value of a field that is not in a message and has no presence.
func zero(f *Field) string {
	switch f.Descriptor.Kind() {
	case protoreflect.BoolKind:
		return "false"
	case protoreflect.StringKind, protoreflect.BytesKind:
		return `""`
	case protoreflect.EnumKind:
		if name := f.Enum[0]; name != "" {
			return strconv.Quote(name)
		}
		return "0"
	default:
		if f.Text {
			return `"0"`
		}
		return "0"
	}
}
