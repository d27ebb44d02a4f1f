package services_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// ways are the protocols and codecs in which a service is called.
var ways = []struct {
	name    string
	http2   bool
	bidi    bool
	options []connect.ClientOption
}{
	{"connect over HTTP/1.1", false, false, nil},
	{"connect with JSON over HTTP/1.1", false, false, []connect.ClientOption{connect.WithProtoJSON()}},
	{"connect with gzip over HTTP/1.1", false, false, []connect.ClientOption{connect.WithSendGzip()}},
	{"connect over HTTP/2", true, true, nil},
	{"connect by GET", false, false, []connect.ClientOption{connect.WithHTTPGet()}},
	{"gRPC", true, true, []connect.ClientOption{connect.WithGRPC()}},
	{"gRPC with gzip", true, true, []connect.ClientOption{connect.WithGRPC(), connect.WithSendGzip()}},
	{"gRPC-Web over HTTP/1.1", false, false, []connect.ClientOption{connect.WithGRPCWeb()}},
	{"gRPC-Web over HTTP/2", true, true, []connect.ClientOption{connect.WithGRPCWeb()}},
}

func TestAServiceIsRegisteredWhileTheMeshRuns(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	e := serve(t, "", echo.Handler())
	for _, region := range []string{"us-east-1", "eu-west-1"} {
		c := unary(client(t, false), m.URL(region), echo.Echo)
		_, err := c.CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("hi")))
		if connect.CodeOf(err) != connect.CodeUnimplemented {
			t.Fatalf("before it is registered: %v", err)
		}
	}
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at(e.url)})
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) { callAll(t, m, way.http2, way.bidi, way.options) })
	}
	t.Run("list", func(t *testing.T) {
		res, err := registry(m, "us-east-1").ListServices(t.Context(), connect.NewRequest(&controlv1.ListServicesRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if s := res.Msg.GetServices(); len(s) != 1 || s[0].GetName() != echo.Name || len(s[0].GetMethods()) != 5 ||
			s[0].GetEndpoints()[0].GetUrl() != e.url {
			t.Errorf("got %v", s)
		}
	})
	t.Run("after a restart", func(t *testing.T) {
		m.StopPrimary()
		m.StopSidecar("eu-west-1")
		m.StartSidecar("eu-west-1") // without the primary: from its own copy
		eventually(t, unary(client(t, false), m.URL("eu-west-1"), echo.Echo), "again")
		m.StartPrimary()
		m.WaitReady()
	})
	t.Run("removed", func(t *testing.T) {
		remove := connect.NewRequest(&controlv1.RemoveServiceRequest{Name: echo.Name})
		if _, err := registry(m, "eu-west-1").RemoveService(t.Context(), remove); err != nil {
			t.Fatal(err)
		}
		_, err := unary(client(t, false), m.URL("eu-west-1"), echo.Echo).CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("hi")))
		if connect.CodeOf(err) != connect.CodeUnimplemented {
			t.Errorf("a removed service: %v", err)
		}
		_, err = registry(m, "eu-west-1").RemoveService(t.Context(), remove)
		if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND {
			t.Errorf("removed twice: %v", err)
		}
	})
}

func callAll(t *testing.T, m *meshtest.Mesh, http2, bidi bool, options []connect.ClientOption) {
	c, base := client(t, http2), m.URL("eu-west-1")
	for _, procedure := range []string{echo.Echo, echo.Get} {
		o := options
		if procedure == echo.Get {
			o = append(slices.Clip(o), connect.WithIdempotency(connect.IdempotencyNoSideEffects))
		}
		for _, text := range []string{"", "hi", strings.Repeat("long ", 1000), strings.Repeat("x", 300_000)} {
			if len(text) > 1000 && strings.Contains(t.Name(), "GET") && procedure == echo.Get {
				continue // it does not fit into a head
			}
			req := connect.NewRequest(wrapperspb.String(text))
			req.Header().Set(echo.SubjectHeader, "user:somebody_else")
			req.Header().Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
			res, err := unary(c, base, procedure, o...).CallUnary(t.Context(), req)
			if err != nil {
				t.Fatalf("%s of %d bytes: %v", procedure, len(text), err)
			}
			if res.Msg.GetValue() != text {
				t.Fatalf("%s: got %d bytes, want %d", procedure, len(res.Msg.GetValue()), len(text))
			}
			if res.Trailer().Get("Echo-Trailer") != "yes" {
				t.Errorf("%s: trailers %v", procedure, res.Trailer())
			}
			if res.Header().Get("Seen-Subject") != "" || !strings.HasPrefix(res.Header().Get("Seen-Trace"), "00-4bf9") {
				t.Errorf("%s: the service saw %v", procedure, res.Header())
			}
		}
		_, err := unary(c, base, procedure, o...).CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("fail")))
		e, ok := errors.AsType[*connect.Error](err)
		if !ok || e.Code() != connect.CodeNotFound || e.Message() != "no such thing" || len(e.Details()) != 1 {
			t.Errorf("%s: error %v", procedure, err)
		}
	}
	numbers := func(procedure string) *connect.Client[wrapperspb.Int64Value, wrapperspb.Int64Value] {
		return connect.NewClient[wrapperspb.Int64Value, wrapperspb.Int64Value](c, base+procedure, options...)
	}
	counted, err := numbers(echo.Count).CallServerStream(t.Context(), connect.NewRequest(wrapperspb.Int64(1000)))
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for counted.Receive() {
		if n++; counted.Msg().GetValue() != n {
			t.Fatalf("message %d is %v", n, counted.Msg())
		}
	}
	if counted.Err() != nil || n != 1000 || counted.ResponseTrailer().Get("Echo-Trailer") != "yes" {
		t.Errorf("count: %d messages, %v, trailers %v", n, counted.Err(), counted.ResponseTrailer())
	}
	_ = counted.Close()
	adding := numbers(echo.Sum).CallClientStream(t.Context())
	for i := range int64(100) {
		if err := adding.Send(wrapperspb.Int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	if sum, err := adding.CloseAndReceive(); err != nil || sum.Msg.GetValue() != 4950 {
		t.Errorf("sum: %v, %v", sum, err)
	}
	if !bidi {
		return
	}
	chat := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](c, base+echo.Chat, options...).CallBidiStream(t.Context())
	for i := range 10 {
		text := fmt.Sprint("message ", i)
		if err := chat.Send(wrapperspb.String(text)); err != nil {
			t.Fatal(err)
		}
		if msg, err := chat.Receive(); err != nil || msg.GetValue() != text {
			t.Fatalf("chat: %v, %v", msg, err)
		}
	}
	_ = chat.CloseRequest()
	if _, err := chat.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("chat ends with %v", err)
	}
	_ = chat.CloseResponse()
}

func TestEndpointsThatDie(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	entered, release := make(chan struct{}, 8), make(chan struct{})
	hold := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Hold") != "" {
				entered <- struct{}{}
				select {
				case <-release:
				case <-r.Context().Done():
				}
			}
			next.ServeHTTP(w, r)
		})
	}
	defer close(release)
	whole := t // endpoints outlive the parts of the test
	a := serve(t, "", hold(echo.Handler()))
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at(a.url)})
	for _, way := range ways[:6] {
		t.Run(way.name, func(t *testing.T) {
			c := unary(client(t, way.http2), m.URL("eu-west-1"), echo.Echo, way.options...)
			eventually(t, c, "well")
			failed := make(chan error, 1)
			go func() {
				req := connect.NewRequest(wrapperspb.String("hi"))
				req.Header().Set("Hold", "yes")
				_, err := c.CallUnary(t.Context(), req)
				failed <- err
			}()
			<-entered
			a.stop()
			err := <-failed
			e, _ := rpcerr.FromError(err)
			if connect.CodeOf(err) != connect.CodeUnavailable || e.Metadata("sent") != "true" || e.RetryAfter() == 0 {
				t.Errorf("the endpoint died in the middle: %v", err)
			}
			_, err = c.CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("hi")))
			e, _ = rpcerr.FromError(err)
			if connect.CodeOf(err) != connect.CodeUnavailable || e.RetryAfter() == 0 {
				t.Errorf("no endpoint: %v", err)
			}
			a = serve(whole, a.addr, hold(echo.Handler()))
			eventually(t, c, "well again")
		})
	}
	t.Run("another endpoint takes over", func(t *testing.T) {
		b := serve(t, "", echo.Handler())
		register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at("eu-west-1="+a.url, "us-east-1="+b.url)})
		c := unary(client(t, false), m.URL("eu-west-1"), echo.Get, connect.WithIdempotency(connect.IdempotencyNoSideEffects))
		eventually(t, c, "well")
		a.stop()
		for i := range 20 {
			if _, err := c.CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("hi"))); err != nil {
				t.Fatalf("call %d: %v", i, err)
			}
		}
	})
}

func TestStreamsFlow(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	const many = 20_000
	text := wrapperspb.String(strings.Repeat("x", 1000))
	var sent atomic.Int64
	e := serve(t, "", connect.NewServerStreamHandler(echo.Count, func(
		_ context.Context, _ *connect.Request[wrapperspb.Int64Value], stream *connect.ServerStream[wrapperspb.StringValue],
	) error {
		for range int64(many) {
			if err := stream.Send(text); err != nil {
				return err
			}
			sent.Add(1)
		}
		return nil
	}))
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at(e.url)})
	c := connect.NewClient[wrapperspb.Int64Value, wrapperspb.StringValue](client(t, true), m.URL("eu-west-1")+echo.Count, connect.WithGRPC())
	stream, err := c.CallServerStream(t.Context(), connect.NewRequest(wrapperspb.Int64(many)))
	if err != nil {
		t.Fatal(err)
	}
	// Nobody reads: what is on its way is bounded, so the service waits long before it has sent all.
	last := int64(-1)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	meshtest.Eventually(t, "the service waits for its caller", func(context.Context) error {
		<-tick.C
		now := sent.Load()
		was := last
		if last = now; now == 0 || now != was {
			return errors.New("it sends on")
		}
		return nil
	})
	if sent.Load() >= many/2 {
		t.Fatalf("%d messages were taken from the service while nobody read them", sent.Load())
	}
	n := 0
	for stream.Receive() {
		n++
	}
	if stream.Err() != nil || n != many {
		t.Errorf("%d messages of %d, %v", n, many, stream.Err())
	}
	_ = stream.Close()
}

func TestCancellationAndDeadlinesPass(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	entered, ended := make(chan string, 16), make(chan struct{}, 16)
	e := serve(t, "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/acme") {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		entered <- r.Header.Get("Connect-Timeout-Ms") + r.Header.Get("Grpc-Timeout")
		<-r.Context().Done()
		ended <- struct{}{}
	}))
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at(e.url)})
	for _, way := range ways {
		if way.name == "connect by GET" {
			continue
		}
		t.Run(way.name, func(t *testing.T) {
			c := unary(client(t, way.http2), m.URL("eu-west-1"), echo.Echo, way.options...)
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error, 1)
			go func() {
				_, err := c.CallUnary(ctx, connect.NewRequest(wrapperspb.String("hi")))
				failed <- err
			}()
			<-entered
			cancel()
			<-ended // the service heard of it
			if err := <-failed; connect.CodeOf(err) != connect.CodeCanceled {
				t.Errorf("canceled: %v", err)
			}
			timeout, late := "", false
			for limit := 300 * time.Millisecond; !late; limit *= 2 { // a busy machine may not bring the call to the service in time
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				_, err := c.CallUnary(ctx, connect.NewRequest(wrapperspb.String("hi")))
				cancel()
				if connect.CodeOf(err) != connect.CodeDeadlineExceeded {
					t.Fatalf("too late: %v", err)
				}
				select {
				case timeout = <-entered:
					late = true
				default:
				}
			}
			if timeout == "" {
				t.Error("the service was told no deadline")
			}
			<-ended
		})
	}
}

func TestWhoMayCall(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Auth: true})
	e := serve(t, "", echo.Handler())
	bare := client(t, false)
	call := func(token string) (*connect.Response[wrapperspb.StringValue], error) {
		req := connect.NewRequest(wrapperspb.String("hi"))
		req.Header().Set(echo.SubjectHeader, "user:admin")
		if token != "" {
			req.Header().Set("Authorization", "Bearer "+token)
		}
		return unary(bare, m.URL("eu-west-1"), echo.Echo).CallUnary(t.Context(), req)
	}
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at(e.url)})
	if _, err := call(""); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("without a credential: %v", err)
	}
	res, err := call(m.AdminToken())
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Header().Get("Seen-Subject"); !strings.HasPrefix(got, "service:sa_") || res.Header().Get("Seen-Authorization") != "" {
		t.Errorf("the service saw %v", res.Header())
	}
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{
		Endpoints: at(e.url), Access: controlv1.ServiceAccess_SERVICE_ACCESS_PUBLIC, PassCredentials: true,
	})
	if res, err = call(""); err != nil || res.Header().Get("Seen-Subject") != "" {
		t.Errorf("public, without a credential: %v, %v", res, err)
	}
	if res, err = call(m.AdminToken()); err != nil || res.Header().Get("Seen-Authorization") != "Bearer "+m.AdminToken() {
		t.Errorf("with credentials passed: %v, %v", res, err)
	}
	_, err = registry(m, "eu-west-1").ListServices(t.Context(), connect.NewRequest(&controlv1.ListServicesRequest{}))
	if err != nil {
		t.Errorf("an admin lists: %v", err)
	}
}

func TestWhatIsNotRegistered(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{"us-east-1"}})
	for _, test := range []struct {
		name  string
		req   *controlv1.RegisterServiceRequest
		field string
	}{
		{"no descriptors", &controlv1.RegisterServiceRequest{Descriptors: []byte("{}"), Endpoints: at("http://127.0.0.1:1")}, "descriptors"},
		{"no such service", &controlv1.RegisterServiceRequest{
			Descriptors: echo.Descriptors(), Name: "acme.Other", Endpoints: at("http://127.0.0.1:1"),
		}, "descriptors"},
		{"a name of ours", &controlv1.RegisterServiceRequest{
			Descriptors: echo.DescriptorsOf("nearside.data.v1"), Endpoints: at("http://127.0.0.1:1"),
		}, "name"},
		{"a name of gRPC's", &controlv1.RegisterServiceRequest{
			Descriptors: echo.DescriptorsOf("grpc.health.v1"), Endpoints: at("http://127.0.0.1:1"),
		}, "name"},
		{"a bad URL", &controlv1.RegisterServiceRequest{
			Descriptors: echo.Descriptors(), Endpoints: at("ftp://127.0.0.1:1"),
		}, "endpoints[0].url"},
		{"a port that is none", &controlv1.RegisterServiceRequest{
			Descriptors: echo.Descriptors(), Endpoints: at("http://127.0.0.1:99999"),
		}, "endpoints[0].url"},
		{"a role that is none", &controlv1.RegisterServiceRequest{
			Descriptors: echo.Descriptors(), Endpoints: at("http://127.0.0.1:1"), Role: "king", Access: controlv1.ServiceAccess_SERVICE_ACCESS_ROLE,
		}, "role"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := registry(m, "us-east-1").RegisterService(t.Context(), connect.NewRequest(test.req))
			if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), test.field+":") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestListHasTheStatesOfEndpoints as the asked gateway sees them; the primary calls none.
func TestListHasTheStatesOfEndpoints(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	e := serve(t, "", echo.Handler())
	dead := "http://" + freeport.Addr(t)
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at(e.url, dead)})
	states := func(ctx context.Context, region string) (map[string]controlv1.EndpointState, error) {
		res, err := registry(m, region).ListServices(ctx, connect.NewRequest(&controlv1.ListServicesRequest{}))
		if err != nil {
			return nil, err
		}
		got := make(map[string]controlv1.EndpointState)
		for _, e := range res.Msg.GetServices()[0].GetEndpoints() {
			got[e.GetUrl()] = e.GetState()
		}
		return got, nil
	}
	for _, region := range []string{"us-east-1", "eu-west-1", ""} {
		want := map[string]controlv1.EndpointState{
			e.url: controlv1.EndpointState_ENDPOINT_STATE_UP, dead: controlv1.EndpointState_ENDPOINT_STATE_DOWN,
		}
		if region == "" {
			want = map[string]controlv1.EndpointState{e.url: 0, dead: 0}
		}
		m.Eventually("the states at "+region, func(ctx context.Context) error {
			got, err := states(ctx, region)
			if err == nil && !maps.Equal(got, want) {
				err = fmt.Errorf("got %v", got)
			}
			return err
		})
	}
}
