package graphql_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/services/business"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	east = "us-east-1"
	west = "eu-west-1"

	jsonType     = "application/json"
	responseType = "application/graphql-response+json"
	eventsType   = "text/event-stream"
)

// counter counts the calls of the business services, by method.
type counter struct {
	mu    sync.Mutex
	calls map[string]int
}

func (c *counter) intercept(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		name := req.Spec().Procedure
		c.mu.Lock()
		c.calls[name[strings.LastIndexByte(name, '/')+1:]]++
		c.mu.Unlock()
		return next(ctx, req)
	}
}

// reset returns what was counted and begins again.
func (c *counter) reset() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.calls
	c.calls = make(map[string]int)
	return was
}

func start(t *testing.T, auth bool) (*meshtest.Mesh, *counter) {
	t.Helper()
	c := &counter{calls: make(map[string]int)}
	m := meshtest.Start(t, meshtest.Options{
		Regions: []string{east, west}, MountedServices: business.Names, Auth: auth,
		Mount: func(mux *http.ServeMux, gatewayURL string, options ...connect.HandlerOption) error {
			return business.Mount(mux, gatewayURL, append(options, connect.WithInterceptors(connect.UnaryInterceptorFunc(c.intercept)))...)
		},
	})
	if err := business.Setup(t.Context(), m.Client("")); err != nil {
		t.Fatal(err)
	}
	m.WaitSync(business.Database)
	return m, c
}

// reply is an answer, read whole.
type reply struct {
	status int
	header http.Header
	body   string
	Data   map[string]any
	Errors []struct {
		Message    string
		Path       []any
		Extensions struct {
			Code, Reason string
			Metadata     map[string]string
			Fields       []struct{ Field, Detail string }
		}
	}
}

// at returns what is at a path of the data: "user.orders.0.id".
func (r *reply) at(t *testing.T, path string) any {
	t.Helper()
	var value any = r.Data
	for key := range strings.SplitSeq(path, ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[key]
		case []any:
			i := int(key[0] - '0')
			if i >= len(v) {
				t.Fatalf("%s: nothing at %s", r.body, path)
			}
			value = v[i]
		default:
			t.Fatalf("%s: nothing at %s", r.body, path)
		}
	}
	return value
}

func (r *reply) ok(t *testing.T) *reply {
	t.Helper()
	if r.status != http.StatusOK || len(r.Errors) > 0 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	return r
}

// fails checks that the first error has a code and a reason.
func (r *reply) fails(t *testing.T, status int, code, reason string) *reply {
	t.Helper()
	if r.status != status || len(r.Errors) == 0 || r.Errors[0].Extensions.Code != code || r.Errors[0].Extensions.Reason != reason {
		t.Errorf("want %d %s %s: %d %s", status, code, reason, r.status, r.body)
	}
	return r
}

func ask(t *testing.T, c *http.Client, base, query string, variables any, headers ...string) *reply {
	t.Helper()
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		t.Fatal(err)
	}
	return send(t, c, "POST", base+"/graphql", string(body), append([]string{"Content-Type: " + jsonType}, headers...)...)
}

func get(t *testing.T, c *http.Client, base, query string, headers ...string) *reply {
	t.Helper()
	return send(t, c, "GET", base+"/graphql?query="+url.QueryEscape(query), "", headers...)
}

func send(t *testing.T, c *http.Client, verb, url, body string, headers ...string) *reply {
	t.Helper()
	res := do(t, c, verb, url, body, headers...)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := &reply{status: res.StatusCode, header: res.Header, body: string(text)}
	if strings.Contains(res.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(text, r); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	return r
}

func do(t *testing.T, c *http.Client, verb, url, body string, headers ...string) *http.Response {
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
	return res
}

// stream reads the events of a subscription.
type stream struct {
	t     *testing.T
	res   *http.Response
	lines *bufio.Scanner
}

func subscribe(t *testing.T, c *http.Client, base, query string, variables any, headers ...string) *stream {
	t.Helper()
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		t.Fatal(err)
	}
	res := do(t, c, "POST", base+"/graphql", string(body), append([]string{"Content-Type: " + jsonType, "Accept: " + eventsType}, headers...)...)
	t.Cleanup(func() { res.Body.Close() })
	return &stream{t, res, bufio.NewScanner(res.Body)}
}

// next returns the next event and what it has.
func (s *stream) next() (kind string, r *reply) {
	s.t.Helper()
	r = &reply{status: s.res.StatusCode}
	for s.lines.Scan() {
		line := s.lines.Text()
		switch {
		case strings.HasPrefix(line, "event: "):
			kind = line[len("event: "):]
		case strings.HasPrefix(line, "data: "):
			r.body = line[len("data: "):]
			if err := json.Unmarshal([]byte(r.body), r); err != nil {
				s.t.Fatalf("%v: %s", err, line)
			}
		case line == "" && kind != "":
			return kind, r
		}
	}
	s.t.Fatalf("the stream has ended: %v", s.lines.Err())
	return "", nil
}

// register registers a service that runs here.
func register(t *testing.T, m *meshtest.Mesh, h http.Handler, req *controlv1.RegisterServiceRequest) {
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
	req.Endpoints = []*controlv1.ServiceEndpoint{{Url: "http://" + ln.Addr().String()}}
	_, err = controlv1connect.NewServiceRegistryServiceClient(m.HTTP(), m.URL(west)).RegisterService(t.Context(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
}
