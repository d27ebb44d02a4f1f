// Package hotrpc answers unary Connect calls that can be answered at once, for less than half of what a general handler adds
// to net/http. It is a layer before the general handler and decides by the request's head: a POST of application/proto, not
// compressed, of a known, small size. All else, and every call that its Method does not answer, goes to the general handler
// as it came. So there is one place that says what is wrong with a request, and a Method has no errors. A WriteMethod has: what
// it has begun must not be begun again.
//
// DESIGN.md says what must be the same on both ways, and the tests of the packages that mount it compare them.
package hotrpc

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/server"
)

const (
	// MaxMessageBytes is how large a request may be that is looked at here.
	MaxMessageBytes = 64 << 10
	// compressMinBytes is where the general handler compresses an answer, if the caller takes that.
	compressMinBytes = 1024

	maxKeptBytes    = 1 << 20 // of a buffer, for the next call
	headerThreshold = 2048    // net/http finds out by itself how long a shorter answer is
	maxTimeoutChars = 10      // of Connect-Timeout-Ms
)

// Method answers a message if that can be done at once: without waiting, and without an error. It appends the encoded answer to
// a.Message, sets a's other fields and reports true; or it reports false, and the general handler answers. It must not change
// or keep msg. The principal is who calls; whether they may is for the method to find out.
type Method func(p *identity.Principal, request http.Header, msg []byte, a *Answer) bool

// Answer is an answer and what its headers say. The values may be shared: nobody changes them.
type Answer struct {
	Message     []byte
	Bookmark    []string
	Region      []string
	Source      []string
	StalenessMs uint32
	Etag        []string // the header of a service's own; mostly there is none
}

// Observer counts what is answered here.
type Observer interface {
	// Begin is called before a call is read and Answered after it was answered. Passed is called instead of Answered for a call
	// that goes to the general handler, which counts it.
	Begin()
	Answered(took time.Duration)
	Passed()
}

// Options configures a Handler. All are required.
type Options struct {
	Method  Method
	General http.Handler // answers what Method does not
	Logger  *slog.Logger // of panics
	Metrics Observer
	// Large says that answers are mostly so large that the general handler compresses them: callers that take compressed
	// answers go there at once.
	Large bool
}

// NewHandler returns a handler of one procedure.
func NewHandler(o Options) *Handler { return &Handler{o} }

// Handler answers one procedure.
type Handler struct{ options Options }

// call is the memory of one call.
type call struct {
	in  []byte
	out Answer
}

var calls = sync.Pool{New: func() any { return new(call) }}

func (c *call) release() {
	c.out = Answer{Message: c.out.Message[:0]}
	if cap(c.in)+cap(c.out.Message) <= maxKeptBytes {
		calls.Put(c)
	}
}

// Values of headers, shared by all answers.
var (
	protoType = []string{"application/proto"}
	encodings = []string{server.AcceptEncoding}

	// staleness is the header's text of what copies are mostly: no older than a few heartbeats.
	staleness = func() (texts [512][]string) {
		for ms := range texts {
			texts[ms] = []string{strconv.Itoa(ms)}
		}
		return texts
	}()
)

// Canonical names of the headers of package rpcheader.
var (
	bookmarkHeader  = http.CanonicalHeaderKey(rpcheader.Bookmark)
	regionHeader    = http.CanonicalHeaderKey(rpcheader.Region)
	sourceHeader    = http.CanonicalHeaderKey(rpcheader.Source)
	stalenessHeader = http.CanonicalHeaderKey(rpcheader.StalenessMs)
)

const etagHeader = "Etag"

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.ServePrincipal(w, r, identity.From(r.Context()))
}

// ServePrincipal answers a request of p, whom its context need not know.
func (h *Handler) ServePrincipal(w http.ResponseWriter, r *http.Request, p *identity.Principal) {
	timeout, ok := hot(r)
	if !ok || h.options.Large && takesCompressed(r) {
		h.options.General.ServeHTTP(w, of(r, p))
		return
	}
	h.options.Metrics.Begin()
	begin := time.Now()
	c := calls.Get().(*call)
	defer c.release()
	c.in = slices.Grow(c.in[:0], int(r.ContentLength))[:r.ContentLength]
	n, err := io.ReadFull(r.Body, c.in)
	if err == nil && (timeout == 0 || time.Since(begin) < timeout) && h.answer(&c.out, r, p, c.in) {
		c.out.write(w)
		h.options.Metrics.Answered(time.Since(begin))
		return
	}
	h.options.Metrics.Passed()
	pass(h.options.General, w, of(r, p), c.in[:n], begin, timeout)
}

// of returns a request as one of p.
func of(r *http.Request, p *identity.Principal) *http.Request {
	if identity.From(r.Context()) == p {
		return r
	}
	return r.WithContext(identity.With(r.Context(), p))
}

// pass has the general handler answer a call of which the beginning was read.
func pass(general http.Handler, w http.ResponseWriter, r *http.Request, read []byte, begin time.Time, timeout time.Duration) {
	r.Body = &replayed{begin: read, ReadCloser: r.Body}
	if timeout > 0 {
		// It has begun already: what the general handler reads from the header must not make it longer.
		ctx, cancel := context.WithDeadline(r.Context(), begin.Add(timeout))
		defer cancel()
		r = r.WithContext(ctx)
	}
	general.ServeHTTP(w, r)
}

// hot decides by a request's head whether it is looked at here, and returns its timeout, 0 for none.
func hot(r *http.Request) (timeout time.Duration, ok bool) {
	if r.Method != http.MethodPost || r.ContentLength <= 0 || r.ContentLength > MaxMessageBytes || r.URL.RawQuery != "" {
		return 0, false
	}
	if v := r.Header["Content-Type"]; len(v) != 1 || v[0] != protoType[0] {
		return 0, false
	}
	if v := r.Header["Connect-Protocol-Version"]; len(v) > 1 || len(v) == 1 && v[0] != "1" {
		return 0, false
	}
	if len(r.Header["Content-Encoding"]) > 0 {
		return 0, false
	}
	if v := r.Header["Connect-Timeout-Ms"]; len(v) > 0 {
		ms, err := strconv.ParseUint(v[0], 10, 63)
		if err != nil || ms == 0 || len(v) > 1 || len(v[0]) > maxTimeoutChars {
			return 0, false
		}
		return time.Duration(ms) * time.Millisecond, true
	}
	return 0, true
}

// takesCompressed reports whether the caller may take a compressed answer. There are few ways to refuse that, and this knows
// the common one.
func takesCompressed(r *http.Request) bool { return takes(r.Header) }

// Passes reports whether an answer of some bytes goes to the general handler in any case, because it may compress it.
func Passes(request http.Header, size int) bool { return size >= compressMinBytes && takes(request) }

func takes(request http.Header) bool {
	v := request["Accept-Encoding"]
	return len(v) > 1 || len(v) == 1 && v[0] != "" && v[0] != "identity"
}

// Answer has the handler's method answer a message of p, as for a request with these headers that has passed all checks before the
// handler: a service in the same process asks so. It reports false where only the general handler can answer.
func (h *Handler) Answer(p *identity.Principal, request http.Header, msg []byte, a *Answer) bool {
	h.options.Metrics.Begin()
	begin := time.Now()
	if !h.method(context.Background(), "", p, request, msg, a) {
		h.options.Metrics.Passed()
		return false
	}
	h.options.Metrics.Answered(time.Since(begin))
	return true
}

// answer reports whether a is the call's answer.
func (h *Handler) answer(a *Answer, r *http.Request, p *identity.Principal, msg []byte) bool {
	return h.method(r.Context(), r.URL.Path, p, r.Header, msg, a) && (len(a.Message) < compressMinBytes || !takesCompressed(r))
}

// write writes the whole answer.
func (a *Answer) write(w http.ResponseWriter) {
	header := w.Header()
	header["Content-Type"] = protoType
	header["Accept-Encoding"] = encodings
	header[bookmarkHeader], header[regionHeader], header[sourceHeader] = a.Bookmark, a.Region, a.Source
	header[stalenessHeader] = a.staleness()
	if len(a.Etag) > 0 {
		header[etagHeader] = a.Etag
	}
	if len(a.Message) >= headerThreshold {
		header["Content-Length"] = []string{strconv.Itoa(len(a.Message))}
	}
	_, _ = w.Write(a.Message) // whoever asked has gone if this fails
}

func (a *Answer) staleness() []string {
	if a.StalenessMs < uint32(len(staleness)) {
		return staleness[a.StalenessMs]
	}
	return []string{strconv.FormatUint(uint64(a.StalenessMs), 10)}
}

// method calls the method. A panic is no answer: the general handler meets it again and says what is to be said.
func (h *Handler) method(
	ctx context.Context, path string, p *identity.Principal, header http.Header, msg []byte, a *Answer,
) (ok bool) {
	defer func() {
		if cause := recover(); cause != nil {
			h.options.Logger.ErrorContext(ctx, "panic in a hot method",
				slog.String("path", path), slog.Any("panic", cause), slog.String("stack", string(debug.Stack())))
			ok = false
		}
	}()
	return h.options.Method(p, header, msg, a)
}

// replayed is a body of which the beginning was read.
type replayed struct {
	io.ReadCloser

	begin []byte
}

// Read implements io.Reader.
func (b *replayed) Read(p []byte) (int, error) {
	if len(b.begin) == 0 {
		return b.ReadCloser.Read(p)
	}
	n := copy(p, b.begin)
	b.begin = b.begin[n:]
	return n, nil
}
