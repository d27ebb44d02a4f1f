package audit

import (
	"context"
	"net/http"
	"regexp"

	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/server"
)

// WhereFrom returns where a call is from: the caller's address, and the region whose gateway has passed it on, or "". Where a node
// does not say whose call it passes on, it is its own.
func WhereFrom(ctx context.Context) (address, region string) {
	address, node := server.Remote(ctx)
	if caller := identity.AddressOf(ctx); caller.IsValid() {
		address = caller.String()
	}
	if node == nil {
		return address, ""
	}
	return address, node.Region
}

// Auditor records what a listener's chain decides.
type Auditor struct{ *Recorder }

var _ access.Auditor = Auditor{}

// procedure returns how an entry names a path: what is no method of the mesh is told by nobody, as callers can write what they
// like.
func procedure(path string) string {
	if access.Known(path) {
		return Action(path)
	}
	return "other"
}

// method is how a path looks that is a method's, of whatever service.
var method = regexp.MustCompile(`^/[A-Za-z_][A-Za-z0-9_.]{0,180}/[A-Za-z_][A-Za-z0-9_]{0,60}$`)

func (a Auditor) fill(ctx context.Context, e *Entry) {
	e.Address, e.Region = WhereFrom(ctx)
	e.Of(ctx)
}

// Refused implements access.Auditor.
func (a Auditor) Refused(r *http.Request, err error) {
	e := Entry{Action: ActionCredential, Target: "method=" + procedure(r.URL.Path), Decision: Refused, Reason: Reason(err)}
	a.fill(r.Context(), &e)
	a.Record(e)
}

// Seen implements access.Auditor.
func (a Auditor) Seen(r *http.Request, p *identity.Principal) {
	e := Entry{Action: ActionCredential, Target: "method=" + procedure(r.URL.Path), Decision: Allowed}
	e.By(p)
	a.fill(r.Context(), &e)
	if e.Address == "" {
		e.Address = Address(r.RemoteAddr) // a connection that net/http has not seen
	}
	a.Record(e)
}

// Decided implements access.Auditor.
func (a Auditor) Decided(ctx context.Context, p *identity.Principal, q access.Question, d access.Decision) {
	e := Entry{Action: procedure(q.Action), Decision: Allowed, Policy: d.Policy}
	// Whoever comes as far as this is known, or asks for a method of a public service.
	if method.MatchString(q.Action) {
		e.Action = Action(q.Action)
	}
	if !d.Allowed {
		e.Decision, e.Reason = Denied, "PERMISSION_DENIED"
	}
	if q.Database != "" {
		e.Target = "database=" + q.Database
	}
	if q.Table != "" {
		e.Target += " table=" + q.Table
	}
	e.By(p)
	a.fill(ctx, &e)
	a.Record(e)
}

// NodeDenied records that a procedure of nodes was refused to a caller, or one of operators to a node.
func (a Auditor) NodeDenied(r *http.Request, err error) {
	e := Entry{Action: procedure(r.URL.Path), Decision: Denied, Reason: Reason(err)}
	e.By(identity.From(r.Context()))
	a.fill(r.Context(), &e)
	a.Record(e)
}

// NodeRefused records that a connection was refused for the certificate of the other end.
func (a Auditor) NodeRefused(address string, _ error) {
	a.Record(Entry{Action: ActionCredential, Target: "node certificate", Decision: Refused, Reason: "NODE_ONLY", Address: address})
}
