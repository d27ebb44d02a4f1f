package policy

import (
	"github.com/cedar-policy/cedar-go"

	"github.com/nearside-dev/nearside/internal/identity"
)

// world is a question and what there is to know about what is in it.
type world struct {
	request cedar.Request
	caller  *identity.Subject
	group   string
	target  Resource
}

var _ cedar.EntityGetter = (*world)(nil)

func newWorld(caller *identity.Subject, action, group string, r Resource) *world {
	w := &world{caller: caller, group: group, target: r}
	w.request = cedar.Request{Principal: uidOf(caller), Action: cedar.NewEntityUID(typeAction, cedar.String(action))}
	switch {
	case r.Table != "":
		w.request.Resource = cedar.NewEntityUID(typeTable, cedar.String(r.Database+"/"+r.Table))
	case r.Database != "":
		w.request.Resource = cedar.NewEntityUID(typeDatabase, cedar.String(r.Database))
	default:
		w.request.Resource = cedar.NewEntityUID(typeAPI, cedar.String(r.Service+"/"+r.Method))
	}
	return w
}

func uidOf(s *identity.Subject) cedar.EntityUID {
	switch s.Kind {
	case identity.Service:
		return cedar.NewEntityUID(typeService, cedar.String(s.ID))
	case identity.Anonymous:
		return cedar.NewEntityUID(typeNobody, cedar.String(s.Kind.String()))
	default:
		return cedar.NewEntityUID(typeUser, cedar.String(s.ID))
	}
}

// matches reports whether a policy is of this question. One that cannot be decided is.
func (w *world) matches(p *cedar.Policy) bool {
	_, diagnostic := cedar.Authorize(cedar.PolicyMap{"": p}, w, w.request)
	return len(diagnostic.Reasons)+len(diagnostic.Errors) > 0
}

// Get implements cedar.EntityGetter.
func (w *world) Get(id cedar.EntityUID) (cedar.Entity, bool) {
	e := cedar.Entity{UID: id}
	switch id.Type {
	case typeUser, typeService, typeNobody:
		if id != w.request.Principal {
			return e, false
		}
		roles := make([]cedar.EntityUID, len(w.caller.Roles))
		for i, r := range w.caller.Roles {
			roles[i] = cedar.NewEntityUID(typeRole, cedar.String(r))
		}
		e.Parents = cedar.NewEntityUIDSet(roles...)
		e.Attributes = cedar.NewRecord(cedar.RecordMap{
			"id": cedar.String(w.caller.ID), "name": cedar.String(w.caller.Name), "tenant": cedar.String(w.caller.Tenant),
		})
	case typeAction:
		if id != w.request.Action {
			return e, false
		}
		if w.group != "" {
			e.Parents = cedar.NewEntityUIDSet(cedar.NewEntityUID(typeAction, cedar.String(w.group)))
		}
	case typeTable:
		if id != w.request.Resource {
			return e, false
		}
		e.Parents = cedar.NewEntityUIDSet(cedar.NewEntityUID(typeDatabase, cedar.String(w.target.Database)))
		e.Attributes = cedar.NewRecord(cedar.RecordMap{
			"name": cedar.String(w.target.Table), "database": cedar.String(w.target.Database),
		})
	case typeDatabase:
		e.Attributes = cedar.NewRecord(cedar.RecordMap{"name": id.ID})
	case typeAPI:
		e.Attributes = cedar.NewRecord(cedar.RecordMap{"name": id.ID})
		if id == w.request.Resource {
			e.Parents = cedar.NewEntityUIDSet(cedar.NewEntityUID(typeAPI, cedar.String(w.target.Service)))
		}
	default:
		return e, false
	}
	return e, true
}
