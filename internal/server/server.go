package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/budget"
)

// Defaults of Config.
const (
	DefaultMaxConnections          = 8192
	DefaultMaxConnectionsPerClient = 4096
	DefaultMaxRequestsPerClient    = 4096
	DefaultMaxBodyBytes            = 72 << 20 // a transaction of 64 MiB and what is around it
	DefaultBodyTimeout             = 30 * time.Second
	DefaultStallTimeout            = 30 * time.Second
)

const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute // longer than httpclient keeps connections, so that it is the client who ends them
	maxHeaderBytes    = 64 << 10
	maxStreams        = 1000 // of one HTTP/2 connection
	pingAfter         = 15 * time.Second
	pingTimeout       = 15 * time.Second
)

// Config is one listener's.
type Config struct {
	Name           string // in metrics and logs: gateway, primary, admin
	MaxConnections int    // default DefaultMaxConnections; more are told so and closed
	MaxBodyBytes   int64  // default DefaultMaxBodyBytes; streams have a limit on each message instead
	// MaxConnectionsPerClient and MaxRequestsPerClient are of one address; defaults DefaultMaxConnectionsPerClient and
	// DefaultMaxRequestsPerClient.
	MaxConnectionsPerClient, MaxRequestsPerClient int
	// BodyTimeout is how long a request's body may take besides the time for its bytes; default DefaultBodyTimeout.
	BodyTimeout time.Duration
	// StallTimeout is how long a caller may take in nothing of an answer; default DefaultStallTimeout.
	StallTimeout time.Duration

	// MaxAnswerBytes is what answers above a megabyte may take at a time, all together; default budget.DefaultBytes.
	MaxAnswerBytes int64

	// Security is how it tells who calls; the zero value is plaintext from everybody.
	Security Security
	// Express has those paths answered without net/http for which the handler has an Express.
	Express bool

	Logger     *slog.Logger          // required
	Registerer prometheus.Registerer // optional
}

func (c Config) withDefaults() Config {
	c.MaxConnections = cmp.Or(c.MaxConnections, DefaultMaxConnections)
	c.MaxConnectionsPerClient = cmp.Or(c.MaxConnectionsPerClient, DefaultMaxConnectionsPerClient)
	c.MaxRequestsPerClient = cmp.Or(c.MaxRequestsPerClient, DefaultMaxRequestsPerClient)
	c.MaxBodyBytes = cmp.Or(c.MaxBodyBytes, DefaultMaxBodyBytes)
	c.MaxAnswerBytes = cmp.Or(c.MaxAnswerBytes, budget.DefaultBytes)
	c.BodyTimeout = cmp.Or(c.BodyTimeout, DefaultBodyTimeout)
	c.StallTimeout = cmp.Or(c.StallTimeout, DefaultStallTimeout)
	return c
}

// Server serves one listener from Start to Close.
type Server struct {
	http       *http.Server
	limited    *connections
	name       string
	collectors []prometheus.Collector
	register   prometheus.Registerer

	drain context.CancelFunc // ends what EndOnDrain wraps
	abort context.CancelFunc // ends all requests

	closing atomic.Bool
	fresh   freshConns
	express *express // nil without
	done    chan struct{}
	failed  chan error
}

// Start serves handler on ln, which it owns from now on, in a goroutine of its own that ends with Close.
func Start(ln net.Listener, handler http.Handler, config Config) (*Server, error) {
	config = config.withDefaults()
	limited := newConnections(ln, config)
	logger := config.Logger.With(slog.String("listener", config.Name))
	gate := newGate(handler, config)
	s := &Server{limited: limited, name: config.Name, register: config.Registerer, done: make(chan struct{}), failed: make(chan error, 1)}
	if config.Registerer != nil {
		s.collectors = []prometheus.Collector{gate.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "nearside_server_connections",
			Help:        "Open connections of a listener.",
			ConstLabels: prometheus.Labels{"listener": config.Name},
		}, func() float64 { return float64(limited.count()) }), prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "nearside_server_handshakes_failed_total",
			Help:        "TLS handshakes that failed, those of revoked nodes among them.",
			ConstLabels: prometheus.Labels{"listener": config.Name},
		}, func() float64 { return float64(limited.failures.Load()) })}
		s.collectors = append(s.collectors, gate.answers.Collectors(config.Name)...)
		for _, c := range s.collectors {
			if err := config.Registerer.Register(c); err != nil {
				return nil, errors.Join(fmt.Errorf("register metrics of listener %s: %w", config.Name, err), ln.Close())
			}
		}
	}
	base, abort := context.WithCancel(context.Background())
	draining, drain := context.WithCancel(context.Background())
	s.abort, s.drain = abort, drain
	base = context.WithValue(base, drainKey{}, draining)

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           recoverPanics(gate, logger),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, SendPingTimeout: pingAfter, PingTimeout: pingTimeout,
		},
		BaseContext: func(net.Listener) context.Context { return base },
		ConnContext: withConn,
		ConnState:   s.fresh.note,
		ErrorLog:    slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	var accepted net.Listener = limited
	if paths := ExpresserOf(handler); paths != nil && config.Express {
		s.express = newExpress(base, limited, paths, logger, config)
		accepted = s.express
		if config.Registerer != nil {
			counter := s.express.counter(config.Name)
			if err := config.Registerer.Register(counter); err != nil {
				abort()
				return nil, errors.Join(fmt.Errorf("register metrics of listener %s: %w", config.Name, err), s.express.Close())
			}
			s.collectors = append(s.collectors, counter)
		}
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(accepted); !s.closing.Load() {
			s.failed <- fmt.Errorf("listener %s: %w", config.Name, err)
		}
	}()
	return s, nil
}

// Failed receives one error if the listener ends before Close.
func (s *Server) Failed() <-chan error { return s.failed }

// Close stops accepting, ends the streams that EndOnDrain wraps, lets the other requests finish until ctx ends and then cuts
// them off, which is the error. No goroutine that serves a connection is left, but handlers that ignore their context.
func (s *Server) Close(ctx context.Context) error {
	s.closing.Store(true)
	s.drain()
	grace := time.AfterFunc(freshGrace, s.fresh.close)
	if s.express != nil {
		s.express.drain()
		defer time.AfterFunc(freshGrace, s.express.endFresh).Stop()
	}
	err := s.http.Shutdown(ctx)
	if s.express != nil {
		err = cmp.Or(err, s.express.wait(ctx))
	}
	grace.Stop()
	s.abort()
	if err != nil {
		err = fmt.Errorf("close listener %s: requests cut off: %w", s.name, err)
		err = errors.Join(err, s.http.Close())
		if s.express != nil {
			s.express.cut()
		}
	}
	<-s.done
	if s.register != nil {
		for _, c := range s.collectors {
			s.register.Unregister(c)
		}
	}
	return err
}

type drainKey struct{}

// EndOnDrain cancels the contexts of next's requests when its server begins to close. It is for streams that end only when
// their caller goes: without it Close would wait for them as long as it may. It does not wake a handler that is waiting for
// its caller's next message. Their bodies may take any time.
func EndOnDrain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b, ok := r.Body.(Relaxer); ok {
			b.Relax()
		}
		draining, ok := r.Context().Value(drainKey{}).(context.Context)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(draining, cancel)()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
