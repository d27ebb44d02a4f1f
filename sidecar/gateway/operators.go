package gateway

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/sidecar/forward"
)

// Operators passes on what the primary alone can answer its operators: AuditService, and NodeAdminService. Of the latter the
// primary lets no node do more than list, whoever asks through it.
type Operators struct {
	primary *forward.Primary
	audit   authv1connect.AuditServiceClient
	nodes   controlv1connect.NodeAdminServiceClient
}

var (
	_ authv1connect.AuditServiceHandler        = (*Operators)(nil)
	_ controlv1connect.NodeAdminServiceHandler = (*Operators)(nil)
)

// NewOperators returns them. The client makes the calls to the primary at url.
func NewOperators(primary *forward.Primary, client *http.Client, url string) *Operators {
	plain := connect.WithAcceptCompression("gzip", nil, nil)
	return &Operators{
		primary: primary, audit: authv1connect.NewAuditServiceClient(client, url, plain),
		nodes: controlv1connect.NewNodeAdminServiceClient(client, url, plain),
	}
}

// ListEntries implements authv1connect.AuditServiceHandler.
func (o *Operators) ListEntries(
	ctx context.Context, req *connect.Request[authv1.ListEntriesRequest],
) (*connect.Response[authv1.ListEntriesResponse], error) {
	return forward.Pass(ctx, o.primary, "ListEntries", true, req, o.audit.ListEntries, nil)
}

// ListWrites implements authv1connect.AuditServiceHandler.
func (o *Operators) ListWrites(
	ctx context.Context, req *connect.Request[authv1.ListWritesRequest],
) (*connect.Response[authv1.ListWritesResponse], error) {
	return forward.Pass(ctx, o.primary, "ListWrites", true, req, o.audit.ListWrites, nil)
}

// VerifyEntries implements authv1connect.AuditServiceHandler.
func (o *Operators) VerifyEntries(
	ctx context.Context, req *connect.Request[authv1.VerifyEntriesRequest],
) (*connect.Response[authv1.VerifyEntriesResponse], error) {
	return forward.Pass(ctx, o.primary, "VerifyEntries", true, req, o.audit.VerifyEntries, nil)
}

// ListNodes implements controlv1connect.NodeAdminServiceHandler.
func (o *Operators) ListNodes(
	ctx context.Context, req *connect.Request[controlv1.ListNodesRequest],
) (*connect.Response[controlv1.ListNodesResponse], error) {
	return forward.Pass(ctx, o.primary, "ListNodes", true, req, o.nodes.ListNodes, nil)
}

// RevokeNode implements controlv1connect.NodeAdminServiceHandler.
func (o *Operators) RevokeNode(
	ctx context.Context, req *connect.Request[controlv1.RevokeNodeRequest],
) (*connect.Response[controlv1.RevokeNodeResponse], error) {
	return forward.Pass(ctx, o.primary, "RevokeNode", false, req, o.nodes.RevokeNode, nil)
}

// CreateJoinToken implements controlv1connect.NodeAdminServiceHandler.
func (o *Operators) CreateJoinToken(
	ctx context.Context, req *connect.Request[controlv1.CreateJoinTokenRequest],
) (*connect.Response[controlv1.CreateJoinTokenResponse], error) {
	return forward.Pass(ctx, o.primary, "CreateJoinToken", false, req, o.nodes.CreateJoinToken, nil)
}
