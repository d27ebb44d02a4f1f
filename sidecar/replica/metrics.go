package replica

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/meshdb"
)

// maxNamedDatabases is how many databases have series of their own: those with the smallest ids. All of them are in the
// totals.
const maxNamedDatabases = 100

type metrics struct {
	registerer prometheus.Registerer // nil if there is none

	applySeconds prometheus.Histogram
	records      prometheus.Counter
	bytes        prometheus.Counter
	divergences  prometheus.Counter
	repairs      prometheus.Counter
	snapshots    prometheus.Counter
	reconnects   prometheus.Counter
	databases    *databaseCollector
}

func newMetrics(s *Store, r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "nearside", Subsystem: "replica", Name: name, Help: help,
		})
	}
	m := &metrics{
		registerer: r,
		applySeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "nearside", Subsystem: "replica", Name: "apply_batch_seconds",
			Help:    "Time to apply one group of commit records.",
			Buckets: prometheus.ExponentialBuckets(0.00005, 4, 10), // 50 µs … 13 s
		}),
		records:     counter("records_total", "Commit records applied."),
		bytes:       counter("record_bytes_total", "Bytes of the commit records applied."),
		divergences: counter("divergences_total", "Tables found to differ from the primary's."),
		repairs:     counter("repairs_total", "Repairs: copies of the tables of a database that differed."),
		snapshots:   counter("snapshots_total", "Snapshots of whole databases taken."),
		reconnects:  counter("reconnects_total", "Connections to the primary that ended or were not made."),
		databases:   newDatabaseCollector(s),
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
	return []prometheus.Collector{m.applySeconds, m.records, m.bytes, m.divergences, m.repairs, m.snapshots, m.reconnects, m.databases}
}

// unregister lets another store be opened in the same process.
func (m *metrics) unregister() {
	if m == nil || m.registerer == nil {
		return
	}
	for _, c := range m.all() {
		m.registerer.Unregister(c)
	}
}

// databaseCollector reads the databases' versions when asked, so that applying need not keep gauges.
type databaseCollector struct {
	store   *Store
	applied *prometheus.Desc
	lag     *prometheus.Desc
	count   *prometheus.Desc
	maxLag  *prometheus.Desc
}

func newDatabaseCollector(s *Store) *databaseCollector {
	return &databaseCollector{
		store: s,
		applied: prometheus.NewDesc("nearside_replica_applied_version",
			"Version that the copy has, for the first 100 databases.", []string{"database"}, nil),
		lag: prometheus.NewDesc("nearside_replica_lag_versions",
			"Versions that the copy is behind its primary, for the first 100 databases.", []string{"database"}, nil),
		count: prometheus.NewDesc("nearside_replica_databases",
			"Copies by whether they are served.", []string{"served"}, nil),
		maxLag: prometheus.NewDesc("nearside_replica_max_lag_versions",
			"Versions that the copy furthest behind is behind.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *databaseCollector) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{c.applied, c.lag, c.count, c.maxLag} {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *databaseCollector) Collect(out chan<- prometheus.Metric) {
	served, refused := 0, 0
	maxLag := uint64(0)
	named := make(map[string]struct{}, maxNamedDatabases)
	for _, d := range c.store.Databases() {
		if d.Problem() == nil {
			served++
		} else {
			refused++
		}
		_, version := d.Applied()
		_, target := d.Target()
		lag := target - min(target, version)
		maxLag = max(maxLag, lag)
		name := d.metricName()
		// A name may be there twice for a moment, when a database was deleted and another was given its name.
		if _, twice := named[name]; name != "" && !twice && len(named) < maxNamedDatabases {
			named[name] = struct{}{}
			out <- prometheus.MustNewConstMetric(c.applied, prometheus.GaugeValue, float64(version), name)
			out <- prometheus.MustNewConstMetric(c.lag, prometheus.GaugeValue, float64(lag), name)
		}
	}
	out <- prometheus.MustNewConstMetric(c.count, prometheus.GaugeValue, float64(served), "true")
	out <- prometheus.MustNewConstMetric(c.count, prometheus.GaugeValue, float64(refused), "false")
	out <- prometheus.MustNewConstMetric(c.maxLag, prometheus.GaugeValue, float64(maxLag))
}

func (d *Database) metricName() string {
	if d.id == meshdb.DatabaseID {
		return meshdb.Name
	}
	if name := d.name.Load(); name != nil {
		return *name
	}
	return ""
}
