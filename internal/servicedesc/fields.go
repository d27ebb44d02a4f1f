package servicedesc

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Path is a field of a message, or of a message in it.
type Path []protoreflect.FieldDescriptor

// PathOf reads a path such as id or filter.name, in a message's own names.
func PathOf(message protoreflect.MessageDescriptor, text string) (Path, error) {
	var path Path
	for name := range strings.SplitSeq(text, ".") {
		if message == nil {
			return nil, fmt.Errorf("%s: %s is no message", text, path[len(path)-1].Name())
		}
		f := message.Fields().ByName(protoreflect.Name(name))
		if f == nil {
			return nil, fmt.Errorf("%s: %s has no field %q", text, message.FullName(), name)
		}
		path = append(path, f)
		message = f.Message()
		if f.IsList() || f.IsMap() {
			message = nil
		}
	}
	return path, nil
}

// Copy sets the field in one message to what it is in another of the same type.
func (p Path) Copy(to, from protoreflect.Message) {
	for i, f := range p {
		if !from.Has(f) {
			return
		}
		if i == len(p)-1 {
			to.Set(f, from.Get(f))
			return
		}
		to, from = to.Mutable(f).Message(), from.Get(f).Message()
	}
}

// JSONPath is a path such as items[0].price_cents, in a message's own names, with the names that JSON has for the fields:
// items[0].priceCents. What is no field, such as a key of a map and what is behind it, stays as it is.
func JSONPath(message protoreflect.MessageDescriptor, path string) string {
	var b strings.Builder
	for path != "" && message != nil {
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		f := message.Fields().ByName(protoreflect.Name(path[:end]))
		if f == nil {
			break
		}
		b.WriteString(f.JSONName())
		path, message = path[end:], f.Message()
		if f.IsMap() {
			break
		}
		if index := strings.IndexByte(path, ']'); strings.HasPrefix(path, "[") && index > 0 {
			b.WriteString(path[:index+1])
			path = path[index+1:]
		}
		if !strings.HasPrefix(path, ".") {
			break
		}
		b.WriteByte('.')
		path = path[1:]
	}
	return b.String() + path
}
