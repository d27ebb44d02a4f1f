package replication

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
)

// metrics are over all subscribers. What one of them may hold is bounded: a place in a queue for each database that it
// follows, and one group of records that it has not taken yet.
type metrics struct {
	streams      prometheus.Gauge
	overloads    prometheus.Counter
	queued       prometheus.Gauge
	sendingBytes prometheus.Gauge
	records      prometheus.Counter
	recordBytes  prometheus.Counter
	resumes      prometheus.Counter
	refusals     *prometheus.CounterVec
	filtered     prometheus.Counter
	placements   prometheus.Counter
}

// newMetrics registers the metrics with r, unless it is nil.
func newMetrics(r prometheus.Registerer) *metrics {
	factory := promauto.With(r)
	counter := func(name, help string) prometheus.Counter {
		return factory.NewCounter(prometheus.CounterOpts{Namespace: "nearside", Subsystem: "replication", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return factory.NewGauge(prometheus.GaugeOpts{Namespace: "nearside", Subsystem: "replication", Name: name, Help: help})
	}
	return &metrics{
		streams:      gauge("streams", "Streams to subscribers, snapshots among them."),
		overloads:    counter("streams_refused_total", "Streams refused because there were too many."),
		queued:       gauge("queued_databases", "Databases with news that a subscriber was not sent yet."),
		sendingBytes: gauge("sending_bytes", "Bytes of records that subscribers are being sent and have not taken yet."),
		records:      counter("records_total", "Commit records sent."),
		recordBytes:  counter("record_bytes_total", "Bytes of the commit records sent."),
		resumes:      counter("resumes_total", "Times that a subscriber went on with a copy where it was."),
		filtered:     counter("filtered_records_total", "Commit records of which something was left out that a region may not hold."),
		placements:   counter("placements_total", "Times that a region was told that it may hold other tables than before."),
		refusals: factory.NewCounterVec(prometheus.CounterOpts{
			Namespace: "nearside", Subsystem: "replication", Name: "refusals_total",
			Help: "Times that a subscriber was not sent a database any more, or not at all, by reason.",
		}, []string{"reason"}),
	}
}

// refused counts a refusal, under its reason's name in lower case.
func (m *metrics) refused(reason replicationv1.Refusal_Reason) {
	m.refusals.WithLabelValues(strings.ToLower(strings.TrimPrefix(reason.String(), "REASON_"))).Inc()
}

// sending counts a group of records as being sent; call the result when it is.
func (m *metrics) sending(records [][]byte) (sent func(error)) {
	size := 0
	for _, r := range records {
		size += len(r)
	}
	m.sendingBytes.Add(float64(size))
	return func(err error) {
		m.sendingBytes.Sub(float64(size))
		if err == nil {
			m.records.Add(float64(len(records)))
			m.recordBytes.Add(float64(size))
		}
	}
}
