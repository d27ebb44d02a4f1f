package semantics_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/services/business"
	"github.com/nearside-dev/nearside/sidecar"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	region = "eu-west-1"
	app    = "https://app.example.org"

	listUsers = "/nearside.business.v1.UserService/ListUsers"
	create    = "/nearside.business.v1.UserService/CreateUser"
	watch     = "/nearside.data.v1.DataService/Watch"
)

// world is a mesh with users, a registered service, and pages of another origin that may call it.
type world struct {
	mesh   *meshtest.Mesh
	client *http.Client
	token  string
	user   string // path
}

func start(t *testing.T) *world {
	t.Helper()
	return startWith(t, nil)
}

func startWith(t *testing.T, sidecars func(*sidecar.Config)) *world {
	t.Helper()
	m := meshtest.Start(t, meshtest.Options{Mount: business.Mount, MountedServices: business.Names, Auth: true, Sidecar: sidecars})
	if err := business.Setup(t.Context(), m.Client("")); err != nil {
		t.Fatal(err)
	}
	m.WaitSync(business.Database)
	_, err := controlv1connect.NewServiceRegistryServiceClient(m.HTTP(), m.URL(region)).RegisterService(t.Context(), connect.NewRequest(
		&controlv1.RegisterServiceRequest{
			Descriptors: echo.Descriptors(), Endpoints: []*controlv1.ServiceEndpoint{{Url: serve(t, echo.Server(echo.Handler(connect.WithCompression("zstd", newDecoder, newEncoder))))}},
		}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = controlv1connect.NewCorsServiceClient(m.HTTP(), m.URL(region)).SetCorsPolicy(t.Context(), connect.NewRequest(
		&controlv1.SetCorsPolicyRequest{Policy: &controlv1.CorsPolicy{Origins: []string{app}}}))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{mesh: m, token: m.AdminToken(), client: &http.Client{
		Transport: &http.Transport{DisableCompression: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(w.client.CloseIdleConnections)
	var id struct{ ID string }
	for i := range 30 { // so that a page of them is worth compressing
		r := w.ask(t, "POST", "/v1/users", fmt.Sprintf(`{"email":"u%d@example.org","name":"%s"}`, i, strings.Repeat("U", 60)))
		if r.status != http.StatusCreated || json.Unmarshal([]byte(r.body), &id) != nil {
			t.Fatalf("%d %s", r.status, r.body)
		}
	}
	m.WaitSync(business.Database)
	w.user = "/v1/users/" + id.ID
	return w
}

type decoder struct{ *zstd.Decoder }

// Close implements connect.Decompressor: it is used again.
func (d decoder) Close() error { return d.Reset(nil) }

func newDecoder() connect.Decompressor {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return decoder{d}
}

func newEncoder() connect.Compressor {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return e
}

// serve serves until the test ends, and returns the base URL.
func serve(t *testing.T, server *http.Server) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
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

// reply is an answer, read whole and unpacked.
type reply struct {
	status int
	header http.Header
	body   string
	length int64 // as it is said
	bytes  int   // as they came
}

// ask makes a request with a credential; headers are "Name: value".
func (w *world) ask(t *testing.T, verb, path, body string, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), verb, w.mesh.URL(region)+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, unpack(t, res.Header.Get("Content-Encoding"), raw), res.ContentLength, len(raw)}
}

func unpack(t *testing.T, encoding string, raw []byte) string {
	t.Helper()
	if len(raw) == 0 {
		return ""
	}
	var r io.Reader = bytes.NewReader(raw)
	switch encoding {
	case "gzip":
		g, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = g
	case "zstd":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		r = d
	case "", "identity":
	default:
		t.Fatalf("encoding %s", encoding)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// resource is what can be read.
type resource struct {
	name, path string
	allow      string
	caching    string
	tag        string // "strong", "weak" or none
	packed     bool   // it is worth compressing
	vary       []string
	wrong      string // a verb that is not for it
	changing   bool   // it is another one each time
}

const reading = "GET, HEAD, OPTIONS"

func (w *world) resources(t *testing.T) []resource {
	t.Helper()
	session := []string{"authorization", "nearside-bookmark"}
	page := w.ask(t, "GET", "/demo/", "")
	asset := regexp.MustCompile(`/demo/assets/[^"]+\.js`).FindString(page.body)
	if asset == "" {
		t.Fatalf("the demo has no script: %s", page.body)
	}
	get := "?encoding=json&connect=v1&message=" + url.QueryEscape(`{}`)
	return []resource{
		{"REST, one", w.user, "DELETE, GET, HEAD, PATCH, PUT, OPTIONS", "private, no-cache", "strong", false, append(session, "accept-encoding"), "POST", false},
		{"REST, list", "/v1/users", "GET, HEAD, POST, OPTIONS", "private, no-cache", "weak", true, append(session, "accept-encoding"), "PUT", false},
		{"OpenAPI", "/openapi.json", reading, "no-cache", "strong", true, []string{"authorization", "accept-encoding"}, "POST", false},
		{"its page", "/docs/", reading, "no-cache", "strong", false, []string{"accept-encoding"}, "POST", false},
		{"its script", "/docs/docs.js", reading, "no-cache", "strong", true, []string{"accept-encoding"}, "POST", false},
		{"GraphiQL", "/graphiql", reading, "no-cache", "strong", true, []string{"accept-encoding"}, "POST", false},
		{"its script", "/graphiql/page.js", reading, "no-cache", "strong", true, []string{"accept-encoding"}, "DELETE", false},
		{"demo", "/demo/", reading, "no-cache", "strong", false, []string{"accept-encoding"}, "POST", false},
		{"its script", asset, reading, "public, max-age=31536000, immutable", "strong", true, []string{"accept-encoding"}, "PUT", false},
		{"keys", "/.well-known/jwks.json", reading, "public, max-age=60", "strong", false, nil, "POST", false},
		{"issuer", "/.well-known/openid-configuration", reading, "public, max-age=60", "strong", false, nil, "PATCH", false},
		{"live", "/healthz", reading, "no-store", "", false, nil, "POST", false},
		{"ready", "/readyz", reading, "no-store", "", false, nil, "POST", false},
		{"GraphQL", "/graphql?query=" + url.QueryEscape("{users(pageSize:30){id name email}}"), "GET, HEAD, POST, OPTIONS", "no-store", "", true, append(session, "accept", "accept-encoding"), "PUT", false},
		{"Connect GET", listUsers + get, "GET, HEAD, POST, OPTIONS", "private, no-cache", "", true, append(session, "accept-encoding"), "PUT", true},
		{"Connect GET of a registered service", echo.Get + "?encoding=json&connect=v1&message=" + url.QueryEscape(`"`+strings.Repeat("hello ", 300)+`"`), "GET, HEAD, POST, OPTIONS", "private, no-cache", "", true, append(session, "accept-encoding"), "DELETE", false},
	}
}

func varies(h http.Header) []string {
	var out []string
	for name := range strings.SplitSeq(strings.Join(h["Vary"], ","), ",") {
		out = append(out, strings.ToLower(strings.TrimSpace(name)))
	}
	return out
}

// TestReading reads each resource as browsers, caches and curl do.
func TestReading(t *testing.T) {
	w := start(t)
	for _, r := range w.resources(t) {
		t.Run(r.name+" "+r.path[:min(len(r.path), 40)], func(t *testing.T) {
			whole := w.ask(t, "GET", r.path, "")
			if whole.status != http.StatusOK || whole.body == "" {
				t.Fatalf("%d %s", whole.status, whole.body)
			}
			if got := strings.Join(whole.header["Cache-Control"], ", "); got != r.caching {
				t.Errorf("Cache-Control %q, want %q", got, r.caching)
			}
			for _, name := range append(r.vary, "origin") {
				if !slices.Contains(varies(whole.header), name) {
					t.Errorf("Vary %v has no %s", varies(whole.header), name)
				}
			}
			if whole.header.Get("X-Content-Type-Options") != "nosniff" || whole.header.Get("Content-Security-Policy") == "" || whole.header.Get("Content-Type") == "" {
				t.Errorf("headers %v", whole.header)
			}
			w.alone(t, r, whole)
			for _, encoding := range []string{"", "gzip", "zstd", "gzip, deflate, br, zstd", "br"} {
				w.encoded(t, r, whole, encoding)
			}
			w.verbs(t, r)
			w.conditions(t, r, whole.header.Get("Etag"))
		})
	}
}

// alone reads a resource over a connection that carries nothing else, on which some are answered without net/http, with the same.
func (w *world) alone(t *testing.T, r resource, whole reply) {
	t.Helper()
	other := *w
	other.client = &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer other.client.CloseIdleConnections()
	got := other.ask(t, "GET", r.path, "")
	if got.status != whole.status || got.body != whole.body && !r.changing {
		t.Errorf("alone: %d %s", got.status, got.body)
	}
	for _, h := range []http.Header{got.header, whole.header} {
		for _, name := range []string{"Date", "Content-Length", "X-Request-Id", "Nearside-Source", "Nearside-Staleness-Ms", "Seen-Request", "Seen-Trace"} { // of one request
			h.Del(name)
		}
		h["Vary"] = varies(h)
		slices.Sort(h["Vary"])
	}
	if !maps.EqualFunc(got.header, whole.header, slices.Equal[[]string]) {
		t.Errorf("alone: headers\n%v and\n%v", got.header, whole.header)
	}
}

// encoded reads a resource compressed, and compares HEAD with it.
func (w *world) encoded(t *testing.T, r resource, whole reply, accept string) {
	t.Helper()
	got := w.ask(t, "GET", r.path, "", "Accept-Encoding: "+accept)
	want := r.packed && (strings.Contains(accept, "gzip") || strings.Contains(accept, "zstd"))
	if encoding := got.header.Get("Content-Encoding"); (encoding != "") != want || encoding != "" && !strings.Contains(accept, encoding) {
		t.Errorf("Accept-Encoding %q: encoding %q", accept, encoding)
	}
	if !r.changing && got.body != whole.body {
		t.Errorf("Accept-Encoding %q: another body", accept)
	}
	if want && r.tag == "strong" && got.header.Get("Etag") == whole.header.Get("Etag") {
		t.Errorf("Accept-Encoding %q: the tag of other bytes, %s", accept, got.header.Get("Etag"))
	}
	head := w.ask(t, "HEAD", r.path, "", "Accept-Encoding: "+accept)
	if head.status != got.status || head.bytes > 0 {
		t.Errorf("HEAD: %d, %d bytes", head.status, head.bytes)
	}
	for _, name := range []string{"Content-Encoding", "Content-Type", "Etag", "Cache-Control", "Vary", "Last-Modified", "Location"} {
		if a, b := head.header[name], got.header[name]; !slices.Equal(a, b) {
			t.Errorf("HEAD: %s %q, GET has %q", name, a, b)
		}
	}
	if n := head.header.Get("Content-Length"); n != "" && n != strconv.Itoa(got.bytes) && !r.changing {
		t.Errorf("HEAD: Accept-Encoding %q: length %s, GET has %d bytes", accept, n, got.bytes)
	}
	if len(got.body) > 0 && got.length >= 0 && got.length != int64(got.bytes) {
		t.Errorf("length %d of %d bytes", got.length, got.bytes)
	}
}

// verbs asks what can be done with a resource, and does what cannot.
func (w *world) verbs(t *testing.T, r resource) {
	t.Helper()
	options := w.ask(t, "OPTIONS", r.path, "")
	if options.status != http.StatusNoContent || options.header.Get("Allow") != r.allow || options.bytes > 0 || len(options.header["Access-Control-Allow-Methods"]) > 0 {
		t.Errorf("OPTIONS: %d %v", options.status, options.header)
	}
	asked := []string{"Origin: " + app, "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization"}
	if got := w.ask(t, "OPTIONS", r.path, "", asked...); got.status != http.StatusNoContent || got.header.Get("Access-Control-Allow-Origin") != app ||
		got.header.Get("Access-Control-Max-Age") == "" || !slices.Contains(varies(got.header), "access-control-request-headers") {
		t.Errorf("preflight: %d %v", got.status, got.header)
	}
	if got := w.ask(t, "OPTIONS", r.path, "", "Origin: "+app); got.status != http.StatusNoContent || got.header.Get("Allow") != r.allow {
		t.Errorf("OPTIONS of a page, no preflight: %d %v", got.status, got.header)
	}
	for _, verb := range []string{r.wrong, "TRACE", "BREW"} {
		got := w.ask(t, verb, r.path, "")
		if got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != r.allow {
			t.Errorf("%s: %d, Allow %q, want %q", verb, got.status, got.header.Get("Allow"), r.allow)
		}
	}
}

// conditions asks for a resource that may have changed.
func (w *world) conditions(t *testing.T, r resource, tag string) {
	t.Helper()
	if (tag != "") != (r.tag != "") || strings.HasPrefix(tag, "W/") != (r.tag == "weak") {
		t.Errorf("Etag %s, want a %s one", tag, r.tag)
	}
	if tag == "" {
		return
	}
	bare := strings.TrimPrefix(tag, "W/")
	for _, accept := range []string{"", "gzip", "zstd"} {
		for list, status := range map[string]int{
			tag: 304, "W/" + bare: 304, `"x", W/"y", ` + tag: 304, "*": 304, `"x"`: 200, `W/"x"`: 200, "": 200,
		} {
			headers := []string{"Accept-Encoding: " + accept}
			if list != "" {
				headers = append(headers, "If-None-Match: "+list)
			}
			got := w.ask(t, "GET", r.path, "", headers...)
			if got.status != status {
				t.Errorf("If-None-Match %s: %d, want %d", list, got.status, status)
			}
			if got.status == http.StatusNotModified {
				for _, name := range append(r.vary, "origin") {
					if !slices.Contains(varies(got.header), name) {
						t.Errorf("304: Vary %v has no %s", varies(got.header), name)
					}
				}
				if got.bytes > 0 || got.header.Get("Etag") == "" || got.header.Get("Cache-Control") != r.caching || got.header.Get("Content-Encoding") != "" {
					t.Errorf("304: %d bytes, %v", got.bytes, got.header)
				}
			}
		}
		// What was read compressed is known by the tag that it had then.
		packed := w.ask(t, "GET", r.path, "", "Accept-Encoding: "+accept).header.Get("Etag")
		if got := w.ask(t, "HEAD", r.path, "", "Accept-Encoding: "+accept, "If-None-Match: "+packed); got.status != 304 || got.header.Get("Etag") != packed {
			t.Errorf("If-None-Match %s: %d, Etag %s", packed, got.status, got.header.Get("Etag"))
		}
		strong := 200
		if r.tag == "weak" {
			strong = 412
		}
		for list, status := range map[string]int{packed: strong, `"x", ` + packed: strong, "*": 200, `"x"`: 412, "W/" + bare: 412} {
			if got := w.ask(t, "GET", r.path, "", "Accept-Encoding: "+accept, "If-Match: "+list); got.status != status {
				t.Errorf("If-Match %s: %d, want %d", list, got.status, status)
			}
		}
	}
}

// TestChanging changes a user under conditions.
func TestChanging(t *testing.T) {
	w := start(t)
	for i, tc := range []struct {
		verb, header string
		status       int
		reason       string
	}{
		{"PATCH", `If-Match: "999"`, 412, "PRECONDITION_FAILED"},
		{"PATCH", `If-Match: W/"1"`, 412, "PRECONDITION_FAILED"},
		{"PATCH", `If-Match: "abc", "999"`, 412, "PRECONDITION_FAILED"},
		{"PATCH", `If-Match: 12`, 400, "FIELD_INVALID"},
		{"PATCH", `If-Match: "1", "2"`, 400, "FIELD_INVALID"},
		{"PATCH", `If-Match: TAG`, 200, ""},
		{"PATCH", `If-Match: "abc", W/"x", TAG`, 200, ""},
		{"PATCH", `If-Match: *`, 200, ""},
		{"PATCH", `If-None-Match: *`, 400, "FIELD_INVALID"},
		{"PUT", `If-Match: "999"`, 412, "PRECONDITION_FAILED"},
		{"PUT", `If-Match: TAG`, 200, ""},
		{"DELETE", `If-Match: "999"`, 412, "PRECONDITION_FAILED"},
		{"DELETE", `If-Match: TAG`, 204, ""},
	} {
		tag := w.ask(t, "GET", w.user, "").header.Get("Etag")
		body := map[string]string{"PATCH": fmt.Sprintf(`{"name":"N%d"}`, i), "PUT": fmt.Sprintf(`{"name":"N%d","email":"n@example.org"}`, i)}[tc.verb]
		got := w.ask(t, tc.verb, w.user, body, strings.Replace(tc.header, "TAG", tag, 1))
		if got.status != tc.status || tc.reason != "" && !strings.Contains(got.body, tc.reason) {
			t.Errorf("%s %s: %d %s", tc.verb, tc.header, got.status, got.body)
		}
		w.mesh.WaitSync(business.Database)
	}
	// What has no strong tags is not changed on a condition that would be passed over.
	if got := w.ask(t, "DELETE", "/v1/apiKeys/key_1", "", `If-Match: "1"`); got.status != http.StatusPreconditionFailed {
		t.Errorf("a key: %d %s", got.status, got.body)
	}
}
