package auth

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// Limits of all policies together: each node reads all of them, and asks each for a decision that it does not know yet.
const (
	MaxPolicies    = 500
	MaxPolicyBytes = 256 << 10
)

var _ authv1connect.PolicyServiceHandler = (*Service)(nil)

// PutPolicy implements authv1connect.PolicyServiceHandler.
func (s *Service) PutPolicy(
	ctx context.Context, req *connect.Request[authv1.PutPolicyRequest],
) (*connect.Response[authv1.PutPolicyResponse], error) {
	p := req.Msg.GetPolicy()
	if err := access.CheckPolicy(p, "policy"); err != nil {
		return nil, err
	}
	s.policies.Lock() // between looking how many there are and writing one more
	defer s.policies.Unlock()
	rows, err := s.policyRows(ctx)
	if err != nil {
		return nil, err
	}
	replaced, bytes := false, len(p.GetText())
	for _, r := range rows {
		if r.GetName() == p.GetName() {
			replaced = true
			continue
		}
		bytes += len(r.GetText())
	}
	switch {
	case !replaced && len(rows) >= MaxPolicies:
		return nil, rpcerr.InvalidField("policy", "there are %d policies, and may be no more", len(rows))
	case bytes > MaxPolicyBytes:
		return nil, rpcerr.InvalidField("policy", "policies would have %d bytes of text in all, and may have %d", bytes, MaxPolicyBytes)
	}
	now, by := s.config.Clock().Truncate(time.Millisecond), identity.From(ctx).Actor()
	_, err = transact(ctx, s.mesh, engine.SQL(
		`INSERT INTO policies (name, text, changed_at, changed_by) VALUES (?1, ?2, ?3, ?4)
		ON CONFLICT (name) DO UPDATE SET text = excluded.text, changed_at = excluded.changed_at, changed_by = excluded.changed_by`,
		text(p.GetName()), text(p.GetText()), integer(now.UnixMilli()), text(by)))
	if err != nil {
		return nil, err
	}
	return withMark(s, &authv1.PutPolicyResponse{
		Policy: &authv1.Policy{
			Name: p.GetName(), Text: p.GetText(), UpdateTime: timestamppb.New(now), UpdatedBy: by,
		},
		Replaced: replaced,
	}), nil
}

// policyRows returns all policies by name.
func (s *Service) policyRows(ctx context.Context) (all []*authv1.Policy, err error) {
	err = query(ctx, s.mesh, func(v []value.Value) {
		all = append(all, &authv1.Policy{
			Name: v[0].Text(), Text: v[1].Text(), UpdateTime: timestamppb.New(time.UnixMilli(v[2].Integer())), UpdatedBy: v[3].Text(),
		})
	}, "SELECT name, text, changed_at, changed_by FROM policies ORDER BY name")
	return all, err
}

// ListPolicies implements authv1connect.PolicyServiceHandler.
func (s *Service) ListPolicies(
	ctx context.Context, _ *connect.Request[authv1.ListPoliciesRequest],
) (*connect.Response[authv1.ListPoliciesResponse], error) {
	all, err := s.policyRows(ctx)
	if err != nil {
		return nil, err
	}
	rows := make([]policy.Row, len(all))
	for i, p := range all {
		rows[i] = policy.Row{Name: p.GetName(), Text: p.GetText()}
	}
	return connect.NewResponse(&authv1.ListPoliciesResponse{Policies: all, Version: policy.VersionOf(rows)}), nil
}

// GetPolicy implements authv1connect.PolicyServiceHandler.
func (s *Service) GetPolicy(
	ctx context.Context, req *connect.Request[authv1.GetPolicyRequest],
) (*connect.Response[authv1.GetPolicyResponse], error) {
	all, err := s.policyRows(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if p.GetName() == req.Msg.GetName() {
			return connect.NewResponse(&authv1.GetPolicyResponse{Policy: p}), nil
		}
	}
	return nil, notFound("policy", req.Msg.GetName())
}

// DeletePolicy implements authv1connect.PolicyServiceHandler.
func (s *Service) DeletePolicy(
	ctx context.Context, req *connect.Request[authv1.DeletePolicyRequest],
) (*connect.Response[authv1.DeletePolicyResponse], error) {
	changed, err := transact(ctx, s.mesh, engine.SQL("DELETE FROM policies WHERE name = ?1", text(req.Msg.GetName())))
	if err != nil {
		return nil, err
	}
	if changed[0] == 0 {
		return nil, notFound("policy", req.Msg.GetName())
	}
	return doneAt[authv1.DeletePolicyResponse](s), nil
}

// TestPolicies implements authv1connect.PolicyServiceHandler.
func (s *Service) TestPolicies(
	ctx context.Context, req *connect.Request[authv1.TestPoliciesRequest],
) (*connect.Response[authv1.TestPoliciesResponse], error) {
	return answered(s.config.Guard.TestPolicies(ctx, req.Msg))
}

// ExplainPolicy implements authv1connect.PolicyServiceHandler.
func (s *Service) ExplainPolicy(
	ctx context.Context, req *connect.Request[authv1.ExplainPolicyRequest],
) (*connect.Response[authv1.ExplainPolicyResponse], error) {
	return answered(s.config.Guard.ExplainPolicy(ctx, req.Msg))
}

// GetPolicySchema implements authv1connect.PolicyServiceHandler.
func (s *Service) GetPolicySchema(
	context.Context, *connect.Request[authv1.GetPolicySchemaRequest],
) (*connect.Response[authv1.GetPolicySchemaResponse], error) {
	return connect.NewResponse(&authv1.GetPolicySchemaResponse{Schema: access.PolicySchema().String()}), nil
}

// SetTenant implements authv1connect.AccountServiceHandler.
func (s *Service) SetTenant(
	ctx context.Context, req *connect.Request[authv1.SetTenantRequest],
) (*connect.Response[authv1.SetTenantResponse], error) {
	a, err := s.account(ctx, req.Msg.GetAccount())
	if err != nil {
		return nil, err
	}
	op := engine.SQL("DELETE FROM account_tenants WHERE account_id = ?1", text(a.id))
	if req.Msg.GetTenant() != "" {
		op = engine.SQL(`INSERT INTO account_tenants (account_id, tenant) VALUES (?1, ?2)
			ON CONFLICT (account_id) DO UPDATE SET tenant = excluded.tenant`, text(a.id), text(req.Msg.GetTenant()))
	}
	if _, err := transact(ctx, s.mesh, op); err != nil {
		return nil, err
	}
	out, err := s.describe(ctx, a)
	if err != nil {
		return nil, err
	}
	return withMark(s, &authv1.SetTenantResponse{Account: out}), nil
}

func answered[T any](msg *T, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(msg), nil
}
