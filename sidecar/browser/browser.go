// Package browser is what a gateway does for browsers, before anything else looks at a request: it answers preflight requests, says
// which pages may read an answer (CORS), and has browsers take answers for what they are and for nothing to show.
//
// It never refuses a request: who sends it is for the chain of checks to find out, and a browser keeps what it may not show to
// itself.
package browser

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/cors"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/value"
)

// Version names a state of _mesh.
type Version struct {
	Epoch   uint32
	Version uint64
}

// Source is where a handler has the rows of _mesh from.
type Source interface {
	// Version returns the present state; ok is false where there is none yet. It is called for each request of a page.
	Version() (v Version, ok bool)
	// Read calls f for each row of the tables of meshdb.CORSTables with the values of the columns that are named there, and returns
	// the state that they are of.
	Read(f func(table string, values []value.Value) error) (Version, error)
}

// Options configures a handler. All fields are required.
type Options struct {
	Source     Source
	Next       http.Handler
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

type handler struct {
	source  Source
	next    http.Handler
	logger  *slog.Logger
	refused *prometheus.CounterVec

	reading sync.Mutex // held while the rows are read
	current atomic.Pointer[decider]
}

type decider struct {
	*cors.Decider

	version Version
}

// New returns a handler that answers at once what Next does (server.Expresser): requests with an Origin have no such way.
func New(o Options) (http.Handler, error) {
	h := &handler{
		source: o.Source, next: o.Next, logger: o.Logger,
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_cors_refused_total",
			Help: "Requests of pages that may not read the answer: preflight requests, which ask before, and others.",
		}, []string{"kind"}),
	}
	if err := o.Registerer.Register(h.refused); err != nil {
		return nil, fmt.Errorf("register metrics of CORS: %w", err)
	}
	if paths := server.ExpresserOf(o.Next); paths != nil {
		return expresser{h, paths}, nil
	}
	return h, nil
}

type expresser struct {
	*handler

	paths server.Expresser
}

// Express implements server.Expresser: what is read at once has the headers that ServeHTTP gives it.
func (e expresser) Express(path string) server.Express {
	inner := e.paths.Express(path)
	if g, ok := inner.(server.GetExpress); ok && g.ExpressGet() {
		return express{g}
	}
	return inner
}

type express struct{ server.GetExpress }

// expressLines are the headers of an answer to a GET without an Origin, but for X-Content-Type-Options, which whoever answers has.
var expressLines = []byte("X-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n" +
	"Content-Security-Policy: " + safePolicy + "\r\nVary: Origin\r\n")

// ServeExpress implements server.Express.
func (e express) ServeExpress(ctx context.Context, r *http.Request, body []byte, a *server.ExpressAnswer) bool {
	if r.Method == http.MethodGet {
		a.Extra = expressLines
	}
	return e.GetExpress.ServeExpress(ctx, r, body, a)
}

// safePolicy is the content security policy of answers that have none of their own: whatever they are, they show nothing and run
// nothing.
const safePolicy = "default-src 'none'; frame-ancestors 'none'; sandbox"

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	origins := r.Header["Origin"]
	if len(origins) == 0 && r.Method == http.MethodPost {
		h.next.ServeHTTP(w, r) // no browser sends one without
		return
	}
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Content-Security-Policy", safePolicy)
	header.Add("Vary", "Origin") // also where there is none: what is kept may be asked for with one
	asked := r.Header.Get("Access-Control-Request-Method")
	preflight := r.Method == http.MethodOptions && asked != "" && len(origins) > 0
	if preflight {
		header.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	}
	if len(origins) == 0 || len(origins) == 1 && sameOrigin(r, origins[0]) {
		h.pass(w, r)
		return
	}
	d := h.latest()
	if preflight {
		if d == nil || len(origins) > 1 || !d.Preflight(header, origins[0], asked, r.Header["Access-Control-Request-Headers"]) {
			h.refused.WithLabelValues("preflight").Inc()
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if d == nil || len(origins) > 1 || !d.Answer(header, origins[0]) {
		h.refused.WithLabelValues("request").Inc()
	}
	h.pass(w, r)
}

func (h *handler) pass(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost && server.IsCall(r.URL.Path) {
		serveCall(h.next, w, r)
		return
	}
	h.next.ServeHTTP(w, r)
}

// sameOrigin reports whether a page is of the listener that its request goes to, as the browser names it.
func sameOrigin(r *http.Request, origin string) bool {
	scheme, host, ok := strings.Cut(origin, "://")
	return ok && strings.EqualFold(host, r.Host) && (scheme == "https") == server.Secured(r.Context())
}

// latest returns what decides as the rows are now; where they cannot be read, as they were. It is nil before there are any.
func (h *handler) latest() *cors.Decider {
	version, ok := h.source.Version()
	d := h.current.Load()
	if ok && (d == nil || d.version != version) {
		h.reading.Lock()
		defer h.reading.Unlock()
		if d = h.current.Load(); d == nil || d.version != version {
			next, err := h.read()
			if err != nil {
				h.logger.Warn("policy of other origins not read", "error", err)
			} else {
				d = next
				h.current.Store(d)
			}
		}
	}
	if d == nil {
		return nil
	}
	return d.Decider
}

// read makes what decides of the rows: without any policy, pages of the mesh's own gateways may call each other.
func (h *handler) read() (*decider, error) {
	policy := cors.Policy{MaxAge: cors.DefaultMaxAge}
	var own []string
	version, err := h.source.Read(func(table string, v []value.Value) error {
		switch table {
		case meshdb.TableRegions:
			if origin, err := cors.Origin(v[1].Text()); err == nil {
				own = append(own, origin)
			}
		case meshdb.TableCORS:
			if v[0].Text() != meshdb.CORSDefault {
				return nil
			}
			policy = cors.Policy{
				Origins: strings.Fields(v[1].Text()), Credentials: v[2].Integer() != 0, AllowHeaders: strings.Fields(v[3].Text()),
				ExposeHeaders: strings.Fields(v[4].Text()), MaxAge: time.Duration(v[5].Integer()) * time.Second,
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &decider{cors.NewDecider(policy, own), version}, nil
}
