package policy

import (
	"strings"

	"github.com/cedar-policy/cedar-go"
	publicast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/nearside-dev/nearside/internal/catalog"
)

// mentions reports whether a policy's conditions look at a variable.
func (p *Policy) mentions(variables ...string) (found bool) {
	for _, c := range p.tree.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			if v, ok := n.(ast.NodeTypeVariable); ok {
				for _, name := range variables {
					found = found || string(v.Name) == name
				}
			}
			return true
		})
	}
	return found
}

// eachEntity calls f for each entity that a policy names.
func (p *Policy) eachEntity(f func(cedar.EntityUID)) {
	for _, scope := range []ast.IsScopeNode{p.tree.Principal, p.tree.Action, p.tree.Resource} {
		switch s := scope.(type) {
		case ast.ScopeTypeEq:
			f(s.Entity)
		case ast.ScopeTypeIn:
			f(s.Entity)
		case ast.ScopeTypeIsIn:
			f(s.Entity)
		case ast.ScopeTypeAll, ast.ScopeTypeIs: // no entity
		case ast.ScopeTypeInSet:
			for _, e := range s.Entities {
				f(e)
			}
		}
	}
	for _, c := range p.tree.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			if v, ok := n.(ast.NodeValue); ok {
				eachIn(v.Value, f)
			}
			return true
		})
	}
}

// Names reports whether a policy names a table of a database. One that cannot be read may name any.
func Names(text, database, table string) (found bool) {
	p, err := Parse("", text)
	if err != nil {
		return true
	}
	want := cedar.NewEntityUID(typeTable, cedar.String(database+"/"+catalog.Fold(table)))
	p.eachEntity(func(id cedar.EntityUID) { found = found || id == want })
	return found
}

func eachIn(v cedar.Value, f func(cedar.EntityUID)) {
	switch v := v.(type) {
	case cedar.EntityUID:
		f(v)
	case cedar.Set:
		for e := range v.All() {
			eachIn(e, f)
		}
	case cedar.Record:
		for _, e := range v.All() {
			eachIn(e, f)
		}
	}
}

// analyse finds out where a forbidding policy makes a difference between tables, and for whom.
//
// The answer errs on one side: it may say that a policy does where it does not, never the other way round.
func (p *Policy) analyse() {
	if p.tree.Effect != ast.EffectForbid {
		return
	}
	switch s := p.tree.Resource.(type) {
	case ast.ScopeTypeAll:
		p.byTable = p.mentions("resource")
	case ast.ScopeTypeIn:
		p.byTable = s.Entity.Type == typeTable || s.Entity.Type == typeDatabase && p.mentions("resource")
	case ast.ScopeTypeEq:
		p.byTable = s.Entity.Type == typeTable
	case ast.ScopeTypeIs:
		p.byTable = s.Type == typeTable
	case ast.ScopeTypeIsIn:
		p.byTable = s.Type == typeTable
	default:
		p.byTable = true
	}
	if !p.byTable {
		return
	}
	caller := *p.tree
	caller.Effect, caller.Action, caller.Resource = ast.EffectForbid, ast.Scope{}.All(), ast.Scope{}.All()
	if p.mentions("resource", "action", "context") {
		caller.Conditions = nil // it could be anyone of the scope
	}
	p.applies = cedar.NewPolicyFromAST((*publicast.Policy)(&caller))
}

// mayConcern reports whether a policy that makes a difference between tables may do so in a database.
func (p *Policy) mayConcern(database string) bool {
	of := func(id cedar.EntityUID) bool {
		switch id.Type {
		case typeDatabase:
			return string(id.ID) == database
		case typeTable:
			name, _, _ := strings.Cut(string(id.ID), "/")
			return name == database
		default:
			return false
		}
	}
	switch s := p.tree.Resource.(type) {
	case ast.ScopeTypeEq:
		return of(s.Entity)
	case ast.ScopeTypeIn:
		return of(s.Entity)
	case ast.ScopeTypeIsIn:
		return of(s.Entity)
	default:
		return true
	}
}
