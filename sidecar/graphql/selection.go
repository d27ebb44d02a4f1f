package graphql

import (
	"github.com/vektah/gqlparser/v2/ast"
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
