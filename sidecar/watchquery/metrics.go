package watchquery

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// What became of a run.
const (
	runChanged   = "changed"
	runUnchanged = "unchanged"
	runFailed    = "failed"
)

type metrics struct {
	runs    *prometheus.CounterVec
	seconds prometheus.Histogram
	results prometheus.Counter
	skipped prometheus.Counter
	ended   *prometheus.CounterVec
}

func newMetrics(h *Hub, r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_watch_query_runs_total", Help: "Runs of watched statements, by whether the answer was another one.",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nearside_watch_query_run_seconds", Help: "Time of the runs of watched statements.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		}),
		results: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_watch_query_results_total", Help: "Answers told to watchers of queries.",
		}),
		skipped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_watch_query_skipped_total", Help: "Answers that a slow watcher was not told, because there was a newer one.",
		}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_watch_query_ended_total", Help: "Watches of queries that ended, by why.",
		}, []string{"why"}),
	}
	if r == nil {
		return m, nil
	}
	queries := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearside_watch_queries", Help: "Distinct statements that are watched now.",
	}, func() float64 { return float64(h.queries()) })
	bytes := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearside_watch_query_bytes", Help: "What the newest answers of watched statements take.",
	}, func() float64 {
		h.room.Lock()
		defer h.room.Unlock()
		return float64(h.bytes)
	})
	for _, c := range []prometheus.Collector{m.runs, m.seconds, m.results, m.skipped, m.ended, queries, bytes} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of watched queries: %w", err)
		}
	}
	return m, nil
}

// queries returns how many distinct statements are watched.
func (h *Hub) queries() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.feeds {
		f.mu.Lock()
		n += len(f.queries)
		f.mu.Unlock()
	}
	return n
}
