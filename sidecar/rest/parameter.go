package rest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxNamedValues is how many values of an enum a problem names.
const maxNamedValues = 20

// parameters returns the fields that the parameters of a query are of, by their names in it. The error says what is wrong with the one
// that it names.
func (b *Binding) parameters(query url.Values) (fields map[string]protoreflect.FieldDescriptor, name string, err error) {
	fields = make(map[string]protoreflect.FieldDescriptor, len(query))
	seen := make(map[string]bool, len(query))
	for _, name := range slices.Sorted(mapKeys(query)) {
		if name == fieldsParameter {
			continue
		}
		path, field, err := b.parameter(name)
		if err != nil {
			return nil, name, err
		}
		if !field.IsList() && (seen[path] || len(query[name]) > 1) {
			return nil, name, errors.New("is given more than once")
		}
		if !utf8.ValidString(strings.Join(query[name], "")) {
			return nil, name, errors.New("is no UTF-8")
		}
		fields[name], seen[path] = field, true
	}
	return fields, "", nil
}

// parameter resolves the name of a query parameter, which may be in either of a field's spellings and lead through messages. path is the
// same for all spellings.
func (b *Binding) parameter(name string) (path string, field protoreflect.FieldDescriptor, err error) {
	if b.Body == "*" {
		return "", nil, fmt.Errorf("is not known: %s %s takes its request in the body", b.Verb, b.Template)
	}
	if slices.Contains(b.Vars, name) {
		return "", nil, errors.New("is part of the path")
	}
	message := b.Method.Input()
	parts := strings.Split(name, ".")
	names := make([]string, len(parts))
	for i, part := range parts {
		if message == nil {
			return "", nil, fmt.Errorf("is not known: %s has no fields", strings.Join(parts[:i], "."))
		}
		field = message.Fields().ByName(protoreflect.Name(part))
		if field == nil {
			field = message.Fields().ByJSONName(part)
		}
		if field == nil || i == 0 && string(field.Name()) == b.Body {
			return "", nil, errors.New("is not known")
		}
		message, names[i] = field.Message(), string(field.Name())
		if i < len(parts)-1 && (field.IsList() || field.IsMap()) {
			return "", nil, fmt.Errorf("is not known: %s is repeated", strings.Join(parts[:i+1], "."))
		}
	}
	return strings.Join(names, "."), field, nil
}

// wanted says what is wrong with a value that a field does not take; "" where there are no good words for it.
func wanted(field protoreflect.FieldDescriptor) string {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return "is neither true nor false"
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return "is no number"
	case protoreflect.BytesKind:
		return "is no base64"
	case protoreflect.EnumKind:
		var names []string
		for i := range min(field.Enum().Values().Len(), maxNamedValues) {
			names = append(names, string(field.Enum().Values().Get(i).Name()))
		}
		return "is none of " + strings.Join(names, ", ")
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return map[protoreflect.FullName]string{
			"google.protobuf.Duration":  "is no duration, such as 1.5s",
			"google.protobuf.Timestamp": "is no time, such as 2006-01-02T15:04:05Z",
		}[field.Message().FullName()]
	case protoreflect.StringKind:
		return "is no UTF-8"
	default:
		return "is no whole number of " + field.Kind().String()
	}
}

// hasBody reports whether a request has a body that is not empty, as far as can be told by its first byte.
func hasBody(r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return false
	}
	if r.ContentLength > 0 {
		return true
	}
	n, _ := io.ReadFull(r.Body, make([]byte, 1)) // an error is no byte
	return n > 0
}
