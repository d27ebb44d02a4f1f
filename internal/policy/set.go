package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"iter"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"github.com/nearside-dev/nearside/internal/identity"
)

// Row is a policy as the mesh keeps it.
type Row struct{ Name, Text string }

// Resource is what something is done to: a table of a database, a database, or else a method of a service.
type Resource struct {
	Database, Table string // the table in lower case; "" is all
	Service, Method string // where there is no database
}

// Effect is what policies say.
type Effect uint8

// The effects.
const (
	Silent Effect = iota // no policy says anything
	Permits
	Forbids
)

// Verdict is what a set says of a question.
type Verdict struct {
	Effect Effect
	Policy string // that decided: the first by name of those that have the effect
	Audit  bool   // what is permitted is to be recorded
	// All are all policies that matched, by name, and Errors what went wrong in which; for those who explain.
	All, Errors []string
}

// Set is policies at one state. It is immutable.
type Set struct {
	policies []*Policy // by name
	version  string
	// Unreadable is the first policy that this build cannot read; "" if there is none. Nobody knows what it forbids, so it
	// forbids everything.
	unreadable string
}

// NewSet returns the set of rows; nil for none. It has no error: a policy that cannot be read forbids everything.
func NewSet(rows []Row) *Set {
	if len(rows) == 0 {
		return nil
	}
	rows = slices.SortedFunc(slices.Values(rows), func(a, b Row) int { return strings.Compare(a.Name, b.Name) })
	s := &Set{version: VersionOf(rows)}
	for _, r := range rows {
		p, err := Parse(r.Name, r.Text)
		if err == nil {
			err = p.checkFilter()
		}
		if err != nil {
			if s.unreadable == "" {
				s.unreadable = r.Name
			}
			continue
		}
		s.policies = append(s.policies, p)
	}
	return s
}

// VersionOf names what rows say: the same rows, in whatever order, have the same version. Of no rows it is "".
func VersionOf(rows []Row) string {
	if len(rows) == 0 {
		return ""
	}
	rows = slices.SortedFunc(slices.Values(rows), func(a, b Row) int { return strings.Compare(a.Name, b.Name) })
	h := sha256.New()
	for _, r := range rows {
		for _, text := range []string{r.Name, r.Text} {
			_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(text)))) // never fails
			_, _ = h.Write([]byte(text))
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Version names the set.
func (s *Set) Version() string { return s.version }

// Len returns how many policies there are.
func (s *Set) Len() int { return len(s.policies) }

// Unreadable returns the name of a policy that this build cannot read; "" if there is none.
func (s *Set) Unreadable() string { return s.unreadable }

// Decide returns what the policies say of a question. action is one of the schema's, with the group that it is in.
func (s *Set) Decide(caller *identity.Subject, action, group string, r Resource) Verdict {
	if s.unreadable != "" {
		return Verdict{Effect: Forbids, Policy: s.unreadable, All: []string{s.unreadable}}
	}
	w := newWorld(caller, action, group, r)
	decision, diagnostic := cedar.Authorize(list(s.policies), w, w.request)
	v := Verdict{}
	for _, reason := range diagnostic.Reasons {
		v.All = append(v.All, string(reason.PolicyID))
	}
	slices.Sort(v.All)
	for _, e := range diagnostic.Errors {
		v.Errors = append(v.Errors, string(e.PolicyID)+": "+e.Message)
		// One that forbids and cannot be decided forbids: it was meant to.
		if p := s.find(string(e.PolicyID)); p != nil && p.forbids() {
			v.Effect, v.Policy = Forbids, p.name
		}
	}
	slices.Sort(v.Errors)
	switch {
	case v.Effect == Forbids || len(v.All) == 0:
	case decision == cedar.Allow:
		v.Effect, v.Policy = Permits, v.All[0]
		v.Audit = slices.ContainsFunc(v.All, func(name string) bool { return s.find(name).audits })
	default:
		v.Effect, v.Policy = Forbids, v.All[0]
	}
	return v
}

func (p *Policy) forbids() bool { return p.compiled.Effect() == cedar.Forbid }

func (s *Set) find(name string) *Policy {
	i, ok := slices.BinarySearchFunc(s.policies, name, func(p *Policy, name string) int { return strings.Compare(p.name, name) })
	if !ok {
		return nil
	}
	return s.policies[i]
}

// list is the policies that allow and forbid whole tables: those that are of rows do neither.
type list []*Policy

// All implements cedar.PolicyIterator.
func (l list) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, p := range l {
			if p.filter == nil && !yield(cedar.PolicyID(p.name), p.compiled) {
				return
			}
		}
	}
}

// Restricts returns the policy by which a caller may have less of some table of a database than of the database as a whole; "" if
// there is none. SQL, which reaches all tables, is then to be looked at table by table.
func (s *Set) Restricts(caller *identity.Subject, database string) string {
	if s.unreadable != "" {
		return s.unreadable
	}
	w := newWorld(caller, ActionCall, "", Resource{Database: database})
	for _, p := range s.policies {
		if p.byTable && p.mayConcern(database) && w.matches(p.applies) {
			return p.name
		}
	}
	return ""
}

// Filter returns which rows of a table a caller may see and write; nil is all.
func (s *Set) Filter(caller *identity.Subject, database, table string) (f *Filter) {
	w := newWorld(caller, ActionCall, "", Resource{Database: database, Table: table})
	for _, p := range s.policies {
		if p.filter == nil || !w.matches(p.compiled) {
			continue
		}
		if f == nil {
			f = &Filter{Policy: p.name}
		}
		term := Term{Column: p.filter.column, Value: caller.ID}
		if p.filter.attribute == attributeTenant {
			term.Value = caller.Tenant
		}
		f.Terms = append(f.Terms, term)
	}
	return f
}
