package semantics_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/sidecar"
)

// TestRefusals is of requests that are no good, by the words that HTTP has for them.
func TestRefusals(t *testing.T) {
	w := start(t)
	user := `{"email":"x@example.org","name":"X"}`
	for _, tc := range []struct {
		name, verb, path, body string
		headers                []string
		status                 int
		header, value          string // of the answer
	}{
		{"REST, XML", "POST", "/v1/users", "<u/>", []string{"Content-Type: text/xml"}, 415, "Accept-Post", "application/json"},
		{"REST, patch of XML", "PATCH", w.user, "<u/>", []string{"Content-Type: text/xml"}, 415, "Accept-Patch", "application/json, application/merge-patch+json"},
		{"REST, other characters", "POST", "/v1/users", user, []string{"Content-Type: application/json; charset=latin1"}, 415, "Accept", "application/json"},
		{"REST, brotli", "POST", "/v1/users", user, []string{"Content-Encoding: br"}, 415, "Accept-Encoding", "gzip,zstd"},
		{"REST, twice compressed", "POST", "/v1/users", user, []string{"Content-Encoding: gzip, gzip"}, 415, "Accept-Encoding", "gzip,zstd"},
		{"REST, gzip that is none", "POST", "/v1/users", user, []string{"Content-Encoding: gzip"}, 400, "", ""},
		{"REST, HTML wanted", "GET", "/v1/users", "", []string{"Accept: text/html"}, 406, "", ""},
		{"REST, anything but JSON", "GET", "/v1/users", "", []string{"Accept: application/json;q=0, */*"}, 406, "", ""},
		{"REST, nothing", "GET", "/v1/users", "", []string{"Accept: */*;q=0.000"}, 406, "", ""},
		{"REST, JSON at last", "GET", "/v1/users", "", []string{"Accept: text/html, application/json;q=0.1"}, 200, "", ""},
		{"GraphQL, form", "POST", "/graphql", "query=x", []string{"Content-Type: application/x-www-form-urlencoded"}, 415, "Accept-Post", "application/json"},
		{"GraphQL, compressed", "POST", "/graphql", `{"query":"{__typename}"}`, []string{"Content-Encoding: gzip"}, 415, "Accept-Encoding", "identity"},
		{"GraphQL, HTML wanted", "POST", "/graphql", `{"query":"{__typename}"}`, []string{"Accept: text/html"}, 406, "", ""},
		{"GraphQL, too large", "POST", "/graphql", `{"query":"` + strings.Repeat("x", 2<<20) + `"}`, nil, 413, "", ""},
		{"Connect, XML", "POST", create, "<u/>", []string{"Content-Type: text/xml"}, 415, "Accept-Post", "application/json"},
		{"Connect, brotli", "POST", create, user, []string{"Content-Encoding: br"}, 501, "Accept-Encoding", "gzip,zstd"},
		{"Connect, GET that changes", "GET", create + "?encoding=json&message=%7B%7D", "", nil, 405, "Allow", "POST, OPTIONS"},
		{"Connect, GET of no base64", "GET", listUsers + "?encoding=json&base64=1&message=%7B%7D", "", nil, 400, "", ""},
		{"Connect, registered, GET of no base64", "GET", echo.Get + "?encoding=json&base64=1&message=%7B%7D", "", nil, 400, "", ""},
		{"Connect, HEAD that changes", "HEAD", create + "?encoding=json&message=%7B%7D", "", nil, 405, "Allow", "POST, OPTIONS"},
		{"Connect, GET of a stream", "GET", watch + "?encoding=json&message=%7B%7D", "", nil, 405, "Allow", "POST, OPTIONS"},
		{"Connect, registered, GET of a stream", "GET", echo.Count, "", nil, 405, "Allow", "POST, OPTIONS"},
		{"Connect, registered, XML", "POST", echo.Echo, "<u/>", []string{"Content-Type: text/xml"}, 415, "Accept-Post", "application/json"},
		{"Connect, nothing", "POST", "/acme.nothing.v1.Nothing/Nothing", "{}", nil, 404, "", ""},
		{"nothing", "GET", "/nothing", "", nil, 404, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := w.ask(t, tc.verb, tc.path, tc.body, tc.headers...)
			if got.status != tc.status || tc.header != "" && !strings.Contains(strings.Join(got.header[tc.header], ", "), tc.value) {
				t.Errorf("%d %v %.300s", got.status, got.header, got.body)
			}
		})
	}
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(z, user)
	_ = z.Close()
	if got := w.ask(t, "POST", "/v1/users", packed.String(), "Content-Encoding: zstd"); got.status != http.StatusCreated {
		t.Errorf("REST, zstd: %d %s", got.status, got.body)
	}
	// Connect's clients compress what does not fit into a URL.
	packed.Reset()
	z.Reset(&packed)
	_, _ = io.WriteString(z, `{"pageSize":3}`)
	_ = z.Close()
	path := listUsers + "?connect=v1&encoding=json&compression=zstd&base64=1&message=" + base64.RawURLEncoding.EncodeToString(packed.Bytes())
	if got := w.ask(t, "GET", path, ""); got.status != http.StatusOK || strings.Count(got.body, `"id"`) != 3 {
		t.Errorf("Connect GET, zstd: %d %s", got.status, got.body)
	}
	if got := w.ask(t, "GET", strings.Replace(path, "zstd", "br", 1), ""); got.status != http.StatusNotImplemented {
		t.Errorf("Connect GET, brotli: %d %s", got.status, got.body)
	}
}

// TestTooLarge sends heads of requests whose bodies are too large to be waited for.
func TestTooLarge(t *testing.T) {
	w := start(t)
	for _, tc := range []struct {
		path, kind string
		status     int
		body       string
	}{
		{"/v1/users", "application/json", 413, `"type":"urn:nearside:error:REQUEST_TOO_LARGE"`},
		{"/graphql", "application/json", 413, "REQUEST_TOO_LARGE"},
		{"/demo/", "text/plain", 413, "REQUEST_TOO_LARGE"},
		{create, "application/json", 429, `"code":"resource_exhausted"`}, // Connect has no other status for it
		{create, "application/grpc", 200, ""},
	} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.mesh.URL(region), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: 100000000\r\n\r\n", tc.path, w.token, tc.kind)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s %s: %v", tc.path, tc.kind, err)
		}
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<16)) // the connection is cut behind it
		_ = res.Body.Close()
		if res.StatusCode != tc.status || !strings.Contains(string(text), tc.body) {
			t.Errorf("%s %s: %d %v %s", tc.path, tc.kind, res.StatusCode, res.Header, text)
		}
		_ = conn.Close()
	}
}

// TestTooSlow sends heads of requests whose bodies do not come.
func TestTooSlow(t *testing.T) {
	w := startWith(t, func(c *sidecar.Config) {
		if c.Region == region {
			c.Limits.BodyTimeout = 2 * time.Second
		}
	})
	type answer struct {
		path, kind, text string
		status           int
		err              error
	}
	answers := make(chan answer)
	wants := map[string]struct {
		status int
		text   string
	}{
		"/v1/users application/json":    {408, "REQUEST_TOO_SLOW"},
		"/graphql application/json":     {408, "too slowly"},
		create + " application/json":    {504, "REQUEST_TOO_SLOW"},
		echo.Echo + " application/json": {504, "REQUEST_TOO_SLOW"},
		echo.Echo + " application/grpc": {200, ""},
	}
	for name := range wants {
		path, kind, _ := strings.Cut(name, " ")
		go func() {
			a := answer{path: path, kind: kind}
			defer func() { answers <- a }()
			var conn net.Conn
			if conn, a.err = new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.mesh.URL(region), "http://")); a.err != nil {
				return
			}
			defer conn.Close()
			if _, a.err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\n{", path, w.token, kind); a.err != nil {
				return
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if a.err = err; err != nil {
				return
			}
			text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<16)) // the connection may be cut behind it
			_ = res.Body.Close()
			a.status, a.text = res.StatusCode, string(text)
		}()
	}
	for range wants {
		a := <-answers
		want := wants[a.path+" "+a.kind]
		if a.err != nil || a.status != want.status || !strings.Contains(a.text, want.text) {
			t.Errorf("%s %s: %d %s, %v", a.path, a.kind, a.status, a.text, a.err)
		}
	}
}
