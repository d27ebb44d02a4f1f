package access

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// put writes a policy that fits the schema.
func (w *world) put(tb testing.TB, name, text string) {
	tb.Helper()
	if err := CheckPolicy(&authv1.Policy{Name: name, Text: text}, "policy"); err != nil {
		tb.Fatal(err)
	}
	w.add(meshdb.TablePolicies, value.Text(name), value.Text(text))
}

func (w *world) ann(tb testing.TB) *identity.Principal {
	tb.Helper()
	p, err := w.verifier.Credential(w.token(tb, nil))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func (w *world) admin(tb testing.TB) *identity.Principal {
	tb.Helper()
	p, err := w.verifier.Credential(w.apiKey)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// denied returns the policy by which a call is refused; "" is that it is not.
func (w *world) denied(tb testing.TB, p *identity.Principal, procedure string, msg any) string {
	tb.Helper()
	err := w.guard.Check(identity.With(context.Background(), p), procedure, msg)
	if err == nil {
		return ""
	}
	if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED {
		tb.Fatal(err)
	}
	e, _ := rpcerr.FromError(err)
	return e.Metadata("policy")
}

func statement(sql string) *datav1.Statement { return &datav1.Statement{Sql: sql} }

func putOf(table string) *datav1.Operation {
	return &datav1.Operation{Operation: &datav1.Operation_Put{Put: &datav1.Put{Table: table}}}
}

func sqlOf(sql string) *datav1.Operation {
	return &datav1.Operation{Operation: &datav1.Operation_Statement{Statement: statement(sql)}}
}

// calls are one of each kind of method, of table and database shop.
func calls(table string) map[string]struct {
	procedure string
	msg       any
} {
	type call = struct {
		procedure string
		msg       any
	}
	return map[string]call{
		"get":      {datav1connect.DataServiceGetProcedure, &datav1.GetRequest{Database: "shop", Table: table}},
		"batch":    {datav1connect.DataServiceBatchGetProcedure, &datav1.BatchGetRequest{Database: "shop", Table: table}},
		"list":     {datav1connect.DataServiceListProcedure, &datav1.ListRequest{Database: "shop", Table: table}},
		"watch":    {datav1connect.DataServiceWatchProcedure, &datav1.WatchRequest{Database: "shop", Table: table}},
		"query":    {datav1connect.DataServiceQueryProcedure, &datav1.QueryRequest{Database: "shop", Statement: statement("SELECT 1")}},
		"stream":   {datav1connect.DataServiceQueryStreamProcedure, &datav1.QueryStreamRequest{Database: "shop"}},
		"wquery":   {datav1connect.DataServiceWatchQueryProcedure, &datav1.WatchQueryRequest{Database: "shop"}},
		"execute":  {datav1connect.DataServiceExecuteProcedure, &datav1.ExecuteRequest{Database: "shop", Statement: statement("SELECT 1")}},
		"export":   {datav1connect.DataServiceExportProcedure, &datav1.ExportRequest{Database: "shop"}},
		"migrates": {datav1connect.DataServiceListMigrationsProcedure, &datav1.ListMigrationsRequest{Database: "shop"}},
		"cache":    {datav1connect.CacheServiceGetProcedure, &datav1.CacheServiceGetRequest{Database: "shop"}},
		"schema":   {datav1connect.DataServiceGetDatabaseProcedure, &datav1.GetDatabaseRequest{Name: "shop"}},
	}
}

func TestPoliciesBesideRoles(t *testing.T) {
	w := newWorld(t)
	ann := w.ann(t)
	for name, c := range calls("t") {
		if by := w.denied(t, ann, c.procedure, c.msg); by != "" {
			t.Errorf("without policies: %s by %s", name, by)
		}
	}
	w.put(t, "no-secrets", `forbid (principal, action, resource == Table::"shop/secrets") unless { principal in Role::"admin" };`)
	ann = w.ann(t)
	for name, c := range calls("t") {
		// What names another table goes on; what may reach all of them does not.
		want := map[string]string{"get": "", "batch": "", "list": "", "watch": "", "schema": ""}
		by, ok := want[name]
		if !ok {
			by = "policy:no-secrets"
		}
		if got := w.denied(t, ann, c.procedure, c.msg); got != by {
			t.Errorf("another table: %s: %q, want %q", name, got, by)
		}
		if got := w.denied(t, w.admin(t), c.procedure, c.msg); got != "" {
			t.Errorf("admin: %s: %q", name, got)
		}
	}
	for _, table := range []string{"secrets", "Secrets", "SECRETS"} {
		for name, c := range calls(table) {
			want := "policy:no-secrets"
			if name == "schema" {
				want = ""
			}
			if got := w.denied(t, ann, c.procedure, c.msg); got != want {
				t.Errorf("%s: %s: %q, want %q", table, name, got, want)
			}
		}
		if w.guard.MayNow(ann, datav1connect.DataServiceGetProcedure, "shop", table) {
			t.Errorf("%s at once", table)
		}
	}
	if !w.guard.MayNow(ann, datav1connect.DataServiceGetProcedure, "shop", "t") {
		t.Error("another table is not answered at once")
	}
	if w.guard.MayNow(ann, datav1connect.DataServiceQueryProcedure, "shop", "") {
		t.Error("SQL of a restricted caller is answered at once")
	}
}

func TestTransactionsAreDecidedByTheirTables(t *testing.T) {
	w := newWorld(t)
	w.put(t, "orders", `permit (principal == User::"u_ann", action in Action::"write", resource == Table::"shop/orders");`)
	w.put(t, "no-secrets", `forbid (principal, action, resource == Table::"shop/secrets");`)
	for name, c := range map[string]struct {
		by  string
		ops []*datav1.Operation
	}{
		"the table":             {"", []*datav1.Operation{putOf("orders"), putOf("Orders")}},
		"another one":           {"default-deny", []*datav1.Operation{putOf("orders"), putOf("other")}},
		"a forbidden one":       {"policy:no-secrets", []*datav1.Operation{putOf("orders"), putOf("Secrets")}},
		"SQL":                   {"default-deny", []*datav1.Operation{putOf("orders"), sqlOf("DELETE FROM orders")}},
		"no operation":          {"default-deny", nil},
		"operation of no table": {"default-deny", []*datav1.Operation{{}}},
	} {
		msg := &datav1.TransactRequest{Database: "shop", Operations: c.ops}
		if got := w.denied(t, w.ann(t), datav1connect.DataServiceTransactProcedure, msg); got != c.by {
			t.Errorf("%s: %q, want %q", name, got, c.by)
		}
	}
	msg := &datav1.TransactRequest{Database: "shop", Operations: []*datav1.Operation{sqlOf("DELETE FROM t")}}
	if got := w.denied(t, w.admin(t), datav1connect.DataServiceTransactProcedure, msg); got != "policy:no-secrets" {
		t.Errorf("an admin's SQL around a policy: %q", got)
	}
	insert := &datav1.BatchInsertRequest{Database: "shop", Table: "ORDERS"}
	if got := w.denied(t, w.ann(t), datav1connect.DataServiceBatchInsertProcedure, insert); got != "" {
		t.Errorf("insert: %q", got)
	}
}

func TestWhatAPolicyCannotGive(t *testing.T) {
	w := newWorld(t)
	w.put(t, "all", `permit (principal, action, resource);`)
	ann := w.ann(t)
	for _, q := range []Question{
		{Action: authv1connect.AccountServiceGrantRoleProcedure, Right: RightAdmin},
		{Action: authv1connect.PolicyServicePutPolicyProcedure, Right: RightAdmin},
		{Action: datav1connect.DataServiceCreateDatabaseProcedure, Right: RightAdmin, Database: "new"},
		{Action: datav1connect.DataServiceGetProcedure, Right: RightRead, Database: "_mesh", Table: "accounts"},
	} {
		if d := w.guard.authorizer.Authorize(ann, q); d.Allowed {
			t.Errorf("%s by %s", q.Action, d.Policy)
		}
	}
	q := Question{Action: datav1connect.DataServiceMigrateProcedure, Right: RightOwn, Database: "other"}
	if d := w.guard.authorizer.Authorize(ann, q); !d.Allowed || d.Policy != "policy:all" {
		t.Errorf("what it can give: %+v", d)
	}
	if d := w.guard.authorizer.Authorize(&identity.Principal{}, q); d.Allowed {
		t.Error("a policy lets in whom nobody knows")
	}
}

func TestAnAdminIsNotLockedOut(t *testing.T) {
	w := newWorld(t)
	w.put(t, "nobody", `forbid (principal, action, resource);`)
	admin := w.admin(t)
	if got := w.denied(t, admin, authv1connect.PolicyServiceDeletePolicyProcedure, &authv1.DeletePolicyRequest{Name: "nobody"}); got != "" {
		t.Errorf("by %s", got)
	}
	get := &datav1.GetRequest{Database: "shop", Table: "t"}
	if got := w.denied(t, admin, datav1connect.DataServiceGetProcedure, get); got != "policy:nobody" {
		t.Errorf("what is forbidden to all is forbidden to admins: %q", got)
	}
	w.clear(meshdb.TablePolicies)
	w.add(meshdb.TablePolicies, value.Text("broken"), value.Text("from another build"))
	admin = w.admin(t)
	if got := w.denied(t, admin, authv1connect.PolicyServiceListPoliciesProcedure, &authv1.ListPoliciesRequest{}); got != "" {
		t.Errorf("by %s", got)
	}
	if got := w.denied(t, w.ann(t), datav1connect.DataServiceGetProcedure, get); got != "policy:broken" {
		t.Errorf("a policy that cannot be read: %q", got)
	}
}

func TestMethodsThatTheMeshDoesNotKnow(t *testing.T) {
	w := newWorld(t)
	w.put(t, "no-orders", `forbid (principal == User::"u_ann", action == Action::"call", resource in Api::"shop.v1.Orders");`)
	ann := w.ann(t)
	for path, want := range map[string]bool{
		"/shop.v1.Orders/Create": false, "/shop.v1.Orders/List": false, "/shop.v1.OrdersToo/List": true, "/other": true,
		datav1connect.DataServiceGetProcedure: true, // it is decided with its message
	} {
		if got := w.guard.mayCall(ann, path, nil); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

// TestDecisionsAreKeptExactly changes all that a decision may depend on, one after the other.
func TestDecisionsAreKeptExactly(t *testing.T) {
	text, integer := value.Text, value.Integer
	w := newWorld(t)
	get := &datav1.GetRequest{Database: "shop", Table: "t"}
	ask := func() string { return w.denied(t, w.ann(t), datav1connect.DataServiceGetProcedure, get) }
	w.put(t, "acme", `forbid (principal, action, resource is Table) when { principal.tenant == "acme" };`)
	if got := ask(); got != "" {
		t.Fatal(got)
	}
	set := w.verifier.current.Load().policies
	w.add(meshdb.TableAccountTenants, text("u_ann"), text("acme"))
	if got := ask(); got != "policy:acme" {
		t.Errorf("with a tenant: %q", got)
	}
	w.clear(meshdb.TableAccountTenants)
	if got := ask(); got != "" {
		t.Errorf("without it: %q", got)
	}
	w.add(meshdb.TableRevocations, text("other"), integer(0))
	subject := w.ann(t).Subject
	w.add(meshdb.TableRevocations, text("another"), integer(0))
	if w.ann(t).Subject != subject || w.verifier.current.Load().policies != set {
		t.Error("what has nothing to do with it ends what is kept")
	}
	w.clear(meshdb.TableAccountRoles)
	if got := ask(); got != "default-deny" {
		t.Errorf("without a role: %q", got)
	}
	w.put(t, "permit", `permit (principal, action in Action::"read", resource in Database::"shop");`)
	if got := ask(); got != "" {
		t.Errorf("with a policy more: %q", got)
	}
	w.clear(meshdb.TablePolicies)
	if got := ask(); got != "default-deny" || w.verifier.current.Load().policies != nil {
		t.Errorf("without policies: %q", got)
	}
}

func TestKeptDecisionsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.verifier.policies.max = 4
	w.put(t, "p", `permit (principal, action, resource);`)
	ann := w.ann(t)
	for i := range 1000 {
		q := Question{Action: datav1connect.DataServiceGetProcedure, Right: RightRead, Database: "shop", Table: fmt.Sprint("t", i)}
		if !w.guard.authorizer.Authorize(ann, q).Allowed {
			t.Fatal("not allowed")
		}
	}
	ps := w.verifier.current.Load().policies
	if n := ps.kept(); n > 4*decisionShards || n < decisionShards {
		t.Errorf("%d are kept", n)
	}
	before := ps.kept()
	long := Question{Action: datav1connect.DataServiceGetProcedure, Right: RightRead, Database: "shop", Table: strings.Repeat("t", 600)}
	if !w.guard.authorizer.Authorize(ann, long).Allowed || ps.kept() != before {
		t.Error("a long name is kept")
	}
}

func TestExplainAndTest(t *testing.T) {
	w := newWorld(t)
	w.put(t, "no-secrets", `forbid (principal, action, resource == Table::"shop/secrets");`)
	ctx := context.Background()
	explain := func(account, action, table string) *authv1.PolicyDecision {
		q := &authv1.PolicyQuestion{Account: account, Action: action, Database: "shop", Table: table}
		if strings.HasPrefix(action, "/acme.") {
			q.Database = ""
		}
		res, err := w.guard.ExplainPolicy(ctx, &authv1.ExplainPolicyRequest{Question: q})
		if err != nil {
			t.Fatal(err)
		}
		return res.GetDecision()
	}
	d := explain("ann", "read", "Secrets")
	if d.GetAllowed() || d.GetPolicy() != "policy:no-secrets" || d.GetRole() != "reader:shop" || d.GetPrincipal() != "user:u_ann" ||
		len(d.GetMatching()) != 1 {
		t.Errorf("got %v", d)
	}
	if d := explain("u_ann", "read", "t"); !d.GetAllowed() || d.GetRestricted() != "no-secrets" {
		t.Errorf("got %v", d)
	}
	if d := explain("ann", "write", "t"); d.GetAllowed() || d.GetPolicy() != "default-deny" {
		t.Errorf("got %v", d)
	}
	if d := explain("ann", datav1connect.DataServiceQueryProcedure, ""); !d.GetAllowed() || d.GetRestricted() != "no-secrets" {
		t.Errorf("SQL: %v", d)
	}
	if d := explain("ann", datav1connect.DataServiceExportProcedure, ""); d.GetAllowed() || d.GetPolicy() != "policy:no-secrets" {
		t.Errorf("export: %v", d)
	}
	_, err := w.guard.ExplainPolicy(ctx, &authv1.ExplainPolicyRequest{Question: &authv1.PolicyQuestion{Account: "x", Action: "read"}})
	if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND {
		t.Error(err)
	}
	const stream = "/acme.echo.v1.EchoService/Stream"
	if d := explain(Nobody, stream, ""); !d.GetAllowed() || d.GetPolicy() != "public" || d.GetRole() != "public" || d.GetPrincipal() != "anonymous" {
		t.Errorf("nobody: %v", d)
	}
	w.put(t, "known", `forbid (principal is Anonymous, action == Action::"call", resource == Api::"acme.echo.v1.EchoService/Stream");`)
	w.put(t, "everything", `permit (principal, action, resource);`)
	if d := explain(Nobody, stream, ""); d.GetAllowed() || d.GetPolicy() != "policy:known" || !slices.Contains(d.GetMatching(), "known") {
		t.Errorf("nobody, forbidden: %v", d)
	}
	if d := explain("ann", stream, ""); !d.GetAllowed() {
		t.Errorf("ann, of what nobody may: %v", d)
	}
	if d := explain(Nobody, "read", "t"); d.GetAllowed() || d.GetPolicy() != PolicyDefaultDeny {
		t.Errorf("what the chain lets nobody do: %v", d)
	}
	w.clear(meshdb.TablePolicies)
	w.put(t, "no-secrets", `forbid (principal, action, resource == Table::"shop/secrets");`)
	w.add(meshdb.TableAccounts, value.Text("u_1"), value.Text("user"), value.Text(Nobody), value.Integer(0), value.Integer(0))
	if d := explain(Nobody, stream, ""); d.GetPrincipal() != "user:u_1" {
		t.Errorf("an account of that name: %v", d)
	}
	question := []*authv1.PolicyQuestion{{Account: "ann", Action: "read", Database: "shop", Table: "secrets"}}
	test := func(req *authv1.TestPoliciesRequest) bool {
		req.Questions = question
		res, err := w.guard.TestPolicies(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return res.GetDecisions()[0].GetAllowed()
	}
	if test(&authv1.TestPoliciesRequest{}) {
		t.Error("as it is")
	}
	if !test(&authv1.TestPoliciesRequest{Without: []string{"no-secrets"}}) {
		t.Error("without it")
	}
	other := &authv1.Policy{Name: "no-secrets", Text: `forbid (principal, action, resource == Table::"shop/other");`}
	if !test(&authv1.TestPoliciesRequest{Policies: []*authv1.Policy{other}}) {
		t.Error("with another one in its place")
	}
	_, err = w.guard.TestPolicies(ctx, &authv1.TestPoliciesRequest{Policies: []*authv1.Policy{{Name: "x", Text: "y"}}})
	if err == nil || !strings.Contains(err.Error(), "policies[0].text") {
		t.Error(err)
	}
}

func BenchmarkCachedDecision(b *testing.B) {
	for _, policies := range []int{0, 1, 500} {
		b.Run(fmt.Sprintf("policies=%d", policies), func(b *testing.B) {
			w := newWorld(b)
			for i := range policies {
				w.put(b, fmt.Sprint("p", i), fmt.Sprintf(`forbid (principal, action, resource == Table::"shop/t%d") unless { principal in Role::"admin" };`, i))
			}
			ann := w.ann(b)
			q := Question{Action: datav1connect.DataServiceGetProcedure, Right: RightRead, Database: "shop", Table: "orders"}
			if !w.guard.authorizer.Authorize(ann, q).Allowed {
				b.Fatal("denied")
			}
			b.ReportAllocs()
			for b.Loop() {
				w.guard.authorizer.Authorize(ann, q)
			}
		})
	}
}

func BenchmarkNewDecision(b *testing.B) {
	w := newWorld(b)
	for i := range 500 {
		w.put(b, fmt.Sprint("p", i), fmt.Sprintf(`forbid (principal, action, resource == Table::"shop/t%d") unless { principal in Role::"admin" };`, i))
	}
	ann, set := w.ann(b), w.verifier.current.Load().policies.set
	q := Question{Action: datav1connect.DataServiceGetProcedure, Right: RightRead, Database: "shop", Table: "orders"}
	for b.Loop() {
		combine(set, ann.Subject, q)
	}
}

// TestNoAllocations holds what a decision costs on the shortest path: nothing is allocated for one that is kept, with policies or
// without.
func TestNoAllocations(t *testing.T) {
	for _, policies := range []int{0, 3} {
		w := newWorld(t)
		for i := range policies {
			w.put(t, fmt.Sprint("p", i), fmt.Sprintf(`forbid (principal, action, resource == Table::"shop/t%d");`, i))
		}
		ann, h := w.ann(t), http.Header{"Authorization": {"Bearer " + w.token(t, nil)}}
		for range 2 {
			if !w.guard.MayNow(ann, datav1connect.DataServiceGetProcedure, "shop", "orders") {
				t.Fatal("denied")
			}
		}
		n := testing.AllocsPerRun(100, func() {
			p, err := w.verifier.Request(h)
			if err != nil || !w.guard.MayNow(p, datav1connect.DataServiceGetProcedure, "shop", "orders") {
				t.Fatal("denied", err)
			}
		})
		if n != 0 {
			t.Errorf("with %d policies: %v allocations", policies, n)
		}
		ctx := identity.With(context.Background(), ann)
		n = testing.AllocsPerRun(100, func() { w.guard.View(ctx, datav1connect.DataServiceGetProcedure, RightRead, "other") })
		if n != 0 {
			t.Errorf("with %d policies: %v allocations of a view that is all", policies, n)
		}
	}
}

// TestAuditedByPolicy: what a policy wants recorded is not answered at once, where nobody would record it.
func TestAuditedByPolicy(t *testing.T) {
	w := newWorld(t)
	w.put(t, "watched", `@audit permit (principal, action in Action::"read", resource in Database::"shop");`)
	ann := w.ann(t)
	q := Question{Action: datav1connect.DataServiceGetProcedure, Right: RightRead, Database: "shop", Table: "t"}
	if d := w.guard.authorizer.Authorize(ann, q); !d.Allowed || !d.Audit || d.Policy != "reader:shop" {
		t.Errorf("got %+v", d)
	}
	if w.guard.MayNow(ann, datav1connect.DataServiceGetProcedure, "shop", "t") {
		t.Error("at once")
	}
}

func TestFilteredMethods(t *testing.T) {
	w := newWorld(t)
	w.put(t, "own", `@unless_row("owner == principal.id") forbid (principal is User, action, resource == Table::"shop/t");`)
	for listener, open := range map[Listener]map[string]bool{
		NoFilters: {"schema": true},
		Primary:   {"schema": true, "get": true, "batch": true, "list": true},
		Gateway: {
			"schema": true, "get": true, "batch": true, "list": true, "watch": true, "query": true, "stream": true, "wquery": true, "execute": true,
		},
	} {
		w.guard.listener = listener
		for name, c := range calls("T") {
			want := "policy:own"
			if open[name] {
				want = ""
			}
			if got := w.denied(t, w.ann(t), c.procedure, c.msg); got != want {
				t.Errorf("listener %d: %s: %q, want %q", listener, name, got, want)
			}
		}
		for _, sql := range []string{"DELETE FROM t", "INSERT INTO t VALUES (1)", "CREATE TABLE x (y)", "", "VACUUM"} {
			msg := &datav1.ExecuteRequest{Database: "shop", Statement: statement(sql)}
			if got := w.denied(t, w.admin(t), datav1connect.DataServiceExecuteProcedure, msg); got != "" {
				t.Errorf("an admin's %s: %q", sql, got)
			}
			if got := w.denied(t, w.ann(t), datav1connect.DataServiceExecuteProcedure, msg); got == "" {
				t.Errorf("listener %d: %s", listener, sql)
			}
		}
		if w.guard.MayNow(w.ann(t), datav1connect.DataServiceGetProcedure, "shop", "t") {
			t.Error("a filtered table is answered at once")
		}
	}
	// The names of what they see are apart.
	ctx := identity.With(context.Background(), w.ann(t))
	anns := w.guard.View(ctx, datav1connect.DataServiceQueryProcedure, RightRead, "shop")
	if f, err := anns.Table("T"); err != nil || len(f.Terms) != 1 || f.Terms[0].Value != "u_ann" {
		t.Errorf("ann's: %v, %v", f, err)
	}
	if v := w.guard.View(identity.With(context.Background(), w.admin(t)), datav1connect.DataServiceQueryProcedure, RightRead, "shop"); v != nil || v.Name() != "" {
		t.Errorf("the admin's: %v", v)
	}
	w.add(meshdb.TableAccountTenants, value.Text("u_ann"), value.Text("acme"))
	ctx = identity.With(context.Background(), w.ann(t))
	if again := w.guard.View(ctx, datav1connect.DataServiceQueryProcedure, RightRead, "shop"); again.Name() == anns.Name() {
		t.Error("a view of another tenant has the same name")
	}
}
