package client

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// call is what the calls made under one context belong to.
type call struct {
	session       *Session
	authorization []string    // of the caller for whom inner calls are made
	named         http.Header // which request they are made for, and its trace

	mu     sync.Mutex
	answer freshness
}

type callKey struct{}

// WithSession returns a context whose calls, through any client that has a Session as interceptor, are part of s instead
// of the client's own.
func WithSession(ctx context.Context, s *Session) context.Context {
	return context.WithValue(ctx, callKey{}, &call{session: s})
}

// FromContext returns the context's session. ok is false if it has none.
func FromContext(ctx context.Context) (s *Session, ok bool) {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return nil, false
	}
	return c.session, true
}

// authorization is the header of a caller's credential.
const authorization = "Authorization"

// receive takes what a response's header says into the session.
func (c *call) receive(h http.Header) {
	if bookmarks := h.Values(rpcheader.Bookmark); len(bookmarks) > 0 {
		c.session.Add(bookmarks...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer.add(h)
}

// respond writes into a response's header what the inner calls answered: all bookmarks, and where the call was answered.
func (c *call) respond(h http.Header) {
	if text := c.session.Bookmarks(); text != "" {
		h.Set(rpcheader.Bookmark, text)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer.set(h)
}

// freshness is where inner calls were answered, taken together: the farthest source, the oldest copy.
type freshness struct {
	region      string
	source      string
	stalenessMs uint64
	stale       bool // a staleness was given
}

// distance orders the sources, nearest first; others are nearer than all.
var distance = map[string]int{
	rpcheader.SourceName(datav1.Source_SOURCE_MEMORY):  1,
	rpcheader.SourceName(datav1.Source_SOURCE_REPLICA): 2,
	rpcheader.SourceName(datav1.Source_SOURCE_PRIMARY): 3,
}

func (f *freshness) add(h http.Header) {
	if region := h.Get(rpcheader.Region); region != "" {
		f.region = region
	}
	if source := h.Get(rpcheader.Source); distance[source] > distance[f.source] {
		f.source = source
	}
	if ms, err := strconv.ParseUint(h.Get(rpcheader.StalenessMs), 10, 32); err == nil {
		f.stalenessMs, f.stale = max(f.stalenessMs, ms), true
	}
}

func (f *freshness) set(h http.Header) {
	if f.region != "" {
		h.Set(rpcheader.Region, f.region)
	}
	if f.source != "" {
		h.Set(rpcheader.Source, f.source)
	}
	if f.stale {
		h.Set(rpcheader.StalenessMs, strconv.FormatUint(f.stalenessMs, 10))
	}
}

// Propagate returns the interceptor for the handlers of a service that calls the mesh. For each call it opens a session
// with the caller's bookmarks and puts it into the handler's context, where calls made through a client with a Session
// find it; they show the caller's credential too, unless they have one of their own, and have the id and the trace of the caller's request. The answer, an error too, carries the session's bookmarks and the region, source and staleness of the inner
// calls in its headers; where there were several inner calls, the farthest source and the greatest staleness.
//
// A caller's header with more than 32 bookmarks is refused.
func Propagate() connect.Interceptor { return propagator{} }

type propagator struct{}

var _ connect.Interceptor = propagator{}

// WrapUnary implements connect.Interceptor.
func (propagator) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if req.Spec().IsClient {
			return next(ctx, req)
		}
		c, err := open(ctx, req.Header())
		if err != nil {
			return nil, err
		}
		res, err := next(context.WithValue(ctx, callKey{}, c), req)
		if err != nil {
			return nil, c.fail(err)
		}
		c.respond(res.Header())
		return res, nil
	}
}

// WrapStreamingClient implements connect.Interceptor. It does nothing.
func (propagator) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor. Headers go out with the first message; what inner calls answer
// after it goes into the trailers.
func (propagator) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		c, err := open(ctx, conn.RequestHeader())
		if err != nil {
			return err
		}
		wrapped := &propagatingConn{StreamingHandlerConn: conn, call: c}
		err = next(context.WithValue(ctx, callKey{}, c), wrapped)
		if err != nil {
			return c.fail(err)
		}
		if wrapped.sent {
			c.respond(conn.ResponseTrailer())
		} else {
			c.respond(conn.ResponseHeader())
		}
		return nil
	}
}

type propagatingConn struct {
	connect.StreamingHandlerConn

	call *call
	sent bool
}

func (c *propagatingConn) Send(msg any) error {
	if !c.sent {
		c.sent = true
		c.call.respond(c.ResponseHeader())
	}
	return c.StreamingHandlerConn.Send(msg)
}

// open begins the session of a call from its request header.
func open(ctx context.Context, h http.Header) (*call, error) {
	headers := h.Values(rpcheader.Bookmark)
	n := 0
	for _, header := range headers {
		n += 1 + strings.Count(header, ",")
	}
	if n > rpcheader.MaxBookmarks {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_MALFORMED,
			"header %s holds %d bookmarks, at most %d are allowed", rpcheader.Bookmark, n, rpcheader.MaxBookmarks)
	}
	c := &call{session: NewSession(headers...), authorization: h.Values(authorization), named: make(http.Header, 3)}
	for _, name := range []string{requestid.Header, requestid.ParentHeader, requestid.StateHeader} {
		if lines := h[name]; len(lines) > 0 {
			c.named[name] = lines
		}
	}
	requestid.From(ctx).Set(c.named) // where the service runs beside a gateway, which has read them already
	return c, nil
}

// fail adds the headers to an error that the caller will see. One that is unknown stays as it is, for whoever logs it.
func (c *call) fail(err error) error {
	wire, known := rpcerr.ToConnect(err)
	if !known {
		return err
	}
	c.respond(wire.Meta())
	return wire
}
