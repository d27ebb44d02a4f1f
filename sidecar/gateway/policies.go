package gateway

import (
	"context"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/internal/access"
)

var _ authv1connect.PolicyServiceHandler = (*Auth)(nil)

// PutPolicy implements authv1connect.PolicyServiceHandler.
func (a *Auth) PutPolicy(
	ctx context.Context, req *connect.Request[authv1.PutPolicyRequest],
) (*connect.Response[authv1.PutPolicyResponse], error) {
	return pass(ctx, a, "PutPolicy", false, req, a.policies.PutPolicy)
}

// ListPolicies implements authv1connect.PolicyServiceHandler.
func (a *Auth) ListPolicies(
	ctx context.Context, req *connect.Request[authv1.ListPoliciesRequest],
) (*connect.Response[authv1.ListPoliciesResponse], error) {
	return pass(ctx, a, "ListPolicies", true, req, a.policies.ListPolicies)
}

// GetPolicy implements authv1connect.PolicyServiceHandler.
func (a *Auth) GetPolicy(
	ctx context.Context, req *connect.Request[authv1.GetPolicyRequest],
) (*connect.Response[authv1.GetPolicyResponse], error) {
	return pass(ctx, a, "GetPolicy", true, req, a.policies.GetPolicy)
}

// DeletePolicy implements authv1connect.PolicyServiceHandler.
func (a *Auth) DeletePolicy(
	ctx context.Context, req *connect.Request[authv1.DeletePolicyRequest],
) (*connect.Response[authv1.DeletePolicyResponse], error) {
	return pass(ctx, a, "DeletePolicy", false, req, a.policies.DeletePolicy)
}

// TestPolicies implements authv1connect.PolicyServiceHandler. It is answered by the region's rows.
func (a *Auth) TestPolicies(
	ctx context.Context, req *connect.Request[authv1.TestPoliciesRequest],
) (*connect.Response[authv1.TestPoliciesResponse], error) {
	res, err := a.guard.TestPolicies(ctx, req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// ExplainPolicy implements authv1connect.PolicyServiceHandler. It is answered by the region's rows.
func (a *Auth) ExplainPolicy(
	ctx context.Context, req *connect.Request[authv1.ExplainPolicyRequest],
) (*connect.Response[authv1.ExplainPolicyResponse], error) {
	res, err := a.guard.ExplainPolicy(ctx, req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// GetPolicySchema implements authv1connect.PolicyServiceHandler.
func (a *Auth) GetPolicySchema(
	context.Context, *connect.Request[authv1.GetPolicySchemaRequest],
) (*connect.Response[authv1.GetPolicySchemaResponse], error) {
	return connect.NewResponse(&authv1.GetPolicySchemaResponse{Schema: access.PolicySchema().String()}), nil
}
