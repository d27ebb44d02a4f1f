package graphql

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// sdlType is a type that is written: one of these.
type sdlType struct {
	object      *object
	input       *input
	enum        *enumType
	description string // of object
}

func (t sdlType) name() string {
	switch {
	case t.object != nil:
		return t.object.name
	case t.input != nil:
		return t.input.name
	default:
		return t.enum.name
	}
}

// write writes the schema in GraphQL's own language.
func (b *builder) write() string {
	var w sdlWriter
	for _, name := range slices.Sorted(maps.Keys(scalars)) {
		w.describe("", scalars[name])
		w.line("scalar ", name)
	}
	query := b.roots[rootQuery]
	if len(query.order) == 0 {
		query.add(&field{name: "empty", typeName: "Boolean", description: "Nothing: there are no queries."})
	}
	for _, name := range []string{rootQuery, rootMutation, rootSubscription} {
		if len(b.roots[name].order) > 0 {
			w.object(b.roots[name], "")
		}
	}
	slices.SortFunc(b.types, func(x, y sdlType) int { return cmp.Compare(x.name(), y.name()) })
	for _, t := range b.types {
		switch {
		case t.object != nil:
			w.object(t.object, t.description)
		case t.input != nil:
			w.describe("", t.input.description)
			w.line("input ", t.input.name, " {")
			for _, a := range t.input.args {
				w.describe("  ", a.description)
				w.line("  ", a.name, ": ", a.typeText)
			}
			w.line("}")
		case t.enum != nil:
			w.describe("", t.enum.description)
			w.line("enum ", t.enum.name, " {")
			for i, v := range t.enum.order {
				w.describe("  ", t.enum.described[i])
				w.line("  ", v)
			}
			w.line("}")
		}
	}
	return w.String()
}

type sdlWriter struct{ strings.Builder }

func (w *sdlWriter) line(parts ...string) {
	for _, p := range parts {
		w.WriteString(p)
	}
	w.WriteByte('\n')
}

// describe writes a description: JSON's strings are GraphQL's too.
func (w *sdlWriter) describe(indent, text string) {
	if text == "" {
		return
	}
	quoted, err := json.Marshal(text)
	if err == nil { // always, of strings
		w.line(indent, string(quoted))
	}
}

func (w *sdlWriter) object(o *object, description string) {
	w.describe("", description)
	w.line("type ", o.name, " {")
	for _, f := range o.order {
		w.describe("  ", f.description)
		args := ""
		if len(f.args) > 0 {
			texts := make([]string, len(f.args))
			for i, a := range f.args {
				texts[i] = a.name + ": " + a.typeText
			}
			args = "(" + strings.Join(texts, ", ") + ")"
		}
		deprecated := ""
		if f.deprecated {
			deprecated = " @deprecated"
		}
		w.line("  ", f.name, args, ": ", f.typeText(), deprecated)
	}
	w.line("}")
}

func (f *field) typeText() string {
	text := f.typeName
	if f.list {
		if f.inner {
			text += "!"
		}
		text = "[" + text + "]"
	}
	if f.required {
		text += "!"
	}
	return text
}
