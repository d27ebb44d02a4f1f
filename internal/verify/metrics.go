package verify

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
)

// Recorder counts and logs what checks find.
type Recorder struct {
	logger   *slog.Logger
	checks   *prometheus.CounterVec
	findings *prometheus.CounterVec
	rows     prometheus.Counter
	repairs  prometheus.Counter
	seconds  prometheus.Histogram
}

// NewRecorder returns a recorder whose metrics are in r.
func NewRecorder(logger *slog.Logger, r prometheus.Registerer) (*Recorder, error) {
	c := &Recorder{
		logger: logger.With(slog.String("component", "verify")),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_verify_databases_total", Help: "Databases checked, by result: equal, different or error.",
		}, []string{"result"}),
		findings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_verify_findings_total", Help: "Differences found, by kind.",
		}, []string{"kind"}),
		rows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_verify_rows_total", Help: "Rows read by checks.",
		}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_verify_repairs_total", Help: "Copies marked as diverged by checks.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nearside_verify_seconds", Help: "Time to check one database.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10), // 1 ms … 262 s
		}),
	}
	for _, m := range []prometheus.Collector{c.checks, c.findings, c.rows, c.repairs, c.seconds} {
		if err := r.Register(m); err != nil {
			return nil, fmt.Errorf("register metrics of verify: %w", err)
		}
	}
	return c, nil
}

// Record notes one result. Keys are data and are not logged.
func (c *Recorder) Record(ctx context.Context, r *controlv1.VerifyResult, took time.Duration) {
	c.seconds.Observe(took.Seconds())
	c.rows.Add(float64(r.GetRows()))
	if r.GetRepair() {
		c.repairs.Inc()
	}
	log := c.logger.With(slog.String("database", r.GetDatabase()), slog.Uint64("version", r.GetVersion()))
	for _, f := range r.GetFindings() {
		c.findings.WithLabelValues(KindName(f.GetKind())).Add(float64(f.GetCount()))
		log.ErrorContext(ctx, "data differs", slog.String("kind", KindName(f.GetKind())), slog.String("table", f.GetTable()),
			slog.String("index", f.GetIndex()), slog.Uint64("count", f.GetCount()), slog.String("detail", f.GetDetail()),
			slog.Bool("repair", r.GetRepair()))
	}
	result := "equal"
	switch {
	case len(r.GetFindings()) > 0:
		result = "different"
	case r.GetError() != "":
		result = "error"
		log.WarnContext(ctx, "not verified", slog.String("error", r.GetError()))
	}
	c.checks.WithLabelValues(result).Inc()
}
