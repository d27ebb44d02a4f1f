// Package cors has the policy by which pages of other origins may read what gateways answer (https://fetch.spec.whatwg.org/#http-cors-protocol):
// what an admin sets (services/control) and what each gateway decides by (sidecar/browser).
package cors

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Any is the origin that stands for each.
const Any = "*"

const (
	// DefaultMaxAge is how long browsers keep what they were told; some keep nothing for longer.
	DefaultMaxAge = 2 * time.Hour
	// MaxAge is how long they may be told to.
	MaxAge = 24 * time.Hour
)

// AllowedHeaders are the headers that requests of allowed origins may have: those of Connect, gRPC-Web, REST and GraphQL, and the
// mesh's own.
var AllowedHeaders = []string{
	"accept", "accept-encoding", "accept-language", "authorization", "cache-control", "connect-accept-encoding", "connect-content-encoding",
	"connect-protocol-version", "connect-timeout-ms", "content-encoding", "content-type", "grpc-accept-encoding", "grpc-encoding",
	"grpc-timeout", "idempotency-key", "if-match", "if-none-match", "last-event-id", "nearside-bookmark", "traceparent", "tracestate",
	"x-grpc-web", "x-request-id", "x-user-agent",
}

// ExposedHeaders are the headers of answers that pages of allowed origins may read.
var ExposedHeaders = []string{
	"allow", "connect-accept-encoding", "connect-content-encoding", "content-encoding", "etag", "grpc-encoding", "grpc-message",
	"grpc-status", "grpc-status-details-bin", "link", "location", "nearside-bookmark", "nearside-region", "nearside-source",
	"nearside-staleness-ms", "retry-after", "www-authenticate", "x-request-id",
}

// AllowedMethods are the methods that requests of allowed origins may have.
const AllowedMethods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// Policy says which origins are allowed, and what. Its fields are as Normalize leaves them.
type Policy struct {
	Origins       []string // https://app.example.org, https://*.example.org, or Any
	Credentials   bool
	AllowHeaders  []string // besides AllowedHeaders
	ExposeHeaders []string // besides ExposedHeaders
	MaxAge        time.Duration
}

// FieldError is what is wrong with a field of a policy.
type FieldError struct {
	Field string // origins[0]
	Err   error
}

// Error implements error.
func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

// Normalize returns a policy in the form in which browsers write what it names, or a *FieldError.
func Normalize(p Policy) (Policy, error) {
	out := Policy{Credentials: p.Credentials, MaxAge: p.MaxAge}
	for i, text := range p.Origins {
		field := fmt.Sprintf("origins[%d]", i)
		origin, err := Origin(text)
		if err != nil {
			return Policy{}, &FieldError{field, err}
		}
		if p.Credentials && strings.Contains(origin, "*") {
			return Policy{}, &FieldError{field, fmt.Errorf("%s: credentials are for origins that are named whole", origin)}
		}
		out.Origins = append(out.Origins, origin)
	}
	var err error
	if out.AllowHeaders, err = headerNames("allow_headers", p.AllowHeaders); err != nil {
		return Policy{}, err
	}
	if out.ExposeHeaders, err = headerNames("expose_headers", p.ExposeHeaders); err != nil {
		return Policy{}, err
	}
	if p.MaxAge < 0 || p.MaxAge > MaxAge {
		return Policy{}, &FieldError{"max_age", fmt.Errorf("%v: want at most %v", p.MaxAge, MaxAge)}
	}
	slices.Sort(out.Origins)
	out.Origins = slices.Compact(out.Origins)
	return out, nil
}

var (
	schemePattern = regexp.MustCompile(`^[a-z][a-z0-9+.-]*$`)
	hostPattern   = regexp.MustCompile(`^(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)
	tokenPattern  = regexp.MustCompile("^[a-z0-9!#$%&'+.^_`|~-]{1,64}$") // of RFC 9110 without *, which means something else here
)

var defaultPorts = map[string]string{"http": "80", "https": "443"}

// Origin returns an origin as browsers write it: in lower case, without a path and without a port that goes without saying.
func Origin(text string) (string, error) {
	if text == Any {
		return Any, nil
	}
	scheme, rest, ok := strings.Cut(strings.ToLower(strings.TrimSuffix(text, "/")), "://")
	if !ok || !schemePattern.MatchString(scheme) {
		return "", fmt.Errorf("%q is no origin: want https://HOST, https://*.DOMAIN or *", text)
	}
	u, err := url.Parse("x://" + rest)
	if err != nil || u.Host != rest || u.User != nil {
		return "", fmt.Errorf("%q is no origin: want a scheme, a host and perhaps a port, and no path", text)
	}
	host, port := u.Hostname(), u.Port()
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() && addr.Zone() == "" {
		host = "[" + addr.String() + "]"
	} else if !hostPattern.MatchString(host) {
		return "", fmt.Errorf("%q is no origin: %q is no host", text, host)
	}
	if strings.HasSuffix(rest, ":") || port != "" && !isPort(port) {
		return "", fmt.Errorf("%q is no origin: its port is none", text)
	}
	if port == "" || port == defaultPorts[scheme] {
		return scheme + "://" + host, nil
	}
	return scheme + "://" + host + ":" + port, nil
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == text
}

func headerNames(field string, names []string) ([]string, error) {
	var out []string
	for i, name := range names {
		name = strings.ToLower(name)
		if !tokenPattern.MatchString(name) {
			return nil, &FieldError{fmt.Sprintf("%s[%d]", field, i), errors.New("is no name of a header")}
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Decider answers by a policy. It is immutable.
type Decider struct {
	exact       map[string]bool
	below       []wildcard
	any         bool
	own         map[string]bool // origins of the mesh itself, never with credentials
	credentials bool
	headers     map[string]bool

	allowed, exposed, maxAge string // as headers have them
}

// wildcard is an origin with any labels in front: "https://*.example.org:8443".
type wildcard struct{ before, after string } // "https://", ".example.org:8443"

// NewDecider returns what decides by a normal policy, and by the origins of the mesh's own gateways, which need none.
func NewDecider(p Policy, own []string) *Decider {
	d := &Decider{
		exact: make(map[string]bool), own: make(map[string]bool), credentials: p.Credentials, headers: make(map[string]bool),
		exposed: strings.Join(merged(ExposedHeaders, p.ExposeHeaders), ", "),
		maxAge:  strconv.Itoa(int(p.MaxAge.Seconds())),
	}
	for _, o := range p.Origins {
		before, after, ok := strings.Cut(o, "*")
		switch {
		case o == Any:
			d.any = true
		case ok:
			d.below = append(d.below, wildcard{before, after})
		default:
			d.exact[o] = true
		}
	}
	for _, o := range own {
		for _, alias := range aliases(o) {
			d.own[alias] = true
		}
	}
	headers := merged(AllowedHeaders, p.AllowHeaders)
	for _, h := range headers {
		d.headers[h] = true
	}
	d.allowed = strings.Join(headers, ", ")
	return d
}

func merged(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// aliases are an origin, and the other names of this machine where it is on it: a page of http://localhost:8080 is the gateway's as
// much as one of http://127.0.0.1:8080.
func aliases(origin string) []string {
	u, err := url.Parse(origin)
	if err != nil {
		return nil
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if u.Hostname() != "localhost" && (err != nil || !addr.IsLoopback()) {
		return []string{origin}
	}
	var out []string
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]"} {
		o := u.Scheme + "://" + host
		if u.Port() != "" {
			o += ":" + u.Port()
		}
		out = append(out, o)
	}
	return out
}

// allows returns what the header Access-Control-Allow-Origin says to an origin, "" for nothing, and whether credentials are allowed.
func (d *Decider) allows(origin string) (value string, credentials bool) {
	switch {
	case d.exact[origin]:
		return origin, d.credentials
	case d.any:
		return Any, false
	case d.own[origin]:
		return origin, false
	}
	for _, w := range d.below {
		if len(origin) > len(w.before)+len(w.after) && strings.HasPrefix(origin, w.before) && strings.HasSuffix(origin, w.after) &&
			hostPattern.MatchString(origin[len(w.before):len(origin)-len(w.after)]) {
			return origin, false
		}
	}
	return "", false
}

// Answer writes into the headers of an answer what lets a page of an origin read it, and reports whether there is such a thing.
func (d *Decider) Answer(h http.Header, origin string) bool {
	value, credentials := d.allows(origin)
	if value == "" {
		return false
	}
	h.Set("Access-Control-Allow-Origin", value)
	h.Set("Access-Control-Expose-Headers", d.exposed)
	if credentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	return true
}

// maxAsked bounds how many bytes of header names a request may ask for.
const maxAsked = 8 << 10

// Preflight writes into the headers of the answer to a preflight request what the page of an origin may send, and reports whether
// it may send what it asks for; else it writes nothing.
func (d *Decider) Preflight(h http.Header, origin, method string, headers []string) bool {
	value, credentials := d.allows(origin)
	if value == "" || !methods[method] || !d.known(headers) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", value)
	h.Set("Access-Control-Allow-Methods", AllowedMethods)
	h.Set("Access-Control-Allow-Headers", d.allowed)
	h.Set("Access-Control-Max-Age", d.maxAge)
	if credentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	return true
}

var methods = func() map[string]bool {
	m := make(map[string]bool)
	for name := range strings.SplitSeq(AllowedMethods, ", ") {
		m[name] = true
	}
	return m
}()

// known reports whether all headers that are asked for are allowed.
func (d *Decider) known(lists []string) bool {
	size := 0
	for _, list := range lists {
		if size += len(list); size > maxAsked {
			return false
		}
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.ToLower(strings.TrimSpace(name)); name != "" && !d.headers[name] {
				return false
			}
		}
	}
	return true
}
