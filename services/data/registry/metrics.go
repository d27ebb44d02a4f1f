package registry

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what the pool does.
type metrics struct {
	registerer prometheus.Registerer // nil if there is none

	open     prometheus.Gauge
	opens    *prometheus.CounterVec
	closes   prometheus.Counter
	openTime prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		registerer: r,
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearside_open_databases", Help: "Databases whose SQLite file is open, besides _mesh.",
		}),
		opens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_database_opens_total", Help: "Databases opened because a request needed them.",
		}, []string{"result"}),
		closes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_database_closes_total", Help: "Databases closed: unused, to make place, deleted, or at the end.",
		}),
		openTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nearside_database_open_seconds", Help: "Time to open a database, with the replay of what its file lacked.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10), // 0.5 ms … 131 s
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range m.all() {
		if err := r.Register(c); err != nil {
			m.unregister()
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.open, m.opens, m.closes, m.openTime}
}

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.all() {
		m.registerer.Unregister(c)
	}
}

func (m *metrics) opened(took time.Duration, err error) {
	if err != nil {
		m.opens.WithLabelValues("failed").Inc()
		return
	}
	m.opens.WithLabelValues("ok").Inc()
	m.openTime.Observe(took.Seconds())
	m.open.Inc()
}

func (m *metrics) closed() {
	m.open.Dec()
	m.closes.Inc()
}
