package mesh

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/server"
)

func TestASuspectedEndpointIsTheLastResort(t *testing.T) {
	r, s := newService(t, "eu", "eu", "us")
	a, b, far := s.endpoints[0], s.endpoints[1], s.endpoints[2]
	r.unreached(a)
	for range 100 {
		e, ok := r.take(s, nil)
		if !ok || e.endpoint != b {
			t.Fatalf("%v was taken", e.endpoint)
		}
		e.give(nil)
	}
	if e, ok := r.take(s, []*endpoint{b}); !ok || e.endpoint != far {
		t.Error("one far away was not taken before one that is suspected")
	}
	r.unreached(b)
	r.unreached(far)
	if _, ok := r.take(s, nil); !ok {
		t.Error("all are suspected, and none was taken")
	}
	// A call that has tried before may try a suspected one as far as the budget goes.
	tried := 0
	for range 10 {
		if _, ok := r.take(s, []*endpoint{b}); ok {
			tried++
		}
	}
	if tried != budgetPerSecond {
		t.Errorf("%d suspected ones were tried, want %v", tried, budgetPerSecond)
	}
	if got := a.state(); got != "suspect" {
		t.Errorf("its state is %s", got)
	}
	a.down.Store(true)
	if got := a.state(); got != "down" {
		t.Errorf("then its state is %s", got)
	}
}

// checked is an endpoint as its checks find it.
type checked struct {
	refuses atomic.Bool
	holds   atomic.Bool // a check gets its answer once this ends
	checks  atomic.Int64
}

func (c *checked) dial(context.Context, string, string) (net.Conn, error) {
	c.checks.Add(1)
	for c.holds.Load() {
		time.Sleep(time.Millisecond)
	}
	if c.refuses.Load() {
		return nil, syscall.ECONNREFUSED
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		if _, err := http.ReadRequest(bufio.NewReader(far)); err == nil {
			_, _ = io.WriteString(far, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n") // it has no such service, and is well
		}
	}()
	return near, nil
}

func TestASuspicionEndsWithACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := New(Options{Region: "eu", Source: noRows{}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		c := &checked{}
		r.http2 = &http.Transport{DialTLSContext: c.dial}
		r.http1 = r.http2
		endpoints, near, err := r.endpointsOf(nil, []place{{service: "acme.Echo", region: "eu", url: "https://127.0.0.1:1"}})
		if err != nil {
			t.Fatal(err)
		}
		e := endpoints[0]
		r.current.Store(&table{services: map[string]*service{"acme.Echo": {name: "acme.Echo", endpoints: endpoints, near: near}}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.Run(ctx)
		}()
		defer func() {
			cancel()
			<-done
		}()
		state := func(what string, checks int64, want string) {
			t.Helper()
			synctest.Wait()
			if got := e.state(); c.checks.Load() != checks || got != want {
				t.Fatalf("%s: %s after %d checks, want %s after %d", what, got, c.checks.Load(), want, checks)
			}
		}
		state("at first", 1, "up")
		time.Sleep(10*time.Second + time.Millisecond)
		state("nothing is due", 1, "up")
		r.unreached(e)
		state("at once", 2, "up")
		r.unreached(e)
		state("just checked", 2, "suspect")
		time.Sleep(checkPause + checkTick)
		state("checked again", 3, "up")

		c.holds.Store(true)
		time.Sleep(checkInterval + checkTick)
		state("a check that waits", 4, "up")
		r.unreached(e)
		c.holds.Store(false)
		time.Sleep(2 * time.Millisecond)
		state("a check from before", 4, "suspect")
		time.Sleep(checkPause + checkTick)
		state("one from after", 5, "up")

		c.refuses.Store(true)
		time.Sleep(10 * time.Second)
		r.unreached(e)
		state("the first try", 7, "suspect") // by gRPC and by Connect
		time.Sleep(2*checkPause + time.Millisecond)
		state("the last try", 11, "down")
		c.refuses.Store(false)
		time.Sleep(checkDown + checkTick)
		state("it is back", 12, "up")
	})
}

// TestAConnectionThatHasJustEnded: what could not be written to it is written to another one.
func TestAConnectionThatHasJustEnded(t *testing.T) {
	r, s := newService(t, "eu")
	e := s.endpoints[0]
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.pool.address = ln.Addr().String()
	served := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("fresh"))
	})}
	go func() { _ = served.Serve(ln) }() // ends with Close
	defer served.Close()
	defer e.pool.close()
	e.pool.put(&upstream{Conn: endedConn{}, buf: make([]byte, upstreamBytes)})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/acme.Echo/Echo", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	c := expressCall{
		router: r, route: &route{service: s}, req: req, principal: &identity.Principal{}, answer: &server.ExpressAnswer{},
		began: time.Now(), ends: time.Now().Add(time.Minute),
	}
	if outcome := c.run(t.Context()); outcome != outcomeAnswered || !c.sent {
		t.Errorf("outcome %v: %s", outcome, c.answer.Bytes)
	}
	if e.breaker.Counts().TotalFailures != 0 {
		t.Error("it counts against the endpoint")
	}
}

// endedConn is a connection that its other side has ended.
type endedConn struct{ net.Conn }

func (endedConn) Write([]byte) (int, error)       { return 0, syscall.EPIPE }
func (endedConn) SetDeadline(time.Time) error     { return nil }
func (endedConn) SetReadDeadline(time.Time) error { return nil }
func (endedConn) Close() error                    { return nil }

// silent returns an address at which nobody answers, not even with a refusal: its queue is full.
func silent(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	in4, ok := name.(*syscall.SockaddrInet4)
	if !ok {
		t.Fatalf("its name is a %T", name)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(in4.Port))
	for range 8 { // one fits in, or two
		conn, err := net.DialTimeout("tcp", addr, 50*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Skip("the system takes connections that nobody accepts")
	return ""
}

// TestACallerWhoDoesNotWait for a connection that takes long has learned something about the endpoint; one who gives up at once has not.
func TestACallerWhoDoesNotWait(t *testing.T) {
	addr := silent(t)
	for _, tc := range []struct {
		timeout time.Duration
		suspect bool
	}{{slowConnect / 10, false}, {slowConnect + 100*time.Millisecond, true}} {
		r, s := newService(t, "eu")
		e := s.endpoints[0]
		e.pool.address = addr
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/acme.Echo/Echo", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		c := expressCall{
			router: r, route: &route{service: s}, req: req, principal: &identity.Principal{}, answer: &server.ExpressAnswer{},
			began: time.Now(), timeout: tc.timeout, ends: time.Now().Add(tc.timeout),
		}
		if outcome := c.run(t.Context()); outcome != outcomeTimeout {
			t.Errorf("%v: %v: %s", tc.timeout, outcome, c.answer.Bytes)
		}
		if isSuspected(e) != tc.suspect {
			t.Errorf("%v: suspected: %v", tc.timeout, isSuspected(e))
		}
		if e.breaker.Counts().TotalFailures != 0 {
			t.Errorf("%v: it counts against the endpoint: %+v", tc.timeout, e.breaker.Counts())
		}
	}
}
