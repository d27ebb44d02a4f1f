// Package nodeaccess says which procedures are for nodes of the mesh alone, in one table, and refuses others. What callers may
// call is not its concern.
package nodeaccess

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
)

// The roles of a principal that is a node.
const (
	RolePrimary = string(pki.RolePrimary)
	RoleSidecar = string(pki.RoleSidecar)
	// RoleExpired is of a node whose certificate has run out. It has no other role.
	RoleExpired = "expired"
)

// Principal returns a node as the rest of the program sees it.
func Principal(peer pki.Peer) *identity.Principal {
	role := string(peer.ID.Role)
	if peer.Expired {
		role = RoleExpired
	}
	return &identity.Principal{
		Kind: identity.Node, ID: peer.Node, Name: peer.ID.String(), Region: peer.ID.Region, Roles: []string{role},
		Credential: peer.Serial,
	}
}

// who is whom a procedure is for.
type who int

const (
	callers   who = iota // everybody, as far as this package is concerned
	sidecars             // sidecars with a valid certificate
	known                // nodes, even those whose certificate has run out
	operators            // callers that are no nodes: what is here concerns other nodes
)

// procedures is the table. What is not in it is for callers.
var procedures = map[string]who{
	replicationv1connect.ReplicationServiceSubscribeProcedure: sidecars,
	replicationv1connect.ReplicationServiceSnapshotProcedure:  sidecars,
	replicationv1connect.BundleServiceTransactBundleProcedure: sidecars,
	replicationv1connect.AuditSpoolServiceDeliverProcedure:    sidecars,
	controlv1connect.VerifyServiceReadStateProcedure:          sidecars,
	controlv1connect.NodeServiceRenewProcedure:                known,
	controlv1connect.NodeAdminServiceRevokeNodeProcedure:      operators,
	controlv1connect.NodeAdminServiceCreateJoinTokenProcedure: operators,
}

// NodeOnly reports whether a procedure is for nodes alone.
func NodeOnly(procedure string) bool {
	w := procedures[procedure]
	return w == sidecars || w == known
}

// Check returns nil if p may call a procedure, else NODE_ONLY.
func Check(p *identity.Principal, procedure string) error {
	node := p.Kind == identity.Node
	allowed := true
	switch procedures[procedure] {
	case sidecars:
		allowed = node && p.HasRole(RoleSidecar)
	case known:
		allowed = node
	case operators:
		allowed = !node
	case callers:
		allowed = !node || !p.HasRole(RoleExpired)
	}
	if allowed {
		return nil
	}
	return refusal(p, procedure)
}

func refusal(p *identity.Principal, procedure string) error {
	text := "only nodes of the mesh may call this, over TLS and with their certificate: a sidecar gets one with --join FILE"
	switch {
	case p.HasRole(RoleExpired):
		text = "this node's certificate has run out: all it may do is have it renewed"
	case p.Kind == identity.Node:
		text = "no node of the mesh may call this: ask for it at the primary, as an operator"
	}
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_NODE_ONLY, "%s", text).With("procedure", procedure)
}

// Handler refuses what Check does, in the words of the caller's protocol. It answers at once what next does (server.Expresser).
// With lenient set, who comes without TLS, and so without any certificate, is taken for a sidecar. denied, if it is not nil, is told
// of what was refused, and must not wait.
func Handler(next http.Handler, lenient bool, denied func(r *http.Request, err error)) http.Handler {
	h := &handler{next: next, lenient: lenient, denied: denied, errors: connect.NewErrorWriter()}
	if paths := server.ExpresserOf(next); paths != nil {
		return &expresser{handler: h, paths: paths}
	}
	return h
}

type handler struct {
	next    http.Handler
	lenient bool
	denied  func(*http.Request, error)
	errors  *connect.ErrorWriter
}

// check is Check, but for those whom a lenient handler lets in.
func (h *handler) check(ctx context.Context, procedure string) error {
	p := identity.From(ctx)
	if h.lenient && procedures[procedure] == sidecars && p.Kind == identity.Anonymous && !server.Secured(ctx) {
		return nil
	}
	return Check(p, procedure)
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h.check(r.Context(), r.URL.Path)
	if err == nil {
		h.next.ServeHTTP(w, r)
		return
	}
	if h.denied != nil {
		h.denied(r, err)
	}
	wire := err
	if e, ok := rpcerr.FromError(err); ok {
		wire, _ = rpcerr.ToConnect(e)
	}
	if !h.errors.IsSupported(r) {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	_ = h.errors.Write(w, r, wire) // whoever asked has gone
}

// expresser is a handler some of whose paths are answered without net/http.
type expresser struct {
	*handler

	paths server.Expresser
}

// Express implements server.Expresser.
func (e *expresser) Express(path string) server.Express {
	if inner := e.paths.Express(path); inner != nil {
		return express{inner, e.handler, path}
	}
	return nil
}

// express leaves to the handler what Check refuses.
type express struct {
	server.Express

	handler *handler
	path    string
}

// ServeExpress implements server.Express.
func (e express) ServeExpress(ctx context.Context, r *http.Request, body []byte, a *server.ExpressAnswer) bool {
	return e.handler.check(ctx, e.path) == nil && e.Express.ServeExpress(ctx, r, body, a)
}

// CheckRegion refuses a node that acts for another region than its own; others pass.
func CheckRegion(p *identity.Principal, procedure, region string) error {
	if p.Kind != identity.Node || p.Region == region {
		return nil
	}
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_NODE_ONLY, "a node of region %s cannot act for region %s", p.Region, region).
		With("procedure", procedure)
}
