package access

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Listener is which listener a Guard stands at: what is filtered there.
type Listener uint8

// The listeners.
const (
	NoFilters Listener = 0 // nothing is filtered: who sees some rows only is refused
	Gateway   Listener = 1 // a region's
	Primary   Listener = 2
)

// filtered are the methods that look at rows one by one, and at which listeners: who sees or may write some rows of a table may
// call them there. A typed write is decided at the primary, whatever passes it on.
var filtered = map[string]Listener{
	datav1connect.DataServiceGetProcedure:         Gateway | Primary,
	datav1connect.DataServiceBatchGetProcedure:    Gateway | Primary,
	datav1connect.DataServiceListProcedure:        Gateway | Primary,
	datav1connect.DataServiceTransactProcedure:    Gateway | Primary,
	datav1connect.DataServiceBatchInsertProcedure: Gateway | Primary,
	datav1connect.DataServiceWatchProcedure:       Gateway,
	datav1connect.DataServiceQueryProcedure:       Gateway,
	datav1connect.DataServiceQueryStreamProcedure: Gateway,
	datav1connect.DataServiceWatchQueryProcedure:  Gateway,
	datav1connect.DataServiceExecuteProcedure:     Gateway, // of what only reads
}

// refusal returns the policy for which a listener refuses what is allowed, because it cannot do it row by row; "" is none.
func (g *Guard) refusal(d *Decision, q Question) string {
	by := d.refuses(q)
	if by == "" || filtered[q.Action]&g.listener == 0 {
		return by
	}
	switch ruleOf(q.Action).reach {
	case reachTable, reachTyped:
		if q.Table == "" {
			return by // SQL among typed operations
		}
	default:
		if q.Right > RightRead {
			return by // SQL that writes
		}
	}
	return ""
}

// View is what of a database a caller may see and write, table by table, as policies say it at one state of them. It is immutable.
type View struct {
	policies  *policies
	principal *identity.Principal
	question  Question
	name      string
}

// View returns the view of the caller of ctx, of a database for a method; nil where the caller has all of it that it may have at
// all.
func (g *Guard) View(ctx context.Context, procedure string, right Right, database string) *View {
	if g == nil {
		return nil
	}
	return g.viewOf(identity.From(ctx), Question{Action: procedure, Right: right, Database: database})
}

func (g *Guard) viewOf(p *identity.Principal, q Question) *View {
	s := g.verifier.current.Load()
	if s == nil || s.policies == nil || p.Subject == nil || q.Database == "" {
		return nil
	}
	q.Table = ""
	if s.policies.restricts(p, q.Database) == "" {
		return nil
	}
	return &View{policies: s.policies, principal: p, question: q, name: s.policies.set.Version() + " " + fingerprint(p.Subject)}
}

// restricts is Set.Restricts, kept like a decision.
func (ps *policies) restricts(p *identity.Principal, database string) string {
	return ps.decide(p, Question{Action: restrictsAction, Database: database}).Restricted
}

// restrictsAction is no procedure: its decisions are kept beside the others, and say what a caller is restricted by alone.
const restrictsAction = "restricts"

// fingerprint is the same for subjects that may do the same.
func fingerprint(s *identity.Subject) string {
	h := sha256.New()
	for _, text := range append([]string{s.Kind.String(), s.ID, s.Name, s.Tenant}, s.Roles...) {
		_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(text)))) // never fails
		_, _ = h.Write([]byte(text))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Name is the same for views that see the same; of nil it is "".
func (v *View) Name() string {
	if v == nil {
		return ""
	}
	return v.name
}

// Table returns which rows of a table are in the view; nil is all. The error is PERMISSION_DENIED.
func (v *View) Table(name string) (*policy.Filter, error) {
	q := v.question
	q.Table = catalog.Fold(name)
	d := v.policies.decide(v.principal, q)
	if !d.Allowed {
		return nil, v.Denied(d.Policy, "%s may not do this with table %s", v.principal, name)
	}
	return d.Rows, nil
}

// Denied returns PERMISSION_DENIED for what the view does not let do.
func (v *View) Denied(by, format string, args ...any) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, format, args...).
		With("action", v.question.Action).With("database", v.question.Database).With("policy", by)
}

// Refused returns PERMISSION_DENIED for what cannot be done row by row.
func (v *View) Refused(what string) error {
	by := v.policies.restricts(v.principal, v.question.Database)
	return v.Denied(PolicyPrefix+by, "%s: a policy has %s see some tables or rows only", what, v.principal)
}
