package engine

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/sqlite"
)

// Metrics are shared by all databases of a process: a label for each would grow without a bound.
type Metrics struct {
	commits      prometheus.Counter
	groups       prometheus.Counter
	groupSize    prometheus.Histogram
	groupSeconds prometheus.Histogram
	logBytes     prometheus.Counter
	groupsUndone prometheus.Counter
	reads        prometheus.Counter
	briefKeys    prometheus.Gauge

	checkpointWait prometheus.Histogram
}

// NewMetrics registers the engine's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		commits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_commits_total", Help: "Transactions that made a new version.",
		}),
		groups: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_commit_groups_total", Help: "Groups of transactions made durable with one fsync.",
		}),
		groupSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nearside_commit_group_size", Help: "Transactions that made a version, by group.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		groupSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nearside_commit_group_seconds", Help: "Time from a group's begin to its commit.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 14),
		}),
		logBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_log_bytes_total", Help: "Bytes of commit records.",
		}),
		groupsUndone: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_commit_groups_undone_total", Help: "Groups that one transaction undid and that were run again.",
		}),
		reads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_primary_reads_total", Help: "Reads answered by SQLite at the primary.",
		}),
		checkpointWait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nearside_checkpoint_wait_seconds", Help: "How long writers waited for a checkpoint, each time that one let the WAL grow above 32 MiB.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 12),
		}),
		briefKeys: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearside_idempotency_keys_remembered",
			Help: "Idempotency keys that nodes made and that are kept in memory, so that new ones need no look-up: at most 32,768 a database.",
		}),
	}
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearside_sqlite_memory_bytes", Help: "Memory that SQLite has in this process, of all databases.",
	}, func() float64 { return float64(sqlite.MemoryUsed()) }))
	r.MustRegister(m.commits, m.groups, m.groupSize, m.groupSeconds, m.logBytes, m.groupsUndone, m.reads, m.briefKeys, m.checkpointWait)
	return m
}

func (m *Metrics) group(size, bytes int, took time.Duration) {
	m.commits.Add(float64(size))
	m.groups.Inc()
	m.groupSize.Observe(float64(size))
	m.groupSeconds.Observe(took.Seconds())
	m.logBytes.Add(float64(bytes))
}
