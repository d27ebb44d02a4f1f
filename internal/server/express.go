package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Express can answer a whole small request without net/http, for half of what net/http needs for it. It is asked first, on
// HTTP/1.1 connections that have carried nothing else yet; any other request, whatever the reason, and all that follow it on its
// connection, are net/http's as they came.
type Express interface {
	// ServeExpress appends the answer to a request to a.Bytes and reports true; or it has done nothing and reports false, and
	// the listener's handler gets the request. r has a method, a URL, an address, headers and a length, and no more; what its
	// headers hold may be kept, r and body may not. A connection's requests with the same headers have the same r, which nobody
	// changes: by r's address one knows them again. ctx ends when the caller has gone, which is noticed after a while, and when
	// the server is cut off.
	ServeExpress(ctx context.Context, r *http.Request, body []byte, a *ExpressAnswer) bool
}

// GetExpress is an Express that is asked about GET too, without a body. Others are about POST alone.
type GetExpress interface {
	Express

	// ExpressGet reports whether it is.
	ExpressGet() bool
}

// Expresser is a listener's handler that knows who answers a path at once. Whatever requests have to pass before they reach
// their method, authentication for one, is the Express's to do: nothing else of the handler is asked.
type Expresser interface {
	// Express returns nil for a path that is net/http's.
	Express(path string) Express
}

// ExpresserOf returns what a listener's handler says of its paths; a mux has those whose handlers are Express themselves. A
// handler that is neither, as one that wraps a mux, has none.
func ExpresserOf(handler http.Handler) Expresser {
	switch h := handler.(type) {
	case Expresser:
		return h
	case *http.ServeMux:
		return expressMux{h}
	default:
		return nil
	}
}

type expressMux struct{ mux *http.ServeMux }

// Express implements Expresser.
func (m expressMux) Express(path string) Express {
	h, _ := m.mux.Handler(&http.Request{Method: http.MethodPost, URL: &url.URL{Path: path}, Host: "localhost"})
	e, _ := h.(Express)
	return e
}

const (
	expressBytes     = 4 << 10               // of a connection's memory at its begin
	maxExpressHead   = 4 << 10               // longer ones are net/http's
	maxExpressBody   = 64 << 10              // and so are these
	maxExpressKept   = 16 << 10              // of a connection's memory, between two requests
	expressPatience  = time.Second           // for the rest of a request; then net/http waits for it, with its own limits
	expressWatch     = 50 * time.Millisecond // from here on a call's caller is watched
	expressIdleTrust = time.Minute           // how old the deadline of an idle connection gets
)

// express serves the connections of a listener until they need net/http, which then gets them from Accept.
type express struct {
	net.Listener

	paths       Expresser
	maxRequests int64
	maxBody     int64
	logger      *slog.Logger
	base        context.Context //nolint:containedctx // of all requests

	handedOver chan net.Conn
	failed     chan error
	closed     chan struct{}
	once       sync.Once
	closing    atomic.Bool
	answered   atomic.Uint64
	running    sync.WaitGroup

	mu    sync.Mutex
	conns map[*expressConn]struct{}
}

func newExpress(base context.Context, ln net.Listener, paths Expresser, logger *slog.Logger, c Config) *express {
	e := &express{
		Listener: ln, paths: paths, maxRequests: int64(c.MaxRequestsPerClient), maxBody: min(c.MaxBodyBytes, maxExpressBody),
		logger: logger, base: base, handedOver: make(chan net.Conn), failed: make(chan error), closed: make(chan struct{}),
		conns: make(map[*expressConn]struct{}),
	}
	e.running.Go(e.acceptAll)
	return e
}

func (e *express) counter(listener string) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name:        "nearside_server_express_total",
		Help:        "Requests that a listener answered without net/http.",
		ConstLabels: prometheus.Labels{"listener": listener},
	}, func() float64 { return float64(e.answered.Load()) })
}

func (e *express) acceptAll() {
	for {
		c, err := e.Listener.Accept()
		if err != nil {
			select {
			case e.failed <- err: // net/http knows which errors pass, and waits before it comes again
				continue
			case <-e.closed:
				return
			}
		}
		own, ok := c.(*conn)
		if !ok || own.refused.Load() != nil {
			e.handOver(c)
			continue
		}
		x := &expressConn{e: e, conn: own, addr: own.RemoteAddr().String()}
		e.mu.Lock()
		e.conns[x] = struct{}{}
		e.mu.Unlock()
		e.running.Go(x.serve)
	}
}

// Accept implements net.Listener for net/http.
func (e *express) Accept() (net.Conn, error) {
	select {
	case c := <-e.handedOver:
		return c, nil
	case err := <-e.failed:
		return nil, err
	case <-e.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (e *express) Close() error {
	e.once.Do(func() { close(e.closed) })
	return e.Listener.Close()
}

func (e *express) handOver(c net.Conn) {
	select {
	case e.handedOver <- c:
	case <-e.closed:
		_ = c.Close() // its client sees what a connection sees that comes too late
	}
}

// drain ends the connections that wait for a request, and has the others end after their present one.
func (e *express) drain() {
	e.closing.Store(true)
	e.each(func(x *expressConn) { x.end(expressIdle) })
}

// endFresh ends the connections on which nothing was received yet.
func (e *express) endFresh() { e.each(func(x *expressConn) { x.end(expressFresh) }) }

// wait waits until no connection is left but those that were handed over.
func (e *express) wait(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.running.Wait()
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cut ends all.
func (e *express) cut() { e.each(func(x *expressConn) { _ = x.conn.Close() }) }

func (e *express) each(f func(*expressConn)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for x := range e.conns {
		f(x)
	}
}

// What a connection does.
const (
	expressFresh int32 = iota // it has carried nothing
	expressIdle
	expressBusy
	expressEnded
)

// Whether a call is watched.
const (
	unwatched int32 = iota
	watchable
	watched
)

// expressConn is one connection. Its fields but the atomic ones are its goroutine's.
type expressConn struct {
	e     *express
	conn  *conn
	state atomic.Int32

	buf    []byte // what was received and not answered
	answer ExpressAnswer
	head   expressHead
	addr   string // of the other side
	path   string
	target Express // of path

	deadlineSet time.Time
	ctx         context.Context //nolint:containedctx // of all its requests: it ends with the connection
	cancel      context.CancelFunc

	watch     *time.Timer
	watching  atomic.Int32
	seen      chan struct{} // gets one when the watch has ended
	early     [1]byte       // of the next request, that the watch received
	earlyHave bool
}

// end closes the connection if it is in a state.
func (x *expressConn) end(state int32) {
	if x.state.CompareAndSwap(state, expressEnded) {
		_ = x.conn.Close()
	}
}

func (x *expressConn) serve() {
	kept := false
	defer func() {
		x.e.mu.Lock()
		delete(x.e.conns, x)
		x.e.mu.Unlock()
		if x.cancel != nil {
			x.cancel()
		}
		if !kept {
			_ = x.conn.Close()
		}
	}()
	x.buf = make([]byte, 0, expressBytes)
	x.answer.conn = x.conn
	for {
		body, next, err := x.receive()
		if err != nil {
			return
		}
		if body != nil {
			done, err := x.call(body)
			if err != nil {
				return
			}
			if done {
				if !x.rest(next) {
					return
				}
				continue
			}
		}
		if !x.state.CompareAndSwap(expressBusy, expressEnded) || x.conn.SetReadDeadline(time.Time{}) != nil {
			return
		}
		x.conn.begin, kept = x.buf, true
		x.e.handOver(x.conn)
		return
	}
}

// rest makes ready for the next request, which may have come already, and reports whether there may be one.
func (x *expressConn) rest(next int) bool {
	n := copy(x.buf, x.buf[next:])
	x.buf = x.buf[:n]
	if x.earlyHave {
		x.buf, x.earlyHave = append(x.buf, x.early[0]), false
	}
	if n == 0 && cap(x.buf) > maxExpressKept {
		x.buf = make([]byte, 0, expressBytes)
	}
	x.state.Store(expressIdle)
	if x.e.closing.Load() {
		x.end(expressIdle)
	}
	return x.state.Load() == expressIdle
}

// receive waits for a request. Its body is nil where it is net/http's; next is where the one after it begins. An error says that
// the connection has ended.
func (x *expressConn) receive() (body []byte, next int, err error) {
	if len(x.buf) == 0 {
		if now := time.Now(); now.Sub(x.deadlineSet) > expressIdleTrust {
			if err := x.conn.SetReadDeadline(now.Add(idleTimeout + expressIdleTrust)); err != nil {
				return nil, 0, err
			}
			x.deadlineSet = now
		}
		if err := x.more(); err != nil {
			return nil, 0, err
		}
	}
	if !x.state.CompareAndSwap(expressIdle, expressBusy) && !x.state.CompareAndSwap(expressFresh, expressBusy) {
		return nil, 0, net.ErrClosed
	}
	patient := false
	for {
		verdict := x.head.parse(x.buf)
		if verdict == headOK && x.head.bodyBytes > int(x.e.maxBody) {
			verdict = headForeign
		}
		if verdict == headOK && len(x.buf) >= x.head.size+x.head.bodyBytes {
			next = x.head.size + x.head.bodyBytes
			return x.buf[x.head.size:next], next, nil
		}
		if verdict == headForeign {
			return nil, 0, nil
		}
		if !patient {
			patient = true
			x.deadlineSet = time.Time{}
			if err := x.conn.SetReadDeadline(time.Now().Add(expressPatience)); err != nil {
				return nil, 0, err
			}
		}
		if err := x.more(); errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, 0, nil
		} else if err != nil {
			// net/http sees the same end, and may have something to say about what came before it.
			return nil, 0, nil //nolint:nilerr // see above
		}
	}
}

// more reads what has come.
func (x *expressConn) more() error {
	if len(x.buf) == cap(x.buf) {
		x.buf = slices.Grow(x.buf, max(x.head.size+x.head.bodyBytes-len(x.buf), expressBytes))
	}
	n, err := x.conn.Read(x.buf[len(x.buf):cap(x.buf)])
	x.buf = x.buf[:len(x.buf)+n]
	if n > 0 {
		return nil // an error comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// call has a request answered; done is false where nobody has. An error says that the connection has ended.
func (x *expressConn) call(body []byte) (done bool, err error) {
	target := x.handler()
	if target == nil {
		return false, nil
	}
	requests := &x.conn.client.requests
	defer requests.Add(-1)
	if requests.Add(1) > x.e.maxRequests {
		return false, nil
	}
	x.answer.closing, x.answer.Began, x.answer.Bytes, x.answer.Extra = x.e.closing.Load(), time.Now(), x.answer.Bytes[:0], nil
	x.answer.Request = x.head.given.New()
	x.beginWatch()
	done, panicked := x.ask(target, body)
	x.endWatch()
	if panicked {
		return false, http.ErrAbortHandler
	}
	if !done {
		if x.earlyHave {
			x.buf, x.earlyHave = append(x.buf, x.early[0]), false
		}
		id := x.answer.Request
		x.conn.named = &id // net/http is given the connection over a channel
		return false, nil
	}
	x.e.answered.Add(1)
	_, err = x.conn.Write(x.answer.Bytes)
	if cap(x.answer.Bytes) > maxExpressKept {
		x.answer.Bytes = nil
	}
	if x.answer.closing && err == nil {
		err = net.ErrClosed
	}
	return true, err
}

func (x *expressConn) ask(target Express, body []byte) (done, panicked bool) {
	defer func() {
		if p := recover(); p != nil {
			x.e.logger.ErrorContext(x.ctx, "panic in a handler", slog.String("request_id", x.answer.Request.String()),
				slog.String("path", x.path), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			panicked = true
		}
	}()
	return target.ServeExpress(x.ctx, x.head.request, body, &x.answer), false
}

// handler returns who answers the present request's path, or nil.
func (x *expressConn) handler() Express {
	if x.conn.refused.Load() != nil {
		return nil // net/http says why
	}
	if string(x.head.path) != x.path || x.target == nil {
		x.path = string(x.head.path)
		x.target = x.e.paths.Express(x.path)
	}
	x.head.request.URL, x.head.request.RemoteAddr = &x.head.url, x.addr
	x.head.url.Path = x.path
	if x.head.method == http.MethodGet {
		if g, ok := x.target.(GetExpress); !ok || !g.ExpressGet() {
			return nil
		}
	}
	return x.target
}

// beginWatch sees to it that the end of the connection ends a call that takes long.
func (x *expressConn) beginWatch() {
	if x.ctx == nil {
		x.ctx, x.cancel = context.WithCancel(withConn(x.e.base, x.conn))
		x.seen = make(chan struct{}, 1)
	}
	x.watching.Store(watchable)
	if x.watch == nil {
		x.watch = time.AfterFunc(expressWatch, x.look)
	} else {
		x.watch.Reset(expressWatch)
	}
}

// look reads from the connection while a call runs: what comes then is the next request or the connection's end.
func (x *expressConn) look() {
	if !x.watching.CompareAndSwap(watchable, watched) {
		return
	}
	defer func() { x.seen <- struct{}{} }()
	n, err := x.conn.Read(x.early[:])
	x.earlyHave = n == 1
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		x.cancel()
	}
}

func (x *expressConn) endWatch() {
	x.watch.Stop()
	if x.watching.CompareAndSwap(watchable, unwatched) {
		return
	}
	_ = x.conn.SetReadDeadline(time.Unix(1, 0)) // the connection has ended if this fails, and the watch too
	<-x.seen
	_ = x.conn.SetReadDeadline(time.Time{})
	x.deadlineSet = time.Time{}
	x.watching.Store(unwatched)
}
