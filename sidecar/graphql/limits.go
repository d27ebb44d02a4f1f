package graphql

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
)

// What a request may have and an operation may do. docs/limits.md lists them.
const (
	maxBodyBytes   = 1 << 20
	maxQueryBytes  = 64 << 10
	maxTokens      = 8192
	maxFields      = 2000   // of a document, with what its fragments spread counted where they are
	maxAliases     = 100    // fields with another name than their own
	maxPairs       = 20_000 // of fields under one name, which the validation compares
	maxRootFields  = 50
	maxDepth       = 12
	maxIntroDepth  = 20 // of introspection, which no call comes of
	maxCost        = 50_000
	maxCalls       = 1000     // of an operation
	maxParallel    = 16       // calls of an operation at a time
	maxCallBytes   = 16 << 20 // of the answer to a call
	maxAnswerBytes = 32 << 20 // of the messages that an answer is made of
	maxErrors      = 100      // told; further ones are counted
	maxTime        = 30 * time.Second
)

// What fields cost.
const (
	costCall        = 10
	costField       = 1
	defaultPage     = 50 // elements of a page whose size is not given
	defaultElements = 5  // of another list
)

// limitError says that a request asks for too much.
type limitError struct {
	limit string // in metrics
	text  string
}

// Error implements error.
func (e *limitError) Error() string { return e.text }

// shape is what is counted of a document before it is looked at any closer.
type shape struct {
	fields, aliases, depth int
}

// measurer counts the fields of selection sets, with what fragments spread where they do, in a time that grows with the document
// alone. Fragments that spread themselves are left to the validation.
func measurer(doc *ast.QueryDocument) func(ast.SelectionSet) shape {
	fragments := make(map[string]*ast.FragmentDefinition, len(doc.Fragments))
	for _, f := range doc.Fragments {
		fragments[f.Name] = f
	}
	known := make(map[string]*shape)
	var walk func(set ast.SelectionSet, level int) shape
	walk = func(set ast.SelectionSet, level int) shape {
		var s shape
		if level > maxQueryBytes {
			return s
		}
		for _, sel := range set {
			var inner shape
			switch sel := sel.(type) {
			case *ast.Field:
				inner = walk(sel.SelectionSet, level+1)
				inner.fields++
				inner.depth++
				if sel.Alias != sel.Name && sel.Alias != "" {
					inner.aliases++
				}
			case *ast.InlineFragment:
				inner = walk(sel.SelectionSet, level+1)
			case *ast.FragmentSpread:
				if k, ok := known[sel.Name]; ok {
					inner = *k
				} else if f := fragments[sel.Name]; f != nil {
					known[sel.Name] = &shape{} // for one that spreads itself
					inner = walk(f.SelectionSet, level+1)
					known[sel.Name] = &inner
				}
			}
			s.fields = add(s.fields, inner.fields)
			s.aliases = add(s.aliases, inner.aliases)
			s.depth = max(s.depth, inner.depth)
		}
		return s
	}
	return func(set ast.SelectionSet) shape { return walk(set, 0) }
}

func add(a, b int) int { return min(a+b, math.MaxInt32) }

// checkShape refuses a document whose operations ask for too much, before the validation, which takes longer with what there is.
func checkShape(doc *ast.QueryDocument) error {
	total := 0
	measure := measurer(doc)
	for _, f := range doc.Fragments { // also those that nothing spreads: the validation looks at them
		if total = add(total, measure(f.SelectionSet).fields); total > maxFields {
			return &limitError{"fields", fmt.Sprintf("the document has more than %d fields", maxFields)}
		}
	}
	pairs := &pairer{doc: doc}
	for _, f := range doc.Fragments {
		pairs.count([]ast.SelectionSet{f.SelectionSet}, 0)
	}
	total = 0
	for _, op := range doc.Operations {
		s := measure(op.SelectionSet)
		total = add(total, s.fields)
		limit := maxDepth
		if introspects(op) {
			limit = maxIntroDepth
		}
		switch {
		case total > maxFields:
			return &limitError{"fields", fmt.Sprintf("the document has more than %d fields", maxFields)}
		case s.aliases > maxAliases:
			return &limitError{"aliases", fmt.Sprintf("the operation has more than %d aliases", maxAliases)}
		case s.depth > limit:
			return &limitError{"depth", fmt.Sprintf("the operation is %d fields deep: at most %d may be", s.depth, limit)}
		case len(op.SelectionSet) > maxRootFields && !introspects(op):
			return &limitError{"root_fields", fmt.Sprintf("the operation has %d fields: at most %d may be", len(op.SelectionSet), maxRootFields)}
		}
	}
	for _, op := range doc.Operations {
		if pairs.count([]ast.SelectionSet{op.SelectionSet}, 0); pairs.pairs > maxPairs || pairs.steps > maxSteps {
			return &limitError{"fields", fmt.Sprintf("the document asks for the same too often: more than %d pairs of fields have one name", maxPairs)}
		}
	}
	return nil
}

// pairer counts how many pairs of fields there are under one name in one place, those of fragments where they are spread: the validation
// compares each with each other, and what is below them.
type pairer struct {
	doc   *ast.QueryDocument
	pairs int
	steps int // that were taken: fragments that spread themselves have no end
}

func (p *pairer) count(sets []ast.SelectionSet, depth int) {
	byName := make(map[string][]*ast.Field)
	var collect func(set ast.SelectionSet, level int)
	collect = func(set ast.SelectionSet, level int) {
		for _, sel := range set {
			if p.steps++; p.steps > maxSteps || level > maxDepth {
				return
			}
			switch sel := sel.(type) {
			case *ast.Field:
				name := sel.Alias
				if name == "" {
					name = sel.Name
				}
				byName[name] = append(byName[name], sel)
			case *ast.InlineFragment:
				collect(sel.SelectionSet, level+1)
			case *ast.FragmentSpread:
				if f := p.doc.Fragments.ForName(sel.Name); f != nil {
					collect(f.SelectionSet, level+1)
				}
			}
		}
	}
	for _, set := range sets {
		collect(set, 0)
	}
	for _, fields := range byName {
		if p.pairs = add(p.pairs, len(fields)*(len(fields)-1)/2); p.pairs > maxPairs || depth > maxIntroDepth {
			return
		}
		var inner []ast.SelectionSet
		for _, f := range fields {
			if len(f.SelectionSet) > 0 {
				inner = append(inner, f.SelectionSet)
			}
		}
		if len(inner) > 0 {
			p.count(inner, depth+1)
		}
	}
}

// maxSteps is how far pairs are counted: further than the fields of a document that is within its limits go.
const maxSteps = 10 * maxFields

// introspects reports whether an operation asks for the schema and nothing else.
func introspects(op *ast.OperationDefinition) bool {
	for _, sel := range op.SelectionSet {
		f, ok := sel.(*ast.Field)
		if !ok || f.Name != fieldSchema && f.Name != fieldType && f.Name != fieldTypeName {
			return false
		}
	}
	return true
}

// cost returns what an operation may cost at most, as far as its arguments and the schema tell.
func (s *Schema) cost(set ast.SelectionSet, typeName string, vars map[string]any) int {
	o := s.objects[typeName]
	total := 0
	for _, sel := range set {
		switch sel := sel.(type) {
		case *ast.Field:
			total = add(total, s.costOf(o, sel, vars))
		case *ast.InlineFragment:
			total = add(total, s.cost(sel.SelectionSet, typeName, vars))
		case *ast.FragmentSpread:
			if sel.Definition != nil {
				total = add(total, s.cost(sel.Definition.SelectionSet, typeName, vars))
			}
		}
	}
	return total
}

func (s *Schema) costOf(o *object, sel *ast.Field, vars map[string]any) int {
	if o == nil || o.fields[sel.Name] == nil {
		return costField // of introspection, which is bounded by its depth
	}
	f := o.fields[sel.Name]
	inner := costField + s.cost(sel.SelectionSet, f.typeName, vars)
	own := 0
	elements := 1
	switch {
	case f.link != nil && f.link.batch.takes(sel.Arguments, vars):
		own = costField // many are one call
	case f.call != nil:
		own = costCall
	}
	switch {
	case f.call != nil && f.call.page != nil:
		elements = defaultPage
		if arg := sel.Arguments.ForName(fieldName(f.call.page)); arg != nil {
			if n, ok := literal(arg.Value, vars); ok {
				elements = int(min(max(number(n), 1), math.MaxInt32))
			}
		}
	case f.list && f.call != nil && f.link == nil:
		elements = defaultPage
	case f.list:
		elements = defaultElements
	}
	if inner > math.MaxInt32/elements {
		return math.MaxInt32
	}
	return add(own, elements*inner)
}

// takes reports whether a batch takes arguments of a link for all of its keys.
func (b *batch) takes(args ast.ArgumentList, vars map[string]any) bool {
	if b == nil {
		return false
	}
	for _, a := range args {
		if value, given := literal(a.Value, vars); given && value != nil && b.args[a.Name] == nil {
			return false
		}
	}
	return true
}

func number(v any) int64 {
	if n, ok := v.(json.Number); ok {
		if i, err := n.Int64(); err == nil && i > 0 {
			return i
		}
	}
	return defaultPage // it is no number, and will be refused, or 0
}

// graphError is an error as it is told.
type graphError struct {
	Message    string              `json:"message"`
	Locations  []gqlerror.Location `json:"locations,omitempty"`
	Path       []any               `json:"path,omitempty"`
	Extensions map[string]any      `json:"extensions,omitempty"`
}
