package graphql

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nearside-dev/nearside/internal/wirejson"
)

// answerObject is an object of an answer. What is not known yet is a *slot.
type answerObject struct {
	keys   []string
	values []any
}

// slot is the place of a value that a later wave brings.
type slot struct{ value any }

// raw is JSON as it is.
type raw []byte

// appendJSON appends a value of an answer: nil, bool, string, raw, []any, *answerObject or *slot.
func appendJSON(b []byte, value any) []byte {
	switch v := value.(type) {
	case bool:
		return strconv.AppendBool(b, v)
	case string:
		return appendString(b, v)
	case raw:
		return append(b, v...)
	case []any:
		b = append(b, '[')
		for i, element := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, element)
		}
		return append(b, ']')
	case *answerObject:
		if v == nil {
			return append(b, "null"...)
		}
		b = append(b, '{')
		for i, key := range v.keys {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, key), ':')
			b = appendJSON(b, v.values[i])
		}
		return append(b, '}')
	case *slot:
		return appendJSON(b, v.value)
	default:
		return append(b, "null"...)
	}
}

func appendString(b []byte, s string) []byte { return wirejson.AppendString(b, s) }

// scalarValue returns one value of a field that is no message with fields of its own.
func (s *Schema) scalarValue(f protoreflect.FieldDescriptor, typeName string, v protoreflect.Value) (any, error) {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return v.Bool(), nil
	case protoreflect.StringKind:
		return v.String(), nil
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodeToString(v.Bytes()), nil
	case protoreflect.FloatKind:
		return float(v.Float(), 32)
	case protoreflect.DoubleKind:
		return float(v.Float(), 64)
	case protoreflect.EnumKind:
		return s.enumOut(typeName, v.Enum())
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return s.wellKnownValue(v.Message())
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n := v.Uint()
		if typeName != "Int" {
			return strconv.FormatUint(n, 10), nil
		}
		if n > math.MaxInt32 {
			return nil, fmt.Errorf("%d is no Int: it is above 2,147,483,647", n)
		}
		return raw(strconv.AppendUint(nil, n, 10)), nil
	default:
		n := v.Int()
		if typeName != "Int" {
			return strconv.FormatInt(n, 10), nil
		}
		if !isInt(n) {
			return nil, fmt.Errorf("%d is no Int", n)
		}
		return raw(strconv.AppendInt(nil, n, 10)), nil
	}
}

func float(x float64, bits int) (any, error) {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil, fmt.Errorf("%v is no Float", x)
	}
	return raw(strconv.AppendFloat(nil, x, 'g', -1, bits)), nil
}

func (s *Schema) enumOut(typeName string, n protoreflect.EnumNumber) (any, error) {
	if typeName == jsonValue { // google.protobuf.NullValue
		return nil, nil //nolint:nilnil // that is the value
	}
	if e := s.enums[typeName]; e != nil {
		if name, ok := e.names[n]; ok {
			return name, nil
		}
	}
	return nil, fmt.Errorf("%d is no value of %s that is known", n, typeName)
}

// wellKnownValue returns what JSON has for a message.
func (s *Schema) wellKnownValue(m protoreflect.Message) (any, error) {
	d := m.Descriptor()
	if isWrapper(d) {
		f := d.Fields().ByName("value")
		return s.scalarValue(f, wellKnown[d.FullName()], m.Get(f))
	}
	if wellKnown[d.FullName()] == emptyMessage || d.Fields().Len() == 0 {
		return true, nil
	}
	text, err := protojson.Marshal(m.Interface())
	if err != nil {
		return nil, fmt.Errorf("%s cannot be told in JSON", d.FullName())
	}
	var compact bytes.Buffer // protojson puts spaces in at random
	if err := json.Compact(&compact, text); err != nil {
		return nil, err
	}
	return raw(compact.Bytes()), nil
}
