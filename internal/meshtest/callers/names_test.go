package callers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/wrapperspb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/internal/telemetry"
	"github.com/nearside-dev/nearside/services/primary"
)

const trace = "0af7651916cd43dd8448eb211c80319c"

// named makes a request with a name and a trace.
func named[T any](id string, msg *T) *connect.Request[T] {
	req := connect.NewRequest(msg)
	req.Header().Set("x-request-id", id)
	req.Header().Set("traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	req.Header().Set("tracestate", "vendor=1")
	return req
}

const brokenProcedure = "/test.v1.BrokenService/Break"

// mountBroken mounts a method that fails in a way that nobody is to be told of.
func mountBroken(mux *http.ServeMux, _ string, options ...connect.HandlerOption) error {
	mux.Handle(brokenProcedure, connect.NewUnaryHandler(brokenProcedure,
		func(_ context.Context, req *connect.Request[wrapperspb.StringValue]) (*connect.Response[wrapperspb.StringValue], error) {
			if req.Msg.GetValue() == "panic" {
				panic("a detail of it")
			}
			return nil, errors.New("a detail of it")
		}, options...))
	return nil
}

// TestRequestsAreFound follows requests by their names: the answer, the log, the audit, the commit and the service have the same one.
func TestRequestsAreFound(t *testing.T) {
	var logs lockedBuffer
	logger := slog.New(telemetry.Requests(slog.NewJSONHandler(&logs, nil)))
	w := start(t, meshtest.Options{
		Logger: logger, NodeCertificates: true, Mount: mountBroken, Primary: func(c *primary.Config) { c.Logger = logger },
	})
	ctx := context.Background()
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	ann := w.mustLogin(west, "ann").GetAccessToken()
	put := func() *datav1.TransactRequest {
		return &datav1.TransactRequest{Database: shop, Operations: []*datav1.Operation{{Operation: &datav1.Operation_Put{Put: &datav1.Put{
			Table: "items", Values: map[string]*datav1.Value{"name": {Kind: &datav1.Value_Text{Text: "pear"}}},
		}}}}}
	}
	logged := func(message, id string) map[string]any {
		t.Helper()
		for line := range strings.Lines(logs.String()) {
			var r map[string]any
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			if r["msg"] == message && r["request_id"] == id {
				return r
			}
		}
		t.Errorf("%s of request %s is not in the log", message, id)
		return nil
	}
	t.Run("denied", func(t *testing.T) {
		_, err := w.data(west, ann).Transact(ctx, named("denied-1", put()))
		expect(t, "a write of a reader", err, "PERMISSION_DENIED")
		if wire, ok := errors.AsType[*connect.Error](err); !ok || wire.Meta().Get("X-Request-Id") != "denied-1" {
			t.Errorf("answered with %v", wire.Meta())
		}
		if r := logged("denied", "denied-1"); r["trace_id"] != trace || r["action"] == "" {
			t.Errorf("logged %v", r)
		}
		w.audited("denied-1", func(e *authv1.AuditEntry) bool { return e.GetTraceId() == trace && e.GetRegion() == west })
	})
	t.Run("changed at the primary", func(t *testing.T) {
		res, err := w.accounts(west, w.AdminToken()).CreateAccount(ctx, named("change-1", &authv1.CreateAccountRequest{
			Kind: authv1.AccountKind_ACCOUNT_KIND_SERVICE, Name: "bot",
		}))
		if err != nil || res.Header().Get("X-Request-Id") != "change-1" {
			t.Fatalf("%v, %v", res, err)
		}
		w.audited("change-1", func(e *authv1.AuditEntry) bool {
			return e.GetTraceId() == trace && e.GetAction() == "AccountService/CreateAccount" && e.GetNode() == "primary"
		})
	})
	t.Run("written", func(t *testing.T) {
		newest := func() string {
			res, err := authv1connect.NewAuditServiceClient(w.bare, w.URL(west), cli.WithToken(w.AdminToken())).ListWrites(ctx,
				connect.NewRequest(&authv1.ListWritesRequest{Database: shop, PageSize: 1}))
			if err != nil || len(res.Msg.GetWrites()) != 1 {
				t.Fatalf("%v, %v", res, err)
			}
			return res.Msg.GetWrites()[0].GetTraceId()
		}
		for _, region := range []string{"", west} {
			for n := range 2 {
				if n == 0 {
					w.bare.CloseIdleConnections() // a new connection has a shorter way
				}
				if _, err := w.data(region, w.AdminToken()).Transact(ctx, named("write-1", put())); err != nil {
					t.Fatal(err)
				}
				if got := newest(); got != trace {
					t.Errorf("by %q: the commit has the trace %q", region, got)
				}
				res, err := w.data(region, w.AdminToken()).Transact(ctx, connect.NewRequest(put()))
				if err != nil {
					t.Fatal(err)
				}
				if got := newest(); got == trace || got != res.Header().Get("X-Request-Id") {
					t.Errorf("by %q: the commit has the trace %q, the request was %v", region, got, res.Header()["X-Request-Id"])
				}
			}
		}
	})
	t.Run("internal", func(t *testing.T) {
		for _, options := range [][]connect.ClientOption{nil, {connect.WithGRPC()}, {connect.WithGRPCWeb()}} {
			for _, how := range []string{"", "panic"} {
				id := fmt.Sprintf("broken-%d%s", len(options), how)
				client := w.bare
				if len(options) > 0 {
					client = h2c(t)
				}
				_, err := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](client, w.URL(west)+brokenProcedure,
					append(options, cli.WithToken(ann))...).CallUnary(ctx, named(id, wrapperspb.String(how)))
				wire, ok := errors.AsType[*connect.Error](err)
				if !ok || wire.Code() != connect.CodeInternal || wire.Message() != "internal error (request "+id+")" || len(wire.Details()) != 1 {
					t.Errorf("got %v", err)
					continue
				}
				if detail, err := wire.Details()[0].Value(); err != nil || detail.(*errdetails.RequestInfo).GetRequestId() != id {
					t.Errorf("detail %v, %v", detail, err)
				}
				if r := logged("unknown error reached a handler", id); !strings.Contains(fmt.Sprint(r["error"]), "a detail of it") {
					t.Errorf("logged %v", r)
				}
			}
		}
	})
	t.Run("passed on to a service", func(t *testing.T) {
		w.registerEcho(t, &controlv1.RegisterServiceRequest{})
		for name, client := range map[string]*http.Client{"HTTP/1.1": w.bare, "HTTP/2": h2c(t)} {
			for range 2 {
				client.CloseIdleConnections() // a new connection has a shorter way
				call := func(req *connect.Request[wrapperspb.StringValue]) http.Header {
					t.Helper()
					res, err := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](client, w.URL(west)+echo.Echo, cli.WithToken(ann)).
						CallUnary(ctx, req)
					if err != nil {
						t.Fatal(err)
					}
					return res.Header()
				}
				h := call(named("echo-1", wrapperspb.String("hi")))
				if h.Get("Seen-Request") != "echo-1" || !slicesEqual(h["X-Request-Id"], "echo-1") || h.Get("Seen-Trace-State") != "vendor=1" ||
					!regexp.MustCompile(`^00-`+trace+`-[0-9a-f]{16}-01$`).MatchString(h.Get("Seen-Trace")) ||
					strings.Contains(h.Get("Seen-Trace"), "b7ad6b7169203331") {
					t.Errorf("%s: %v", name, h)
				}
				bad := connect.NewRequest(wrapperspb.String("hi"))
				bad.Header().Set("x-request-id", "<script>")
				bad.Header().Set("traceparent", "00-"+strings.Repeat("0", 32)+"-b7ad6b7169203331-01")
				bad.Header().Set("tracestate", "vendor=1")
				client.CloseIdleConnections()
				h = call(bad)
				if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(h.Get("Seen-Request")) || !slicesEqual(h["X-Request-Id"], h.Get("Seen-Request")) ||
					!strings.HasPrefix(h.Get("Seen-Trace"), "00-"+h.Get("Seen-Request")+"-") || h.Get("Seen-Trace-State") != "" {
					t.Errorf("%s: of a bad name: %v", name, h)
				}
			}
		}
	})
}

func slicesEqual(lines []string, want string) bool { return len(lines) == 1 && lines[0] == want }

// audited waits for the entry of a request.
func (w *world) audited(id string, match func(*authv1.AuditEntry) bool) {
	w.t.Helper()
	w.Eventually("the audit has request "+id, func(ctx context.Context) error {
		res, err := authv1connect.NewAuditServiceClient(w.bare, w.URL(west), cli.WithToken(w.AdminToken())).ListEntries(ctx,
			connect.NewRequest(&authv1.ListEntriesRequest{PageSize: 1000}))
		if err != nil {
			return err
		}
		for _, e := range res.Msg.GetEntries() {
			if e.GetEntry().GetRequestId() == id && match(e.GetEntry()) {
				return nil
			}
		}
		return fmt.Errorf("there are %v", res.Msg.GetEntries())
	})
}

// registerEcho runs the echo service and registers it.
func (w *world) registerEcho(t *testing.T, req *controlv1.RegisterServiceRequest) {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := echo.Server(echo.Handler())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln) // ends with Close
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	req.Descriptors = echo.Descriptors()
	req.Endpoints = []*controlv1.ServiceEndpoint{{Url: "http://" + ln.Addr().String()}}
	_, err = controlv1connect.NewServiceRegistryServiceClient(w.bare, w.URL(west), cli.WithToken(w.AdminToken())).
		RegisterService(context.Background(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
}

func h2c(t *testing.T) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestPoliciesOfNobody: what a policy forbids of a public service is forbidden to who shows no credential too, on each way, and all else
// stays open.
func TestPoliciesOfNobody(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx := context.Background()
	w.registerEcho(t, &controlv1.RegisterServiceRequest{Access: controlv1.ServiceAccess_SERVICE_ACCESS_PUBLIC})
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	ann := w.mustLogin(west, "ann").GetAccessToken()
	ways := map[string]struct {
		client  *http.Client
		options []connect.ClientOption
	}{
		"Connect over HTTP/1.1": {w.bare, nil}, "JSON": {w.bare, []connect.ClientOption{connect.WithProtoJSON()}}, "Connect over HTTP/2": {h2c(t), nil},
		"gRPC": {h2c(t), []connect.ClientOption{connect.WithGRPC()}}, "gRPC-Web": {w.bare, []connect.ClientOption{connect.WithGRPCWeb()}},
	}
	expectAll := func(what, procedure, token, want string) {
		t.Helper()
		for name, way := range ways {
			for n := range 2 {
				if n == 0 {
					way.client.CloseIdleConnections() // a new connection has a shorter way
				}
				options := way.options
				if token != "" {
					options = append([]connect.ClientOption{cli.WithToken(token)}, options...)
				}
				_, err := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](way.client, w.URL(west)+procedure, options...).
					CallUnary(ctx, connect.NewRequest(wrapperspb.String("hi")))
				expect(t, what+", "+name, err, want)
			}
		}
	}
	expectAll("without policies", echo.Echo, "", "")
	w.put(west, "no-secrets", noItems) // of something else
	expectAll("with a policy of a table", echo.Echo, "", "")
	w.put(west, "one-method", `forbid (principal, action == Action::"call", resource == Api::"acme.echo.v1.EchoService/Get");`)
	expectAll("another method", echo.Echo, "", "")
	expectAll("the method", echo.Get, "", "PERMISSION_DENIED")
	expectAll("the method, of ann", echo.Get, ann, "PERMISSION_DENIED")
	expectAll("the method, of a bad credential", echo.Get, "nonsense", "PERMISSION_DENIED")
	w.drop(west, "one-method")
	expectAll("without it", echo.Get, "", "")
	w.put(west, "nobody", `forbid (principal is Anonymous, action == Action::"call", resource in Api::"acme.echo.v1.EchoService");`)
	expectAll("nobody", echo.Echo, "", "PERMISSION_DENIED")
	expectAll("ann", echo.Echo, ann, "")
	w.drop(west, "nobody")
	w.put(west, "admins", `forbid (principal, action, resource is Api) unless { principal in Role::"admin" };`)
	expectAll("nobody is no admin", echo.Echo, "", "PERMISSION_DENIED")
	expectAll("an admin", echo.Echo, w.AdminToken(), "")
	w.drop(west, "admins")
	// A policy that permits nobody something gives nothing that needs a credential.
	w.put(west, "permits", `permit (principal, action, resource);`)
	expectAll("open", echo.Echo, "", "")
	expect(t, "a row", w.get(west, ""), "UNAUTHENTICATED")
	w.drop(west, "permits")
	// The refusals are in the audit, and what is allowed where a policy says so: once for each call, whatever the way.
	recorded := func(what, policy string, decision authv1.AuditDecision, count uint64) {
		t.Helper()
		w.Eventually("the audit has "+what, func(ctx context.Context) error {
			res, err := authv1connect.NewAuditServiceClient(w.bare, w.URL(west), cli.WithToken(w.AdminToken())).ListEntries(ctx,
				connect.NewRequest(&authv1.ListEntriesRequest{PageSize: 1000, Decision: decision, Action: "acme.echo.v1.EchoService/Echo"}))
			if err != nil {
				return err
			}
			n := uint64(0)
			for _, e := range res.Msg.GetEntries() {
				if e.GetEntry().GetActor() == "" && e.GetEntry().GetPolicy() == policy {
					n += e.GetEntry().GetCount()
				}
			}
			if n != count {
				return fmt.Errorf("%d in %v", n, res.Msg.GetEntries())
			}
			return nil
		})
	}
	recorded("what was forbidden to nobody", "policy:nobody", authv1.AuditDecision_AUDIT_DECISION_DENIED, uint64(2*len(ways)))
	w.put(west, "recorded", `@audit permit (principal is Anonymous, action == Action::"call", resource in Api::"acme.echo.v1.EchoService");`)
	expectAll("recorded", echo.Echo, "", "")
	recorded("what nobody has called", "public", authv1.AuditDecision_AUDIT_DECISION_ALLOWED, uint64(2*len(ways)))
}
