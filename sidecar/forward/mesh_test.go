package forward

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire connects clients to a server in memory, so that tests may run in a synctest bubble.
type wire struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	dials atomic.Int64
	// cut makes dials fail as if nobody listened.
	cut atomic.Bool
	// dark makes connections that nobody serves.
	dark atomic.Bool

	mu   sync.Mutex
	open []net.Conn
}

func newWire() *wire { return &wire{conns: make(chan net.Conn), done: make(chan struct{})} }

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.done) })
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.open {
		c.Close()
	}
	return nil
}

func (*wire) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (w *wire) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	w.dials.Add(1)
	if w.cut.Load() {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	w.mu.Lock()
	w.open = append(w.open, far)
	w.mu.Unlock()
	if w.dark.Load() {
		go func() { _, _ = io.Copy(io.Discard, far) }()
		return near, nil
	}
	select {
	case w.conns <- far:
		return near, nil
	case <-w.done:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// client returns an HTTP client whose connections end with the test.
func (w *wire) client(t *testing.T) *http.Client {
	c := httpclient.NewUnary()
	c.Transport.(*http.Transport).DialContext = w.dial
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// serve serves handler on a new wire until the test ends.
func serve(t *testing.T, handler http.Handler) *wire {
	w := newWire()
	// Cut connections are what is tested; net/http logs them.
	s := &http.Server{Handler: handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(w)
	}()
	t.Cleanup(func() {
		s.Close()
		w.Close()
		<-done
	})
	return w
}

// region is a gateway that passes all to a primary.
type region struct {
	*Primary

	primary, gateway *wire
	client           datav1connect.DataServiceClient
}

func newRegion(t *testing.T, primary http.Handler, o Options) *region {
	t.Helper()
	r := &region{primary: serve(t, primary)}
	o.Region, o.URL, o.HTTPClient = "eu-west-1", "http://primary", r.primary.client(t)
	var err error
	if r.Primary, err = New(o); err != nil {
		t.Fatal(err)
	}
	errs, err := rpcerr.NewInterceptor(nil) // logs what is unknown, which would be a failure here: it panics
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(r.Primary, connect.WithInterceptors(errs)))
	r.gateway = serve(t, mux)
	r.client = datav1connect.NewDataServiceClient(r.gateway.client(t), "http://gateway")
	return r
}

// stub is a primary whose methods tests fill in.
type stub struct {
	datav1connect.UnimplementedDataServiceHandler

	execute func(context.Context, *connect.Request[datav1.ExecuteRequest]) (*connect.Response[datav1.ExecuteResponse], error)
	query   func(context.Context) error
	stream  func(context.Context, *connect.ServerStream[datav1.QueryStreamResponse]) error
	drop    func()
}

func (s stub) Execute(
	ctx context.Context, req *connect.Request[datav1.ExecuteRequest],
) (*connect.Response[datav1.ExecuteResponse], error) {
	return s.execute(ctx, req)
}

func (s stub) Query(
	ctx context.Context, _ *connect.Request[datav1.QueryRequest],
) (*connect.Response[datav1.QueryResponse], error) {
	if err := s.query(ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(&datav1.QueryResponse{Answer: &datav1.Answer{Region: "primary"}}), nil
}

func (s stub) QueryStream(
	ctx context.Context, _ *connect.Request[datav1.QueryStreamRequest], out *connect.ServerStream[datav1.QueryStreamResponse],
) error {
	return s.stream(ctx, out)
}

func (s stub) DeleteDatabase(
	context.Context, *connect.Request[datav1.DeleteDatabaseRequest],
) (*connect.Response[datav1.DeleteDatabaseResponse], error) {
	s.drop()
	return connect.NewResponse(&datav1.DeleteDatabaseResponse{}), nil
}

func (s stub) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(s))
	return mux
}

// hangUp ends the connection without an answer, after the work was done.
func hangUp() { panic(http.ErrAbortHandler) }

func statement() *datav1.Statement { return &datav1.Statement{Sql: "SELECT 1"} }

func (r *region) query(ctx context.Context) error {
	_, err := r.client.Query(ctx, connect.NewRequest(&datav1.QueryRequest{Database: "d", Statement: statement()}))
	return err
}

func (r *region) executeWith(ctx context.Context) error {
	_, err := r.client.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{Database: "d", Statement: statement()}))
	return err
}

func wantReason(t *testing.T, err error, want rpcerr.Reason) *rpcerr.Error {
	t.Helper()
	e, ok := rpcerr.FromError(err)
	if !ok || e.Reason() != want {
		t.Fatalf("error is %v, want %v", err, want)
	}
	return e
}

// calls returns how many calls of a method had an outcome.
func calls(t *testing.T, registry *prometheus.Registry, method, outcome string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "nearside_forward_calls_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["method"] == method && labels["outcome"] == outcome {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

var errTest = errors.New("test")
