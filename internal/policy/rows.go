package policy

import (
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// Audit is the annotation of a permitting policy that has what it matches recorded, whoever else allows it.
const Audit = "audit"

// UnlessRow is the annotation of a policy that forbids a table but for some rows.
const UnlessRow = "unless_row"

// attribute is what of a caller a row is compared with.
type attribute uint8

const (
	attributeID attribute = iota
	attributeTenant
)

// rowRule is what an annotation says: column = principal.attribute.
type rowRule struct {
	column    string
	attribute attribute
}

func audits(p *ast.Policy) bool {
	return slices.ContainsFunc(p.Annotations, func(a ast.AnnotationType) bool { return a.Key == Audit })
}

// rowRuleOf reads the annotation; nil where there is none.
func rowRuleOf(p *ast.Policy) (*rowRule, error) {
	i := slices.IndexFunc(p.Annotations, func(a ast.AnnotationType) bool { return a.Key == UnlessRow })
	if i < 0 {
		return nil, nil //nolint:nilnil // as documented
	}
	text := string(p.Annotations[i].Value)
	bad := problemf("@%s(%q): want COLUMN == principal.id or COLUMN == principal.tenant", UnlessRow, text)
	column, of, ok := strings.Cut(text, "==")
	column = strings.TrimSpace(column)
	if !ok || column == "" || len(column) > 128 || strings.ContainsAny(column, "\"'`[]\x00") {
		return nil, bad
	}
	switch strings.TrimSpace(of) {
	case "principal.id":
		return &rowRule{column: column, attribute: attributeID}, nil
	case "principal.tenant":
		return &rowRule{column: column, attribute: attributeTenant}, nil
	default:
		return nil, bad
	}
}

// checkFilter checks that a policy that restricts a table to rows does so for one table and all that is done to it.
func (p *Policy) checkFilter() error {
	if p.audits && p.tree.Effect != ast.EffectPermit {
		return problemf("@%s belongs to permit: what is denied is recorded always", Audit)
	}
	if p.filter == nil {
		return nil
	}
	table, ok := p.tree.Resource.(ast.ScopeTypeEq)
	_, whole := p.tree.Action.(ast.ScopeTypeAll)
	switch {
	case p.tree.Effect != ast.EffectForbid:
		return problemf("@%s belongs to forbid: a permit gives what it gives, and takes nothing from what roles give", UnlessRow)
	case !ok || table.Entity.Type != typeTable:
		return problemf(`@%s needs the table that it is of: resource == Table::"DATABASE/TABLE"`, UnlessRow)
	case !whole:
		return problemf("@%s is of all actions: who may not read a row may not write it either", UnlessRow)
	case p.mentions("resource", "action"):
		return problemf("@%s: conditions can be of the principal alone", UnlessRow)
	}
	return nil
}

// Term is one comparison of a Filter: a row is in it if the column is a text of exactly these bytes.
type Term struct{ Column, Value string }

// Filter is which rows of a table somebody may see and write: those that are in all of its terms. It is never empty; nil is all
// rows.
type Filter struct {
	Terms []Term
	// Policy is the policy that it comes from, the first one if there are several.
	Policy string
}
