package mesh

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
)

// DefaultMaxInFlight is how many calls to registered services a gateway passes on at a time.
const DefaultMaxInFlight = 4096

const (
	retryAfter = time.Second // what callers are told where no endpoint answers

	roleAdmin = "admin"
)

// SubjectHeader tells a service who calls: "user:u_1" or "service:sa_1". It is not there where nobody knows, and never what a
// caller says.
const SubjectHeader = "Nearside-Subject"

// HopsHeader tells how many gateways a call has come through. A gateway that is registered as an endpoint of a service would be asked by
// itself for ever.
const (
	HopsHeader = "Nearside-Hops"
	maxHops    = 8
)

// Options configures a Router. Region, Source and Logger are required.
type Options struct {
	// Region is the gateway's.
	Region string
	// Source has the rows.
	Source Source
	// Secured has callers be known: a service that is not public refuses others. Without it everybody may call everything.
	Secured bool
	// MaxInFlight is how many calls there may be at a time, streams among them; default DefaultMaxInFlight.
	MaxInFlight int
	// Responses keeps answers for which services have rules; default none are kept.
	Responses  Responses
	Logger     *slog.Logger
	Registerer prometheus.Registerer // takes the metrics; default none
}

// Router passes calls on to registered services. It may be used concurrently.
type Router struct {
	region      string
	source      Source
	secured     bool
	maxInFlight int64
	logger      *slog.Logger
	metrics     *metrics
	errors      *connect.ErrorWriter
	began       time.Time

	http1, http2 *http.Transport

	reading sync.Mutex // held while the rows are read
	current atomic.Pointer[table]

	responses responses
	renewing  sync.WaitGroup
	ending    sync.RWMutex    // held while alive ends
	alive     context.Context //nolint:containedctx // of what goes on in the background
	end       context.CancelFunc

	inFlight atomic.Int64
	turn     atomic.Uint32
	retries  budget
	due      chan struct{} // has something while an endpoint is to be checked at once
}

var (
	_ http.Handler   = (*Router)(nil)
	_ server.Express = (*Router)(nil)

	_ access.ShortExpress = (*Router)(nil)
)

// New returns a Router, whose owner has Run called. The error is a metric's that the registerer has already.
func New(o Options) (*Router, error) {
	r := &Router{
		region: o.Region, source: o.Source, secured: o.Secured, maxInFlight: int64(cmp.Or(o.MaxInFlight, DefaultMaxInFlight)),
		logger: o.Logger, errors: connect.NewErrorWriter(), began: time.Now(), http1: newTransport(false), http2: newTransport(true),
		responses: newResponses(o.Responses), due: make(chan struct{}, 1),
	}
	r.alive, r.end = context.WithCancel(context.Background())
	var err error
	r.metrics, err = newMetrics(r, o.Registerer)
	return r, err
}

// Public reports whether a path is a method that everybody may call.
func (r *Router) Public(path string) bool {
	t := r.latest()
	if t == nil {
		return false
	}
	m := t.routes[path]
	return m != nil && m.service.access == meshdb.AccessPublic
}

// Ready reports whether a service has an endpoint that is well, as far as is known.
func (r *Router) Ready(name string) bool {
	s := r.latest().service(name)
	return s != nil && slices.ContainsFunc(s.endpoints, (*endpoint).usable)
}

// State returns how an endpoint is: up, suspect, down or ejected; "" where there is no such endpoint.
func (r *Router) State(service, region, url string) string {
	e := r.latest().service(service).endpoint(place{service, region, url})
	if e == nil {
		return ""
	}
	return e.state()
}

// Has reports whether a path is a method of a registered service.
func (r *Router) Has(path string) bool { return r.find(path) != nil }

// ServeHTTP implements http.Handler.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	m := r.find(req.URL.Path)
	if m == nil {
		r.unknown(w, req)
		return
	}
	p := identity.From(req.Context())
	checked := m.rules != nil && !m.clientStreaming
	if !checked && !r.allowed(w, req, p, m) {
		return
	}
	if req.Method != http.MethodPost && (req.Method != http.MethodGet || !m.unary) {
		allow := "GET, POST"
		if !m.unary {
			allow = "POST"
		}
		w.Header().Set("Allow", allow)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	if hopsOf(req.Header) >= maxHops {
		r.logger.WarnContext(req.Context(), "a call goes round: an endpoint is a gateway", slog.String("service", m.service.name))
		r.refuse(w, req, rpcerr.New(datav1.ErrorReason_ERROR_REASON_ENDPOINT_UNAVAILABLE,
			"the call has come through %d gateways: an endpoint of %s is one", maxHops, m.service.name).
			With("service", m.service.name).With("loop", "true"))
		return
	}
	if r.inFlight.Add(1) > r.maxInFlight {
		r.inFlight.Add(-1)
		m.service.metrics.count(outcomeOverloaded)
		r.refuse(w, req, rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "region %s has %d calls to services in flight",
			r.region, r.maxInFlight).With("limit", strconv.FormatInt(r.maxInFlight, 10)).WithRetryAfter(retryAfter))
		return
	}
	defer r.inFlight.Add(-1)
	w = server.PassOn(w, req)
	if checked {
		if err := r.validate(req, m); err != nil {
			m.service.metrics.count(outcomeInvalid)
			r.refuse(w, req, r.told(req, m, err))
			return
		}
		if !r.allowed(w, req, p, m) {
			return
		}
	}
	if m.service.grpc != nil && !speaksPlainGRPC(req) {
		if name := compressionOf(req); !turnable[name] {
			r.refuse(w, req, r.told(req, m, compressionError(name)))
			return
		}
		m.service.grpc.ServeHTTP(w, req)
		return
	}
	r.pass(w, req, p, m)
}

// pass passes a call on.
func (r *Router) pass(w http.ResponseWriter, req *http.Request, p *identity.Principal, m *route) {
	if m.unary {
		if !r.serveKept(w, req, p, m) {
			r.forward(w, req, p, m)
		}
		return
	}
	server.EndOnDrain(server.AllowSilence(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.forward(w, req, p, m)
	}))).ServeHTTP(w, req)
}

func (r *Router) find(path string) *route {
	if t := r.latest(); t != nil {
		return t.routes[path]
	}
	return nil
}

// mayNow reports whether a caller may call a method. That they may not is allow's to say.
func (r *Router) mayNow(p *identity.Principal, m *route) bool {
	s := m.service
	return !r.secured || s.access == meshdb.AccessPublic ||
		p.Kind != identity.Anonymous && (s.access == meshdb.AccessAuthenticated || p.HasRole(s.role) || p.HasRole(roleAdmin))
}

// allowed reports whether a caller may call a method, and says so to those who may not.
func (r *Router) allowed(w http.ResponseWriter, req *http.Request, p *identity.Principal, m *route) bool {
	err := access.Decide(req.Context(), m.procedure)
	if err == nil {
		err = r.allow(req.Context(), p, m)
	}
	if err != nil {
		r.refuse(w, req, err)
	}
	return err == nil
}

// allow returns PERMISSION_DENIED where a caller may not call a method.
func (r *Router) allow(ctx context.Context, p *identity.Principal, m *route) error {
	if r.mayNow(p, m) {
		return nil
	}
	s := m.service
	s.metrics.count(outcomeDenied)
	r.logger.InfoContext(ctx, "denied", slog.String("principal", p.String()), slog.String("action", m.procedure))
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, "%s may not do this", p).
		With("action", m.procedure).With("policy", "service:"+s.name)
}

// unknown answers who asks for what there is not, in the words of their protocol.
func (r *Router) unknown(w http.ResponseWriter, req *http.Request) {
	path := req.URL.Path
	if !r.errors.IsSupported(req) || strings.Count(path, "/") != 2 {
		http.NotFound(w, req)
		return
	}
	// Without details and, for Connect, with the status of what is not there: as a server says it that has no such path.
	_ = r.errors.Write(notFoundWriter{w}, req, connect.NewError(connect.CodeUnimplemented, errors.New("there is no method "+path)))
}

// notFoundWriter says that there is nothing where Connect says that nothing does it.
type notFoundWriter struct{ http.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w notFoundWriter) WriteHeader(status int) {
	if status == http.StatusNotImplemented {
		status = http.StatusNotFound
	}
	w.ResponseWriter.WriteHeader(status)
}

// refuse answers with an error in the words of the caller's protocol.
func (r *Router) refuse(w http.ResponseWriter, req *http.Request, err error) {
	if errors.Is(err, errUnsupported) {
		http.Error(w, err.Error(), http.StatusUnsupportedMediaType)
		return
	}
	wire := wireError(err)
	if _, ok := errors.AsType[compressionError](wire); ok {
		for _, header := range []string{"Accept-Encoding", "Connect-Accept-Encoding", "Grpc-Accept-Encoding"} {
			w.Header().Set(header, server.AcceptEncoding)
		}
	}
	if e, ok := errors.AsType[*rpcerr.Error](err); ok && e.RetryAfter() > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((e.RetryAfter() + time.Second - 1).Seconds())))
	}
	if r.errors.IsSupported(req) {
		_ = r.errors.Write(w, req, wire) // whoever asked has gone
		return
	}
	status := http.StatusServiceUnavailable
	switch wire.Code() {
	case connect.CodeInvalidArgument:
		status = http.StatusBadRequest
	case connect.CodePermissionDenied:
		status = http.StatusForbidden
	case connect.CodeResourceExhausted:
		status = http.StatusTooManyRequests
	case connect.CodeDeadlineExceeded:
		status = http.StatusGatewayTimeout
	default: // what else there is says that nobody is there
	}
	http.Error(w, wire.Message(), status)
}

// wireError is an error as callers get it: one that is on its way to them already stays as it is.
func wireError(err error) *connect.Error {
	if wire, ok := errors.AsType[*connect.Error](err); ok {
		return wire
	}
	wire, _ := rpcerr.ToConnect(err)
	return wire
}

// unavailable is the error of a call that no endpoint answered.
func unavailable(s *service, sent bool) error {
	if sent {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_ENDPOINT_UNAVAILABLE, "the endpoint of %s did not answer", s.name).
			With("service", s.name).With("sent", "true").WithRetryAfter(retryAfter)
	}
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_ENDPOINT_UNAVAILABLE, "no endpoint of %s answers", s.name).
		With("service", s.name).WithRetryAfter(retryAfter)
}

// hopByHop are the headers that say something about one connection, besides those that the header Connection names.
var hopByHop = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

// ours are the headers by which the gateway tells a service who calls, and of which request: a caller's own are dropped.
var ours = map[string]bool{
	SubjectHeader: true, HopsHeader: true, "Forwarded": true, "X-Real-Ip": true, requestid.Header: true, requestid.ParentHeader: true,
	requestid.StateHeader: true,
	// What servers behind others take for the caller's address, too.
	"True-Client-Ip": true, "X-Client-Ip": true, "X-Cluster-Client-Ip": true, "Cf-Connecting-Ip": true,
}

// forwarded begins the headers in which proxies say what they were asked: the address, the host, the scheme.
const forwarded = "X-Forwarded-"

func isOurs(name string) bool { return ours[name] || strings.HasPrefix(name, forwarded) }

const authorization = "Authorization"

// passes reports whether a header of a request goes on to a service.
func passes(name string, values []string, m *route, p *identity.Principal) bool {
	switch {
	case hopByHop[name], isOurs(name), likeOurs(name):
		return false
	case name == authorization:
		// A credential of the mesh is not for others; of a caller whom the mesh does not know it is none of the mesh's, unless it only
		// is not one that is good.
		return m.service.pass || p.Kind == identity.Anonymous && !access.Resembles(values)
	default:
		return true
	}
}

// likeOurs reports whether a header is one of ours but for underscores, which are dashes to many who hand headers on as variables
// (CGI, WSGI): they would give a service what a caller says in the place of what the gateway does.
func likeOurs(name string) bool {
	return strings.IndexByte(name, '_') >= 0 && isOurs(http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")))
}

// host is an address without its port.
func host(addr string) string {
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}

// hopsOf returns how many gateways a call has come through; what is no number is many.
func hopsOf(h http.Header) int {
	text := one(h, HopsHeader)
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxHops {
		return maxHops
	}
	return n
}

// timeoutOf returns how long a call may take, as its caller says it; 0 is that they say nothing.
func timeoutOf(h http.Header) time.Duration {
	if text := one(h, "Connect-Timeout-Ms"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || len(text) > 10 {
			return 0 // the service says so
		}
		return max(time.Duration(n)*time.Millisecond, 1)
	}
	text := one(h, "Grpc-Timeout")
	if len(text) < 2 || len(text) > 9 {
		return 0
	}
	n, err := strconv.ParseInt(text[:len(text)-1], 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	unit := map[byte]time.Duration{
		'n': time.Nanosecond, 'u': time.Microsecond, 'm': time.Millisecond, 'S': time.Second, 'M': time.Minute, 'H': time.Hour,
	}[text[len(text)-1]]
	if unit == 0 || n > int64(1<<62)/int64(unit) {
		return 0
	}
	return max(time.Duration(n)*unit, 1)
}

// setTimeout says in a request's headers that there is less time than its caller gave.
func setTimeout(h http.Header, left time.Duration) {
	ms := strconv.FormatInt(max(left.Milliseconds(), 1), 10)
	switch {
	case h["Connect-Timeout-Ms"] != nil:
		h["Connect-Timeout-Ms"] = []string{ms}
	case len(ms) <= 8:
		h["Grpc-Timeout"] = []string{ms + "m"}
	}
}

func one(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// close lets go of all connections that no call has.
func (r *Router) close() {
	r.ending.Lock()
	r.end()
	r.ending.Unlock()
	r.renewing.Wait()
	r.http1.CloseIdleConnections()
	r.http2.CloseIdleConnections()
	if t := r.current.Load(); t != nil {
		for _, s := range t.services {
			for _, e := range s.endpoints {
				e.pool.close()
			}
		}
	}
}

// errTimeoutWire is errTimeout as callers get it.
var errTimeoutWire = connect.NewError(connect.CodeDeadlineExceeded, errTimeout)
