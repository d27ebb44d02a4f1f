// Package identity says who is calling: the principal that a listener's chain has found out, carried in the context from there
// to the handler. Only the chain makes one, from a credential that it has verified; nothing here reads a request.
package identity

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
)

// Kind is what kind of caller a principal is.
type Kind uint8

// The kinds.
const (
	Anonymous Kind = iota // no credential: the public methods only
	User                  // a person who has logged in
	Service               // a service account
	Node                  // a node of the mesh, by its certificate
)

// String returns the kind as it is written in actors: user, service, node, anonymous.
func (k Kind) String() string {
	switch k {
	case User:
		return "user"
	case Service:
		return "service"
	case Node:
		return "node"
	default:
		return "anonymous"
	}
}

// Principal is a caller. It is shared between calls: nobody changes one that is in a context.
type Principal struct {
	Kind   Kind
	ID     string // of the account or node; stable, never that of another one later
	Name   string // for people: what the account or node is called
	Region string // of a node; "" otherwise
	// Roles are what the account was given: "admin", or "reader", "writer" or "owner" followed by ':' and the name of a
	// database. Sorted.
	Roles []string
	// Credential is the public id of what the caller has shown: a token's id, a key's, a certificate's serial. It is no secret.
	Credential string
	// Subject is what policies look at, of an account; nil of others.
	Subject *Subject
	// MeshEpoch and MeshVersion name the state of _mesh by whose rows all of this is so.
	MeshEpoch   uint32
	MeshVersion uint64
}

// Subject is what of an account decides what it may do. It is immutable, and the same one for as long as nothing of it changes:
// what was found out about it may be kept by its address.
type Subject struct {
	Kind   Kind
	ID     string
	Name   string
	Roles  []string // as Principal has them
	Tenant string   // whom the account belongs to, where several share a mesh; "" is nobody
}

// Equal reports whether two subjects may do the same.
func (s *Subject) Equal(o *Subject) bool {
	return s.Kind == o.Kind && s.ID == o.ID && s.Name == o.Name && s.Tenant == o.Tenant && slices.Equal(s.Roles, o.Roles)
}

var anonymous = &Principal{}

// Actor returns the principal as commit records, the audit and idempotency keys name it: "user:u_1", or "" for nobody.
func (p *Principal) Actor() string {
	if p.Kind == Anonymous {
		return ""
	}
	return p.Kind.String() + ":" + p.ID
}

// String returns the actor, or "anonymous".
func (p *Principal) String() string {
	if p.Kind == Anonymous {
		return p.Kind.String()
	}
	return p.Actor()
}

// HasRole reports whether the principal was given the role.
func (p *Principal) HasRole(role string) bool {
	return slices.Contains(p.Roles, role)
}

// Peer is who is at the other end of a connection, once that is known: a listener puts it into the context of all of the
// connection's calls before it has read any.
type Peer struct {
	Address netip.Addr // without a zone; the zero one where it is not known

	principal atomic.Pointer[Principal]
}

// Set says who it is.
func (p *Peer) Set(principal *Principal) { p.principal.Store(principal) }

// Get returns who it is, or nil where nobody has said.
func (p *Peer) Get() *Principal { return p.principal.Load() }

// isNode reports whether it is a node of the mesh.
func (p *Peer) isNode() bool {
	found := p.Get()
	return found != nil && found.Kind == Node
}

type (
	key        struct{}
	addressKey struct{}
)

// WithPeer returns a context of the calls of a connection. Who calls With or Behind inside it says otherwise.
func WithPeer(ctx context.Context, p *Peer) context.Context {
	return context.WithValue(context.WithValue(ctx, key{}, p), addressKey{}, p)
}

// Behind returns a context of a call that a node passes on for a caller at an address, the zero one where it does not know. Of
// connections of others it is ctx itself: nodes alone are believed.
func Behind(ctx context.Context, address netip.Addr) context.Context {
	if p, ok := ctx.Value(addressKey{}).(*Peer); !ok || !p.isNode() {
		return ctx
	}
	return context.WithValue(ctx, addressKey{}, address.Unmap().WithZone(""))
}

// AddressOf returns where the caller is, as the node sees it that took the call in; the zero one where nobody has said. A node's
// own address is none of its callers'.
func AddressOf(ctx context.Context) netip.Addr {
	switch at := ctx.Value(addressKey{}).(type) {
	case netip.Addr:
		return at
	case *Peer:
		if !at.isNode() {
			return at.Address
		}
	}
	return netip.Addr{}
}

// With returns a context of a call that p makes. p is not nil.
func With(ctx context.Context, p *Principal) context.Context { return context.WithValue(ctx, key{}, p) }

// From returns who makes the call: never nil, an anonymous principal where nobody has said.
func From(ctx context.Context) *Principal {
	switch p := ctx.Value(key{}).(type) {
	case *Principal:
		return p
	case *Peer:
		if found := p.principal.Load(); found != nil {
			return found
		}
	}
	return anonymous
}
