package callers_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/services/business"
)

func TestRolesDecide(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx := context.Background()
	w.user(west, "reader", grant(authv1.Role_ROLE_READER))
	w.user(west, "writer", grant(authv1.Role_ROLE_WRITER))
	w.user(west, "nobody")
	sql := func(region, token, text string) error {
		_, err := w.data(region, token).Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
			Database: shop, Statement: &datav1.Statement{Sql: text},
		}))
		return err
	}
	for _, test := range []struct{ name, get, insert, selects, with, deletes, migrate string }{
		{name: "reader", insert: "PERMISSION_DENIED", with: "PERMISSION_DENIED", deletes: "PERMISSION_DENIED", migrate: "PERMISSION_DENIED"},
		{name: "writer", migrate: "PERMISSION_DENIED"},
		{
			name: "nobody", get: "PERMISSION_DENIED", insert: "PERMISSION_DENIED", selects: "PERMISSION_DENIED", with: "PERMISSION_DENIED",
			deletes: "PERMISSION_DENIED", migrate: "PERMISSION_DENIED",
		},
	} {
		token := w.mustLogin(west, test.name).GetAccessToken()
		for _, region := range []string{west, ""} {
			at := test.name + " at " + region + ": "
			expect(t, at+"get", w.get(region, token), test.get)
			expect(t, at+"get again", w.get(region, token), test.get)
			_, err := w.insert(region, token, "", "pear")
			expect(t, at+"insert", err, test.insert)
			expect(t, at+"select", sql(region, token, "SELECT * FROM items"), test.selects)
			expect(t, at+"with", sql(region, token, "WITH x AS (SELECT 7) INSERT INTO items (name) SELECT 'y' FROM x"), test.with)
			expect(t, at+"explain", sql(region, token, "EXPLAIN SELECT * FROM items"), test.selects)
			expect(t, at+"delete", sql(region, token, "DELETE FROM items WHERE id > 1"), test.deletes)
			_, err = w.data(region, token).Migrate(ctx, connect.NewRequest(&datav1.MigrateRequest{
				Database: shop, Migrations: []*datav1.Migration{{Name: "1", Sql: "CREATE TABLE x (id INTEGER PRIMARY KEY)"}},
			}))
			expect(t, at+"migrate", err, test.migrate)
			stream, err := w.data(region, token).QueryStream(ctx, connect.NewRequest(&datav1.QueryStreamRequest{
				Database: shop, Statement: &datav1.Statement{Sql: "SELECT 1"},
			}))
			if err != nil {
				t.Fatal(err)
			}
			for stream.Receive() {
			}
			expect(t, at+"stream", stream.Err(), test.get)
			stream.Close()
			list, err := w.data(region, token).ListDatabases(ctx, connect.NewRequest(&datav1.ListDatabasesRequest{}))
			if err != nil || (len(list.Msg.GetDatabases()) == 1) != (test.get == "") {
				t.Errorf("%slists %v, %v", at, list, err)
			}
			_, err = w.data(region, token).CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: "x"}))
			expect(t, at+"create", err, "PERMISSION_DENIED")
			_, err = w.data(region, token).Query(ctx, connect.NewRequest(&datav1.QueryRequest{
				Database: "_mesh", Statement: &datav1.Statement{Sql: "SELECT hash FROM api_keys"},
			}))
			expect(t, at+"_mesh", err, "PERMISSION_DENIED")
		}
		_, err := w.accounts(west, token).GrantRole(ctx, connect.NewRequest(&authv1.GrantRoleRequest{
			Account: test.name, Grant: &authv1.Grant{Role: authv1.Role_ROLE_ADMIN},
		}))
		expect(t, test.name+" makes itself an admin", err, "PERMISSION_DENIED")
	}
	// A role that was taken is gone with the next call, though the token and the short way are known.
	token := w.mustLogin(west, "reader").GetAccessToken()
	expect(t, "before", w.get(west, token), "")
	_, err := w.accounts(west, w.AdminToken()).RevokeRole(ctx, connect.NewRequest(&authv1.RevokeRoleRequest{
		Account: "reader", Grant: grant(authv1.Role_ROLE_READER),
	}))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "after", w.get(west, token), "PERMISSION_DENIED")
	answer, err := w.auth(west, w.AdminToken()).Authorize(ctx, connect.NewRequest(&authv1.AuthorizeRequest{
		Token: token, Action: datav1connect.DataServiceGetProcedure, Database: shop,
	}))
	if err != nil || answer.Msg.GetAllowed() || answer.Msg.GetPolicy() != "default-deny" {
		t.Errorf("authorize: %v, %v", answer, err)
	}
	// _auth is nobody's.
	for _, region := range []string{west, ""} {
		_, err = w.data(region, w.AdminToken()).Query(ctx, connect.NewRequest(&datav1.QueryRequest{
			Database: "_auth", Statement: &datav1.Statement{Sql: "SELECT 1"},
		}))
		expect(t, "_auth", err, "DATABASE_NOT_FOUND")
	}
}

// TestSmuggling: what a client says about itself beside its credential counts for nothing, also where calls are forwarded.
func TestSmuggling(t *testing.T) {
	w := start(t, meshtest.Options{})
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	token := w.mustLogin(west, "ann").GetAccessToken()
	for _, auth := range [][]string{
		{"Bearer " + token}, {"Bearer " + token, "Bearer " + w.AdminToken()}, {"Bearer " + token + ", Bearer " + w.AdminToken()}, nil,
	} {
		body := `{"database":"shop","statement":{"sql":"DELETE FROM items"}}`
		req, err := http.NewRequest(http.MethodPost, w.URL(west)+datav1connect.DataServiceExecuteProcedure, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{
			"Content-Type": {"application/json"}, "Authorization": auth, "Nearside-Principal": {"service:admin"}, "X-Forwarded-User": {"admin"},
			"Nearside-Actor": {"service:admin"}, "X-Nearside-Roles": {"admin"}, "Proxy-Authorization": {"Bearer " + w.AdminToken()},
			"Cookie": {"authorization=" + w.AdminToken()}, "Forwarded": {"for=127.0.0.1"}, "X-Forwarded-For": {"127.0.0.1"},
		}
		res, err := w.bare.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized && res.StatusCode != http.StatusForbidden {
			t.Errorf("with %d credentials: %s %s", len(auth), res.Status, answer)
		}
	}
	if n := len(w.Exec("", shop, "SELECT * FROM items").GetResult().GetRows()); n != 1 {
		t.Errorf("%d items are left", n)
	}
}

// TestBundledCallersStayApart: transactions of several callers go to the primary together, each with its own rights and keys.
func TestBundledCallersStayApart(t *testing.T) {
	w := start(t, meshtest.Options{})
	var tokens []string
	for _, name := range []string{"ann", "bob"} {
		w.user(west, name, grant(authv1.Role_ROLE_WRITER))
		tokens = append(tokens, w.mustLogin(west, name).GetAccessToken())
	}
	w.user(west, "eve", grant(authv1.Role_ROLE_READER))
	eve := w.mustLogin(west, "eve").GetAccessToken()
	var all sync.WaitGroup
	for n := range 20 {
		for i, token := range tokens {
			all.Go(func() {
				if res, err := w.insert(west, token, fmt.Sprint("key", n), fmt.Sprint("item of ", i)); err != nil || res.GetReplayed() {
					t.Errorf("writer %d: %v, %v", i, res, err)
				}
			})
		}
		all.Go(func() {
			_, err := w.insert(west, eve, fmt.Sprint("key", n), "of eve")
			expect(t, "eve", err, "PERMISSION_DENIED")
		})
	}
	all.Wait()
	if n := len(w.Exec("", shop, "SELECT * FROM items WHERE name LIKE 'item of %'").GetResult().GetRows()); n != 40 {
		t.Errorf("%d rows: somebody got another one's answer", n)
	}
	res, err := w.insert(west, tokens[0], "key1", "item of 0")
	if err != nil || !res.GetReplayed() {
		t.Errorf("a repeat: %v, %v", res, err)
	}
}

// TestStreamsEnd: a watch ends when its caller may not have it any more.
func TestStreamsEnd(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	watch := func(token string) *connect.ServerStreamForClient[datav1.WatchResponse] {
		stream, err := w.data(west, token).Watch(ctx, connect.NewRequest(&datav1.WatchRequest{Database: shop, Table: "items"}))
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	stream := watch(w.mustLogin(west, "ann").GetAccessToken())
	defer stream.Close()
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	_, err := w.accounts(west, w.AdminToken()).RevokeRole(ctx, connect.NewRequest(&authv1.RevokeRoleRequest{
		Account: "ann", Grant: grant(authv1.Role_ROLE_READER),
	}))
	if err != nil {
		t.Fatal(err)
	}
	w.Exec("", shop, "INSERT INTO items (name) VALUES ('a secret')")
	for stream.Receive() {
		if strings.Contains(stream.Msg().String(), "a secret") {
			t.Error("a row that was written after the role was taken")
		}
	}
	expect(t, "the watch", stream.Err(), "PERMISSION_DENIED")
	again := watch(w.mustLogin(west, "ann").GetAccessToken())
	defer again.Close()
	for again.Receive() {
	}
	expect(t, "another watch", again.Err(), "PERMISSION_DENIED")
}

// TestWatchedQueriesEnd is TestStreamsEnd for a query, which others who may have it share.
func TestWatchedQueriesEnd(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	watch := func(token string) *connect.ServerStreamForClient[datav1.WatchQueryResponse] {
		stream, err := w.data(west, token).WatchQuery(ctx, connect.NewRequest(&datav1.WatchQueryRequest{
			Database: shop, Statement: &datav1.Statement{Sql: "SELECT name FROM items"},
		}))
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	nobodys := watch("")
	defer nobodys.Close()
	for nobodys.Receive() {
		t.Errorf("nobody is told %v", nobodys.Msg())
	}
	expect(t, "a watch without a credential", nobodys.Err(), "UNAUTHENTICATED")
	stream, admins := watch(w.mustLogin(west, "ann").GetAccessToken()), watch(w.AdminToken())
	defer stream.Close()
	defer admins.Close()
	if !stream.Receive() || !admins.Receive() {
		t.Fatal(stream.Err(), admins.Err())
	}
	_, err := w.accounts(west, w.AdminToken()).RevokeRole(ctx, connect.NewRequest(&authv1.RevokeRoleRequest{
		Account: "ann", Grant: grant(authv1.Role_ROLE_READER),
	}))
	if err != nil {
		t.Fatal(err)
	}
	w.Exec("", shop, "INSERT INTO items (name) VALUES ('a secret')")
	for stream.Receive() {
		if strings.Contains(stream.Msg().String(), "a secret") {
			t.Error("an answer from after the role was taken")
		}
	}
	expect(t, "the watch", stream.Err(), "PERMISSION_DENIED")
	if !admins.Receive() || !strings.Contains(admins.Msg().String(), "a secret") {
		t.Errorf("the admin is told %v, %v", admins.Msg(), admins.Err())
	}
}

func TestRateLimitsOfARegion(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx := context.Background()
	ann := w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	token := w.mustLogin(west, "ann").GetAccessToken()
	_, err := w.accounts(west, w.AdminToken()).SetRateLimit(ctx, connect.NewRequest(&authv1.SetRateLimitRequest{Limit: &authv1.RateLimit{
		Scope: authv1.RateLimitScope_RATE_LIMIT_SCOPE_IDENTITY, Subject: ann.GetId(), PerSecond: 0.001, Burst: 5,
	}}))
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range 10 {
		if err := w.get(west, token); err != nil {
			expect(t, "above the limit", err, "RATE_LIMITED")
			refused++
		}
	}
	if refused != 5 {
		t.Errorf("%d of 10 were refused", refused)
	}
	expect(t, "the admin", w.get(west, w.AdminToken()), "")
}

// TestServicesPassTheirCallersOn: what a service does with data it does as its caller.
func TestServicesPassTheirCallersOn(t *testing.T) {
	w := start(t, meshtest.Options{Mount: business.Mount})
	ctx := context.Background()
	if err := business.Setup(ctx, w.data("", w.AdminToken())); err != nil {
		t.Fatal(err)
	}
	w.WaitSync(business.Database)
	w.user(west, "ann", &authv1.Grant{Role: authv1.Role_ROLE_WRITER, Database: business.Database})
	w.user(west, "bob", grant(authv1.Role_ROLE_OWNER))
	create := func(token string) error {
		_, err := businessv1connect.NewUserServiceClient(w.bare, w.URL(west), cli.WithToken(token)).CreateUser(ctx,
			connect.NewRequest(&businessv1.CreateUserRequest{Email: "ada@example.com", Name: "Ada"}))
		return err
	}
	expect(t, "nobody", create(""), "UNAUTHENTICATED")
	expect(t, "bob", create(w.mustLogin(west, "bob").GetAccessToken()), "PERMISSION_DENIED")
	expect(t, "ann", create(w.mustLogin(west, "ann").GetAccessToken()), "")
}

// TestNameLikeAnID: nobody gets what is another account's by having its id for a name.
func TestNameLikeAnID(t *testing.T) {
	w := start(t, meshtest.Options{})
	_, err := w.accounts(west, w.AdminToken()).CreateAccount(context.Background(), connect.NewRequest(&authv1.CreateAccountRequest{
		Kind: authv1.AccountKind_ACCOUNT_KIND_USER, Name: w.user(west, "ann").GetId(), Password: password,
	}))
	expect(t, "an account named as ann's id", err, "FIELD_INVALID")
	w.user(west, "u_ann")
}
