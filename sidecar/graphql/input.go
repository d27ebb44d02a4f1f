package graphql

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/vektah/gqlparser/v2/ast"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// inputError is what is wrong with an argument.
type inputError struct {
	field  string // "items[0].sku"
	detail string
}

// Error implements error.
func (e *inputError) Error() string { return e.field + ": " + e.detail }

func invalid(path, format string, args ...any) error {
	return &inputError{path, fmt.Sprintf(format, args...)}
}

// enumLiteral is a value of an enum as it stands in a document.
type enumLiteral string

// literal returns a value of a document in the form in which JSON's values come, numbers as json.Number. ok is false for a variable
// that was not given.
func literal(v *ast.Value, vars map[string]any) (value any, ok bool) {
	switch v.Kind {
	case ast.Variable:
		value, ok = vars[v.Raw]
		return value, ok
	case ast.IntValue, ast.FloatValue:
		return json.Number(v.Raw), true
	case ast.StringValue, ast.BlockValue:
		return v.Raw, true
	case ast.EnumValue:
		return enumLiteral(v.Raw), true
	case ast.BooleanValue:
		return v.Raw == "true", true
	case ast.ListValue:
		list := make([]any, 0, len(v.Children))
		for _, c := range v.Children {
			element, _ := literal(c.Value, vars)
			list = append(list, element)
		}
		return list, true
	case ast.ObjectValue:
		object := make(map[string]any, len(v.Children))
		for _, c := range v.Children {
			if element, ok := literal(c.Value, vars); ok {
				object[c.Name] = element
			}
		}
		return object, true
	default:
		return nil, true
	}
}

// request makes the request of a call from the arguments of its field.
func (s *Schema) request(f *field, args ast.ArgumentList, vars map[string]any) (proto.Message, error) {
	msg := newMessage(f.call.input)
	set := func(f *argument, value any) error {
		if f.proto == nil {
			return s.setWellKnown(msg.ProtoReflect(), value, f.name)
		}
		return s.set(msg.ProtoReflect(), f.proto, value, f.name)
	}
	for _, a := range f.args {
		arg := args.ForName(a.name)
		if arg == nil {
			continue
		}
		value, ok := literal(arg.Value, vars)
		if !ok || value == nil {
			continue // absent: a field of a message has no null
		}
		if err := set(a, value); err != nil {
			return nil, err
		}
	}
	return msg, nil
}

// set gives a field its value.
func (s *Schema) set(m protoreflect.Message, f protoreflect.FieldDescriptor, value any, path string) error {
	switch {
	case f.IsMap():
		return s.setMap(m, f, value, path)
	case f.IsList():
		elements, ok := value.([]any)
		if !ok {
			elements = []any{value} // one is a list of one
		}
		list := m.Mutable(f).List()
		for i, element := range elements {
			at := fmt.Sprintf("%s[%d]", path, i)
			v, err := s.single(f, list.NewElement, element, at)
			if err != nil {
				return err
			}
			list.Append(v)
		}
		return nil
	default:
		if one := f.ContainingOneof(); one != nil && !one.IsSynthetic() {
			if other := m.WhichOneof(one); other != nil {
				return invalid(path, "does not go together with %s", fieldName(other))
			}
		}
		v, err := s.single(f, func() protoreflect.Value { return m.NewField(f) }, value, path)
		if err == nil {
			m.Set(f, v)
		}
		return err
	}
}

func (s *Schema) setMap(m protoreflect.Message, f protoreflect.FieldDescriptor, value any, path string) error {
	entries, ok := value.([]any)
	if !ok {
		entries = []any{value}
	}
	into := m.Mutable(f).Map()
	for i, e := range entries {
		at := fmt.Sprintf("%s[%d]", path, i)
		entry, ok := e.(map[string]any)
		if !ok {
			return invalid(at, "is no entry: want an object of key and value")
		}
		key, err := s.single(f.MapKey(), nil, entry["key"], at+".key")
		if err != nil {
			return err
		}
		if into.Has(key.MapKey()) {
			return invalid(at+".key", "is there twice")
		}
		v := into.NewValue()
		if given := entry["value"]; given != nil {
			if v, err = s.single(f.MapValue(), into.NewValue, given, at+".value"); err != nil {
				return err
			}
		}
		into.Set(key.MapKey(), v)
	}
	return nil
}

// single returns one value of a field. empty makes a message of it.
func (s *Schema) single(f protoreflect.FieldDescriptor, empty func() protoreflect.Value, value any, path string) (protoreflect.Value, error) {
	none := protoreflect.Value{}
	switch f.Kind() {
	case protoreflect.BoolKind:
		if b, ok := value.(bool); ok {
			return protoreflect.ValueOfBool(b), nil
		}
		return none, invalid(path, "is no Boolean")
	case protoreflect.StringKind:
		if n, ok := value.(json.Number); ok && isKey(f) {
			value = n.String() // an ID may be written as a number
		}
		if text, ok := value.(string); ok {
			return protoreflect.ValueOfString(text), nil
		}
		return none, invalid(path, "is no String")
	case protoreflect.BytesKind:
		if b, ok := bytesOf(value); ok {
			return protoreflect.ValueOfBytes(b), nil
		}
		return none, invalid(path, "is no base64")
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		n, ok := value.(json.Number)
		bits := 64
		if f.Kind() == protoreflect.FloatKind {
			bits = 32
		}
		x, err := strconv.ParseFloat(n.String(), bits)
		switch {
		case !ok || err != nil:
			return none, invalid(path, "is no Float")
		case bits == 32:
			return protoreflect.ValueOfFloat32(float32(x)), nil
		}
		return protoreflect.ValueOfFloat64(x), nil
	case protoreflect.EnumKind:
		return s.enumValue(f.Enum(), value, path)
	case protoreflect.MessageKind, protoreflect.GroupKind:
		v := empty()
		return v, s.fill(v.Message(), value, path)
	default:
		return integer(f, value, path)
	}
}

func bytesOf(value any) ([]byte, bool) {
	text, ok := value.(string)
	if !ok {
		return nil, false
	}
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if b, err := e.DecodeString(text); err == nil {
			return b, true
		}
	}
	return nil, false
}

// integer returns a whole number: those of 64 bits may be written as strings.
func integer(f protoreflect.FieldDescriptor, value any, path string) (protoreflect.Value, error) {
	none, text := protoreflect.Value{}, ""
	switch v := value.(type) {
	case json.Number:
		text = v.String()
	case string:
		if name := scalarName(f); name == "Int" {
			return none, invalid(path, "is no Int")
		}
		text = v
	}
	var err error
	switch f.Kind() {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		var n int64
		if n, err = strconv.ParseInt(text, 10, 32); err == nil {
			return protoreflect.ValueOfInt32(int32(n)), nil
		}
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		var n int64
		if n, err = strconv.ParseInt(text, 10, 64); err == nil {
			return protoreflect.ValueOfInt64(n), nil
		}
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		var n uint64
		if n, err = strconv.ParseUint(text, 10, 32); err == nil {
			return protoreflect.ValueOfUint32(uint32(n)), nil
		}
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		var n uint64
		if n, err = strconv.ParseUint(text, 10, 64); err == nil {
			return protoreflect.ValueOfUint64(n), nil
		}
	default:
		return none, invalid(path, "is of a kind that cannot be given")
	}
	return none, invalid(path, "is no whole number of %s", f.Kind())
}

func (s *Schema) enumValue(e protoreflect.EnumDescriptor, value any, path string) (protoreflect.Value, error) {
	if e.FullName() == "google.protobuf.NullValue" {
		return protoreflect.ValueOfEnum(0), nil
	}
	var text string
	switch v := value.(type) {
	case enumLiteral:
		text = string(v)
	case string: // of a variable
		text = v
	}
	for i, name := range enumNames(e) {
		if name == text && text != "" {
			return protoreflect.ValueOfEnum(e.Values().Get(i).Number()), nil
		}
	}
	return protoreflect.Value{}, invalid(path, "is no value of %s", e.Name())
}

// fill gives a message what an input object says.
func (s *Schema) fill(m protoreflect.Message, value any, path string) error {
	d := m.Descriptor()
	if isWellKnown(d) {
		return s.setWellKnown(m, value, path)
	}
	if d.Fields().Len() == 0 {
		return nil
	}
	object, ok := value.(map[string]any)
	if !ok {
		return invalid(path, "is no object")
	}
	known := 0
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		name := fieldName(f)
		given, ok := object[name]
		if !ok {
			continue
		}
		known++
		if given == nil {
			continue
		}
		if err := s.set(m, f, given, path+"."+name); err != nil {
			return err
		}
	}
	if known < len(object) {
		return invalid(path, "has fields that are not known")
	}
	return nil
}

// setWellKnown gives a message that JSON has a form of its own for its value.
func (s *Schema) setWellKnown(m protoreflect.Message, value any, path string) error {
	if wellKnown[m.Descriptor().FullName()] == emptyMessage && !isWrapper(m.Descriptor()) {
		return nil
	}
	if b, ok := bytesOf(value); ok && m.Descriptor().FullName() == "google.protobuf.BytesValue" {
		m.Set(m.Descriptor().Fields().ByName("value"), protoreflect.ValueOfBytes(b))
		return nil
	}
	text, err := json.Marshal(plain(value))
	if err != nil {
		return invalid(path, "is no JSON")
	}
	if err := protojson.Unmarshal(text, m.Interface()); err != nil {
		return invalid(path, "is no %s", wellKnown[m.Descriptor().FullName()])
	}
	return nil
}

// plain returns a value as JSON has it.
func plain(value any) any {
	switch v := value.(type) {
	case enumLiteral:
		return string(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = plain(v[k])
		}
		return out
	default:
		return value
	}
}

// isInt reports whether a whole number is one of GraphQL's.
func isInt(n int64) bool { return n >= math.MinInt32 && n <= math.MaxInt32 }
