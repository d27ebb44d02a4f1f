package hotrpc

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/server"
)

var (
	_ server.Express = (*Handler)(nil)
	_ server.Express = (*WriteHandler)(nil)
)

// ServeExpress implements server.Express.
func (h *Handler) ServeExpress(ctx context.Context, r *http.Request, body []byte, a *server.ExpressAnswer) bool {
	return h.ExpressPrincipal(ctx, r, identity.From(ctx), body, a)
}

// ExpressPrincipal is ServeExpress for a request of p, whom ctx need not know.
func (h *Handler) ExpressPrincipal(
	_ context.Context, r *http.Request, p *identity.Principal, body []byte, a *server.ExpressAnswer,
) bool {
	timeout, ok := hot(r)
	if !ok || h.options.Large && takesCompressed(r) {
		return false
	}
	h.options.Metrics.Begin()
	c := calls.Get().(*call)
	defer c.release()
	if timeout > 0 && time.Since(a.Began) >= timeout || !h.answer(&c.out, r, p, body) {
		h.options.Metrics.Passed()
		return false
	}
	c.out.express(a)
	h.options.Metrics.Answered(time.Since(a.Began))
	return true
}

// ServeExpress implements server.Express.
func (h *WriteHandler) ServeExpress(ctx context.Context, r *http.Request, body []byte, a *server.ExpressAnswer) bool {
	return h.ExpressPrincipal(ctx, r, identity.From(ctx), body, a)
}

// ExpressPrincipal is ServeExpress for a request of p, whom ctx need not know.
func (h *WriteHandler) ExpressPrincipal(
	ctx context.Context, r *http.Request, p *identity.Principal, body []byte, a *server.ExpressAnswer,
) bool {
	timeout, ok := hot(r)
	if !ok {
		return false
	}
	ctx = requestid.With(ctx, a.Request)
	if identity.From(ctx) != p {
		ctx = identity.With(ctx, p)
	}
	h.options.Metrics.Begin()
	c := calls.Get().(*call)
	defer c.release()
	err := h.method(ctx, r.Header, body, &c.out, a.Began, timeout)
	switch {
	case err == nil:
		c.out.express(a)
		h.options.Metrics.Answered(time.Since(a.Began))
	case errors.Is(err, ErrPass):
		h.options.Metrics.Passed()
		return false
	default:
		wire := h.options.Errors.Wire(ctx, h.options.Procedure, err)
		kept := &keptAnswer{header: http.Header{"Accept-Encoding": encodings}, status: http.StatusOK}
		_ = h.writer.Write(kept, r, wire) // it writes into memory
		kept.express(a)
		h.options.Metrics.Failed(wire.Code(), time.Since(a.Began))
	}
	return true
}

// express is write without net/http.
func (a *Answer) express(to *server.ExpressAnswer) {
	b := to.Bytes
	b = append(b, "HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\nAccept-Encoding: "+server.AcceptEncoding+"\r\n"...)
	b = appendHeader(b, bookmarkHeader, a.Bookmark)
	b = appendHeader(b, regionHeader, a.Region)
	b = appendHeader(b, sourceHeader, a.Source)
	b = appendHeader(b, stalenessHeader, a.staleness())
	to.Bytes = appendHeader(b, etagHeader, a.Etag)
	to.EndHead(len(a.Message))
	to.Bytes = append(to.Bytes, a.Message...)
}

func appendHeader(b []byte, name string, values []string) []byte {
	for _, v := range values {
		if strings.ContainsAny(v, "\r\n") {
			v = strings.NewReplacer("\r", " ", "\n", " ").Replace(v)
		}
		b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
	}
	return b
}

// keptAnswer is an answer in memory.
type keptAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (k *keptAnswer) Header() http.Header { return k.header }

// WriteHeader implements http.ResponseWriter.
func (k *keptAnswer) WriteHeader(status int) { k.status = status }

// Write implements http.ResponseWriter.
func (k *keptAnswer) Write(b []byte) (int, error) { return k.body.Write(b) }

func (k *keptAnswer) express(to *server.ExpressAnswer) {
	b := strconv.AppendInt(append(to.Bytes, "HTTP/1.1 "...), int64(k.status), 10)
	b = append(append(append(b, ' '), http.StatusText(k.status)...), "\r\n"...)
	for _, name := range slices.Sorted(maps.Keys(k.header)) {
		b = appendHeader(b, name, k.header[name])
	}
	to.Bytes = b
	to.EndHead(k.body.Len())
	to.Bytes = append(to.Bytes, k.body.Bytes()...)
}
