package identity_test

import (
	"context"
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
