package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/budget"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// limitName is a limit's name in metrics.
type limitName string

const (
	limitConnections       limitName = "connections"
	limitClientConnections limitName = "client_connections"
	limitClientRequests    limitName = "client_requests"
	limitBodyBytes         limitName = "body_bytes"
	limitBodyTime          limitName = "body_time"
)

// limitPlaintext is of those who should have spoken TLS.
var limitPlaintext limitName = "plaintext"

// refusedRetryAfter is when those may try again who were too many.
const refusedRetryAfter = time.Second

// gate is what all requests of a listener pass: it refuses those that are too many, too large or too slow, in the words of
// the protocol that they speak.
type gate struct {
	next        http.Handler
	maxBody     int64
	answers     *budget.Budget
	maxRequests int64 // of one client
	bodyTime    time.Duration
	stall       time.Duration
	errors      *connect.ErrorWriter
	refused     *prometheus.CounterVec
}

func newGate(next http.Handler, c Config) *gate {
	return &gate{
		next: next, maxBody: c.MaxBodyBytes, answers: budget.New(c.MaxAnswerBytes), maxRequests: int64(c.MaxRequestsPerClient), bodyTime: c.BodyTimeout, stall: c.StallTimeout,
		errors: connect.NewErrorWriter(),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name:        "nearside_server_refused_total",
			Help:        "Requests that a listener refused, by the limit that they are above.",
			ConstLabels: prometheus.Labels{"listener": c.Name},
		}, []string{"limit"}),
	}
}

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isWebText(r) {
		t, r := untext(w, r)
		g.serve(t, r)
		_ = t.finish() // whoever asked has gone
		return
	}
	g.serve(w, r)
}

func (g *gate) serve(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	id := idOf(r, c)
	w.Header()[requestid.Header] = []string{id.String()}
	if ok {
		if refused := c.refused.Load(); refused != nil {
			w.Header().Set("Connection", "close") // over HTTP/2 too
			if *refused == limitPlaintext {
				g.count(limitPlaintext)
				http.Error(w, "this listener speaks TLS: use https:// in place of http://", http.StatusBadRequest)
				return
			}
			g.refuse(w, r, *refused, tooMany("connections"))
			return
		}
		defer c.client.requests.Add(-1)
		if n := c.client.requests.Add(1); n > g.maxRequests {
			g.refuse(w, r, limitClientRequests, tooMany("requests at a time from one address"))
			return
		}
	}
	if r.ContentLength > g.maxBody {
		g.refuse(w, r, limitBodyBytes, tooLarge(g.maxBody))
		return
	}
	if r.ProtoMajor == 2 {
		w = &pacedWriter{ResponseWriter: w, control: http.NewResponseController(w), stall: g.stall}
	}
	var rest *body
	if r.Body != http.NoBody && r.ContentLength != 0 {
		limit := g.maxBody
		// Streams may be endless: their handlers limit each message.
		if t := r.Header.Get("Content-Type"); strings.HasPrefix(t, "application/grpc") ||
			strings.HasPrefix(t, "application/connect+") {
			limit = 0
		}
		b := newBody(g, w, r.Body, limit)
		defer b.end()
		r.Body = b
		if r.ProtoMajor == 2 {
			rest = b
		}
	}
	ctx, done := g.answers.Open(requestid.With(behind(r), id))
	defer done()
	g.next.ServeHTTP(w, r.WithContext(ctx))
	if rest != nil {
		rest.skip(r.ContentLength)
	}
}

var originHeader = http.CanonicalHeaderKey(rpcheader.Origin)

// behind returns a request's context, which knows where the caller is whose call a node passes on.
func behind(r *http.Request) context.Context {
	if lines := r.Header[originHeader]; len(lines) == 1 {
		if address, err := netip.ParseAddr(lines[0]); err == nil {
			return identity.Behind(r.Context(), address)
		}
	}
	return r.Context()
}

// idOf names a request, as it was named already where it came over a connection that had no way for it without net/http.
func idOf(r *http.Request, c *conn) requestid.ID {
	if c != nil && c.named != nil {
		id := *c.named
		c.named = nil
		return id
	}
	return requestid.Read(r.Header).New()
}

// refuse answers a request whose body is not looked at.
func (g *gate) refuse(w http.ResponseWriter, r *http.Request, limit limitName, e *rpcerr.Error) {
	g.count(limit)
	if after := e.RetryAfter(); after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
	}
	if IsCall(r.URL.Path) && g.errors.IsSupported(r) {
		wire, _ := rpcerr.ToConnect(e)
		_ = g.errors.Write(w, r, wire) // whoever asked has gone
		return
	}
	status := http.StatusTooManyRequests
	if e.Reason() == datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE {
		status = http.StatusRequestEntityTooLarge
	}
	writeProblem(w, status, e)
}

// IsCall reports whether a path is that of a method: /package.Service/Method.
func IsCall(path string) bool {
	service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return ok && strings.Contains(service, ".") && !strings.HasPrefix(service, ".") && method != "" && !strings.Contains(method, "/")
}

// writeProblem answers what is no call with a problem document (RFC 9457).
func writeProblem(w http.ResponseWriter, status int, e *rpcerr.Error) {
	reason := strings.TrimPrefix(e.Reason().String(), "ERROR_REASON_")
	text, err := json.Marshal(map[string]any{
		"type": "urn:nearside:error:" + reason, "title": http.StatusText(status), "status": status, "detail": e.Error(), "reason": reason,
	})
	if err != nil {
		text = []byte("{}") // never, of strings and a number
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text) // whoever asked has gone
}

func (g *gate) count(limit limitName) { g.refused.WithLabelValues(string(limit)).Inc() }

func tooMany(what string) *rpcerr.Error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "too many %s", what).WithRetryAfter(refusedRetryAfter)
}

func tooLarge(limit int64) *rpcerr.Error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE, "the request is larger than %d bytes", limit).
		With("limit", strconv.FormatInt(limit, 10))
}

func tooSlow(n int64, took time.Duration) *rpcerr.Error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_SLOW,
		"only %d bytes of the request came in %s", n, took.Round(time.Millisecond))
}

// onWire is an error as Connect's handlers pass it on unchanged.
func onWire(e *rpcerr.Error) error {
	wire, _ := rpcerr.ToConnect(e)
	return fmt.Errorf("read request: %w", wire)
}
