package callers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/services/business"
)

func (w *world) policies(region, token string) authv1connect.PolicyServiceClient {
	url := w.PrimaryURL()
	if region != "" {
		url = w.URL(region)
	}
	return authv1connect.NewPolicyServiceClient(w.bare, url, cli.WithToken(token))
}

// put writes a policy at a region, "" is the primary.
func (w *world) put(region, name, text string) {
	w.t.Helper()
	_, err := w.policies(region, w.AdminToken()).PutPolicy(context.Background(), connect.NewRequest(&authv1.PutPolicyRequest{
		Policy: &authv1.Policy{Name: name, Text: text},
	}))
	if err != nil {
		w.t.Fatal(err)
	}
}

// drop deletes a policy at a region.
func (w *world) drop(region, name string) {
	w.t.Helper()
	_, err := w.policies(region, w.AdminToken()).DeletePolicy(context.Background(), connect.NewRequest(&authv1.DeletePolicyRequest{Name: name}))
	if err != nil {
		w.t.Fatal(err)
	}
}

const noItems = `forbid (principal, action, resource == Table::"shop/items") unless { principal in Role::"admin" };`

// TestPoliciesDecideEverywhere: one that was written at the primary decides in every region, also with the primary gone.
func TestPoliciesDecideEverywhere(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx := context.Background()
	w.user(west, "ann", grant(authv1.Role_ROLE_WRITER))
	token := w.mustLogin(west, "ann").GetAccessToken()
	everywhere := []string{east, west, ""}
	sql := func(region, text string) error {
		_, err := w.data(region, token).Query(ctx, connect.NewRequest(&datav1.QueryRequest{
			Database: shop, Statement: &datav1.Statement{Sql: text},
		}))
		return err
	}
	w.Eventually("the other region knows ann", func(context.Context) error { return w.get(east, token) })
	for _, region := range everywhere {
		expect(t, "before, get at "+region, w.get(region, token), "")
		expect(t, "before, SQL at "+region, sql(region, "SELECT * FROM items"), "")
	}
	w.put("", "no-items", noItems)
	for _, region := range []string{east, west} {
		w.Eventually("the policy decides in "+region, func(context.Context) error {
			if got := reason(w.get(region, token)); got != "PERMISSION_DENIED" {
				return fmt.Errorf("get: %q", got)
			}
			return nil
		})
	}
	for _, region := range everywhere {
		at := " at " + region
		expect(t, "get"+at, w.get(region, token), "PERMISSION_DENIED")
		for _, text := range []string{"SELECT * FROM items", "SELECT count(*) FROM items", "SELECT 1 FROM items WHERE 0", "EXPLAIN SELECT * FROM items"} {
			expect(t, text+at, sql(region, text), "PERMISSION_DENIED")
		}
		_, err := w.insert(region, token, "", "pear")
		expect(t, "insert"+at, err, "PERMISSION_DENIED")
		_, err = w.data(region, token).List(ctx, connect.NewRequest(&datav1.ListRequest{Database: shop, Table: "ITEMS"}))
		expect(t, "list"+at, err, "PERMISSION_DENIED")
		_, err = w.data(region, token).Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
			Database: shop, Statement: &datav1.Statement{Sql: "INSERT INTO items (name) VALUES ('x')"},
		}))
		expect(t, "execute"+at, err, "PERMISSION_DENIED")
		expect(t, "admin"+at, w.get(region, w.AdminToken()), "")
		if region == "" {
			continue
		}
		answer, err := w.auth(region, token).Authorize(ctx, connect.NewRequest(&authv1.AuthorizeRequest{
			Action: datav1connect.DataServiceGetProcedure, Database: shop, Table: "items",
		}))
		if err != nil || answer.Msg.GetAllowed() || answer.Msg.GetPolicy() != "policy:no-items" {
			t.Errorf("authorize%s: %v, %v", at, answer, err)
		}
	}
	w.StopPrimary()
	for _, region := range []string{east, west} {
		expect(t, "with the primary gone, get at "+region, w.get(region, token), "PERMISSION_DENIED")
		expect(t, "with the primary gone, SQL at "+region, sql(region, "SELECT * FROM items"), "PERMISSION_DENIED")
		res, err := w.policies(region, w.AdminToken()).ExplainPolicy(ctx, connect.NewRequest(&authv1.ExplainPolicyRequest{
			Question: &authv1.PolicyQuestion{Account: "ann", Action: "read", Database: shop, Table: "items"},
		}))
		if err != nil || res.Msg.GetDecision().GetPolicy() != "policy:no-items" || res.Msg.GetDecision().GetRole() != "writer:shop" {
			t.Errorf("explain at %s: %v, %v", region, res, err)
		}
	}
	w.StartPrimary()
	w.WaitReady()
	w.Eventually("the primary is back", func(context.Context) error {
		_, err := w.policies(west, w.AdminToken()).DeletePolicy(ctx, connect.NewRequest(&authv1.DeletePolicyRequest{Name: "no-items"}))
		if got := reason(err); got != "" && got != "RESOURCE_NOT_FOUND" {
			return err
		}
		return nil
	})
	expect(t, "afterwards", w.get(west, token), "")
}

func TestPolicyAdministration(t *testing.T) {
	w := start(t, meshtest.Options{Regions: []string{west}})
	ctx := context.Background()
	w.user(west, "ann", grant(authv1.Role_ROLE_OWNER))
	token := w.mustLogin(west, "ann").GetAccessToken()
	w.put(west, "everything", `permit (principal, action, resource);`)
	for _, region := range []string{west, ""} {
		admin, ann := w.policies(region, w.AdminToken()), w.policies(region, token)
		_, err := ann.ListPolicies(ctx, connect.NewRequest(&authv1.ListPoliciesRequest{}))
		expect(t, "list by ann", err, "PERMISSION_DENIED")
		_, err = ann.PutPolicy(ctx, connect.NewRequest(&authv1.PutPolicyRequest{Policy: &authv1.Policy{Name: "x", Text: "permit (principal, action, resource);"}}))
		expect(t, "put by ann", err, "PERMISSION_DENIED")
		for _, c := range []struct{ name, text, want string }{
			{"", "permit (principal, action, resource);", "policy.name"}, {"Upper", "permit (principal, action, resource);", "policy.name"},
			{"x", "", "policy.text"}, {"x", "permit", "policy.text"}, {"x", "permit (principal, action == Action::\"fly\", resource);", "fly"},
			{"x", "permit (principal, action, resource);" + strings.Repeat(" ", 9000), "policy.text"},
		} {
			_, err := admin.PutPolicy(ctx, connect.NewRequest(&authv1.PutPolicyRequest{Policy: &authv1.Policy{Name: c.name, Text: c.text}}))
			expect(t, "put of "+c.want, err, "FIELD_INVALID")
			if err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.want, err)
			}
		}
		_, err = admin.PutPolicy(ctx, connect.NewRequest(&authv1.PutPolicyRequest{}))
		expect(t, "put of nothing", err, "FIELD_INVALID")
		_, err = admin.GetPolicy(ctx, connect.NewRequest(&authv1.GetPolicyRequest{Name: "x"}))
		expect(t, "get of none", err, "RESOURCE_NOT_FOUND")
		_, err = admin.DeletePolicy(ctx, connect.NewRequest(&authv1.DeletePolicyRequest{Name: "x"}))
		expect(t, "delete of none", err, "RESOURCE_NOT_FOUND")
		schema, err := admin.GetPolicySchema(ctx, connect.NewRequest(&authv1.GetPolicySchemaRequest{}))
		if err != nil || !strings.Contains(schema.Msg.GetSchema(), `action "nearside.data.v1.DataService/Get" in ["read"]`) {
			t.Errorf("schema: %v", err)
		}
	}
	w.put(west, "nobody", `forbid (principal, action, resource);`)
	expect(t, "an admin's get", w.get(west, w.AdminToken()), "PERMISSION_DENIED")
	_, err := w.accounts(west, w.AdminToken()).ListAccounts(ctx, connect.NewRequest(&authv1.ListAccountsRequest{}))
	expect(t, "an admin's list of accounts", err, "PERMISSION_DENIED")
	list, err := w.policies(west, w.AdminToken()).ListPolicies(ctx, connect.NewRequest(&authv1.ListPoliciesRequest{}))
	if err != nil || len(list.Msg.GetPolicies()) != 2 || list.Msg.GetVersion() == "" {
		t.Errorf("list: %v, %v", list, err)
	}
	w.drop(west, "nobody")
	expect(t, "afterwards", w.get(west, w.AdminToken()), "")
}

// TestPoliciesOfTenants: what an account belongs to counts with the next call.
func TestPoliciesOfTenants(t *testing.T) {
	w := start(t, meshtest.Options{Regions: []string{west}})
	ctx := context.Background()
	w.user(west, "ann")
	token := w.mustLogin(west, "ann").GetAccessToken()
	w.put(west, "acme", `permit (principal, action in Action::"read", resource in Database::"shop") when { principal.tenant == "acme" };`)
	expect(t, "without a tenant", w.get(west, token), "PERMISSION_DENIED")
	tenant := func(name string) {
		res, err := w.accounts(west, w.AdminToken()).SetTenant(ctx, connect.NewRequest(&authv1.SetTenantRequest{Account: "ann", Tenant: name}))
		if err != nil || res.Msg.GetAccount().GetTenant() != name {
			t.Fatal(res, err)
		}
	}
	tenant("acme")
	expect(t, "of acme", w.get(west, token), "")
	_, err := w.insert(west, token, "", "pear")
	expect(t, "of acme, writes", err, "PERMISSION_DENIED")
	tenant("")
	expect(t, "of nobody", w.get(west, token), "PERMISSION_DENIED")
}

// TestStreamsEndByPolicies is TestStreamsEnd for policies.
func TestStreamsEndByPolicies(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	token := w.mustLogin(west, "ann").GetAccessToken()
	rows, err := w.data(west, token).Watch(ctx, connect.NewRequest(&datav1.WatchRequest{Database: shop, Table: "items"}))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	answers, err := w.data(west, token).WatchQuery(ctx, connect.NewRequest(&datav1.WatchQueryRequest{
		Database: shop, Statement: &datav1.Statement{Sql: "SELECT name FROM items"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	if !rows.Receive() || !answers.Receive() {
		t.Fatal(rows.Err(), answers.Err())
	}
	w.put("", "no-items", noItems)
	w.Exec("", shop, "INSERT INTO items (name) VALUES ('a secret')")
	for rows.Receive() {
		if strings.Contains(rows.Msg().String(), "a secret") {
			t.Error("a row that was written after it was forbidden")
		}
	}
	expect(t, "the watch", rows.Err(), "PERMISSION_DENIED")
	for answers.Receive() {
		if strings.Contains(answers.Msg().String(), "a secret") {
			t.Error("an answer from after it was forbidden")
		}
	}
	expect(t, "the watched query", answers.Err(), "WATCH_INTERRUPTED")
	again, err := w.data(west, token).WatchQuery(ctx, connect.NewRequest(&datav1.WatchQueryRequest{
		Database: shop, Statement: &datav1.Statement{Sql: "SELECT name FROM items"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for again.Receive() {
		t.Errorf("a watch begun afterwards: %v", again.Msg())
	}
	expect(t, "the watched query begun again", again.Err(), "PERMISSION_DENIED")
}

// TestPoliciesOfServices: methods that are none of the mesh's are decided too, on the short way and the long one.
func TestPoliciesOfServices(t *testing.T) {
	w := start(t, meshtest.Options{Regions: []string{west}, Mount: business.Mount})
	ctx := context.Background()
	if err := business.Setup(ctx, w.data("", w.AdminToken())); err != nil {
		t.Fatal(err)
	}
	w.WaitSync(business.Database)
	w.user(west, "ann", &authv1.Grant{Role: authv1.Role_ROLE_WRITER, Database: business.Database})
	users := businessv1connect.NewUserServiceClient(w.bare, w.URL(west), cli.WithToken(w.mustLogin(west, "ann").GetAccessToken()))
	list := func() error {
		_, err := users.ListUsers(ctx, connect.NewRequest(&businessv1.ListUsersRequest{}))
		return err
	}
	create := func() error {
		_, err := users.CreateUser(ctx, connect.NewRequest(&businessv1.CreateUserRequest{Email: "ada@example.com", Name: "Ada"}))
		return err
	}
	w.put(west, "no-creating", `forbid (principal is User, action == Action::"call", resource == Api::"nearside.business.v1.UserService/CreateUser");`)
	expect(t, "create", create(), "PERMISSION_DENIED")
	expect(t, "list", list(), "")
	w.put(west, "no-users", `forbid (principal is User, action == Action::"call", resource in Api::"nearside.business.v1.UserService");`)
	expect(t, "list of a forbidden service", list(), "PERMISSION_DENIED")
	w.drop(west, "no-users")
	w.drop(west, "no-creating")
	expect(t, "afterwards", create(), "")
}
