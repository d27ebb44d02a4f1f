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
func NewWriteHandler(o WriteOptions) http.Handler {
	return &writeHandler{WriteOptions: o, writer: connect.NewErrorWriter()}
}

type writeHandler struct {
	WriteOptions

	writer *connect.ErrorWriter
}

// ServeHTTP implements http.Handler.
func (h *writeHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	timeout, ok := hot(r)
	if !ok {
		h.General.ServeHTTP(w, r)
		return
	}
	h.Metrics.Begin()
	begin := time.Now()
	c := calls.Get().(*call)
	defer c.release()
	c.in = slices.Grow(c.in[:0], int(r.ContentLength))[:r.ContentLength]
	n, err := io.ReadFull(r.Body, c.in)
	if err == nil {
		err = h.method(c, r, begin, timeout)
	} else {
		err = ErrPass
	}
	switch {
	case err == nil:
		c.out.write(w)
		h.Metrics.Answered(time.Since(begin))
	case errors.Is(err, ErrPass):
		h.Metrics.Passed()
		pass(h.General, w, r, c.in[:n], begin, timeout)
	default:
		wire := h.Errors.Wire(r.Context(), h.Procedure, err)
		w.Header()["Accept-Encoding"] = encodings
		_ = h.writer.Write(w, r, wire) // whoever asked has gone if this fails
		h.Metrics.Failed(wire.Code(), time.Since(begin))
	}
}

// method calls the method. What panics may have done something: it is the error that it is in the general handler.
func (h *writeHandler) method(c *call, r *http.Request, begin time.Time, timeout time.Duration) (err error) {
	ctx := r.Context()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, begin.Add(timeout))
		defer cancel()
	}
	if ctx.Err() != nil {
		return ErrPass
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return h.Method(ctx, r.Header, c.in, &c.out)
}
