package readpath

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

type method int

const (
	methodGet method = iota
	methodBatchGet
	methodList
	methodQuery
	methodQueryStream
	methodExecute
)

var methodNames = [...]string{
	methodGet: "Get", methodBatchGet: "BatchGet", methodList: "List",
	methodQuery: "Query", methodQueryStream: "QueryStream", methodExecute: "Execute",
}

// Why a read goes to the primary.
const (
	whyAsked    = "asked"    // the caller wants it
	whyUnknown  = "unknown"  // no such database, table or index here
	whyWithheld = "withheld" // the same, and there is something that the region may not hold
	whyNotReady = "notready" // the copy is not served
	whyBehind   = "behind"   // the bookmark is newer than the copy
	whyStale    = "stale"    // the copy is too old
	whyFeature  = "feature"  // the copy lacks something of the table
	whySQL      = "sql"      // a statement is not for the copy; nearside_edge_sql_unsupported_total says why
	whyFailed   = "failed"   // the copy could not be read
)

type metrics struct {
	reads        *prometheus.CounterVec
	passed       *prometheus.CounterVec
	waits        *prometheus.CounterVec
	waitSeconds  prometheus.Histogram
	waitsReached prometheus.Counter
	waitsFailed  prometheus.Counter

	// bySource are the counters of reads, looked up beforehand.
	bySource [len(methodNames)][datav1.Source_SOURCE_PRIMARY + 1]prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_reads_total", Help: "Reads by where they were answered; of SQL, those that the replica answered.",
		}, []string{"method", "source"}),
		passed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_reads_passed_total", Help: "Reads that the replica passed on to the primary, by why.",
		}, []string{"why"}),
		waits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_bookmark_waits_total", Help: "Reads that waited for the replica to reach a bookmark.",
		}, []string{"reached"}),
		waitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nearside_bookmark_wait_seconds", Help: "How long reads waited for the replica to reach a bookmark.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8), // 0.5 ms to 8 s
		}),
	}
	m.waitsReached, m.waitsFailed = m.waits.WithLabelValues("true"), m.waits.WithLabelValues("false")
	for method, name := range methodNames {
		for source := datav1.Source_SOURCE_MEMORY; source <= datav1.Source_SOURCE_PRIMARY; source++ {
			m.bySource[method][source] = m.reads.WithLabelValues(name, rpcheader.SourceName(source))
		}
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.reads, m.passed, m.waits, m.waitSeconds} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of reads: %w", err)
		}
	}
	return m, nil
}

// answered counts an answer; nil is none.
func (m *metrics) answered(method method, a *datav1.Answer) {
	if s := a.GetSource(); s > datav1.Source_SOURCE_UNSPECIFIED && s <= datav1.Source_SOURCE_PRIMARY {
		m.bySource[method][s].Inc()
	}
}
