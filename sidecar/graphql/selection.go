package graphql

import (
	"github.com/vektah/gqlparser/v2/ast"
	"google.golang.org/protobuf/proto"
)

// The fields that every schema has.
const (
	fieldTypeName = "__typename"
	fieldSchema   = "__schema"
	fieldType     = "__type"
)

// selection is a field that is asked for, merged of all places that ask for it under one name.
type selection struct {
	key    string // in the answer
	fields []*ast.Field
	field  *field // nil for what every schema has

	inner    []*selection
	selected bool // inner is there

	together *together // of a list that is looked up for several objects at once; nil: not known yet
}

// together says whether what a selection asks for can be looked up for several keys with one call.
type together struct {
	ok   bool
	id   string // of what is looked up so: the call without its keys
	base []byte // the call's request without its keys
	err  error  // what is wrong with an argument
}

// togetherOf returns how a selection's link is looked up for several keys.
func (o *operation) togetherOf(s *selection) *together {
	if s.together != nil {
		return s.together
	}
	t := &together{}
	s.together = t
	b := s.field.link.batch
	if b == nil {
		return t
	}
	req := newMessage(b.call.input)
	for _, a := range s.fields[0].Arguments {
		value, given := literal(a.Value, o.vars)
		if !given || value == nil {
			continue
		}
		arg := b.args[a.Name]
		if arg == nil {
			return t // the call has no such field
		}
		if t.err = o.schema.set(req.ProtoReflect(), arg.proto, value, arg.name); t.err != nil {
			return t
		}
	}
	if t.base, t.err = (proto.MarshalOptions{Deterministic: true}).Marshal(req); t.err != nil {
		t.err = invalid(s.field.name, "has a text that is no UTF-8")
		return t
	}
	t.ok, t.id = true, b.call.procedure+"\x00"+string(t.base)
	return t
}

// collect returns what selection sets ask for of an object type, in the order in which they do. What directives leave out is left
// out.
func (o *operation) collect(t *object, sets ...ast.SelectionSet) []*selection {
	var out []*selection
	byKey := make(map[string]*selection)
	var add func(set ast.SelectionSet)
	add = func(set ast.SelectionSet) {
		for _, sel := range set {
			switch sel := sel.(type) {
			case *ast.Field:
				if o.leftOut(sel.Directives) {
					continue
				}
				s := byKey[sel.Alias]
				if s == nil {
					s = &selection{key: sel.Alias}
					if t != nil {
						s.field = t.fields[sel.Name]
					}
					byKey[sel.Alias] = s
					out = append(out, s)
				}
				s.fields = append(s.fields, sel)
			case *ast.InlineFragment:
				if !o.leftOut(sel.Directives) {
					add(sel.SelectionSet)
				}
			case *ast.FragmentSpread:
				if !o.leftOut(sel.Directives) && sel.Definition != nil {
					add(sel.Definition.SelectionSet)
				}
			}
		}
	}
	for _, set := range sets {
		add(set)
	}
	return out
}

// leftOut reports whether @skip or @include leaves something out.
func (o *operation) leftOut(directives ast.DirectiveList) bool {
	if len(directives) == 0 {
		return false
	}
	if d := directives.ForName("skip"); d != nil && o.condition(d) {
		return true
	}
	d := directives.ForName("include")
	return d != nil && !o.condition(d)
}

func (o *operation) condition(d *ast.Directive) bool {
	arg := d.Arguments.ForName("if")
	if arg == nil {
		return false
	}
	value, _ := literal(arg.Value, o.vars)
	yes, _ := value.(bool)
	return yes
}

// innerOf returns what is asked for of what a selection is.
func (o *operation) innerOf(s *selection, t *object) []*selection {
	if !s.selected {
		sets := make([]ast.SelectionSet, len(s.fields))
		for i, f := range s.fields {
			sets[i] = f.SelectionSet
		}
		s.inner, s.selected = o.collect(t, sets...), true
	}
	return s.inner
}
