package browser_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/services/business"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	east = "us-east-1"
	west = "eu-west-1"

	app  = "https://app.example.org"
	evil = "https://evil.example"

	listUsers = "/nearside.business.v1.UserService/ListUsers"
)

func start(t *testing.T) *meshtest.Mesh {
	t.Helper()
	m := meshtest.Start(t, meshtest.Options{
		Regions: []string{east, west}, Mount: business.Mount, MountedServices: business.Names, Auth: true,
	})
	if err := business.Setup(t.Context(), m.Client("")); err != nil {
		t.Fatal(err)
	}
	m.WaitSync(business.Database)
	return m
}

func policies(m *meshtest.Mesh, region string) controlv1connect.CorsServiceClient {
	return controlv1connect.NewCorsServiceClient(m.HTTP(), m.URL(region))
}

func set(t *testing.T, m *meshtest.Mesh, region string, p *controlv1.CorsPolicy) {
	t.Helper()
	_, err := policies(m, region).SetCorsPolicy(t.Context(), connect.NewRequest(&controlv1.SetCorsPolicyRequest{Policy: p}))
	if err != nil {
		t.Fatal(err)
	}
}

// ask makes a request; headers are "Name: value".
func ask(t *testing.T, c *http.Client, verb, url, body string, headers ...string) (int, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), verb, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header
}

func corsHeaders(h http.Header) (names []string) {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			names = append(names, name)
		}
	}
	return names
}

// doors are requests as browsers send them by each protocol, and what they ask for before.
var doors = []struct {
	name, verb, path, body string
	headers                []string
	status                 int
}{
	{"Connect", "POST", listUsers, "{}", []string{
		"Content-Type: application/json", "Connect-Protocol-Version: 1", "Connect-Timeout-Ms: 5000", "Nearside-Bookmark: ",
	}, 200},
	{"Connect of the mesh's own", "POST", "/nearside.data.v1.DataService/ListDatabases", "{}", []string{
		"Content-Type: application/json", "Connect-Protocol-Version: 1", "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	}, 200},
	{"gRPC-Web", "POST", listUsers, "\x00\x00\x00\x00\x00", []string{
		"Content-Type: application/grpc-web+proto", "X-Grpc-Web: 1", "X-User-Agent: connect-es/2", "Grpc-Timeout: 5S",
	}, 200},
	{"Connect by GET", "GET", listUsers + "?encoding=json&message=%7B%7D&connect=v1", "", nil, 200},
	{"REST", "GET", "/v1/users", "", []string{`If-None-Match: "x"`}, 200},
	{"REST that changes", "DELETE", "/v1/users/nobody", "", []string{`If-Match: "1"`, "Idempotency-Key: k"}, 404},
	{"what is not there", "GET", "/nope", "", nil, 404},
}

func TestOrigins(t *testing.T) {
	m := start(t)
	set(t, m, west, &controlv1.CorsPolicy{Origins: []string{app}})
	m.Eventually("the other region has the policy", func(context.Context) error {
		if _, h := ask(t, m.HTTP(), "GET", m.URL(east)+"/v1/users", "", "Origin: "+app); len(corsHeaders(h)) == 0 {
			return errors.New("no headers")
		}
		return nil
	})
	bare := &http.Client{Transport: &http.Transport{}}
	defer bare.CloseIdleConnections()
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			var names []string
			for _, h := range append([]string{"Authorization: x"}, door.headers...) {
				name, _, _ := strings.Cut(h, ": ")
				names = append(names, strings.ToLower(name))
			}
			url := m.URL(west) + door.path
			for origin, allowed := range map[string]bool{app: true, evil: false, m.URL(east): true, m.URL(west): false, "null": false} {
				own := origin == m.URL(west) // a page of the gateway needs no permission, and gets no headers
				status, h := ask(t, bare, "OPTIONS", url, "", "Origin: "+origin, "Access-Control-Request-Method: "+door.verb,
					"Access-Control-Request-Headers: "+strings.Join(names, ","))
				if !own && (status != http.StatusNoContent || (h.Get("Access-Control-Allow-Origin") == origin) != allowed) {
					t.Errorf("preflight of %s: %d %v", origin, status, h)
				}
				if !allowed && len(corsHeaders(h)) > 0 {
					t.Errorf("preflight of %s has %v", origin, corsHeaders(h))
				}
				status, h = ask(t, m.HTTP(), door.verb, url, door.body, append([]string{"Origin: " + origin}, door.headers...)...)
				if status != door.status || (h.Get("Access-Control-Allow-Origin") == origin) != allowed {
					t.Errorf("%s: %d %v", origin, status, h)
				}
				if !allowed && len(corsHeaders(h)) > 0 {
					t.Errorf("%s has %v", origin, corsHeaders(h))
				}
				if allowed && !strings.Contains(h.Get("Access-Control-Expose-Headers"), "nearside-bookmark") ||
					h.Get("Access-Control-Allow-Credentials") != "" {
					t.Errorf("%s: %v", origin, h)
				}
				if !varies(h) || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Security-Policy") == "" {
					t.Errorf("%s: %v", origin, h)
				}
				// Who is refused for another reason reads why.
				status, h = ask(t, bare, door.verb, url, door.body, append([]string{"Origin: " + origin}, door.headers...)...)
				if status == http.StatusUnauthorized && (h.Get("Access-Control-Allow-Origin") == origin) != allowed {
					t.Errorf("%s without a credential: %d %v", origin, status, h)
				}
			}
			status, h := ask(t, m.HTTP(), door.verb, url, door.body, door.headers...)
			if status != door.status || len(corsHeaders(h)) > 0 || door.verb == "GET" && !varies(h) {
				t.Errorf("without an origin: %d %v", status, h)
			}
		})
	}
	t.Run("cleared", func(t *testing.T) {
		if _, err := policies(m, west).ClearCorsPolicy(t.Context(), connect.NewRequest(&controlv1.ClearCorsPolicyRequest{})); err != nil {
			t.Fatal(err)
		}
		if _, h := ask(t, m.HTTP(), "GET", m.URL(west)+"/v1/users", "", "Origin: "+app); len(corsHeaders(h)) > 0 {
			t.Errorf("got %v", h)
		}
		if _, h := ask(t, m.HTTP(), "GET", m.URL(west)+"/v1/users", "", "Origin: "+m.URL(east)); len(corsHeaders(h)) == 0 {
			t.Errorf("another region's page: %v", h)
		}
		localhost := strings.Replace(m.URL(east), "127.0.0.1", "localhost", 1)
		if _, h := ask(t, m.HTTP(), "GET", m.URL(west)+"/v1/users", "", "Origin: "+localhost); len(corsHeaders(h)) == 0 {
			t.Errorf("another region's page by its other name: %v", h)
		}
	})
}

func varies(h http.Header) bool {
	for _, list := range h.Values("Vary") {
		for name := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(name), "Origin") {
				return true
			}
		}
	}
	return false
}

// TestExpress has what passes net/http by not answer pages without what they need.
func TestExpress(t *testing.T) {
	m := start(t)
	m.Create("shop")
	m.Exec("", "shop", "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)")
	m.Exec("", "shop", "INSERT INTO items VALUES (1, 'apple')")
	m.WaitSync("shop")
	set(t, m, west, &controlv1.CorsPolicy{Origins: []string{app}, Credentials: true, ExposeHeaders: []string{"X-Cost"}})
	data := datav1connect.NewDataServiceClient(m.HTTP(), m.URL(west))
	for i := range 4 {
		req := connect.NewRequest(&datav1.GetRequest{
			Database: "shop", Table: "items", Key: &datav1.Key{Values: []*datav1.Value{{Kind: &datav1.Value_Integer{Integer: 1}}}},
		})
		if i%2 == 1 {
			req.Header().Set("Origin", app)
		}
		res, err := data.Get(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if got := res.Header().Get("Access-Control-Allow-Origin"); (got == app) != (i%2 == 1) {
			t.Errorf("%d: %v", i, res.Header())
		}
		if i%2 == 1 && (res.Header().Get("Access-Control-Allow-Credentials") != "true" ||
			!strings.Contains(res.Header().Get("Access-Control-Expose-Headers"), "x-cost")) {
			t.Errorf("%d: %v", i, res.Header())
		}
	}
}

// TestServiceOfOthers has a service that speaks of origins itself: the gateway's word counts.
func TestServiceOfOthers(t *testing.T) {
	m := start(t)
	inner := echo.Handler()
	server := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Vary", "X-Tenant")
		w.Header().Set("Content-Security-Policy", "default-src *")
		inner.ServeHTTP(w, r)
	}))
	_, err := controlv1connect.NewServiceRegistryServiceClient(m.HTTP(), m.URL(west)).RegisterService(t.Context(),
		connect.NewRequest(&controlv1.RegisterServiceRequest{
			Descriptors: echo.Descriptors(), Endpoints: []*controlv1.ServiceEndpoint{{Url: server}},
		}))
	if err != nil {
		t.Fatal(err)
	}
	set(t, m, west, &controlv1.CorsPolicy{Origins: []string{"https://*.example.org"}})
	for origin, allowed := range map[string]string{app: app, evil: ""} {
		status, h := ask(t, m.HTTP(), "POST", m.URL(west)+echo.Echo, `"hi"`, "Content-Type: application/json", "Origin: "+origin)
		if status != http.StatusOK || strings.Join(h.Values("Access-Control-Allow-Origin"), "") != allowed || !varies(h) ||
			!strings.Contains(strings.Join(h.Values("Vary"), ","), "X-Tenant") || strings.Contains(h.Get("Content-Security-Policy"), "*") {
			t.Errorf("%s: %d %v", origin, status, h)
		}
	}
}

func newServer(t *testing.T, h http.Handler) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, done := echo.Server(h), make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln) // ends with Close
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return "http://" + ln.Addr().String()
}

func TestPolicy(t *testing.T) {
	m := start(t)
	c := policies(m, west)
	get := func() *controlv1.CorsPolicy {
		t.Helper()
		res, err := c.GetCorsPolicy(t.Context(), connect.NewRequest(&controlv1.GetCorsPolicyRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg.GetPolicy()
	}
	if got := get(); got != nil {
		t.Errorf("before: %v", got)
	}
	set(t, m, west, &controlv1.CorsPolicy{Origins: []string{"HTTPS://App.Example.org:443/"}, AllowHeaders: []string{"X-Tenant"}})
	if got := get(); len(got.GetOrigins()) != 1 || got.GetOrigins()[0] != app || got.GetMaxAge().GetSeconds() != 7200 ||
		got.GetAllowHeaders()[0] != "x-tenant" {
		t.Errorf("got %v", got)
	}
	for field, bad := range map[string]*controlv1.CorsPolicy{
		"policy.origins[1]":       {Origins: []string{app, "app"}},
		"policy.origins[0]":       {Origins: []string{"*"}, Credentials: true},
		"policy.allow_headers[0]": {Origins: []string{app}, AllowHeaders: []string{"a b"}},
		"policy.origins":          {},
	} {
		_, err := c.SetCorsPolicy(t.Context(), connect.NewRequest(&controlv1.SetCorsPolicyRequest{Policy: bad}))
		if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_FIELD_INVALID || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if got := get(); got.GetOrigins()[0] != app {
		t.Errorf("after refused ones: %v", got)
	}
	// It holds without the primary too.
	m.StopPrimary()
	if _, h := ask(t, m.HTTP(), "GET", m.URL(west)+"/v1/users", "", "Origin: "+app); h.Get("Access-Control-Allow-Origin") != app {
		t.Errorf("without the primary: %v", h)
	}
	m.StartPrimary()
}
