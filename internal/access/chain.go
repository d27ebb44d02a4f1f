package access

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
)

// ShortHandler is a handler that takes its caller without a context, which would cost allocations.
type ShortHandler interface {
	ServePrincipal(w http.ResponseWriter, r *http.Request, p *identity.Principal)
	// ExpressPrincipal is ServeExpress of server.Express for a request of p.
	ExpressPrincipal(ctx context.Context, r *http.Request, p *identity.Principal, body []byte, a *server.ExpressAnswer) bool
}

// Chain is what each request of a listener passes before anything of it is looked at but its head: authentication, and the
// limits of its caller, its address and its method. It stands inside the listener's own limits and before the routing, so
// that nobody learns what there is. docs/security.md draws it.
type Chain struct {
	guard  *Guard
	next   http.Handler
	short  map[string]ShortHandler
	login  Rate
	node   func(*http.Request) *identity.Principal
	open   func(path string) bool
	others ShortExpress

	foreign func(path string) bool
	errors  *connect.ErrorWriter
}

// ChainOptions configures a Chain. Guard and Next are required.
type ChainOptions struct {
	Guard *Guard
	Next  http.Handler
	// Short are handlers of procedures that Next has too.
	Short map[string]ShortHandler
	// Login is how often an address may try to log in; default 5 times a second, 50 at once. A primary, to which the gateways' callers
	// come from few addresses, has more.
	Login Rate
	// Node returns the node that a connection is of, by its certificate, or nil. Default: nobody knows, and the nodes' own
	// methods are open to all who reach the listener.
	Node func(*http.Request) *identity.Principal
	// Open reports whether a path needs no credential, besides those that never do: of services that were registered so. Who shows
	// one that is good is known all the same. Default: no path.
	Open func(path string) bool
	// Foreign reports whether a path is a method of a registered service. Who passes its calls on asks Decide, once their messages were
	// looked at: nobody else asks policies about them. Default: no path.
	Foreign func(path string) bool
	// Others answers methods that are neither the mesh's nor in Short without net/http, where it can. Default: nobody does.
	Others ShortExpress
}

// NewChain returns a Chain.
func NewChain(o ChainOptions) *Chain {
	return &Chain{
		guard: o.Guard, next: o.Next, short: o.Short, login: cmp.Or(o.Login, loginRate), node: o.Node, open: o.Open, others: o.Others,
		foreign: o.Foreign,
		errors:  connect.NewErrorWriter(),
	}
}

// ServeHTTP implements http.Handler.
func (c *Chain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if public[path] {
		c.next.ServeHTTP(w, r)
		return
	}
	if login[path] {
		if err := c.guard.mayLogIn(r.RemoteAddr, c.login); err != nil {
			c.refuse(w, r, err)
			return
		}
		c.next.ServeHTTP(w, r)
		return
	}
	if ruleOf(path).node {
		c.serveNode(w, r)
		return
	}
	p, err := c.guard.authenticate(r)
	if err != nil && c.open != nil && c.open(path) {
		p, err = c.guard.nobody()
	}
	if err == nil {
		err = c.limit(r, p)
	}
	ctx := identity.With(r.Context(), p)
	if err == nil && !c.guard.mayCall(p, path, c.foreign) {
		if c.foreign != nil && c.foreign(path) {
			ctx = context.WithValue(ctx, undecidedKey{}, c)
		} else {
			err = c.guard.decide(ctx, Question{Action: path})
		}
	}
	if err != nil {
		c.refuse(w, r, err)
		return
	}
	if short := c.short[path]; short != nil {
		short.ServePrincipal(w, r, p)
		return
	}
	c.next.ServeHTTP(w, r.WithContext(ctx))
}

// undecidedKey is of the chain that has left a decision to whoever passes a call on.
type undecidedKey struct{}

// Decide returns PERMISSION_DENIED where policies forbid a call of a registered service's method. Who passes one on asks it before, with the
// context that the call came with.
func Decide(ctx context.Context, procedure string) error {
	c, ok := ctx.Value(undecidedKey{}).(*Chain)
	if !ok {
		return nil // it was decided, or nobody has to
	}
	err := c.guard.decide(ctx, Question{Action: procedure})
	if e, ok := errors.AsType[*rpcerr.Error](err); ok {
		c.guard.verifier.refused.WithLabelValues(e.Reason().String()[len("ERROR_REASON_"):]).Inc()
	}
	return err
}

// nobody is who shows no credential where none is needed. Policies may forbid them what it is about.
var nobody = &identity.Principal{Subject: &identity.Subject{}}

func (c *Chain) serveNode(w http.ResponseWriter, r *http.Request) {
	if c.node == nil {
		c.next.ServeHTTP(w, r)
		return
	}
	p := c.node(r)
	if p == nil {
		c.refuse(w, r, errMissing)
		return
	}
	c.next.ServeHTTP(w, r.WithContext(identity.With(r.Context(), p)))
}

// limit takes a token of each bucket that a request has.
func (c *Chain) limit(r *http.Request, p *identity.Principal) error {
	s := c.guard.verifier.current.Load()
	if s == nil || len(s.limits) == 0 {
		return nil
	}
	if p.Kind != identity.Anonymous {
		if err := c.guard.limit(s, scopeIdentity, p.ID); err != nil {
			return err
		}
	}
	if err := c.guard.limit(s, scopeMethod, r.URL.Path); err != nil {
		return err
	}
	if !s.scopes[scopeAddress] {
		return nil
	}
	return c.guard.limit(s, scopeAddress, addressOf(r.RemoteAddr))
}

// refuse answers a request in the words of the protocol that it speaks: a stream of Connect's has status 200 and the error in
// the envelope that ends it.
func (c *Chain) refuse(w http.ResponseWriter, r *http.Request, err error) {
	wire, _ := rpcerr.ToConnect(err)
	e, ok := errors.AsType[*rpcerr.Error](err)
	if ok {
		c.guard.verifier.refused.WithLabelValues(e.Reason().String()[len("ERROR_REASON_"):]).Inc()
		c.guard.refused(r, e)
		if after := e.RetryAfter(); after > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())+1))
		}
	}
	if wire.Code() == connect.CodeUnauthenticated {
		w.Header().Set("WWW-Authenticate", `Bearer realm="nearside"`)
	}
	if c.errors.IsSupported(r) {
		_ = c.errors.Write(w, r, wire) // whoever asked has gone
		return
	}
	status := http.StatusUnauthorized
	switch {
	case !ok:
		status = http.StatusInternalServerError
	case e.Reason() == datav1.ErrorReason_ERROR_REASON_RATE_LIMITED:
		status = http.StatusTooManyRequests
	case wire.Code() == connect.CodePermissionDenied:
		status = http.StatusForbidden
	case wire.Code() == connect.CodeUnavailable:
		status = http.StatusServiceUnavailable
	}
	http.Error(w, wire.Message(), status)
}

// Describe returns what a procedure needs: "public", "node" or "credential". A test goes through all methods with it.
func Describe(procedure string) string {
	switch {
	case public[procedure], login[procedure]:
		return "public"
	case ruleOf(procedure).node:
		return "node"
	default:
		return "credential"
	}
}

// Known reports whether it was decided what a procedure needs; others need a credential and no more.
func Known(procedure string) bool {
	_, ok := rules[procedure]
	return ok || Describe(procedure) == "public"
}
