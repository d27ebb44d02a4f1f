package graphql

import (
	"cmp"
	"slices"

	"github.com/vektah/gqlparser/v2/ast"
)

// introspect answers a field that every schema has, of a root.
func (o *operation) introspect(root string, s *selection) any {
	switch f := s.fields[0]; f.Name {
	case fieldSchema:
		return o.describe(s, o.schema.ast)
	case fieldType:
		name, _ := literal(f.Arguments.ForName("name").Value, o.vars)
		text, _ := name.(string)
		if d := o.schema.ast.Types[text]; d != nil {
			return o.describe(s, d)
		}
		return nil
	default:
		return root
	}
}

// describe answers what a selection asks for of a part of the schema.
func (o *operation) describe(s *selection, part any) any {
	if !s.selected {
		sets := make([]ast.SelectionSet, len(s.fields))
		for i, f := range s.fields {
			sets[i] = f.SelectionSet
		}
		s.inner, s.selected = o.collect(nil, sets...), true
	}
	out := &answerObject{keys: make([]string, len(s.inner)), values: make([]any, len(s.inner))}
	for i, inner := range s.inner {
		out.keys[i] = inner.key
		f := inner.fields[0]
		switch p := part.(type) {
		case *ast.Schema:
			out.values[i] = o.ofSchema(inner, f.Name, p)
		case *ast.Definition:
			out.values[i] = o.ofDefinition(inner, f, p)
		case *ast.Type:
			out.values[i] = o.ofType(inner, f.Name, p)
		case *ast.FieldDefinition:
			out.values[i] = o.ofField(inner, f, p)
		case *ast.ArgumentDefinition:
			out.values[i] = o.ofInput(inner, f.Name, p)
		case *ast.EnumValueDefinition:
			out.values[i] = ofEnumValue(f.Name, p)
		case *ast.DirectiveDefinition:
			out.values[i] = o.ofDirective(inner, f, p)
		}
	}
	return out
}

func (o *operation) described(s *selection, parts []any) any {
	out := make([]any, len(parts))
	for i, p := range parts {
		out[i] = o.describe(s, p)
	}
	return out
}

func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (o *operation) ofSchema(s *selection, name string, schema *ast.Schema) any {
	root := func(d *ast.Definition) any {
		if d == nil {
			return nil
		}
		return o.describe(s, d)
	}
	switch name {
	case fieldTypeName:
		return "__Schema"
	case "description":
		return text(schema.Description)
	case "types":
		types := make([]*ast.Definition, 0, len(schema.Types))
		for _, d := range schema.Types {
			types = append(types, d)
		}
		slices.SortFunc(types, func(a, b *ast.Definition) int { return cmp.Compare(a.Name, b.Name) })
		return o.described(s, anys(types))
	case "queryType":
		return root(schema.Query)
	case "mutationType":
		return root(schema.Mutation)
	case "subscriptionType":
		return root(schema.Subscription)
	case "directives":
		directives := make([]*ast.DirectiveDefinition, 0, len(schema.Directives))
		for _, d := range schema.Directives {
			directives = append(directives, d)
		}
		slices.SortFunc(directives, func(a, b *ast.DirectiveDefinition) int { return cmp.Compare(a.Name, b.Name) })
		return o.described(s, anys(directives))
	default:
		return nil
	}
}

func anys[T any](list []T) []any {
	out := make([]any, len(list))
	for i, e := range list {
		out[i] = e
	}
	return out
}

func (o *operation) ofDefinition(s *selection, f *ast.Field, d *ast.Definition) any {
	switch f.Name {
	case fieldTypeName:
		return "__Type"
	case "kind":
		return string(d.Kind)
	case "name":
		return d.Name
	case "description":
		return text(d.Description)
	case "fields":
		if d.Kind != ast.Object && d.Kind != ast.Interface {
			return nil
		}
		var list []any
		for _, field := range d.Fields {
			if len(field.Name) > 1 && field.Name[:2] == "__" || isDeprecated(field.Directives) && !o.withDeprecated(f) {
				continue
			}
			list = append(list, field)
		}
		return o.described(s, list)
	case "inputFields":
		if d.Kind != ast.InputObject {
			return nil
		}
		var list []any
		for _, field := range d.Fields {
			list = append(list, &ast.ArgumentDefinition{
				Name: field.Name, Description: field.Description, Type: field.Type, DefaultValue: field.DefaultValue, Directives: field.Directives,
			})
		}
		return o.described(s, list)
	case "enumValues":
		if d.Kind != ast.Enum {
			return nil
		}
		var list []any
		for _, v := range d.EnumValues {
			if !isDeprecated(v.Directives) || o.withDeprecated(f) {
				list = append(list, v)
			}
		}
		return o.described(s, list)
	case "interfaces":
		if d.Kind != ast.Object {
			return nil
		}
		return []any{}
	case "isOneOf":
		return false
	default: // possibleTypes, specifiedByURL, ofType
		return nil
	}
}

func (o *operation) withDeprecated(f *ast.Field) bool {
	arg := f.Arguments.ForName("includeDeprecated")
	if arg == nil {
		return false
	}
	value, _ := literal(arg.Value, o.vars)
	yes, _ := value.(bool)
	return yes
}

func isDeprecated(d ast.DirectiveList) bool { return d.ForName("deprecated") != nil }

func deprecationReason(d ast.DirectiveList) any {
	if !isDeprecated(d) {
		return nil
	}
	return "No longer supported"
}

// ofType answers about a type as a field has it: a list, one that is never null, or a named one.
func (o *operation) ofType(s *selection, name string, t *ast.Type) any {
	var kind string
	var inner *ast.Type
	switch {
	case t.NonNull:
		nullable := *t
		nullable.NonNull = false
		kind, inner = "NON_NULL", &nullable
	case t.Elem != nil:
		kind, inner = "LIST", t.Elem
	default:
		d := o.schema.ast.Types[t.NamedType]
		if d == nil {
			return nil
		}
		return o.ofDefinition(s, s.fields[0], d)
	}
	switch name {
	case fieldTypeName:
		return "__Type"
	case "kind":
		return kind
	case "ofType":
		return o.describe(s, inner)
	default:
		return nil
	}
}

func (o *operation) ofField(s *selection, f *ast.Field, d *ast.FieldDefinition) any {
	switch f.Name {
	case fieldTypeName:
		return "__Field"
	case "name":
		return d.Name
	case "description":
		return text(d.Description)
	case "args":
		return o.described(s, anys(d.Arguments))
	case "type":
		return o.describe(s, d.Type)
	case "isDeprecated":
		return isDeprecated(d.Directives)
	default:
		return deprecationReason(d.Directives)
	}
}

func (o *operation) ofInput(s *selection, name string, d *ast.ArgumentDefinition) any {
	switch name {
	case fieldTypeName:
		return "__InputValue"
	case "name":
		return d.Name
	case "description":
		return text(d.Description)
	case "type":
		return o.describe(s, d.Type)
	case "defaultValue":
		if d.DefaultValue == nil {
			return nil
		}
		return d.DefaultValue.String()
	case "isDeprecated":
		return isDeprecated(d.Directives)
	default:
		return deprecationReason(d.Directives)
	}
}

func ofEnumValue(name string, d *ast.EnumValueDefinition) any {
	switch name {
	case fieldTypeName:
		return "__EnumValue"
	case "name":
		return d.Name
	case "description":
		return text(d.Description)
	case "isDeprecated":
		return isDeprecated(d.Directives)
	default:
		return deprecationReason(d.Directives)
	}
}

func (o *operation) ofDirective(s *selection, f *ast.Field, d *ast.DirectiveDefinition) any {
	switch f.Name {
	case fieldTypeName:
		return "__Directive"
	case "name":
		return d.Name
	case "description":
		return text(d.Description)
	case "locations":
		list := make([]any, len(d.Locations))
		for i, l := range d.Locations {
			list[i] = string(l)
		}
		return list
	case "args":
		return o.described(s, anys(d.Arguments))
	case "isRepeatable":
		return d.IsRepeatable
	default:
		return nil
	}
}
