package identity_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/nearside-dev/nearside/internal/identity"
)

func TestFrom(t *testing.T) {
	ctx := context.Background()
	if p := identity.From(ctx); p == nil || p.Kind != identity.Anonymous || p.Actor() != "" || p.String() != "anonymous" {
		t.Errorf("nobody is %+v", p)
	}
	p := &identity.Principal{Kind: identity.Service, ID: "sa_1", Roles: []string{"admin", "reader:shop"}}
	if got := identity.From(identity.With(ctx, p)); got != p || got.Actor() != "service:sa_1" {
		t.Errorf("got %v", got)
	}
	if !p.HasRole("reader:shop") || p.HasRole("reader") || p.HasRole("Admin") {
		t.Error("roles are compared whole")
	}
}

func TestPeer(t *testing.T) {
	peer := new(identity.Peer)
	ctx := identity.WithPeer(context.Background(), peer)
	if p := identity.From(ctx); p.Kind != identity.Anonymous {
		t.Errorf("before it is known, a peer is %+v", p)
	}
	node := &identity.Principal{Kind: identity.Node, ID: "n1", Region: "eu"}
	peer.Set(node)
	if p := identity.From(ctx); p != node {
		t.Errorf("a peer is %+v", p)
	}
	user := &identity.Principal{Kind: identity.User, ID: "u_1"}
	if p := identity.From(identity.With(ctx, user)); p != user {
		t.Errorf("a user behind a node is %+v", p)
	}
}

func TestAddress(t *testing.T) {
	ctx, caller, own := context.Background(), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	if a := identity.AddressOf(identity.Behind(ctx, caller)); a.IsValid() {
		t.Errorf("without a connection: %v", a)
	}
	peer := &identity.Peer{Address: own}
	ctx = identity.WithPeer(ctx, peer)
	for _, p := range []*identity.Principal{nil, {Kind: identity.Service}} {
		if p != nil {
			peer.Set(p)
		}
		if a := identity.AddressOf(identity.Behind(ctx, caller)); a != own {
			t.Errorf("%v says of itself that it is at %v", p, a)
		}
	}
	peer.Set(&identity.Principal{Kind: identity.Node})
	if a := identity.AddressOf(ctx); a.IsValid() {
		t.Errorf("a node that does not say has a caller at %v", a)
	}
	if a := identity.AddressOf(identity.Behind(ctx, netip.MustParseAddr("::ffff:192.0.2.1"))); a != caller {
		t.Errorf("behind a node: %v", a)
	}
	if a := identity.AddressOf(identity.Behind(ctx, netip.Addr{})); a.IsValid() {
		t.Errorf("behind a node that does not know: %v", a)
	}
}
