package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/nearside-dev/nearside/internal/servicedesc"
)

// bound are the fields that a binding has from the path although its bodies may have them too: one that says something else is refused, as
// whoever sent it means something that will not happen.
type bound struct {
	pattern *regexp.Regexp // of paths, with a group for each variable
	fields  []boundField
}

type boundField struct {
	group int
	name  string                         // of the whole request, as JSON has it
	path  []protoreflect.FieldDescriptor // in the body
}

// boundOf returns what bodies of a binding may have of its path; nil is nothing.
func boundOf(b *Binding) *bound {
	if b.Body == "" {
		return nil
	}
	out := &bound{}
	for i, name := range b.Vars {
		path, ok := fieldsOf(b.Method.Input(), name)
		if !ok {
			continue // the transcoder says so
		}
		if b.Body != "*" {
			if string(path[0].Name()) != b.Body {
				continue
			}
			path = path[1:]
		}
		if len(path) > 0 && !path[len(path)-1].IsList() && !path[len(path)-1].IsMap() {
			out.fields = append(out.fields, boundField{i + 1, servicedesc.JSONPath(b.Method.Input(), name), path})
		}
	}
	if len(out.fields) == 0 {
		return nil
	}
	text, _ := expand(b.Template, true)
	var err error
	if out.pattern, err = regexp.Compile("^" + text + "$"); err != nil {
		return nil // never: it is that of the binding, with groups
	}
	return out
}

// fieldsOf resolves a variable's name.
func fieldsOf(message protoreflect.MessageDescriptor, name string) (path []protoreflect.FieldDescriptor, ok bool) {
	for part := range strings.SplitSeq(name, ".") {
		if message == nil {
			return nil, false
		}
		f := message.Fields().ByName(protoreflect.Name(part))
		if f == nil {
			return nil, false
		}
		path, message = append(path, f), f.Message()
	}
	return path, true
}

// contradicts returns the field of a body that says something else than the path, "" where there is none.
func (b *bound) contradicts(path string, body []byte) string {
	matches := b.pattern.FindStringSubmatch(path)
	if matches == nil {
		return ""
	}
	for _, f := range b.fields {
		if said := f.find(body); said != nil && f.differs(matches[f.group], said) {
			return f.name
		}
	}
	return ""
}

// find returns what a body says of a field, nil where it says nothing. What is no JSON is for the transcoder to refuse.
func (f *boundField) find(body []byte) json.RawMessage {
	last := f.path[len(f.path)-1]
	if !bytes.Contains(body, []byte(`"`+last.JSONName()+`"`)) && !bytes.Contains(body, []byte(`"`+string(last.Name())+`"`)) &&
		!bytes.Contains(body, []byte(`\`)) {
		return nil // mostly: it need not be taken apart
	}
	for _, field := range f.path {
		var object map[string]json.RawMessage
		if json.Unmarshal(body, &object) != nil {
			return nil
		}
		said, ok := object[field.JSONName()]
		if !ok {
			said = object[string(field.Name())]
		}
		body = said
	}
	return body
}

// differs reports whether a value in a body is another than that of the path. One that is empty, or is none, is not.
func (f *boundField) differs(text string, said json.RawMessage) bool {
	field := f.path[len(f.path)-1]
	value, ok := valueOf(field, said)
	if !ok || !value.Has(field) || field.HasPresence() && field.Message() == nil && value.Get(field).Equal(field.Default()) {
		return false
	}
	text, err := url.PathUnescape(text)
	if err != nil {
		return false
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		return false // never, of a text
	}
	known := false
	for _, form := range [][]byte{quoted, []byte(text)} { // numbers and the like are one or both
		if want, ok := valueOf(field, form); ok {
			if known = true; want.Get(field).Equal(value.Get(field)) {
				return false
			}
		}
	}
	return known
}

// valueOf reads a field's value into a message that has it alone.
func valueOf(field protoreflect.FieldDescriptor, value []byte) (protoreflect.Message, bool) {
	m := dynamicpb.NewMessage(field.ContainingMessage())
	err := protojson.UnmarshalOptions{AllowPartial: true}.Unmarshal(fmt.Appendf(nil, "{%q:%s}", field.JSONName(), value), m)
	return m, err == nil
}

// checkBound refuses a request whose body says something else than its path. What was read of the body can be read again.
func (a *answer) checkBound(path string, body *io.ReadCloser) bool {
	b := a.binding.bound
	if b == nil || *body == nil {
		return true
	}
	text, err := io.ReadAll(io.LimitReader(*body, maxBodyBytes+1))
	if err != nil || len(text) > maxBodyBytes {
		*body = io.NopCloser(io.MultiReader(bytes.NewReader(text), failing{err}, *body)) // the transcoder says so
		return true
	}
	*body = io.NopCloser(bytes.NewReader(text))
	name := b.contradicts(path, text)
	if name != "" {
		a.invalid(name, "is another one in the path")
	}
	return name == ""
}

// failing is a reader that fails with an error, or has nothing.
type failing struct{ err error }

// Read implements io.Reader.
func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

// pathOf returns a request's path as templates are compared with it: each character stands for itself, but for those that would mean
// something else in a segment, which are escaped.
func pathOf(u *url.URL) string {
	raw := u.EscapedPath()
	if !strings.Contains(raw, "%") {
		return raw
	}
	var out strings.Builder
	for i := 0; i < len(raw); i++ {
		if raw[i] != '%' {
			out.WriteByte(raw[i])
			continue
		}
		code := strings.ToUpper(raw[i : i+3]) // it is the path of a URL that was parsed
		i += 2
		switch code {
		case "%25", "%2F", "%3A":
			out.WriteString(code)
		default:
			text, _ := url.PathUnescape(code) // it is one
			out.WriteString(text)
		}
	}
	return out.String()
}
