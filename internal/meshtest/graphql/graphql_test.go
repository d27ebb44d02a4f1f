package graphql_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
)

const createUser = `mutation ($email: String!, $name: String!) { createUser(email: $email, name: $name) { id email version createTime } }`

func user(email, name string) map[string]any { return map[string]any{"email": email, "name": name} }

// TestUsers lives a user's life, in two regions with a bookmark between them.
func TestUsers(t *testing.T) {
	m, _ := start(t, false)
	c, base := m.HTTP(), m.URL(west)
	created := ask(t, c, base, createUser, user("ada@example.org", "Ada"), "Idempotency-Key: k1").ok(t)
	id, ok := created.at(t, "createUser.id").(string)
	if !ok || id == "" || created.at(t, "createUser.version") == "0" || !strings.HasSuffix(fmt.Sprint(created.at(t, "createUser.createTime")), "Z") {
		t.Fatalf("created %s", created.body)
	}
	again := ask(t, c, base, createUser, user("ada@example.org", "Ada"), "Idempotency-Key: k1").ok(t)
	if again.at(t, "createUser.id") != id {
		t.Errorf("a repeat made another user: %s", again.body)
	}
	taken := ask(t, c, base, createUser, user("ada@example.org", "Ada")).fails(t, 200, "already_exists", "ALREADY_EXISTS")
	if diff := cmp.Diff([]any{"createUser"}, taken.Errors[0].Path); diff != "" || taken.Data["createUser"] != nil {
		t.Errorf("%s\n%s", diff, taken.body)
	}
	bad := ask(t, c, base, createUser, user("nobody", "N")).fails(t, 200, "invalid_argument", "FIELD_INVALID")
	if f := bad.Errors[0].Extensions.Fields; len(f) != 1 || f[0].Field != "email" {
		t.Errorf("%s", bad.body)
	}
	bookmark := "Nearside-Bookmark: " + created.header.Get("Nearside-Bookmark")
	one := `query ($id: ID!) { user(id: $id) { name email } }`
	got := ask(t, c, m.URL(east), one, map[string]any{"id": id}, bookmark).ok(t)
	if got.at(t, "user.email") != "ada@example.org" || got.header.Get("Nearside-Region") != east || got.header.Get("Nearside-Bookmark") == "" {
		t.Errorf("%s %v", got.body, got.header)
	}
	ask(t, c, m.URL(east), one, map[string]any{"id": "nobody"}).fails(t, 200, "not_found", "RESOURCE_NOT_FOUND")
	version := created.at(t, "createUser.version")
	updated := ask(t, c, base, `mutation ($id: ID!, $v: UInt64) { updateUser(id: $id, name: "Ada L.", version: $v) { name version } }`,
		map[string]any{"id": id, "v": version}).ok(t)
	if updated.at(t, "updateUser.name") != "Ada L." || updated.at(t, "updateUser.version") == version {
		t.Errorf("%s", updated.body)
	}
	ask(t, c, base, `mutation ($id: ID!) { updateUser(id: $id, name: "A", version: 1) { name } }`, map[string]any{"id": id}).
		fails(t, 200, "failed_precondition", "PRECONDITION_FAILED")
	// One operation's fields follow each other, each sees what was before it; one that fails keeps none from the next.
	order := ask(t, c, base, `mutation ($id: ID!) {
		a: placeOrder(userId: $id, items: [{sku: "tea", quantity: 2, priceCents: 250}, {sku: "cup", quantity: 1, priceCents: "900"}]) { id totalCents items { sku quantity } }
		no: placeOrder(userId: "nobody", items: [{sku: "tea", quantity: 1, priceCents: 1}]) { id }
		b: placeOrder(userId: $id, items: [{sku: "pot", quantity: 1, priceCents: 1}]) { id user { id name orders { id } } }
	}`, map[string]any{"id": id}, "Idempotency-Key: k2").fails(t, 200, "not_found", "RESOURCE_NOT_FOUND")
	if order.at(t, "a.totalCents") != "1400" || order.at(t, "b.user.name") != "Ada L." || len(order.at(t, "b.user.orders").([]any)) != 2 { //nolint:forcetypeassert // a panic says enough
		t.Errorf("%s", order.body)
	}
	repeat := ask(t, c, base, `mutation ($id: ID!) {
		a: placeOrder(userId: $id, items: [{sku: "tea", quantity: 2, priceCents: 250}, {sku: "cup", quantity: 1, priceCents: "900"}]) { id }
		b: placeOrder(userId: $id, items: [{sku: "pot", quantity: 1, priceCents: 1}]) { id }
	}`, map[string]any{"id": id}, "Idempotency-Key: k2").ok(t)
	if repeat.at(t, "a.id") != order.at(t, "a.id") || repeat.at(t, "b.id") != order.at(t, "b.id") {
		t.Errorf("a repeat made other orders: %s", repeat.body)
	}
	ask(t, c, base, `mutation ($id: ID!) { deleteUser(id: $id) }`, map[string]any{"id": id}).fails(t, 200, "failed_precondition", "RULE_VIOLATED")
}

// TestCalls counts the calls that nested look-ups come to.
func TestCalls(t *testing.T) {
	m, count := start(t, false)
	c, base := m.HTTP(), m.URL(west)
	const users, orders = 7, 3
	for i := range users {
		created := ask(t, c, base, createUser, user(fmt.Sprintf("u%d@example.org", i), "U")).ok(t)
		for range orders {
			ask(t, c, base, `mutation ($id: ID!) { placeOrder(userId: $id, items: [{sku: "tea", quantity: 1, priceCents: 1}]) { id } }`,
				map[string]any{"id": created.at(t, "createUser.id")}).ok(t)
		}
	}
	m.WaitSync("business")
	count.reset()
	got := ask(t, c, base, `{ users(pageSize: 10) { id orders(pageSize: 5) { id user { name orders(pageSize: 5) { user { name } } } } } }`, nil).ok(t)
	if diff := cmp.Diff(map[string]int{"ListUsers": 1, "BatchListOrders": 1, "BatchGetUsers": 1}, count.reset()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	// The next page is of one user: there is no call for several.
	ask(t, c, base, `{ users(pageSize: 10) { orders(pageSize: 5, pageToken: "") { id } } }`, nil).ok(t)
	if diff := cmp.Diff(map[string]int{"ListUsers": 1, "ListOrders": users}, count.reset()); diff != "" {
		t.Errorf("calls with a page's token (-want +got):\n%s", diff)
	}
	all, ok := got.at(t, "users").([]any)
	if !ok || len(all) != users || len(got.at(t, "users.3.orders").([]any)) != orders || got.at(t, "users.6.orders.2.user.orders.0.user.name") != "U" { //nolint:forcetypeassert // as above
		t.Errorf("%s", got.body)
	}
	id, _ := got.at(t, "users.0.id").(string)
	ask(t, c, base, `query ($id: ID!) { user(id: $id) { id } again: user(id: $id) { name } orders(userId: $id) { id } ordersPage(userId: $id) { nextPageToken } }`,
		map[string]any{"id": id}).ok(t)
	if diff := cmp.Diff(map[string]int{"GetUser": 1, "ListOrders": 1}, count.reset()); diff != "" {
		t.Errorf("calls of the same (-want +got):\n%s", diff)
	}
}

// TestHTTP is about what GraphQL over HTTP says.
func TestHTTP(t *testing.T) {
	m, count := start(t, false)
	c, base := m.HTTP(), m.URL(west)
	const query = `{ users { id } }`
	for _, tc := range []struct{ accept, want string }{
		{"", responseType}, {"*/*", responseType}, {responseType, responseType}, {jsonType, jsonType},
		{"application/json, application/graphql-response+json;q=0.5", jsonType}, {"text/html, */*;q=0.1", responseType},
	} {
		r := ask(t, c, base, query, nil, "Accept: "+tc.accept).ok(t)
		if kind := r.header.Get("Content-Type"); kind != tc.want+"; charset=utf-8" {
			t.Errorf("%q: %s", tc.accept, kind)
		}
		// What is no query is 400, but for those who take only JSON.
		status := http.StatusBadRequest
		if tc.want == jsonType {
			status = http.StatusOK
		}
		bad := "Accept: " + tc.accept
		ask(t, c, base, `{ users { `, nil, bad).fails(t, status, "invalid_argument", "GRAPHQL_PARSE_FAILED")
		ask(t, c, base, `{ users { nothing } }`, nil, bad).fails(t, status, "invalid_argument", "GRAPHQL_VALIDATION_FAILED")
		ask(t, c, base, `query ($id: ID!) { user(id: $id) { id } }`, nil, bad).fails(t, status, "invalid_argument", "FIELD_INVALID")
		ask(t, c, base, `query a { users { id } } query b { users { id } }`, nil, bad).fails(t, status, "invalid_argument", "GRAPHQL_REQUEST_INVALID")
	}
	get(t, c, base, query).ok(t)
	head := do(t, c, "HEAD", base+"/graphql?query=%7Busers%7Bid%7D%7D", "")
	if head.Body.Close() != nil || head.StatusCode != http.StatusOK || head.ContentLength <= 0 {
		t.Errorf("HEAD: %s", head.Status)
	}
	count.reset()
	r := get(t, c, base, `mutation { createUser(email: "a@b.cd", name: "A") { id } }`).fails(t, http.StatusMethodNotAllowed, "invalid_argument", "GRAPHQL_REQUEST_INVALID")
	if r.header.Get("Allow") != "POST" || len(count.reset()) > 0 {
		t.Errorf("a mutation by GET: %v", r.header)
	}
	for _, tc := range []struct {
		what, verb, body, kind string
		status                 int
	}{
		{"PUT", "PUT", `{"query":"{users{id}}"}`, jsonType, http.StatusMethodNotAllowed},
		{"no type", "POST", `{"query":"{users{id}}"}`, "", http.StatusUnsupportedMediaType},
		{"a form", "POST", `query=x`, "application/x-www-form-urlencoded", http.StatusUnsupportedMediaType},
		{"text", "POST", `{"query":"{users{id}}"}`, "text/plain", http.StatusUnsupportedMediaType},
		{"no JSON", "POST", `{"query":`, jsonType, http.StatusBadRequest},
		{"a list", "POST", `[]`, jsonType, http.StatusBadRequest},
		{"two", "POST", `{"query":"{users{id}}"} {}`, jsonType, http.StatusBadRequest},
		{"no query", "POST", `{}`, jsonType, http.StatusBadRequest},
		{"variables that are none", "POST", `{"query":"{users{id}}","variables":[1]}`, jsonType, http.StatusBadRequest},
		{"too large", "POST", `{"query":"{users{id}}","variables":{"a":"` + strings.Repeat("x", 1<<20) + `"}}`, jsonType, http.StatusRequestEntityTooLarge},
	} {
		r := send(t, c, tc.verb, base+"/graphql", tc.body, "Content-Type: "+tc.kind)
		if r.status != tc.status || len(r.Errors) == 0 {
			t.Errorf("%s: %d %s", tc.what, r.status, r.body)
		}
	}
	for _, body := range []string{`[{"query":"{users{id}}"}]`, `{"query":5}`, `"x"`, `{"query":"{users{id}}","operationName":[]}`} {
		if r := send(t, c, "POST", base+"/graphql", body, "Content-Type: "+jsonType); r.status != http.StatusBadRequest || strings.Contains(r.body, "Go ") {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
	}
	for body, message := range map[string]string{
		`{"query":"# nothing"}`: "query: has no operation",
		`{"query":"fragment f on User { id }","operationName":"f"}`:          "",
		`{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"abc"}}}`: "PersistedQueryNotSupported",
		`{"extensions":{"other":{}}}`:                                        "query: is required",
		`[]`:                                                                 "the body is no request: want one object of JSON with a query: it is of the type array",
	} {
		r := send(t, c, "POST", base+"/graphql", body, "Content-Type: "+jsonType)
		if r.status != http.StatusBadRequest || message != "" && r.Errors[0].Message != message {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
	}
	paged := ask(t, c, base, `{ users(pageToken: "x") { id } }`, nil).fails(t, 200, "invalid_argument", "PAGE_TOKEN_INVALID")
	if !strings.Contains(paged.body, `"fields":[{"field":"pageToken",`) || paged.Errors[0].Message != "pageToken: is malformed" {
		t.Errorf("a field has another name than the caller's: %s", paged.body)
	}
	if r := ask(t, c, base, query, nil, "Content-Encoding: gzip"); r.status != http.StatusUnsupportedMediaType {
		t.Errorf("compressed: %d %s", r.status, r.body)
	}
	if r := ask(t, c, base, query, nil, "Accept: image/png"); r.status != http.StatusNotAcceptable {
		t.Errorf("image/png: %d", r.status)
	}
	if r := send(t, c, "OPTIONS", base+"/graphql", ""); r.status != http.StatusNoContent || !strings.Contains(r.header.Get("Allow"), "POST") {
		t.Errorf("OPTIONS: %d %v", r.status, r.header)
	}
	named := send(t, c, "POST", base+"/graphql", `{"query":"query a { users { id } } query b { usersPage(pageSize: 1) { nextPageToken } }","operationName":"b"}`,
		"Content-Type: "+jsonType).ok(t)
	if named.Data["usersPage"] == nil {
		t.Errorf("operationName: %s", named.body)
	}
	page := send(t, c, "GET", base+"/graphiql", "")
	if page.status != http.StatusOK || !strings.Contains(page.header.Get("Content-Security-Policy"), "script-src 'self'") ||
		strings.Contains(page.body, "http://") || strings.Contains(page.body, "https://") {
		t.Errorf("page: %d %v", page.status, page.header)
	}
	for _, file := range []string{"/graphiql/page.js", "/graphiql/page.css"} {
		if r := send(t, c, "GET", base+file, ""); r.status != http.StatusOK || strings.Contains(r.body, "//cdn") {
			t.Errorf("%s: %d", file, r.status)
		}
	}
}

// TestLimits asks for too much in each way.
func TestLimits(t *testing.T) {
	m, count := start(t, false)
	c, base := m.HTTP(), m.URL(west)
	deep := strings.Repeat("orders { user { ", 6) + "id" + strings.Repeat(" } }", 6)
	var aliases, bomb strings.Builder
	for i := range 101 {
		fmt.Fprintf(&aliases, "a%d: user(id: %d) { id } ", i, i)
	}
	for i := range 30 {
		fmt.Fprintf(&bomb, "fragment f%d on User { ...f%d ...f%d } ", i, i+1, i+1)
	}
	count.reset()
	for limit, query := range map[string]string{
		"depth":       `{ users { ` + deep + ` } }`,
		"aliases":     `{ ` + aliases.String() + ` }`,
		"cost":        `{ users(pageSize: 1000) { orders(pageSize: 1000) { id } } }`,
		"fields":      `{ users { ...f0 } } ` + bomb.String() + ` fragment f30 on User { id }`,
		"root_fields": `{ ` + strings.Repeat(`users { id } `, 51) + ` }`,
	} {
		r := ask(t, c, base, query, nil).fails(t, http.StatusBadRequest, "resource_exhausted", "GRAPHQL_LIMIT_EXCEEDED")
		if r.Errors[0].Extensions.Metadata["limit"] != limit {
			t.Errorf("%s: %s", limit, r.body)
		}
	}
	for _, query := range []string{ // what takes the validation long
		`{ users { ` + strings.Repeat(`id `, 1900) + ` } }`, `{ users { ` + strings.Repeat(`orders { user { id } } `, 300) + ` } }`,
		`{ users { ...f ...f ...f ...f } } fragment f on User { ` + strings.Repeat(`id `, 400) + ` }`,
	} {
		r := ask(t, c, base, query, nil).fails(t, http.StatusBadRequest, "resource_exhausted", "GRAPHQL_LIMIT_EXCEEDED")
		if !strings.Contains(r.body, "too often") {
			t.Errorf("%s", r.body)
		}
	}
	ask(t, c, base, `{ users { ...f } } fragment f on User { orders { user { ...f } } }`, nil).
		fails(t, http.StatusBadRequest, "invalid_argument", "GRAPHQL_VALIDATION_FAILED")
	ask(t, c, base, `{ `+strings.Repeat("x ", 9000)+` }`, nil).fails(t, http.StatusBadRequest, "invalid_argument", "GRAPHQL_PARSE_FAILED")
	if calls := count.reset(); len(calls) > 0 {
		t.Errorf("refused operations came to calls: %v", calls)
	}
}

func TestIntrospection(t *testing.T) {
	m, _ := start(t, false)
	r := ask(t, m.HTTP(), m.URL(west), `{ __schema { queryType { name } mutationType { name } types { name kind fields { name args { name type { name kind ofType { name } } } } } }
		__type(name: "Order") { name fields { name type { kind name ofType { kind name } } } } __typename users { __typename } }`, nil).ok(t)
	if r.at(t, "__schema.queryType.name") != "Query" || r.at(t, "__typename") != "Query" || r.at(t, "__type.name") != "Order" {
		t.Errorf("%s", r.body)
	}
	if !strings.Contains(r.body, `"name":"createUser"`) || !strings.Contains(r.body, `{"name":"user","type":{"kind":"OBJECT","name":"User","ofType":null}}`) {
		t.Errorf("%s", r.body)
	}
}

// TestCallers has each field pass the same checks as the call that it is.
func TestCallers(t *testing.T) {
	m, _ := start(t, true)
	bare := &http.Client{Transport: &http.Transport{}}
	defer bare.CloseIdleConnections()
	base := m.URL(west)
	r := ask(t, bare, base, `{ users { id } }`, nil).fails(t, http.StatusUnauthorized, "unauthenticated", "UNAUTHENTICATED")
	if r.header.Get("WWW-Authenticate") == "" {
		t.Error("401 without a challenge")
	}
	ask(t, bare, base, `{ nothing }`, nil).fails(t, http.StatusUnauthorized, "unauthenticated", "UNAUTHENTICATED")
	ask(t, bare, base, `{ users { id } }`, nil, "Authorization: Bearer wrong").fails(t, http.StatusUnauthorized, "unauthenticated", "TOKEN_INVALID")
	ask(t, m.HTTP(), base, `{ users { id } databases { databases { name } } }`, nil).ok(t)

	register(t, m, echo.Handler(), &controlv1.RegisterServiceRequest{Descriptors: echo.Descriptors(), Access: controlv1.ServiceAccess_SERVICE_ACCESS_PUBLIC})
	got := ask(t, bare, base, `{ echoGet(value: "hi") }`, nil).ok(t)
	if got.at(t, "echoGet") != "hi" {
		t.Errorf("%s", got.body)
	}
	ask(t, bare, base, `{ users { id } }`, nil).fails(t, http.StatusBadRequest, "invalid_argument", "GRAPHQL_VALIDATION_FAILED")
	ask(t, bare, base, `{ __schema { types { name } } }`, nil).fails(t, http.StatusBadRequest, "permission_denied", "GRAPHQL_INTROSPECTION_OFF")
	both := ask(t, m.HTTP(), base, `{ echoGet(value: "hi") users { id } fail: echoGet(value: "fail") }`, nil).fails(t, http.StatusOK, "not_found", "")
	if both.at(t, "echoGet") != "hi" || both.Data["users"] == nil || both.Data["fail"] != nil {
		t.Errorf("%s", both.body)
	}
}

func TestSubscriptions(t *testing.T) {
	m, _ := start(t, true)
	c, base := m.HTTP(), m.URL(west)
	register(t, m, echo.Handler(), &controlv1.RegisterServiceRequest{Descriptors: echo.Descriptors()})
	s := subscribe(t, c, base, `subscription ($n: Int64) { count: echoCount(value: $n) }`, map[string]any{"n": 5})
	for i := range 5 {
		if kind, r := s.next(); kind != "next" || r.Data["count"] != fmt.Sprint(i+1) {
			t.Fatalf("event %d: %s %s", i, kind, r.body)
		}
	}
	if kind, _ := s.next(); kind != "complete" {
		t.Errorf("want the end: %s", kind)
	}
	// A query's answer as it changes, which the mesh itself streams.
	s = subscribe(t, c, base, `subscription { watchQuery(database: "business", statement: {sql: "SELECT count(*) FROM users"}) { result { rows { values { integer } } } } }`, nil)
	count := func() any {
		for {
			kind, r := s.next()
			if kind != "next" || len(r.Errors) > 0 {
				t.Fatalf("%s %s", kind, r.body)
			}
			if r.at(t, "watchQuery.result") != nil {
				return r.at(t, "watchQuery.result.rows.0.values.0.integer")
			}
		}
	}
	if got := count(); got != "0" {
		t.Errorf("users: %v", got)
	}
	ask(t, c, base, createUser, user("ada@example.org", "Ada")).ok(t)
	if got := count(); got != "1" {
		t.Errorf("users: %v", got)
	}
	s.res.Body.Close()
	// What goes wrong is an event too.
	for query, reason := range map[string]string{
		`subscription { nothing }`: "GRAPHQL_VALIDATION_FAILED",
		`subscription { dataWatch(database: "business", table: "nothing") { __typename } }`: "TABLE_NOT_FOUND",
	} {
		s := subscribe(t, c, base, query, nil)
		kind, r := s.next()
		if kind != "next" || len(r.Errors) == 0 || r.Errors[0].Extensions.Reason != reason {
			t.Errorf("%s: %s %s", query, kind, r.body)
		}
		if kind, _ := s.next(); kind != "complete" {
			t.Errorf("%s: want the end: %s", query, kind)
		}
	}
	// A query takes the same way where a client asks for events alone.
	s = subscribe(t, c, base, `{ users { email } }`, nil)
	if kind, r := s.next(); kind != "next" || r.at(t, "users.0.email") != "ada@example.org" {
		t.Errorf("%s %s", kind, r.body)
	}
	ask(t, c, base, `subscription { echoCount(value: 1) }`, nil).fails(t, http.StatusNotAcceptable, "invalid_argument", "GRAPHQL_REQUEST_INVALID")
	if r := get(t, c, base, `subscription { echoCount(value: 1) }`, "Accept: "+eventsType); !strings.Contains(r.body, "want POST") {
		t.Errorf("by GET what may change something: %d %s", r.status, r.body)
	}
}

// TestSubscriptionsOfAGatewayThatStops are cut off: clients begin what is cut off again, and not what is complete.
func TestSubscriptionsOfAGatewayThatStops(t *testing.T) {
	m, _ := start(t, true)
	s := subscribe(t, m.HTTP(), m.URL(west), `subscription { watchQuery(database: "business", statement: {sql: "SELECT 1"}) { __typename } }`, nil)
	if kind, r := s.next(); kind != "next" || len(r.Errors) > 0 {
		t.Fatalf("%s %s", kind, r.body)
	}
	m.StopSidecar(west)
	for s.lines.Scan() {
		if line := s.lines.Text(); line == "event: complete" || strings.Contains(line, `"errors"`) {
			t.Errorf("after the gateway was told to stop: %s", line)
		}
	}
}

func TestRegisteredWhileItRuns(t *testing.T) {
	m, _ := start(t, false)
	c, base := m.HTTP(), m.URL(east)
	const query = `mutation { echo(value: "hi") }`
	ask(t, c, base, query, nil).fails(t, http.StatusBadRequest, "invalid_argument", "GRAPHQL_VALIDATION_FAILED")
	register(t, m, echo.Handler(), &controlv1.RegisterServiceRequest{Descriptors: echo.Descriptors()})
	m.Eventually("the schema has it", func(context.Context) error {
		r := ask(t, c, base, query, nil)
		if r.status != http.StatusOK || r.Data["echo"] != "hi" {
			return fmt.Errorf("%d %s", r.status, r.body)
		}
		return nil
	})
}
