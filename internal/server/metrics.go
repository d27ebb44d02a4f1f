package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
)

// rpcMetrics counts and times the calls that handlers answer.
type rpcMetrics struct {
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	answered sync.Map // procedure → prometheus.Observer of its calls without an error: a look-up by labels costs ten times as much
}

var _ connect.Interceptor = (*rpcMetrics)(nil)

func newRPCMetrics(registerer prometheus.Registerer) (*rpcMetrics, error) {
	m := &rpcMetrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "nearside_rpc_seconds",
			Help:    "How long calls took to answer, streams from begin to end.",
			Buckets: prometheus.ExponentialBuckets(25e-6, 4, 10), // 25 µs to 6.5 s
		}, []string{"procedure", "code"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearside_rpc_in_flight", Help: "Calls that are being answered.",
		}),
	}
	var err error
	if m.seconds, err = registered(registerer, m.seconds); err != nil {
		return nil, err
	}
	m.inFlight, err = registered(registerer, m.inFlight)
	return m, err
}

// registered registers a collector, or returns the one that is registered already: a listener's calls are counted in one place,
// whoever answers them.
func registered[C prometheus.Collector](registerer prometheus.Registerer, c C) (C, error) {
	err := registerer.Register(c)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing, nil
		}
	}
	if err != nil {
		return c, fmt.Errorf("register the metrics of calls: %w", err)
	}
	return c, nil
}

// Observer counts and times the calls of a procedure that a layer before its Connect handler answers, in the handlers' own
// metrics.
type Observer struct {
	answered prometheus.Observer
	failed   prometheus.ObserverVec // by code
	inFlight prometheus.Gauge
}

// NewObserver returns an Observer. The error is a metric's that the registerer has already in another form.
func NewObserver(registerer prometheus.Registerer, procedure string) (*Observer, error) {
	m, err := newRPCMetrics(registerer)
	if err != nil {
		return nil, err
	}
	failed, err := m.seconds.CurryWith(prometheus.Labels{"procedure": procedure})
	if err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", procedure, err)
	}
	return &Observer{answered: m.seconds.WithLabelValues(procedure, "ok"), failed: failed, inFlight: m.inFlight}, nil
}

// Begin notes that a call is being answered.
func (o *Observer) Begin() { o.inFlight.Inc() }

// Answered notes that it was, without an error.
func (o *Observer) Answered(took time.Duration) {
	o.inFlight.Dec()
	o.answered.Observe(took.Seconds())
}

// Failed notes that it was, with an error.
func (o *Observer) Failed(code connect.Code, took time.Duration) {
	o.inFlight.Dec()
	o.failed.WithLabelValues(code.String()).Observe(took.Seconds())
}

// Passed notes that the Connect handler answers it, and counts it.
func (o *Observer) Passed() { o.inFlight.Dec() }

func (m *rpcMetrics) observe(procedure string, begin time.Time, err error) {
	m.inFlight.Dec()
	took := time.Since(begin).Seconds()
	if err != nil {
		m.seconds.WithLabelValues(procedure, connect.CodeOf(err).String()).Observe(took)
		return
	}
	ok, found := m.answered.Load(procedure)
	if !found {
		ok, _ = m.answered.LoadOrStore(procedure, m.seconds.WithLabelValues(procedure, "ok"))
	}
	ok.(prometheus.Observer).Observe(took)
}

// WrapUnary implements connect.Interceptor.
func (m *rpcMetrics) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		begin := time.Now()
		m.inFlight.Inc()
		res, err := next(ctx, req)
		m.observe(req.Spec().Procedure, begin, err)
		return res, err
	}
}

// WrapStreamingClient implements connect.Interceptor. It does nothing.
func (m *rpcMetrics) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (m *rpcMetrics) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		begin := time.Now()
		m.inFlight.Inc()
		err := next(ctx, conn)
		m.observe(conn.Spec().Procedure, begin, err)
		return err
	}
}
