package hotrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// WriteMethod answers a message whose call must not be begun twice. It either reports ErrPass, having done nothing, and the
// general handler answers; or it has the last word, an error's too. It appends the encoded answer to a.Message and sets a's
// other fields; it does not keep msg or a. Its context ends with the call's timeout, and with the caller.
//
// Answers are not compressed: what is accepted has a short one.
type WriteMethod func(ctx context.Context, request http.Header, msg []byte, a *Answer) error

// ErrPass is what a WriteMethod returns that has done nothing.
var ErrPass = errors.New("the general handler answers")

// WriteObserver counts what is answered by a WriteHandler.
type WriteObserver interface {
	Observer

	// Failed is called instead of Answered for a call that was answered with an error.
	Failed(code connect.Code, took time.Duration)
}

// WriteOptions configures a WriteHandler. All are required.
type WriteOptions struct {
	Method  WriteMethod
	General http.Handler // answers what Method passes
	Metrics WriteObserver

	Procedure string
	Errors    *rpcerr.Interceptor // makes errors what callers get to see, as it does in the general handler
}

// NewWriteHandler returns a handler of one procedure that changes something.
func NewWriteHandler(o WriteOptions) *WriteHandler {
	return &WriteHandler{options: o, writer: connect.NewErrorWriter()}
}

// WriteHandler answers one procedure that changes something.
type WriteHandler struct {
	options WriteOptions
	writer  *connect.ErrorWriter
}

// ServeHTTP implements http.Handler.
func (h *WriteHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.ServePrincipal(w, r, identity.From(r.Context()))
}

// ServePrincipal answers a request of p, whom its context need not know.
func (h *WriteHandler) ServePrincipal(w http.ResponseWriter, r *http.Request, p *identity.Principal) {
	timeout, ok := hot(r)
	if !ok {
		h.options.General.ServeHTTP(w, of(r, p))
		return
	}
	h.options.Metrics.Begin()
	begin := time.Now()
	c := calls.Get().(*call)
	defer c.release()
	c.in = slices.Grow(c.in[:0], int(r.ContentLength))[:r.ContentLength]
	n, err := io.ReadFull(r.Body, c.in)
	if err == nil {
		ctx := r.Context()
		if identity.From(ctx) != p {
			ctx = identity.With(ctx, p)
		}
		err = h.method(ctx, r.Header, c.in, &c.out, begin, timeout)
	} else {
		err = ErrPass
	}
	switch {
	case err == nil:
		c.out.write(w)
		h.options.Metrics.Answered(time.Since(begin))
	case errors.Is(err, ErrPass):
		h.options.Metrics.Passed()
		pass(h.options.General, w, of(r, p), c.in[:n], begin, timeout)
	default:
		wire := h.options.Errors.Wire(r.Context(), h.options.Procedure, err)
		w.Header()["Accept-Encoding"] = encodings
		_ = h.writer.Write(w, r, wire) // whoever asked has gone if this fails
		h.options.Metrics.Failed(wire.Code(), time.Since(begin))
	}
}

// method calls the method. What panics may have done something: it is the error that it is in the general handler.
func (h *WriteHandler) method(
	ctx context.Context, header http.Header, msg []byte, a *Answer, begin time.Time, timeout time.Duration,
) (err error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, begin.Add(timeout))
		defer cancel()
	}
	if ctx.Err() != nil {
		return ErrPass
	}
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
		}
	}()
	return h.options.Method(ctx, header, msg, a)
}
