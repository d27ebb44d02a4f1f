package graphql_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/services/business"
)

// wire is a connection on which requests are sent as they are written.
type wire struct {
	t      *testing.T
	conn   net.Conn
	reader *bufio.Reader
}

func dial(t *testing.T, base string) *wire {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &wire{t, conn, bufio.NewReader(conn)}
}

// ask sends a request and reads the answer. Headers are "Name: value".
func (w *wire) ask(verb, path, body string, headers ...string) *reply {
	w.t.Helper()
	if body != "" {
		headers = append(slices.Clip(headers), fmt.Sprintf("Content-Length: %d", len(body)))
	}
	text := verb + " " + path + " HTTP/1.1\r\nHost: gateway\r\n" + strings.Join(append(headers, "", ""), "\r\n") + body
	if _, err := io.WriteString(w.conn, text); err != nil {
		w.t.Fatal(err)
	}
	res, err := http.ReadResponse(w.reader, &http.Request{Method: verb})
	if err != nil {
		w.t.Fatalf("%s %s: %v", verb, path, err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return &reply{status: res.StatusCode, header: res.Header, body: string(content)}
}

// said is what counts of an answer: its status, its headers but for those that differ from call to call, and what its JSON means.
func (r *reply) said(t *testing.T) map[string]any {
	t.Helper()
	header := maps.Clone(r.header)
	if len(header["X-Request-Id"]) != 1 {
		t.Errorf("ids of the request: %q", header["X-Request-Id"])
	}
	for _, name := range []string{"Date", "Nearside-Staleness-Ms", "Content-Length", "X-Request-Id"} {
		delete(header, name)
	}
	vary := strings.Split(strings.ReplaceAll(strings.Join(header["Vary"], ","), " ", ""), ",")
	slices.Sort(vary)
	header["Vary"] = slices.Compact(vary)
	var body any
	if r.body != "" {
		if err := json.Unmarshal([]byte(r.body), &body); err != nil {
			t.Fatalf("%v: %s", err, r.body)
		}
	}
	return map[string]any{"status": r.status, "header": header, "body": body}
}

// quickly reports how many requests a region has answered without net/http.
func quickly(t *testing.T, m *meshtest.Mesh) (n int) {
	t.Helper()
	r := send(t, http.DefaultClient, "GET", m.Sidecar(west).AdminURL()+"/metrics", "")
	for line := range strings.Lines(r.body) {
		if strings.HasPrefix(line, "nearside_server_express_total{") && strings.Contains(line, `"gateway"`) {
			if _, err := fmt.Sscanf(line[strings.LastIndexByte(line, ' '):], "%d", &n); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

// TestShortWays asks the same on a connection of which nothing is known yet, which may have the short way, and as a request that says
// something about its connection, which never has: both are answered alike, and those that should have the short way have it.
func TestShortWays(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	m := meshtest.Start(t, meshtest.Options{
		Regions: []string{east, west}, Mount: business.Mount, MountedServices: business.Names, Hot: business.Hot, Auth: true,
	})
	if err := business.Setup(t.Context(), m.Client("")); err != nil {
		t.Fatal(err)
	}
	base := m.URL(west)
	created := ask(t, m.HTTP(), base, createUser, user("ada@example.org", `Ada "Ü" <L>`)).ok(t)
	id, _ := created.at(t, "createUser.id").(string)
	m.WaitSync(business.Database)
	token, other := "Authorization: Bearer "+m.AdminToken(), "Authorization: Bearer "+account(t, m, "other")
	reader := "Authorization: Bearer " + account(t, m, "reader", &authv1.Grant{Role: authv1.Role_ROLE_READER, Database: business.Database})
	mark := "Nearside-Bookmark: " + created.header.Get("Nearside-Bookmark")
	m.Create("more")
	foreign := m.Exec(west, "more", "CREATE TABLE t (id INTEGER PRIMARY KEY)").GetAnswer().GetBookmark()
	m.WaitSync("more")
	tag := fmt.Sprintf(`"%s"`, created.at(t, "createUser.version"))
	path, jsonBody := "/v1/users/"+id, "Content-Type: application/json"
	query := func(text, variables string) string {
		body, err := json.Marshal(map[string]any{"query": text, "variables": json.RawMessage(variables)})
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	one := fmt.Sprintf(`{"id":%q}`, id)
	for _, tc := range []struct {
		name, verb, path, body string
		headers                []string
		short                  bool
		status                 int
	}{
		{"REST", "GET", path, "", []string{token}, true, 200},
		{"REST as a browser asks", "GET", path, "", []string{token, "Accept: application/json, text/plain, */*", "Accept-Encoding: gzip, br", "User-Agent: x"}, true, 200},
		{"REST, a reader", "GET", path, "", []string{reader}, true, 200},
		{"REST with a bookmark", "GET", path, "", []string{token, mark}, true, 200},
		{"REST with bookmarks of two databases", "GET", path, "", []string{token, mark + "," + foreign}, true, 200},
		{"REST, nobody", "GET", path, "", nil, false, 401},
		{"REST, a bad credential", "GET", path, "", []string{"Authorization: Bearer x"}, false, 401},
		{"REST, who may not", "GET", path, "", []string{other}, false, 403},
		{"REST, a bad bookmark", "GET", path, "", []string{token, "Nearside-Bookmark: x"}, false, 400},
		{"REST, an unknown user", "GET", "/v1/users/nobody", "", []string{token}, false, 404},
		{"REST, a name that is too long", "GET", "/v1/users/" + strings.Repeat("x", 65), "", []string{token}, false, 400},
		{"REST, no name", "GET", "/v1/users/", "", []string{token}, false, 404},
		{"REST, more behind it", "GET", path + "/", "", []string{token}, false, 404},
		{"REST of a list", "GET", "/v1/users", "", []string{token}, false, 200},
		{"REST with a parameter", "GET", path + "?fields=id", "", []string{token}, false, 200},
		{"REST, not for JSON", "GET", path, "", []string{token, "Accept: image/png"}, false, 406},
		{"REST, the same tag", "GET", path, "", []string{token, "If-None-Match: " + tag}, false, 304},
		{"REST, another tag", "GET", path, "", []string{token, `If-None-Match: "1"`}, false, 200},
		{"REST, another verb", "DELETE", "/v1/users", "", []string{token}, false, 405},
		{"REST, sent to what is read", "POST", path, "{}", []string{token, jsonBody}, false, 405},
		{"GraphQL", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { id name email version createTime updateTime } }`, one), []string{token, jsonBody}, true, 200},
		{"GraphQL, JSON alone", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { name } }`, one), []string{token, jsonBody, "Accept: application/json"}, true, 200},
		{"GraphQL, other names", "POST", "/graphql", query(`query q($id: ID!) { me: user(id: $id) { kind: __typename n: name name ...f } } fragment f on User { name email }`, one), []string{token, jsonBody}, true, 200},
		{"GraphQL, written out", "POST", "/graphql", query(`{ user(id: "`+id+`") { id } }`, `null`), []string{reader, jsonBody}, true, 200},
		{"GraphQL with bookmarks of two databases", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { id } }`, one), []string{token, jsonBody, mark + "," + foreign}, true, 200},
		{"GraphQL with a key", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { id } }`, one), []string{token, jsonBody, "Idempotency-Key: k"}, true, 200},
		{"GraphQL, nobody", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { id } }`, one), []string{jsonBody}, false, 401},
		{"GraphQL, who may not", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { id } }`, one), []string{other, jsonBody}, false, 200},
		{"GraphQL, an unknown user", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { id } }`, `{"id":"nobody"}`), []string{token, jsonBody}, false, 200},
		{"GraphQL, no variable", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { id } }`, `{}`), []string{token, jsonBody}, false, 400},
		{"GraphQL, no query", "POST", "/graphql", `{"query":"{"}`, []string{token, jsonBody}, false, 400},
		{"GraphQL, no JSON", "POST", "/graphql", `{"query`, []string{token, jsonBody}, false, 400},
		{"GraphQL, what it refers to", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { id orders { id } } }`, one), []string{token, jsonBody}, false, 200},
		{"GraphQL, a condition", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { id name @skip(if: true) } }`, one), []string{token, jsonBody}, false, 200},
		{"GraphQL, two", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { id } other: user(id: $id) { id } }`, one), []string{token, jsonBody}, false, 200},
		{"GraphQL, the schema", "POST", "/graphql", `{"query":"{ __schema { queryType { name } } }"}`, []string{token, jsonBody}, false, 200},
		{"GraphQL in another type", "POST", "/graphql", query(`query ($id: ID!) { user(id: $id) { id } }`, one), []string{token, "Content-Type: text/plain"}, false, 415},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var general *reply
			for range 50 { // what it reads is in memory then
				general = dial(t, base).ask(tc.verb, tc.path, tc.body, append(slices.Clip(tc.headers), "Te: trailers")...)
				if !tc.short || general.header.Get("Nearside-Source") == "MEMORY" {
					break
				}
			}
			before := quickly(t, m)
			w := dial(t, base)
			got := w.ask(tc.verb, tc.path, tc.body, tc.headers...)
			if n := quickly(t, m) - before; n > 1 || n == 1 != tc.short {
				t.Errorf("%d answers had the short way", n)
			}
			if got.status != tc.status {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			if !tc.short { // both had the same way, and the first one may have brought something into memory
				general.header.Del("Nearside-Source")
				got.header.Del("Nearside-Source")
			}
			if diff := cmp.Diff(general.said(t), got.said(t)); diff != "" {
				t.Errorf("the short way (-general +short):\n%s", diff)
			}
			if tc.short {
				over := http2(t, base, tc.verb, tc.path, tc.body, tc.headers)
				if diff := cmp.Diff(general.said(t), over.said(t)); diff != "" {
					t.Errorf("over HTTP/2 (-general +HTTP/2):\n%s", diff)
				}
			}
			// The connection goes on, whichever way it was.
			if again := w.ask("GET", path, "", token); again.status != http.StatusOK {
				t.Errorf("afterwards: %d %s", again.status, again.body)
			}
		})
	}
	t.Run("a rate limit", func(t *testing.T) { limited(t, m, base, path, reader) })
	t.Run("a change", func(t *testing.T) {
		w := dial(t, base)
		w.ask("GET", path, "", token)
		ask(t, m.HTTP(), base, `mutation ($id: ID!) { updateUser(id: $id, name: "Changed") { id } }`, map[string]any{"id": id}).ok(t)
		m.WaitSync(business.Database)
		if got := w.ask("GET", path, "", token); !strings.Contains(got.body, `"Changed"`) {
			t.Errorf("after a change: %s", got.body)
		}
	})
}

// limited has the short way take as many tokens as the general one: of the method that is called, and of the one that it calls.
func limited(t *testing.T, m *meshtest.Mesh, base, path, token string) {
	t.Helper()
	accounts := authv1connect.NewAccountServiceClient(m.HTTP(), base)
	set := func(method string, perSecond float64, burst uint32) {
		res, err := accounts.SetRateLimit(t.Context(), connect.NewRequest(&authv1.SetRateLimitRequest{Limit: &authv1.RateLimit{
			Scope: authv1.RateLimitScope_RATE_LIMIT_SCOPE_METHOD, Subject: method, PerSecond: perSecond, Burst: burst,
		}}))
		if err != nil {
			t.Fatal(err)
		}
		known := "Nearside-Bookmark: " + res.Header().Get("Nearside-Bookmark")
		if r := dial(t, base).ask("GET", "/v1/databases", "", token, known); r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
	}
	for _, method := range []string{"/nearside.business.v1.UserService/GetUser", "/nearside.data.v1.DataService/Get"} {
		set(method, 0.001, 3)
		allowed := 0
		for range 10 {
			if dial(t, base).ask("GET", path, "", token).status == http.StatusOK {
				allowed++
			}
		}
		if allowed != 3 {
			t.Errorf("%s: %d of 10 were let in, want 3", method, allowed)
		}
		set(method, 1e6, 1e6)
	}
}

// account makes a user with grants and returns their token.
func account(t *testing.T, m *meshtest.Mesh, name string, grants ...*authv1.Grant) string {
	t.Helper()
	const password = "a password for a while"
	_, err := authv1connect.NewAccountServiceClient(m.HTTP(), m.URL(west)).CreateAccount(t.Context(), connect.NewRequest(&authv1.CreateAccountRequest{
		Kind: authv1.AccountKind_ACCOUNT_KIND_USER, Name: name, Password: password, Grants: grants,
	}))
	if err != nil && rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_ALREADY_EXISTS {
		t.Fatal(err)
	}
	res, err := authv1connect.NewAuthServiceClient(m.HTTP(), m.URL(west)).Authenticate(t.Context(), connect.NewRequest(&authv1.AuthenticateRequest{
		Credential: &authv1.AuthenticateRequest_Password_{Password: &authv1.AuthenticateRequest_Password{Name: name, Password: password}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetTokens().GetAccessToken()
}

// http2 sends a request over HTTP/2.
func http2(t *testing.T, base, verb, path, body string, headers []string) *reply {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DisableCompression: true}
	defer transport.CloseIdleConnections()
	res := do(t, &http.Client{Transport: transport}, verb, base+path, body, headers...)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.ProtoMajor != 2 {
		t.Fatalf("HTTP/%d: %v", res.ProtoMajor, err)
	}
	return &reply{status: res.StatusCode, header: res.Header, body: string(text)}
}
