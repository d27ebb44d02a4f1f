package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxFields bounds how many parts of an answer may be asked for.
const maxFields = 256

// fieldTree says which fields of a JSON object are wanted: none is all of it.
type fieldTree map[string]fieldTree

// parseFields resolves paths, "users.id" for that of each element of a list, in a binding's answer.
func (b *Binding) parseFields(paths []string) (fieldTree, error) {
	if len(paths) > maxFields {
		return nil, fmt.Errorf("has more than %d paths", maxFields)
	}
	top := b.Method.Output()
	if b.Response != "" {
		top = top.Fields().ByName(protoreflect.Name(b.Response)).Message()
	}
	tree := make(fieldTree)
	for _, path := range paths {
		node, message := tree, top
		for part := range strings.SplitSeq(strings.TrimSpace(path), ".") {
			field, next := fieldOf(message, part)
			if field == "" {
				return nil, fmt.Errorf("%.64q is no field of the answer", strings.TrimSpace(path))
			}
			if node[field] == nil {
				node[field] = make(fieldTree)
			}
			node, message = node[field], next
		}
	}
	return tree, nil
}

// fieldOf returns the JSON name of a field, given in either spelling, and what its value has fields of.
func fieldOf(message protoreflect.MessageDescriptor, name string) (string, protoreflect.MessageDescriptor) {
	if message == nil || strings.HasPrefix(string(message.FullName()), "google.protobuf.") {
		return "", nil // they have a JSON form of their own
	}
	field := message.Fields().ByJSONName(name)
	if field == nil {
		field = message.Fields().ByName(protoreflect.Name(name))
	}
	if field == nil {
		return "", nil
	}
	if field.IsMap() {
		return field.JSONName(), nil
	}
	return field.JSONName(), field.Message()
}

// pick returns what of a JSON value is wanted.
func (t fieldTree) pick(value []byte) []byte {
	value = bytes.TrimSpace(value)
	if len(t) == 0 || len(value) == 0 {
		return value
	}
	switch value[0] {
	case '[':
		var list []json.RawMessage
		if json.Unmarshal(value, &list) != nil {
			return value
		}
		for i, e := range list {
			list[i] = t.pick(e)
		}
		return encode(list, value)
	case '{':
		var object map[string]json.RawMessage
		if json.Unmarshal(value, &object) != nil {
			return value
		}
		kept := make(map[string]json.RawMessage, len(t))
		for name, inner := range t {
			if raw, ok := object[name]; ok {
				kept[name] = inner.pick(raw)
			}
		}
		return encode(kept, value)
	default:
		return slices.Clone(value)
	}
}

// encode returns parts of a JSON value as JSON, or the whole of it where that cannot be.
func encode(parts any, whole []byte) []byte {
	out, err := json.Marshal(parts)
	if err != nil {
		return whole
	}
	return out
}
