package access

import (
	"strings"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/policy"
)

// Question is what somebody wants to do.
type Question struct {
	Action   string // the procedure
	Right    Right  // what the action needs, as far as rights go
	Database string // "" for actions that are of none
	Table    string // "" for all, and where it is not known; in lower case
}

// Decision is the answer and what it follows from.
type Decision struct {
	Allowed bool
	Policy  string // the rule that decided, such as the role "reader:shop" or the policy "policy:no-secrets"
	Audit   bool   // that it was allowed is to be recorded; what was not always is
	// Rows are the rows of the question's table that the principal may see and write; nil is all.
	Rows *policy.Filter
	// Restricted is the policy by which the principal may have less of some table of the question's database than of the others;
	// "" is none. What reaches several tables is then to be decided for each, and what cannot be, refused.
	Restricted string
}

// PolicyDefaultDeny is the policy of a decision that no rule made.
const PolicyDefaultDeny = "default-deny"

// Authorizer decides whether principals may do things. It is asked for each request and each message of a stream, also on the
// shortest path, where it must not allocate, and must not keep the question's texts. It may be used concurrently.
type Authorizer interface {
	Authorize(p *identity.Principal, q Question) Decision
}

// Roles is the Authorizer of the roles that accounts have: an admin may do anything; a reader, writer or owner what the role
// says in its database, but for the mesh's own, whose names begin with '_'.
type Roles struct{}

var _ Authorizer = Roles{}

// Authorize implements Authorizer.
func (Roles) Authorize(p *identity.Principal, q Question) Decision {
	if p.Kind == identity.Anonymous {
		return Decision{Policy: PolicyDefaultDeny}
	}
	system := strings.HasPrefix(q.Database, "_")
	for _, role := range p.Roles {
		if role == RoleAdmin {
			return Decision{Allowed: true, Policy: RoleAdmin}
		}
		name, database, _ := strings.Cut(role, ":")
		if database == q.Database && !system && database != "" && q.Right <= rightOf(name) {
			return Decision{Allowed: true, Policy: role}
		}
	}
	if q.Right == RightAny || q.Database == "" && q.Right <= RightWrite {
		return Decision{Allowed: true, Policy: "authenticated"}
	}
	return Decision{Policy: PolicyDefaultDeny}
}

// rightOf returns the most that a role of a database allows.
func rightOf(role string) Right {
	switch role {
	case RoleOwner:
		return RightOwn
	case RoleWriter:
		return RightWrite
	case RoleReader:
		return RightRead
	default:
		return RightAny
	}
}
