package matrix_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/internal/meshtest/testcert"
	"github.com/nearside-dev/nearside/sidecar"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	region = "eu-west-1"

	// limited is a method that nobody may call any more.
	limited = datav1connect.DataServiceListMigrationsProcedure
)

// start starts a mesh whose second region takes plaintext and TLS on one port.
func start(t *testing.T) (m *meshtest.Mesh, certFile string) {
	t.Helper()
	certFile, keyFile := testcert.Write(t, t.TempDir())
	m = meshtest.Start(t, meshtest.Options{Auth: true, Sidecar: func(c *sidecar.Config) {
		if c.Region == region {
			c.TLSCert, c.TLSKey, c.InsecureListen = certFile, keyFile, true
		}
	}})
	m.Create("d")
	m.Exec("", "d", "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
	m.Exec("", "d", "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300) INSERT INTO t SELECT n, printf('%040d', n) FROM c")
	m.WaitSync("d")
	_, err := authv1connect.NewAccountServiceClient(m.HTTP(), m.PrimaryURL()).SetRateLimit(t.Context(), connect.NewRequest(&authv1.SetRateLimitRequest{
		Limit: &authv1.RateLimit{Scope: authv1.RateLimitScope_RATE_LIMIT_SCOPE_METHOD, Subject: limited, PerSecond: 0.001, Burst: 1},
	}))
	if err != nil {
		t.Fatal(err)
	}
	m.Eventually("the limit is there", func(ctx context.Context) error {
		_, err := m.Client(region).ListMigrations(ctx, connect.NewRequest(&datav1.ListMigrationsRequest{Database: "d"}))
		if connect.CodeOf(err) != connect.CodeResourceExhausted {
			return fmt.Errorf("answered with %w", err)
		}
		return nil
	})
	return m, certFile
}

// service is a registered one.
type service struct {
	name, pkg string
	// entered gets the deadlines of calls with the header Watched as the service is told them, ended something when it is done.
	entered chan string
	ended   chan struct{}
}

func (s *service) path(procedure string) string {
	return "/" + s.pkg + strings.TrimPrefix(procedure, "/"+echo.Package)
}

// register runs the echo service and registers it.
func register(t *testing.T, m *meshtest.Mesh, name, pkg string, protocol controlv1.ServiceProtocol) *service {
	t.Helper()
	s := &service{name: name, pkg: pkg, entered: make(chan string, 1), ended: make(chan struct{}, 1)}
	handler := echo.HandlerOf(pkg, connect.WithCompression("zstd", newDecoder, newEncoder))
	if protocol == controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC {
		handler = echo.OnlyGRPC(handler)
	}
	watched := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Watched") != "" {
			s.entered <- r.Header.Get("Connect-Timeout-Ms") + r.Header.Get("Grpc-Timeout")
			defer func() { s.ended <- struct{}{} }()
		}
		handler.ServeHTTP(w, r)
	})
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, done := echo.Server(watched), make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln) // ends with Close
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	_, err = controlv1connect.NewServiceRegistryServiceClient(m.HTTP(), m.URL(region)).RegisterService(t.Context(), connect.NewRequest(
		&controlv1.RegisterServiceRequest{
			Descriptors: echo.DescriptorsOf(pkg), Protocol: protocol,
			Endpoints: []*controlv1.ServiceEndpoint{{Url: "http://" + ln.Addr().String()}},
		}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMatrix makes each call that there is in each way that there is.
func TestMatrix(t *testing.T) {
	m, certFile := start(t)
	foreign := []*service{
		register(t, m, "registered", "acme.echo.v1", controlv1.ServiceProtocol_SERVICE_PROTOCOL_UNSPECIFIED),
		register(t, m, "registered, gRPC alone", "acme.grpcecho.v1", controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC),
	}
	cells := make(map[string]int)
	cell := func(t *testing.T, w *way, target, kind string, check func(*testing.T, *way)) {
		t.Helper()
		if why := forbidden(w.door, w.version, kind); why != "" {
			cells["forbidden"]++
			return
		}
		cells[target]++
		t.Run(target+"/"+kind, func(t *testing.T) {
			check(t, w)
			if want := 2; w.version != http11 && w.recorder.major != want {
				t.Errorf("answered over HTTP/%d", w.recorder.major)
			}
		})
	}
	for _, w := range ways(t, m, region, certFile) {
		t.Run(w.name(), func(t *testing.T) {
			for _, s := range foreign {
				cell(t, w, s.name, unary, s.unary)
				cell(t, w, s.name, serverStream, s.count)
				cell(t, w, s.name, clientStream, s.sum)
				cell(t, w, s.name, bidiStream, s.chat)
			}
			cell(t, w, "own", unary, ownUnary)
			cell(t, w, "own", serverStream, ownStream)
			cell(t, w, "own", bidiStream, reflect) // there is no stream of requests alone
		})
	}
	// There are 14 pairs of doors and versions, 2 codecs and 3 compressions.
	want := map[string]int{"registered": 264, "registered, gRPC alone": 264, "own": 198, "forbidden": 198}
	for target, n := range want {
		if cells[target] != n && !t.Failed() {
			t.Errorf("%s: %d cells, want %d", target, cells[target], n)
		}
	}
}

var long = strings.Repeat("long ", 600)

// request is a request with headers that have to pass.
func request[T any](msg *T) *connect.Request[T] {
	req := connect.NewRequest(msg)
	setHeaders(req.Header())
	return req
}

func setHeaders(h http.Header) {
	h["Lists"] = []string{"a", "b, c"}
	h.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	h.Set("Some-Bin", base64.RawStdEncoding.EncodeToString([]byte{0, 1, 0xff}))
}

func client[Req, Res any](w *way, path string, options ...connect.ClientOption) *connect.Client[Req, Res] {
	return connect.NewClient[Req, Res](w.client, w.base+path, append(slices.Clip(w.options), options...)...)
}

func (w *way) wantEncoding(t *testing.T) {
	t.Helper()
	if got := w.recorder.encoding(); got != w.compression {
		t.Errorf("answered with %s", got)
	}
}

// wantSeen checks the headers with which the echo service answers, and its trailers.
func wantSeen(t *testing.T, header, trailer http.Header) {
	t.Helper()
	if got := strings.Join(header["Seen-Lists"], ", "); got != "a, b, c" {
		t.Errorf("the service saw lists %q", header["Seen-Lists"])
	}
	if got := trailer["Echo-Trailer"]; !slices.Equal(got, []string{"yes"}) {
		t.Errorf("trailers %v", trailer)
	}
}

// wantRefused checks the error of echo.Refuse.
func wantRefused(t *testing.T, err error) {
	t.Helper()
	want := echo.RefusedError()
	wantError(t, err, want.Code(), want.Message(), details(t, want)...)
	if e, ok := errors.AsType[*connect.Error](err); ok && !slices.Equal(e.Meta()["Echo-Refused"], []string{"yes"}) {
		t.Errorf("with the error came %v", e.Meta())
	}
}

func details(t *testing.T, err *connect.Error) (out []proto.Message) {
	t.Helper()
	for _, d := range err.Details() {
		msg, err := d.Value()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, msg)
	}
	return out
}

// wantError checks an error; of a message the beginning counts, of details each that is wanted.
func wantError(t *testing.T, err error, code connect.Code, message string, want ...proto.Message) {
	t.Helper()
	e, ok := errors.AsType[*connect.Error](err)
	if !ok || e.Code() != code || !strings.HasPrefix(e.Message(), message) || !connect.IsWireError(err) {
		t.Errorf("got %v", err)
		return
	}
	got := details(t, e)
	for _, d := range want {
		if !slices.ContainsFunc(got, func(g proto.Message) bool { return proto.Equal(g, d) }) {
			t.Errorf("%v has details %v, without %v", err, got, d)
		}
	}
}

func (s *service) unary(t *testing.T, w *way) {
	path, options := s.path(echo.Echo), []connect.ClientOption(nil)
	if w.get {
		path, options = s.path(echo.Get), []connect.ClientOption{connect.WithIdempotency(connect.IdempotencyNoSideEffects)}
	}
	c := client[wrapperspb.StringValue, wrapperspb.StringValue](w, path, options...)
	for _, text := range []string{long, "", "☃"} {
		res, err := c.CallUnary(t.Context(), request(wrapperspb.String(text)))
		if err != nil {
			t.Fatal(err)
		}
		if res.Msg.GetValue() != text {
			t.Errorf("got %d bytes for %d", len(res.Msg.GetValue()), len(text))
		}
		if text == long {
			w.wantEncoding(t)
		}
		wantSeen(t, res.Header(), res.Trailer())
		if h := res.Header(); h.Get("Seen-Bin") != "AAH/" || !strings.HasPrefix(h.Get("Seen-Trace"), "00-4bf9") ||
			!strings.HasPrefix(h.Get("Seen-Subject"), "service:sa_") || h.Get("Seen-Authorization") != "" {
			t.Errorf("the service saw %v", h)
		}
	}
	_, err := c.CallUnary(t.Context(), request(wrapperspb.String(echo.Refuse)))
	wantRefused(t, err)
	_, err = c.CallUnary(t.Context(), request(wrapperspb.String(echo.Fail)))
	wantError(t, err, connect.CodeNotFound, "no such thing", wrapperspb.String(echo.Fail))
	_, err = client[wrapperspb.StringValue, wrapperspb.StringValue](w, "/"+s.pkg+".EchoService/Nothing", options...).
		CallUnary(t.Context(), request(wrapperspb.String("")))
	wantError(t, err, connect.CodeUnimplemented, "")
	if w.get {
		return // Connect's client compresses what does not fit into a URL, and nothing else
	}
	strange := connect.WithAcceptCompression("strange", newDecoder, newEncoder)
	_, err = client[wrapperspb.StringValue, wrapperspb.StringValue](w, path, append(options, strange, connect.WithSendCompression("strange"))...).
		CallUnary(t.Context(), request(wrapperspb.String(long)))
	wantError(t, err, connect.CodeUnimplemented, "unknown compression")
}

type numbers = connect.Client[wrapperspb.Int64Value, wrapperspb.Int64Value]

func (s *service) numbers(w *way, procedure string) *numbers {
	return client[wrapperspb.Int64Value, wrapperspb.Int64Value](w, s.path(procedure))
}

func (s *service) count(t *testing.T, w *way) {
	count := func(n int64) (got int64, stream *connect.ServerStreamForClient[wrapperspb.Int64Value]) {
		stream, err := s.numbers(w, echo.Count).CallServerStream(t.Context(), request(wrapperspb.Int64(n)))
		if err != nil {
			t.Fatal(err)
		}
		for stream.Receive() {
			if got++; stream.Msg().GetValue() != got {
				t.Errorf("message %d is %v", got, stream.Msg())
			}
		}
		_ = stream.Close()
		return got, stream
	}
	got, stream := count(50)
	if got != 50 || stream.Err() != nil {
		t.Errorf("%d messages, %v", got, stream.Err())
	}
	w.wantEncoding(t)
	wantSeen(t, stream.ResponseHeader(), stream.ResponseTrailer())
	got, stream = count(echo.Refused)
	if got != 2 {
		t.Errorf("%d messages before the error", got)
	}
	wantRefused(t, stream.Err())
}

func (s *service) sum(t *testing.T, w *way) {
	sum := func(last int64) (*connect.Response[wrapperspb.Int64Value], error) {
		stream := s.numbers(w, echo.Sum).CallClientStream(t.Context())
		setHeaders(stream.RequestHeader())
		for n := range int64(20) {
			if err := stream.Send(wrapperspb.Int64(n)); err != nil {
				t.Fatal(err)
			}
		}
		_ = stream.Send(wrapperspb.Int64(last)) // the answer says what became of it
		return stream.CloseAndReceive()
	}
	res, err := sum(10)
	if err != nil {
		t.Fatal(err)
	}
	if res.Msg.GetValue() != 200 {
		t.Errorf("the sum is %v", res.Msg)
	}
	wantSeen(t, res.Header(), res.Trailer())
	_, err = sum(echo.Refused)
	wantRefused(t, err)
}

func (s *service) chat(t *testing.T, w *way) {
	stream := client[wrapperspb.StringValue, wrapperspb.StringValue](w, s.path(echo.Chat)).CallBidiStream(t.Context())
	setHeaders(stream.RequestHeader())
	defer func() { _ = stream.CloseResponse() }()
	for i := range 5 { // each is answered before the next one is sent
		text := fmt.Sprint(i, long[:200*i])
		if err := stream.Send(wrapperspb.String(text)); err != nil {
			t.Fatal(err)
		}
		if msg, err := stream.Receive(); err != nil || msg.GetValue() != text {
			t.Fatalf("got %v, %v", msg, err)
		}
	}
	w.wantEncoding(t)
	_ = stream.CloseRequest()
	if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("it ends with %v", err)
	}
	wantSeen(t, stream.ResponseHeader(), stream.ResponseTrailer())
	refused := client[wrapperspb.StringValue, wrapperspb.StringValue](w, s.path(echo.Chat)).CallBidiStream(t.Context())
	defer func() { _ = refused.CloseResponse() }()
	if err := refused.Send(wrapperspb.String(echo.Refuse)); err != nil {
		t.Fatal(err)
	}
	_, err := refused.Receive()
	wantRefused(t, err)
	_ = refused.CloseRequest()
}

func info(reason string, metadata map[string]string) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Reason: reason, Domain: "nearside.dev", Metadata: metadata}
}

func query(sql string) *datav1.QueryRequest {
	return &datav1.QueryRequest{Database: "d", Statement: &datav1.Statement{Sql: sql}}
}

func ownUnary(t *testing.T, w *way) {
	safe := connect.WithIdempotency(connect.IdempotencyNoSideEffects)
	queries := client[datav1.QueryRequest, datav1.QueryResponse](w, datav1connect.DataServiceQueryProcedure, safe)
	res, err := queries.CallUnary(t.Context(), connect.NewRequest(query("SELECT id, text FROM t WHERE id <= 100 ORDER BY id")))
	if err != nil {
		t.Fatal(err)
	}
	rows := res.Msg.GetResult().GetRows()
	if len(rows) != 100 || rows[99].GetValues()[1].GetText() != fmt.Sprintf("%040d", 100) || res.Msg.GetAnswer().GetRegion() != region ||
		res.Header().Get("Nearside-Region") != region || res.Header().Get("Nearside-Bookmark") != res.Msg.GetAnswer().GetBookmark() {
		t.Errorf("got %d rows, %v, headers %v", len(rows), res.Msg.GetAnswer(), res.Header())
	}
	w.wantEncoding(t)
	unknown := query("SELECT 1")
	unknown.Database = "nothing"
	_, err = queries.CallUnary(t.Context(), connect.NewRequest(unknown))
	wantError(t, err, connect.CodeNotFound, "", info("DATABASE_NOT_FOUND", map[string]string{"database": "nothing"}))
	_, err = queries.CallUnary(t.Context(), connect.NewRequest(&datav1.QueryRequest{Statement: &datav1.Statement{Sql: "SELECT 1"}}))
	wantError(t, err, connect.CodeInvalidArgument, "database: ")
	if e, ok := errors.AsType[*connect.Error](err); ok && !slices.ContainsFunc(details(t, e), func(d proto.Message) bool {
		bad, ok := d.(*errdetails.BadRequest)
		return ok && len(bad.GetFieldViolations()) == 1 && bad.GetFieldViolations()[0].GetField() == "database"
	}) {
		t.Errorf("%v has no BadRequest: %v", err, details(t, e))
	}
	_, err = client[datav1.ListMigrationsRequest, datav1.ListMigrationsResponse](w, limited, safe).
		CallUnary(t.Context(), connect.NewRequest(&datav1.ListMigrationsRequest{Database: "d"}))
	wantError(t, err, connect.CodeResourceExhausted, "")
	if e, ok := errors.AsType[*connect.Error](err); ok && !slices.ContainsFunc(details(t, e), func(d proto.Message) bool {
		retry, ok := d.(*errdetails.RetryInfo)
		return ok && retry.GetRetryDelay().AsDuration() > 0
	}) {
		t.Errorf("%v has no RetryInfo: %v", err, details(t, e))
	}
	if w.get {
		return // what follows changes something, as far as HTTP knows; and Connect's client compresses what does not fit into a URL alone
	}
	strange := connect.WithAcceptCompression("strange", newDecoder, newEncoder)
	_, err = client[datav1.QueryRequest, datav1.QueryResponse](w, datav1connect.DataServiceQueryProcedure, safe, strange, connect.WithSendCompression("strange")).
		CallUnary(t.Context(), connect.NewRequest(query("SELECT 1")))
	wantError(t, err, connect.CodeUnimplemented, "unknown compression")
	allowed, err := client[authv1.AuthorizeRequest, authv1.AuthorizeResponse](w, authv1connect.AuthServiceAuthorizeProcedure).
		CallUnary(t.Context(), connect.NewRequest(&authv1.AuthorizeRequest{Action: datav1connect.DataServiceQueryProcedure, Database: "d"}))
	if err != nil || !allowed.Msg.GetAllowed() {
		t.Errorf("authorize: %v, %v", allowed, err)
	}
}

func ownStream(t *testing.T, w *way) {
	stream := func(sql string) (rows int, err error) {
		s, err := client[datav1.QueryStreamRequest, datav1.QueryStreamResponse](w, datav1connect.DataServiceQueryStreamProcedure).
			CallServerStream(t.Context(), connect.NewRequest(&datav1.QueryStreamRequest{Database: "d", Statement: &datav1.Statement{Sql: sql}}))
		if err != nil {
			t.Fatal(err)
		}
		for s.Receive() {
			rows += len(s.Msg().GetRows())
		}
		_ = s.Close()
		return rows, s.Err()
	}
	if rows, err := stream("SELECT * FROM t"); err != nil || rows != 300 {
		t.Errorf("%d rows, %v", rows, err)
	}
	w.wantEncoding(t)
	_, err := stream("SELECT * FROM nothing")
	wantError(t, err, connect.CodeInvalidArgument, "")
}
