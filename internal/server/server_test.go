package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

func TestMain(m *testing.M) {
	// After a body that was too large net/http waits half a second for the caller to read the answer.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// logBuffer is what was logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start serves handler until the test ends and returns its base URL.
func start(t *testing.T, handler http.Handler, config Config) (*Server, string) {
	t.Helper()
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	ln, err := Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start(ln, handler, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(canceled()) }) // most tests have closed it by then
	return s, "http://" + ln.Addr().String()
}

// canceled is the deadline of a Close that waits for nothing.
func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func unaryClient(t *testing.T) *http.Client {
	t.Helper()
	c := httpclient.NewUnary()
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func streamingClient(t *testing.T) *http.Client {
	t.Helper()
	c := httpclient.NewStreaming()
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func get(t *testing.T, c *http.Client, url string, header ...string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestListen(t *testing.T) {
	for addr, refused := range map[string]bool{
		"127.0.0.1:0": false, "127.1.2.3:0": false, "localhost:0": false,
		":0": true, "0.0.0.0:0": true, "[::]:0": true, "192.0.2.1:0": true,
	} {
		ln, err := Listen(t.Context(), addr, false)
		if got := errors.Is(err, ErrNotLoopback); got != refused || (err != nil) != refused {
			t.Errorf("%s: %v, want refused %v", addr, err, refused)
		}
		if err == nil {
			ln.Close()
		}
	}
	ln, err := Listen(t.Context(), "0.0.0.0:0", true)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if _, err := Listen(t.Context(), "127.0.0.1", false); err == nil {
		t.Error("an address without port was accepted")
	}
}

func TestHealth(t *testing.T) {
	health := NewHealth("starting up")
	mux := http.NewServeMux()
	MountHealth(mux, health, []string{datav1connect.DataServiceName}, nil)
	_, url := start(t, mux, Config{Name: "test"})
	c := unaryClient(t)

	check := func(path string, wantStatus int, wantBody string, header ...string) {
		t.Helper()
		if status, body := get(t, c, url+path, header...); status != wantStatus || body != wantBody {
			t.Errorf("%s: %d %q, want %d %q", path, status, body, wantStatus, wantBody)
		}
	}
	check("/healthz", 200, "ok\n")
	check("/readyz", 503, "starting up\n")
	check("/readyz", 503, `{"ready":false,"reason":"starting up"}`+"\n", "Accept", "application/json")

	grpc := grpchealth.NewClient(streamingClient(t), url, connect.WithGRPC())
	watch, stop := context.WithCancel(t.Context())
	defer stop()
	events := grpc.Watch(watch, &grpchealth.CheckRequest{Service: datav1connect.DataServiceName})
	wantEvent := func(want grpchealth.Status) {
		t.Helper()
		if e := <-events; e.Err != nil || e.Response.Status != want {
			t.Fatalf("watch: %+v, want %v", e, want)
		}
	}
	wantEvent(grpchealth.StatusNotServing)
	health.SetReady()
	wantEvent(grpchealth.StatusServing)
	check("/readyz", 200, "ok\n")
	check("/readyz", 200, `{"ready":true}`+"\n", "Accept", "application/json")
	health.SetNotReady("store failed")
	wantEvent(grpchealth.StatusNotServing)
	check("/readyz", 503, "store failed\n")

	res, err := grpc.Check(t.Context(), &grpchealth.CheckRequest{})
	if err != nil || res.Status != grpchealth.StatusNotServing {
		t.Errorf("check: %v, %v", res, err)
	}
	if _, err := grpc.Check(t.Context(), &grpchealth.CheckRequest{Service: "nope"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("check of an unknown service: %v", err)
	}
}

// A watcher, who would stay for ever, does not hold up a clean end; a request that runs is let finish.
func TestCloseFinishesRequestsAndEndsStreams(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-finish
		_, _ = io.WriteString(w, "done")
	})
	MountHealth(mux, NewHealth(""), nil, nil)
	s, url := start(t, mux, Config{Name: "test"})

	events := grpchealth.NewClient(streamingClient(t), url, connect.WithGRPC()).Watch(t.Context(), &grpchealth.CheckRequest{})
	if e := <-events; e.Err != nil {
		t.Fatal(e.Err)
	}
	answer := make(chan string)
	c := unaryClient(t)
	go func() {
		_, body := get(t, c, url+"/slow")
		answer <- body
	}()
	<-begun
	closed := make(chan error)
	go func() { closed <- s.Close(t.Context()) }()
	<-events // the stream has ended, so Close has begun
	close(finish)
	if got := <-answer; got != "done" {
		t.Errorf("the running request got %q", got)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	select {
	case err := <-s.Failed():
		t.Errorf("Close counts as a failure: %v", err)
	default:
	}
}

func TestCloseCutsOffAtItsDeadline(t *testing.T) {
	begun := make(chan struct{})
	s, url := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	}), Config{Name: "test"})
	failed := make(chan error)
	c := unaryClient(t)
	go func() {
		res, err := c.Get(url)
		if err == nil {
			res.Body.Close()
		}
		failed <- err
	}()
	<-begun
	if err := s.Close(canceled()); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v", err)
	}
	if err := <-failed; err != nil { // answered empty or cut, but not left hanging
		t.Logf("cut: %v", err)
	}
}

func TestFailed(t *testing.T) {
	ln, err := Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start(ln, http.NotFoundHandler(), Config{Name: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // under its feet
	if err := <-s.Failed(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if err := s.Close(t.Context()); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	registry := prometheus.NewRegistry()
	s, url := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hi") }),
		Config{Name: "test", MaxConnections: 1, Registerer: registry})
	first, second := unaryClient(t), unaryClient(t)
	get(t, first, url) // keeps its connection
	if got := metric(t, registry, "nearside_server_connections"); got != 1 {
		t.Errorf("%v connections, want 1", got)
	}
	if status, body := get(t, second, url); status != http.StatusTooManyRequests || !strings.Contains(body, "OVERLOADED") {
		t.Errorf("a second connection: %d %s", status, body)
	}
	first.CloseIdleConnections()
	for status := 0; status != 200; { // until the server has heard of that
		status, _ = get(t, second, url)
		if t.Context().Err() != nil {
			t.Fatalf("status %d after the first connection ended", status)
		}
	}
	second.CloseIdleConnections()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if families, err := registry.Gather(); err != nil || len(families) != 0 {
		t.Errorf("metrics after Close: %v, %v", families, err)
	}
}

func metric(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + float64(f.GetMetric()[0].GetHistogram().GetSampleCount())
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// refusedFor returns how many requests were refused for a limit.
func refusedFor(t *testing.T, registry *prometheus.Registry, limit limitName) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "nearside_server_refused_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "limit" && l.GetValue() == string(limit) {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

// dataService answers Get by its database's name.
type dataService struct {
	datav1connect.UnimplementedDataServiceHandler
}

func (dataService) Get(
	_ context.Context, req *connect.Request[datav1.GetRequest],
) (*connect.Response[datav1.GetResponse], error) {
	switch req.Msg.Database {
	case "panic":
		panic("a secret")
	case "unknown":
		return nil, errors.New("a secret")
	default:
		return connect.NewResponse(&datav1.GetResponse{Answer: &datav1.Answer{Region: strings.Repeat("r", 2000)}}), nil
	}
}

func TestHandlerOptions(t *testing.T) {
	var logs logBuffer
	registry := prometheus.NewRegistry()
	options, err := HandlerOptions(slog.New(slog.NewTextHandler(&logs, nil)), registry)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(dataService{}, options...))
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("outside Connect") })
	_, url := start(t, mux, Config{Name: "test", Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	c := unaryClient(t)
	client := datav1connect.NewDataServiceClient(c, url)
	key := &datav1.Key{Values: []*datav1.Value{{}}}
	call := func(database string) error {
		_, err := client.Get(t.Context(), connect.NewRequest(&datav1.GetRequest{Database: database, Table: "t", Key: key}))
		return err
	}
	if err := call("ok"); err != nil {
		t.Error(err)
	}
	if err := call(""); rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_FIELD_INVALID {
		t.Errorf("broken rule: %v", err)
	}
	for _, database := range []string{"panic", "unknown"} {
		if err := call(database); connect.CodeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", database, err)
		}
	}
	if got := strings.Count(logs.String(), "a secret"); got != 2 {
		t.Errorf("%d of 2 unknown errors in the log:\n%s", got, logs.String())
	}
	if got := metric(t, registry, "nearside_rpc_in_flight"); got != 0 {
		t.Errorf("%v calls in flight", got)
	}
	if res, err := c.Get(url + "/panic"); err == nil {
		res.Body.Close()
		t.Error("a panic was answered as if nothing had happened")
	}
	if !strings.Contains(logs.String(), "outside Connect") {
		t.Error("a panic outside Connect is not in the log")
	}
}

func TestBodiesAreLimited(t *testing.T) {
	_, url := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
		if n > 10 && r.Header.Get("Content-Type") == "" {
			t.Errorf("handler read %d bytes", n)
		}
	}), Config{Name: "test", MaxBodyBytes: 10})
	c := unaryClient(t)
	for _, tt := range []struct {
		name, contentType string
		body              io.Reader
		want              int
	}{
		{"small", "", strings.NewReader("0123456789"), 200},
		{"large", "", strings.NewReader("0123456789a"), 413},
		{"large of unknown length", "", io.MultiReader(strings.NewReader("0123456789a")), 413},
		{"stream", "application/connect+proto", io.MultiReader(strings.NewReader("0123456789a")), 200},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, tt.body)
		if err != nil {
			t.Fatal(err)
		}
		if tt.contentType != "" {
			req.Header.Set("Content-Type", tt.contentType)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != tt.want {
			t.Errorf("%s: status %d, want %d", tt.name, res.StatusCode, tt.want)
		}
	}
}

func TestAdmin(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "some_value", Help: "help"}))
	_, url := start(t, AdminHandler(NewHealth(""), registry), Config{Name: "admin"})
	c := unaryClient(t)
	for path, want := range map[string]string{
		"/metrics": "some_value 0", "/healthz": "ok", "/readyz": "ok", "/debug/pprof/goroutine?debug=1": "goroutine profile",
	} {
		if status, body := get(t, c, url+path); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.200q", path, status, body)
		}
	}
}

// TestCloseDoesNotWaitForUnusedConnections opens a connection and sends nothing: Shutdown alone would wait five seconds for it.
// The clock is the bubble's.
func TestCloseDoesNotWaitForUnusedConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		s, err := Start(ln, http.NotFoundHandler(), Config{Name: "t", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		client, conn := net.Pipe()
		defer func() { _ = client.Close() }()
		ln.conns <- conn
		synctest.Wait()
		begun := time.Now()
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took < freshGrace || took > time.Second {
			t.Errorf("closed after %v", took)
		}
	})
}

// pipeListener accepts what a test sends it.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }
