package mesh

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// outcome is what became of a call.
type outcome int

const (
	outcomeAnswered    outcome = iota // by an endpoint, whatever it said
	outcomeUnavailable                // no endpoint answered
	outcomeTimeout                    // in its time
	outcomeCanceled                   // its caller gave it up
	outcomeAborted                    // the answer ended early, or its caller took it in no more
	outcomeDenied
	outcomeOverloaded
	outcomeInvalid // its message breaks the service's rules
	outcomes
)

var outcomeNames = [outcomes]string{"answered", "unavailable", "timeout", "canceled", "aborted", "denied", "overloaded", "invalid"}

type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	retries prometheus.Counter
	kept    *prometheus.CounterVec
}

// What became of calls whose answers may be kept.
const (
	keptHit    = "hit"
	keptStale  = "stale"  // given, and made anew in the background
	keptMiss   = "miss"   // asked for, and kept if it was one to keep
	keptPassed = "passed" // of another protocol, too large, or of one caller alone
)

func (m *metrics) cache(service, outcome string) { m.kept.WithLabelValues(service, outcome).Inc() }

// serviceMetrics are one service's.
type serviceMetrics struct {
	calls   [outcomes]prometheus.Counter
	seconds prometheus.Observer
}

func (m *serviceMetrics) count(o outcome) { m.calls[o].Inc() }

func (m *serviceMetrics) done(o outcome, unary bool, took time.Duration) {
	m.calls[o].Inc()
	if unary {
		m.seconds.Observe(took.Seconds())
	}
}

func newMetrics(r *Router, registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_mesh_calls_total", Help: "Calls of registered services, by what became of them.",
		}, []string{"service", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "nearside_mesh_call_seconds", Help: "Time of unary calls of registered services, at the gateway.",
			Buckets: []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"service"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_mesh_retries_total", Help: "Calls of registered services that went to another endpoint.",
		}),
		kept: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_mesh_kept_total", Help: "Calls of registered services whose answers may be kept, by what became of them.",
		}, []string{"service", "outcome"}),
	}
	if registerer == nil {
		return m, nil
	}
	return m, errors.Join(registerer.Register(m.calls), registerer.Register(m.seconds), registerer.Register(m.retries), registerer.Register(m.kept),
		registerer.Register(endpointCollector{r}))
}

func (m *metrics) of(service string) *serviceMetrics {
	s := &serviceMetrics{seconds: m.seconds.WithLabelValues(service)}
	for o, name := range outcomeNames {
		s.calls[o] = m.calls.WithLabelValues(service, name)
	}
	return s
}

// forget removes the metrics of a service that is no more.
func (m *metrics) forget(service string) {
	m.calls.DeletePartialMatch(prometheus.Labels{"service": service})
	m.seconds.DeleteLabelValues(service)
	m.kept.DeletePartialMatch(prometheus.Labels{"service": service})
}

// endpointCollector shows the endpoints as they are.
type endpointCollector struct{ router *Router }

var (
	endpointUp = prometheus.NewDesc("nearside_mesh_endpoint_up",
		"1 where calls may be sent to an endpoint of a registered service, else 0: its check fails, or its calls do.",
		[]string{"service", "region", "endpoint", "state"}, nil)
	endpointInFlight = prometheus.NewDesc("nearside_mesh_endpoint_in_flight", "Calls that an endpoint has, streams among them.",
		[]string{"service", "region", "endpoint"}, nil)
	endpointIdle = prometheus.NewDesc("nearside_mesh_endpoint_idle_connections", "Connections to an endpoint that wait for a unary call.",
		[]string{"service", "region", "endpoint"}, nil)
	callsInFlight = prometheus.NewDesc("nearside_mesh_in_flight", "Calls of registered services in flight, streams among them.", nil, nil)
)

// Describe implements prometheus.Collector.
func (endpointCollector) Describe(to chan<- *prometheus.Desc) {
	to <- endpointUp
	to <- endpointInFlight
	to <- endpointIdle
	to <- callsInFlight
}

// Collect implements prometheus.Collector.
func (c endpointCollector) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(callsInFlight, prometheus.GaugeValue, float64(c.router.inFlight.Load()))
	t := c.router.current.Load()
	if t == nil {
		return
	}
	for _, s := range t.services {
		for _, e := range s.endpoints {
			state := e.state()
			up := 0.0
			if state == "up" {
				up = 1
			}
			to <- prometheus.MustNewConstMetric(endpointUp, prometheus.GaugeValue, up, s.name, e.region, e.url, state)
			to <- prometheus.MustNewConstMetric(endpointInFlight, prometheus.GaugeValue, float64(e.inFlight.Load()), s.name, e.region, e.url)
			to <- prometheus.MustNewConstMetric(endpointIdle, prometheus.GaugeValue, float64(e.pool.idle()), s.name, e.region, e.url)
		}
	}
}
