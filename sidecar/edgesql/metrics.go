package edgesql

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/sqlite"
)

type metrics struct {
	unsupported *prometheus.CounterVec
	seconds     prometheus.Histogram
	images      *prometheus.CounterVec
	imageBytes  prometheus.Gauge
}

// What happens to images.
const (
	imageMade     = "made"
	imageEvicted  = "evicted"
	imageTooLarge = "too_large"
	imageFailed   = "failed"
)

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		unsupported: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_edge_sql_unsupported_total", Help: "Statements that the replica left to the primary, by why.",
		}, []string{"reason"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nearside_edge_sql_seconds", Help: "How long statements ran on the replica.",
			Buckets: prometheus.ExponentialBuckets(0.00002, 5, 9), // 20 µs to 8 s
		}),
		images: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_edge_sql_images_total", Help: "Images of tables that were made, evicted, too large, or could not be read.",
		}, []string{"event"}),
		imageBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearside_edge_sql_image_bytes", Help: "Memory of the images of tables that statements read.",
		}),
	}
	if r == nil {
		return m, nil
	}
	memory := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearside_sqlite_memory_bytes", Help: "Memory that SQLite has in this process, of all databases.",
	}, func() float64 { return float64(sqlite.MemoryUsed()) })
	for _, c := range []prometheus.Collector{m.unsupported, m.seconds, m.images, m.imageBytes, memory} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of edge SQL: %w", err)
		}
	}
	return m, nil
}
