package semantics_test

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
)

// TestBothWays has a registered service's answer be the same by both ways that a call passes on, the short one over HTTP/1.1 for bodies
// of a known length and the long one, whatever headers the service thinks of.
func TestBothWays(t *testing.T) {
	w := start(t)
	const pkg = "acme.odd.v1"
	answers := map[string]func(http.ResponseWriter){
		"page":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, `"x"`) },
		"teapot": func(w http.ResponseWriter) { w.WriteHeader(http.StatusTeapot) },
		"none":   func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) },
		"long":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, strings.Repeat("x", 200_000)) },
	}
	server := echo.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		// What only a gateway may say, and what is of one connection.
		for _, name := range []string{"Access-Control-Allow-Origin", "access-control-allow-credentials", "Access-Control-Anything"} {
			h[name] = []string{"*"}
		}
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "1")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("Upgrade", "websocket")
		h["X-Many"] = []string{"a", "b"}
		h.Set("Vary", "X-Tenant")
		h.Set("Cache-Control", "max-age=5")
		h.Set("Set-Cookie", "a=b")
		h.Set("Trailer-X", "kept")
		answers[r.Header.Get("Answer")](w)
	}))
	url := serve(t, server)
	_, err := controlv1connect.NewServiceRegistryServiceClient(w.mesh.HTTP(), w.mesh.URL(region)).RegisterService(t.Context(), connect.NewRequest(
		&controlv1.RegisterServiceRequest{Descriptors: echo.DescriptorsOf(pkg), Endpoints: []*controlv1.ServiceEndpoint{{Url: url}}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range slices.Sorted(maps.Keys(answers)) {
		t.Run(answer, func(t *testing.T) {
			get := func(express bool) (int, http.Header, string) {
				var body io.Reader = strings.NewReader(`"x"`)
				if !express {
					body = io.MultiReader(body) // of no known length
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.mesh.URL(region)+"/"+pkg+".EchoService/Echo", body)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Authorization", "Bearer "+w.token)
				req.Header.Set("Answer", answer)
				c := &http.Client{Transport: &http.Transport{DisableCompression: true}}
				defer c.CloseIdleConnections()
				res, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				text, err := io.ReadAll(res.Body)
				if err != nil {
					t.Fatal(err)
				}
				return res.StatusCode, res.Header, string(text)
			}
			short, shortHeader, shortText := get(true)
			whole, wholeHeader, wholeText := get(false)
			for _, h := range []http.Header{shortHeader, wholeHeader} {
				for _, name := range []string{"Date", "Content-Length", "X-Request-Id"} { // of the listener; of how it was sent; of one request
					h.Del(name)
				}
				for name := range h {
					if strings.HasPrefix(http.CanonicalHeaderKey(name), "Access-Control-") || name == "X-Hop" || name == "Proxy-Authenticate" || name == "Upgrade" {
						t.Errorf("passed on: %s", name)
					}
				}
			}
			if short != whole || shortText != wholeText {
				t.Errorf("answers %d, %d bytes and %d, %d bytes", short, len(shortText), whole, len(wholeText))
			}
			if !maps.EqualFunc(shortHeader, wholeHeader, slices.Equal[[]string]) {
				t.Errorf("headers\n%v and\n%v", shortHeader, wholeHeader)
			}
			if !slices.Equal(shortHeader["X-Many"], []string{"a", "b"}) || shortHeader.Get("Trailer-X") != "kept" {
				t.Errorf("headers %v", shortHeader)
			}
		})
	}
}

// TestGoingRound has a gateway be an endpoint of a service that it reaches.
func TestGoingRound(t *testing.T) {
	w := start(t)
	for pkg, query := range map[string]string{"acme.short.v1": "", "acme.long.v1": "?x=1"} { // by the short way, and by the long one
		w.goRound(t, pkg, query)
	}
	if got := w.ask(t, "POST", echo.Echo, `"x"`, "Nearside-Hops: many"); got.status != http.StatusServiceUnavailable {
		t.Errorf("a caller's own number: %d %s", got.status, got.body)
	}
	if got := w.ask(t, "POST", echo.Echo, `"x"`, "Nearside-Hops: 3"); got.status != http.StatusOK || got.body != `"x"` {
		t.Errorf("within the limit: %d %s", got.status, got.body)
	}
}

func (w *world) goRound(t *testing.T, pkg, query string) {
	t.Helper()
	_, err := controlv1connect.NewServiceRegistryServiceClient(w.mesh.HTTP(), w.mesh.URL(region)).RegisterService(t.Context(), connect.NewRequest(
		&controlv1.RegisterServiceRequest{
			Descriptors: echo.DescriptorsOf(pkg), Access: controlv1.ServiceAccess_SERVICE_ACCESS_PUBLIC,
			Endpoints: []*controlv1.ServiceEndpoint{{Url: w.mesh.URL(region)}},
		}))
	if err != nil {
		t.Fatal(err)
	}
	got := w.ask(t, "POST", "/"+pkg+".EchoService/Echo"+query, `"x"`)
	if got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, `"loop":"true"`) {
		t.Errorf("%s: %d %s", pkg, got.status, got.body)
	}
}

// TestEarlyAnswers has a service answer before it has read its request. What is left of the request is never taken for another one, and
// is no harm to the gateway.
func TestEarlyAnswers(t *testing.T) {
	w := start(t)
	const pkg = "acme.early.v1"
	server := echo.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") == "application/grpc+proto" {
			w.Header().Set("Content-Type", "application/grpc+proto")
			w.Header().Set("Grpc-Status", "8")
			return
		}
		_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 has it anyway
		w.Header().Set("Content-Type", "application/connect+json")
		_, _ = io.WriteString(w, "\x02\x00\x00\x00\x02{}")
	}))
	for _, protocol := range []controlv1.ServiceProtocol{controlv1.ServiceProtocol_SERVICE_PROTOCOL_UNSPECIFIED, controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC} {
		_, err := controlv1connect.NewServiceRegistryServiceClient(w.mesh.HTTP(), w.mesh.URL(region)).RegisterService(t.Context(), connect.NewRequest(
			&controlv1.RegisterServiceRequest{
				Descriptors: echo.DescriptorsOf(pkg), Protocol: protocol, Endpoints: []*controlv1.ServiceEndpoint{{Url: serve(t, server)}},
			}))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.mesh.URL(region), "http://"))
			if err != nil {
				t.Fatal(err)
			}
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, err = fmt.Fprintf(conn, "POST /%s.EchoService/Sum HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/connect+json\r\n"+
				"Transfer-Encoding: chunked\r\n\r\n5\r\n\x00\x00\x00\x00\x09\r\n", pkg, w.token)
			if err != nil {
				t.Fatal(err)
			}
			from := bufio.NewReader(conn)
			res, err := http.ReadResponse(from, nil)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(res.Body); err != nil {
				t.Logf("%d %v %q", res.StatusCode, res.Header, text)
				t.Errorf("%v: the answer: %v", protocol, err)
			}
			_ = res.Body.Close()
			if !res.Close {
				t.Errorf("%v: the connection goes on: %v", protocol, res.Header)
			}
			_, _ = io.WriteString(conn, "2a\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n\r\n0\r\n\r\n")
			if text, _ := io.ReadAll(from); len(text) > 0 {
				t.Errorf("the rest of the request was answered: %s", text)
			}
			_ = conn.Close()
		}
		server = echo.Server(server.Handler) // the next one is another
	}
	// Over HTTP/2 the gateway's own client is still reading the request when it is answered.
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	c := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	defer c.CloseIdleConnections()
	for range 50 {
		body, more := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.mesh.URL(region)+"/"+pkg+".EchoService/Sum", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Authorization", "Bearer "+w.token)
		go func() { _, _ = more.Write(make([]byte, 100)) }()
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		_ = more.Close()
	}
}
