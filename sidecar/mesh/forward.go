package mesh

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/requestid"
)

const (
	dialTimeout = 2 * time.Second
	// timeoutGrace is how much longer than its caller gave a call may take: its service is to say itself that the time is over.
	timeoutGrace = 200 * time.Millisecond

	copyBytes          = 32 << 10
	streamReceiveBytes = 256 << 10 // of a stream, that its caller has not taken in yet
	connReceiveBytes   = 256 << 20 // of all streams of a connection: 1,000 of them do not stop each other
	endpointPing       = 15 * time.Second
	maxAnswerHeader    = 64 << 10
	idleConnTime       = time.Minute
	maxIdleConns       = 64 // of an endpoint
)

// newTransport returns a transport of HTTP/2 alone, without TLS too, or of HTTP/1.1 alone.
func newTransport(http2 bool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	protocols.SetUnencryptedHTTP2(http2)
	return &http.Transport{
		Protocols: protocols, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, TLSHandshakeTimeout: dialTimeout,
		DisableCompression: true, MaxIdleConnsPerHost: maxIdleConns, IdleConnTimeout: idleConnTime,
		MaxResponseHeaderBytes: maxAnswerHeader, WriteBufferSize: copyBytes, ReadBufferSize: copyBytes,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: streamReceiveBytes, MaxReceiveBufferPerConnection: connReceiveBytes,
			SendPingTimeout: endpointPing, PingTimeout: endpointPing,
		},
	}
}

var copyBuffers = sync.Pool{New: func() any { return new([copyBytes]byte) }}

// errTimeout ends a call whose time is over.
var errTimeout = errors.New("the call's time is over")

// passage is one call on its way.
type passage struct {
	router *Router
	route  *route
	req    *http.Request
	header http.Header
	body   *passedBody
	began  time.Time

	ending *ending   // of a stream whose messages are checked; nil is none
	ends   time.Time // zero is never
	sent   atomic.Bool
}

// forward passes a call on and its answer back.
func (r *Router) forward(w http.ResponseWriter, req *http.Request, p *identity.Principal, m *route) {
	c := &passage{router: r, route: m, req: req, began: time.Now(), header: r.headerFor(req, p, m)}
	outcome := outcomeAborted
	defer func() { m.service.metrics.done(outcome, m.unary, time.Since(c.began)) }()
	if req.Body != nil && req.Body != http.NoBody && (req.ContentLength != 0 || req.ProtoMajor == 2) {
		c.body = &passedBody{ReadCloser: req.Body, passage: c}
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	if m.rules != nil && m.clientStreaming {
		if err := c.checkMessages(ctx, func() { cancel(errRefused) }); err != nil {
			outcome = outcomeInvalid
			r.refuse(w, req, r.told(req, m, err))
			return
		}
		defer c.ending.stop()
	}
	if timeout := timeoutOf(req.Header); timeout > 0 {
		c.ends = c.began.Add(timeout)
		defer time.AfterFunc(timeout+timeoutGrace, func() { cancel(errTimeout) }).Stop()
	}
	res, t, err := c.attempts(ctx)
	if err != nil {
		outcome = c.failed(ctx, w, err)
		return
	}
	verdict := errNotCounted
	defer func() {
		cancel(nil) // first: closing the answer waits for the request
		_ = res.Body.Close()
		t.give(verdict)
	}()
	if res.StatusCode < http.StatusOK { // another protocol than was asked for, or no status
		verdict, outcome = errAnswer, outcomeUnavailable
		r.refuse(w, req, unavailable(m.service, true))
		return
	}
	if m.unary {
		t.took(time.Since(c.began), time.Since(r.began))
	}
	switch err := c.answer(w, res); {
	case err == nil:
		verdict, outcome = nil, outcomeAnswered
		if res.StatusCode == http.StatusBadGateway || res.StatusCode == http.StatusServiceUnavailable {
			verdict = errors.New(res.Status)
		}
	case c.ending.refused() != nil && c.ending.between() && !errors.Is(err, errCaller):
		outcome = outcomeInvalid
		c.endAnswer(w)
	case req.Context().Err() != nil:
		outcome = outcomeCanceled
		panic(http.ErrAbortHandler)
	case errors.Is(err, errCaller):
		if _, turned := req.Body.(turnedBody); turned {
			return // it is who turns it that takes no more: its caller was told why
		}
		panic(http.ErrAbortHandler)
	default:
		if context.Cause(ctx) == errTimeout { //nolint:errorlint // it is that one or none
			outcome = outcomeTimeout
		} else {
			verdict = err
		}
		c.cutShort(w, res, outcome)
	}
}

// attempts returns an answer, and the endpoint that it is of.
func (c *passage) attempts(ctx context.Context) (*http.Response, taken, error) {
	r := c.router
	r.retries.earn()
	var tried []*endpoint
	var last error
	for range maxTries {
		t, ok := r.take(c.route.service, tried)
		if !ok {
			break
		}
		began := time.Now()
		res, err := c.once(ctx, t.endpoint)
		if err == nil {
			return res, t, nil
		}
		last = err
		if !c.sent.Load() && (ctx.Err() == nil || time.Since(began) >= slowConnect) {
			r.unreached(t.endpoint)
		}
		switch {
		case ctx.Err() != nil, c.body != nil && c.body.failed.Load() != nil:
			t.give(errNotCounted)
			return nil, taken{}, err
		default:
			t.give(err)
		}
		if c.sent.Load() {
			break
		}
		r.metrics.retries.Inc()
		tried = append(tried, t.endpoint)
	}
	if last == nil {
		last = errNoEndpoint
	}
	return nil, taken{}, last
}

var errNoEndpoint = errors.New("no endpoint is usable")

// once asks one endpoint.
func (c *passage) once(ctx context.Context, e *endpoint) (*http.Response, error) {
	header := c.header
	if spent := time.Since(c.began); !c.ends.IsZero() && spent >= time.Millisecond {
		setTimeout(header, time.Until(c.ends))
	}
	out := &http.Request{
		Method: c.req.Method, Header: header,
		URL: &url.URL{Scheme: e.base.Scheme, Host: e.base.Host, Path: c.req.URL.Path, RawQuery: c.req.URL.RawQuery},
	}
	if c.body != nil {
		out.Body, out.ContentLength = c.body, c.req.ContentLength
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { c.sent.Store(true) }})
	return c.transport(ctx, e).RoundTrip(out.WithContext(ctx))
}

// transport returns how an endpoint is to be talked to: as the caller talks, but for gRPC, which is always HTTP/2, and for
// endpoints that do not know that.
func (c *passage) transport(ctx context.Context, e *endpoint) *http.Transport {
	kind := c.req.Header.Get("Content-Type")
	grpc := strings.HasPrefix(kind, "application/grpc") && !strings.HasPrefix(kind, "application/grpc-web")
	if grpc || c.req.ProtoMajor == 2 && e.learn(ctx) != h2Not {
		return c.router.http2
	}
	return c.router.http1
}

// headerFor returns the headers of a request that its service gets to see.
func (r *Router) headerFor(req *http.Request, p *identity.Principal, m *route) http.Header {
	named := connectionNames(req.Header)
	out := make(http.Header, len(req.Header)+2)
	for name, values := range req.Header {
		if passes(name, values, m, p) && !named[name] {
			out[name] = values
		}
	}
	if req.Header.Get("Te") != "" && strings.Contains(strings.ToLower(strings.Join(req.Header["Te"], ",")), "trailers") {
		out["Te"] = []string{"trailers"} // servers of gRPC want to be told
	}
	if out["User-Agent"] == nil {
		out["User-Agent"] = []string{""} // or the transport would say its own
	}
	if subject := p.Actor(); subject != "" {
		out[SubjectHeader] = []string{subject}
	}
	out["X-Forwarded-For"] = []string{host(req.RemoteAddr)}
	out[HopsHeader] = []string{strconv.Itoa(hopsOf(req.Header) + 1)}
	if state := req.Header[requestid.StateHeader]; len(state) > 0 {
		out[requestid.StateHeader] = state
	}
	requestid.From(req.Context()).Set(out)
	return out
}

// connectionNames returns the headers that the header Connection names.
func connectionNames(h http.Header) map[string]bool {
	var names map[string]bool
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if names == nil {
				names = make(map[string]bool)
			}
			names[http.CanonicalHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	return names
}

// gatewaysOwn begins the headers by which the gateway says which pages may read an answer. A service knows nothing of them.
const gatewaysOwn = "Access-Control-"

// endpointsOwn are the headers by which an endpoint says how its own name is to be called: callers would take it for the gateway's.
var endpointsOwn = map[string]bool{"Alt-Svc": true, "Strict-Transport-Security": true}

// errCaller marks that a caller does not take the answer in.
var errCaller = errors.New("the caller takes nothing in")

// answer passes an answer back as it comes.
func (c *passage) answer(w http.ResponseWriter, res *http.Response) error {
	named, header := connectionNames(res.Header), w.Header()
	for name, values := range res.Header {
		switch {
		case hopByHop[name], named[name], endpointsOwn[name], strings.HasPrefix(name, gatewaysOwn):
		case name == "Content-Length" && res.StatusCode == http.StatusNoContent: // HTTP/2 would wait for it
		case name == "Vary":
			header[name] = append(header[name], values...)
		case header[name] == nil: // what the gateway says stays
			header[name] = values
		}
	}
	if header["Content-Type"] == nil {
		header["Content-Type"] = nil // or net/http guesses one
	}
	w.WriteHeader(res.StatusCode)
	if res.StatusCode != http.StatusOK {
		c.ending.never() // it has no envelopes
	}
	control := http.NewResponseController(w)
	stream := !c.route.unary
	flush := func() error {
		if !stream {
			return nil
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
			return nil
		}
		return control.Flush()
	}
	if err := flush(); err != nil {
		return errCaller
	}
	buffer := copyBuffers.Get().(*[copyBytes]byte)
	defer copyBuffers.Put(buffer)
	for {
		n, err := res.Body.Read(buffer[:])
		piece, last := c.ending.pass(buffer[:n])
		if len(piece) > 0 {
			if _, err := w.Write(piece); err != nil {
				return errCaller
			}
			if err := flush(); err != nil {
				return errCaller
			}
		}
		if last {
			return errRefused
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	for name, values := range res.Trailer {
		header[http.TrailerPrefix+name] = values // never among the headers, where one of the name may be
	}
	return nil
}

// failed answers a call that got no answer, and says what became of it.
func (c *passage) failed(ctx context.Context, w http.ResponseWriter, err error) outcome {
	r, s := c.router, c.route.service
	if wire := c.ending.refused(); wire != nil {
		r.refuse(w, c.req, wire)
		return outcomeInvalid
	}
	if c.body != nil && c.body.failed.Load() != nil {
		// First: with HTTP/1.1 a body that came too slowly ends the request's context too.
		if wire, ok := errors.AsType[*connect.Error](*c.body.failed.Load()); ok {
			r.refuse(w, c.req, wire)
			return outcomeCanceled
		}
	}
	switch {
	case c.req.Context().Err() != nil:
		r.refuse(w, c.req, connect.NewError(connect.CodeCanceled, context.Canceled)) // nobody may be there to hear it
		return outcomeCanceled
	case context.Cause(ctx) == errTimeout: //nolint:errorlint // it is that one or none
		r.refuse(w, c.req, connect.NewError(connect.CodeDeadlineExceeded, errTimeout))
		return outcomeTimeout
	case c.body != nil && c.body.failed.Load() != nil:
		r.refuse(w, c.req, connect.NewError(connect.CodeCanceled, errors.New("the request ended early")))
		return outcomeCanceled
	default:
		if !errors.Is(err, errNoEndpoint) {
			r.logger.DebugContext(ctx, "endpoint failed", "service", s.name, "error", err)
		}
		r.refuse(w, c.req, unavailable(s, c.sent.Load()))
		return outcomeUnavailable
	}
}

// checkMessages has the messages of a stream checked as they come. cancel ends the call at its endpoint.
func (c *passage) checkMessages(ctx context.Context, cancel func()) error {
	if c.body == nil {
		return nil
	}
	f, err := formOf(c.req.Header)
	if err != nil || !f.envelopes {
		return errUnsupported
	}
	c.ending = &ending{cancel: cancel}
	c.body.ReadCloser = &stoppedBody{checkedBody: c.router.newCheckedBody(c.req, c.route, f), passage: c, ended: ctx.Done()}
	return nil
}

// stoppedBody is a body that stops at the first message that is not well: no error of its own cuts the answer short.
type stoppedBody struct {
	*checkedBody

	passage *passage
	ended   <-chan struct{} // when the call has
	stopped bool
}

// Read implements io.Reader.
func (b *stoppedBody) Read(p []byte) (int, error) {
	n, err := b.checkedBody.Read(p)
	if err == nil || !b.refused || b.passage.body.closed.Load() {
		return n, err
	}
	if !b.stopped {
		b.stopped = true
		b.passage.ending.refuse(wireError(err))
	}
	<-b.ended
	return n, err
}

// cutShort ends an answer that began and will have no end.
func (c *passage) cutShort(w http.ResponseWriter, res *http.Response, because outcome) {
	kind := res.Header.Get("Content-Type")
	if c.req.ProtoMajor != 2 || !strings.HasPrefix(kind, "application/grpc") || strings.HasPrefix(kind, "application/grpc-web") {
		panic(http.ErrAbortHandler) // so that nobody takes it for whole
	}
	status, message := "14", "the endpoint of "+c.route.service.name+" ended its answer"
	if because == outcomeTimeout {
		status, message = "4", errTimeout.Error()
	}
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", status)
	w.Header().Set(http.TrailerPrefix+"Grpc-Message", message)
}

// passedBody is a request's body on its way to an endpoint.
type passedBody struct {
	io.ReadCloser

	passage *passage
	failed  atomic.Pointer[error] // what reading it ended with, if that was no end, and not ours
	closed  atomic.Bool           // by the transport, which is done with it
}

// Read implements io.Reader.
func (b *passedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !b.closed.Load() {
		b.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// Close implements io.Closer. Another endpoint may need what was not read yet; and HTTP/1 would wait for the rest.
func (b *passedBody) Close() error {
	if !b.passage.sent.Load() || b.passage.req.ProtoMajor == 1 {
		return nil
	}
	b.closed.Store(true) // first: a read that waits ends with an error that is not the caller's
	return b.ReadCloser.Close()
}
