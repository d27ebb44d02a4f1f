package access

import (
	"context"
	"slices"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// shortActions are actions by what they need.
var shortActions = map[string]string{
	"read":  datav1connect.DataServiceGetProcedure,
	"write": datav1connect.DataServiceTransactProcedure,
	"own":   datav1connect.DataServiceMigrateProcedure,
}

// ExplainPolicy answers PolicyService.ExplainPolicy.
func (g *Guard) ExplainPolicy(_ context.Context, msg *authv1.ExplainPolicyRequest) (*authv1.ExplainPolicyResponse, error) {
	s, err := g.verifier.state()
	if err != nil {
		return nil, err
	}
	res := &authv1.ExplainPolicyResponse{}
	var set *policy.Set
	if s.policies != nil {
		set = s.policies.set
		res.Version = set.Version()
	}
	res.Decision, err = s.explain(set, msg.GetQuestion(), "question.account")
	if err != nil {
		return nil, err
	}
	return res, nil
}

// TestPolicies answers PolicyService.TestPolicies.
func (g *Guard) TestPolicies(ctx context.Context, msg *authv1.TestPoliciesRequest) (*authv1.TestPoliciesResponse, error) {
	s, err := g.verifier.state()
	if err != nil {
		return nil, err
	}
	var rows []policy.Row
	if s.policies != nil {
		for _, r := range s.policies.rows {
			if !slices.Contains(msg.GetWithout(), r.Name) {
				rows = append(rows, r)
			}
		}
	}
	for i, p := range msg.GetPolicies() {
		if err := CheckPolicy(p, indexed("policies", i)); err != nil {
			return nil, err
		}
		rows = slices.DeleteFunc(rows, func(r policy.Row) bool { return r.Name == p.GetName() })
		rows = append(rows, policy.Row{Name: p.GetName(), Text: p.GetText()})
	}
	set := policy.NewSet(rows)
	res := &authv1.TestPoliciesResponse{}
	for i, q := range msg.GetQuestions() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := s.explain(set, q, indexed("questions", i)+".account")
		if err != nil {
			return nil, err
		}
		res.Decisions = append(res.Decisions, d)
	}
	return res, nil
}

// CheckPolicy checks a policy against the schema. field is its name in the request.
func CheckPolicy(p *authv1.Policy, field string) error {
	if _, err := PolicySchema().Check(p.GetName(), p.GetText()); err != nil {
		return rpcerr.InvalidField(field+".text", "%s", err)
	}
	return nil
}

// Nobody is, where there is no account of that name, who calls a public service without a credential.
const Nobody = "Anonymous"

// explain answers a question about an account by a set; nil is none.
func (s *state) explain(set *policy.Set, m *authv1.PolicyQuestion, field string) (*authv1.PolicyDecision, error) {
	a := s.accountOf(m.GetAccount())
	if a == nil && m.GetAccount() == Nobody {
		a = &account{principal: *nobody}
	}
	if a == nil {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, "no such account: %s", m.GetAccount()).
			With("resource", "account").With("id", m.GetAccount()).With("field", field)
	}
	action := m.GetAction()
	if long := shortActions[action]; long != "" {
		action = long
	}
	p := &a.principal
	out := &authv1.PolicyDecision{Principal: p.String()}
	q := Question{Action: action, Right: ruleOf(action).right, Database: m.GetDatabase(), Table: catalog.Fold(m.GetTable())}
	switch {
	case a.disabled:
		out.Policy = "disabled"
		return out, nil
	case Describe(action) != "credential":
		out.Allowed, out.Policy = Describe(action) == "public", Describe(action)
		return out, nil
	}
	out.Role = combine(nil, p.Subject, q).Policy
	if p.Kind == identity.Anonymous && Known(action) {
		out.Policy = out.Role // the chain has refused them
		return out, nil
	}
	d := combine(set, p.Subject, q)
	out.Allowed, out.Policy, out.Restricted = d.Allowed, d.Policy, d.Restricted
	if by := (&Guard{listener: Gateway}).refusal(&d, q); d.Allowed && by != "" {
		out.Allowed, out.Policy = false, PolicyPrefix+by
	}
	if d.Rows != nil {
		for _, t := range d.Rows.Terms {
			out.Rows = append(out.Rows, &authv1.PolicyDecision_RowRule{Column: t.Column, Value: t.Value})
		}
	}
	if set != nil {
		name, group := actionOf(q)
		v := set.Decide(p.Subject, name, group, resourceOf(q))
		out.Matching, out.Errors = v.All, v.Errors
	}
	return out, nil
}

// accountOf finds an account by id or name; nil is none.
func (s *state) accountOf(key string) *account {
	if a := s.accounts[key]; a != nil {
		return a
	}
	for _, a := range s.accounts {
		if a.principal.Name == key {
			return a
		}
	}
	return nil
}

// Explain answers what a principal may, for whoever asks about somebody.
func (g *Guard) Explain(p *identity.Principal, action, database, table string) Decision {
	if g == nil {
		return Decision{Allowed: true, Policy: "no-authentication"}
	}
	r := ruleOf(action)
	switch {
	case public[action] || login[action]:
		return Decision{Allowed: true, Policy: "public"}
	case r.node:
		return Decision{Allowed: p.Kind == identity.Node, Policy: "node"}
	}
	q := Question{Action: action, Right: r.right, Database: database, Table: catalog.Fold(table)}
	d := g.authorizer.Authorize(p, q)
	if by := g.refusal(&d, q); d.Allowed && by != "" {
		d.Allowed, d.Policy = false, PolicyPrefix+by
	}
	return d
}
