package mesh

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/server"
)

const (
	// expressTrust is how long an endpoint's answer is awaited before anything is done for the case that it takes long.
	expressTrust = 50 * time.Millisecond
	// unaryTimeout is how long a unary call may take whose caller does not say.
	unaryTimeout = time.Minute
	// expressKept is how much of an answer is kept before it is sent.
	expressKept = 64 << 10
)

// ServeExpress implements server.Express: a small unary call over HTTP/1.1, to an endpoint that takes it so without TLS.
func (r *Router) ServeExpress(ctx context.Context, req *http.Request, body []byte, a *server.ExpressAnswer) bool {
	return r.ExpressPrincipal(ctx, req, identity.From(ctx), body, a)
}

// ExpressPrincipal implements access.ShortExpress.
func (r *Router) ExpressPrincipal(
	ctx context.Context, req *http.Request, p *identity.Principal, body []byte, a *server.ExpressAnswer,
) bool {
	m := r.find(req.URL.Path)
	if m == nil || !m.unary || m.service.grpc != nil || req.Method != http.MethodPost {
		return false
	}
	kind := one(req.Header, "Content-Type")
	if kind != "application/proto" && kind != "application/json" {
		return false
	}
	if !r.mayNow(p, m) || r.inFlight.Load() >= r.maxInFlight || hopsOf(req.Header) >= maxHops {
		return false // who answers at length says why
	}
	if m.rules != nil && !m.checkShort(ctx, req.Header, kind, body) {
		return false
	}
	if m.rule != nil {
		return r.expressKeptAnswer(ctx, req, p, m, body, a)
	}
	for _, e := range m.service.endpoints {
		if e.base.Scheme != "http" {
			return false
		}
	}
	r.inFlight.Add(1)
	defer r.inFlight.Add(-1)
	c := expressCall{router: r, route: m, req: req, principal: p, body: body, answer: a, began: a.Began, start: len(a.Bytes)}
	if timeout := timeoutOf(req.Header); timeout > 0 {
		c.timeout = timeout
		c.ends = c.began.Add(timeout + timeoutGrace)
	} else {
		c.ends = c.began.Add(unaryTimeout)
	}
	outcome := c.run(ctx)
	m.service.metrics.done(outcome, true, time.Since(c.began))
	return true
}

// expressCall is one call on its way.
type expressCall struct {
	router    *Router
	route     *route
	req       *http.Request
	principal *identity.Principal
	body      []byte
	answer    *server.ExpressAnswer
	began     time.Time
	start     int           // of the answer in answer.Bytes
	timeout   time.Duration // as the caller says it; 0 is not
	ends      time.Time

	head    answerHead
	sent    bool // a byte of the request
	flushed bool // a byte of the answer
}

func (c *expressCall) run(ctx context.Context) outcome {
	r := c.router
	r.retries.earn()
	var tried []*endpoint
	for range maxTries {
		t, ok := r.take(c.route.service, tried)
		if !ok {
			break
		}
		began := time.Now()
		err := c.once(ctx, t.endpoint)
		if err == nil {
			now := time.Now()
			t.took(now.Sub(c.began), now.Sub(r.began))
			if c.head.status == http.StatusBadGateway || c.head.status == http.StatusServiceUnavailable {
				err = errors.New(strconv.Itoa(c.head.status))
			}
			t.give(err)
			return outcomeAnswered
		}
		over := !time.Now().Before(c.ends)
		if !c.sent && (!over && ctx.Err() == nil || time.Since(began) >= slowConnect) {
			r.unreached(t.endpoint)
		}
		if ctx.Err() != nil || over || errors.Is(err, errCaller) {
			t.give(errNotCounted)
			return c.gone(ctx, over)
		}
		t.give(err)
		if c.flushed {
			c.answer.Abort()
			return outcomeAborted
		}
		if c.sent {
			break
		}
		r.metrics.retries.Inc()
		tried = append(tried, t.endpoint)
	}
	c.refuse(unavailable(c.route.service, c.sent))
	return outcomeUnavailable
}

// gone is what becomes of a call whose caller or time has gone.
func (c *expressCall) gone(ctx context.Context, over bool) outcome {
	switch {
	case c.flushed || ctx.Err() != nil:
		c.answer.Abort()
		return outcomeCanceled
	case over:
		c.refuse(errTimeoutWire)
		return outcomeTimeout
	default:
		c.answer.Abort()
		return outcomeAborted
	}
}

// once asks one endpoint. A connection that was free may be one that the endpoint has just ended, which says nothing about others.
func (c *expressCall) once(ctx context.Context, e *endpoint) error {
	for {
		u, err := e.pool.get(ctx, c.ends)
		if err != nil {
			return err
		}
		keep, err := c.talk(ctx, u, e)
		if err == nil && keep {
			e.pool.put(u)
			return nil
		}
		_ = u.Close() // nothing more is to come
		if err == nil || c.sent || !u.used || ctx.Err() != nil || !time.Now().Before(c.ends) {
			return err
		}
	}
}

func (c *expressCall) talk(ctx context.Context, u *upstream, e *endpoint) (keep bool, err error) {
	u.out = c.request(u.out[:0], e)
	if err := u.SetDeadline(earlier(time.Now().Add(expressTrust), c.ends)); err != nil {
		return false, err
	}
	w := waiter{ctx: ctx, u: u, ends: c.ends}
	defer w.stop()
	n, err := w.write(u.out)
	c.sent = n > 0
	if err != nil {
		return false, err
	}
	u.in = u.buf[:0]
	for early := 0; ; {
		part, err := c.head.parse(u.in)
		if err != nil {
			return false, err
		}
		if !part {
			u.in = u.in[c.head.size:]
			if c.head.status >= 200 {
				break
			}
			if early += c.head.size; c.head.status == http.StatusSwitchingProtocols || early > maxAnswerHeader {
				return false, errAnswer
			}
			continue
		}
		if err := w.more(); err != nil {
			return false, err
		}
	}
	if err := c.pass(&w); err != nil {
		return false, err
	}
	return c.head.keep && len(u.in) == 0, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// request appends the request as its endpoint gets it.
func (c *expressCall) request(b []byte, e *endpoint) []byte {
	b = append(append(append(b, "POST "...), c.req.URL.Path...), e.head...)
	for name, values := range c.req.Header {
		if !passes(name, values, c.route, c.principal) {
			continue
		}
		for _, v := range values {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	if spent := time.Since(c.began); c.timeout > 0 && spent >= time.Millisecond {
		b = c.shrink(b, c.timeout-spent)
	}
	if subject := c.principal.Actor(); subject != "" {
		b = append(append(append(b, SubjectHeader+": "...), subject...), "\r\n"...)
	}
	id := &c.answer.Request
	b = append(id.Append(append(append(b, requestid.Header...), ": "...)), "\r\n"...)
	b = append(id.AppendParent(append(append(b, requestid.ParentHeader...), ": "...)), "\r\n"...)
	if state := c.req.Header[requestid.StateHeader]; id.KeepsState(state) {
		for _, v := range state {
			b = append(append(append(append(b, requestid.StateHeader...), ": "...), v...), "\r\n"...)
		}
	}
	b = append(append(append(b, "X-Forwarded-For: "...), host(c.req.RemoteAddr)...), "\r\n"+HopsHeader+": "...)
	b = append(strconv.AppendInt(b, int64(hopsOf(c.req.Header)+1), 10), "\r\nContent-Length: "...)
	b = append(strconv.AppendInt(b, int64(len(c.body)), 10), "\r\n\r\n"...)
	return append(b, c.body...)
}

const timeoutLine = "\r\nConnect-Timeout-Ms: "

// shrink puts what is left of a call's time in the place of what its caller said.
func (c *expressCall) shrink(b []byte, left time.Duration) []byte {
	text := string(b)
	at := strings.LastIndex(text, timeoutLine)
	if at < 0 {
		return b
	}
	at += len(timeoutLine)
	end := at + strings.Index(text[at:], "\r\n")
	b = strconv.AppendInt(b[:at], max(left.Milliseconds(), 1), 10)
	return append(b, text[end:]...)
}

// pass passes the answer back.
func (c *expressCall) pass(w *waiter) error {
	a, h := c.answer, &c.head
	a.Bytes = append(strconv.AppendInt(append(a.Bytes, "HTTP/1.1 "...), int64(h.status), 10), ' ')
	a.Bytes = append(append(append(a.Bytes, http.StatusText(h.status)...), "\r\n"...), h.lines...)
	if h.length >= 0 {
		a.EndHead(int(h.length))
		return c.passBytes(w, h.length)
	}
	// A short body gets a length: then it is one piece.
	var parts chunks
	head := len(a.Bytes)
	var body []byte
	for {
		data, ended, err := c.piece(w, &parts)
		if err != nil {
			return err
		}
		switch {
		case ended && !c.flushed:
			a.Bytes = a.Bytes[:head]
			a.EndHead(len(body))
			a.Bytes = append(a.Bytes, body...)
			return nil
		case ended:
			a.Bytes = append(a.Bytes, "0\r\n\r\n"...)
			return nil
		case !c.flushed && len(body)+len(data) <= expressKept:
			body = append(body, data...)
			continue
		case !c.flushed:
			a.EndHeadChunked()
			a.Bytes = appendChunk(a.Bytes, body)
			body = nil
		}
		a.Bytes = appendChunk(a.Bytes, data)
		if err := c.flush(); err != nil {
			return err
		}
	}
}

func appendChunk(b, data []byte) []byte {
	if len(data) == 0 {
		return b
	}
	b = append(strconv.AppendInt(b, int64(len(data)), 16), "\r\n"...)
	return append(append(b, data...), "\r\n"...)
}

// piece returns what comes next of a body without a length.
func (c *expressCall) piece(w *waiter, parts *chunks) (data []byte, ended bool, err error) {
	for {
		if c.head.chunked {
			data, used, err := parts.next(w.u.in)
			w.u.in = w.u.in[used:]
			if err != nil || len(data) > 0 || parts.done {
				return data, parts.done && len(data) == 0, err
			}
		} else if data := w.u.in; len(data) > 0 {
			w.u.in = w.u.in[len(data):]
			return data, false, nil
		}
		if err := w.more(); err != nil {
			return nil, !c.head.chunked && errors.Is(err, io.EOF), eofIsEnd(err, c.head.chunked)
		}
	}
}

func eofIsEnd(err error, chunked bool) error {
	if !chunked && errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// passBytes passes a body of a length.
func (c *expressCall) passBytes(w *waiter, length int64) error {
	a := c.answer
	for {
		n := min(length, int64(len(w.u.in)))
		a.Bytes = append(a.Bytes, w.u.in[:n]...)
		w.u.in, length = w.u.in[n:], length-n
		if length == 0 {
			return nil
		}
		if len(a.Bytes) >= expressKept {
			if err := c.flush(); err != nil {
				return err
			}
		}
		if err := w.more(); err != nil {
			return err
		}
	}
}

// flush sends what there is of an answer.
func (c *expressCall) flush() error {
	c.flushed = true
	if c.answer.Flush() != nil {
		return errCaller
	}
	return nil
}

// refuse answers with an error.
func (c *expressCall) refuse(err error) {
	kept := &keptAnswer{header: make(http.Header), status: http.StatusOK}
	c.router.refuse(kept, c.req, err)
	a := c.answer
	b := append(strconv.AppendInt(append(a.Bytes[:c.start], "HTTP/1.1 "...), int64(kept.status), 10), ' ')
	b = append(append(b, http.StatusText(kept.status)...), "\r\n"...)
	for _, name := range slices.Sorted(maps.Keys(kept.header)) {
		for _, v := range kept.header[name] {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	a.Bytes = b
	a.EndHead(len(kept.body))
	a.Bytes = append(a.Bytes, kept.body...)
}

// keptAnswer is an answer in memory.
type keptAnswer struct {
	header http.Header
	status int
	body   []byte
}

// Header implements http.ResponseWriter.
func (k *keptAnswer) Header() http.Header { return k.header }

// WriteHeader implements http.ResponseWriter.
func (k *keptAnswer) WriteHeader(status int) { k.status = status }

// Write implements http.ResponseWriter.
func (k *keptAnswer) Write(b []byte) (int, error) {
	k.body = append(k.body, b...)
	return len(b), nil
}

// waiter reads from an endpoint. What it takes to be interrupted it does only once an answer has taken long.
type waiter struct {
	ctx  context.Context //nolint:containedctx // it lives as long as a call
	u    *upstream
	ends time.Time

	patient bool
	undo    func() bool
}

// more reads what has come into u.in.
func (w *waiter) more() error {
	u := w.u
	if len(u.in) == 0 {
		u.in = u.buf[:0]
	}
	switch {
	case len(u.in) < cap(u.in):
	case 2*len(u.in) <= len(u.buf):
		u.in = u.buf[:copy(u.buf, u.in)]
	default:
		grown := make([]byte, max(2*len(u.buf), copyBytes))
		u.in = grown[:copy(grown, u.in)]
		u.buf = grown
	}
	for {
		n, err := u.Read(u.in[len(u.in):cap(u.in)])
		u.in = u.in[:len(u.in)+n]
		if n > 0 {
			return nil // an error comes again
		}
		if err == nil {
			err = io.ErrNoProgress
		}
		if !w.again(err) {
			return err
		}
	}
}

func (w *waiter) write(b []byte) (int, error) {
	for n := 0; ; {
		m, err := w.u.Write(b[n:])
		if n += m; err == nil || !w.again(err) {
			return n, err
		}
	}
}

// again reports whether to go on after an error: it was the end of the first patience.
func (w *waiter) again(err error) bool {
	if w.patient || !errors.Is(err, os.ErrDeadlineExceeded) || w.ctx.Err() != nil || !time.Now().Before(w.ends) {
		return false
	}
	w.patient = true
	if w.u.SetDeadline(w.ends) != nil {
		return false
	}
	w.undo = context.AfterFunc(w.ctx, func() { _ = w.u.SetDeadline(time.Unix(1, 0)) })
	return true
}

// stop has the end of the call's context do nothing any more. A connection of which that had an effect already is not used again:
// its call has failed.
func (w *waiter) stop() {
	if w.undo != nil {
		w.undo()
	}
}
