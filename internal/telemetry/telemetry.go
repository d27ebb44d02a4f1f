// Package telemetry sets up what a process says about itself: structured logs and a registry of metrics.
package telemetry

import (
	"context"
	"io"
	"log/slog"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/nearside-dev/nearside/internal/requestid"
)

// NewLogger returns a logger of records of at least the level: lines of JSON, or of text. Times are in UTC. Lines about a request have
// request_id and trace_id.
func NewLogger(w io.Writer, level slog.Leveler, json bool) *slog.Logger {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: inUTC}
	if json {
		return slog.New(Requests(slog.NewJSONHandler(w, options)))
	}
	return slog.New(Requests(slog.NewTextHandler(w, options)))
}

// Requests returns a handler that adds to each record, before next has it, which request its context is of.
func Requests(next slog.Handler) slog.Handler { return requests{next} }

type requests struct{ slog.Handler }

// Handle implements slog.Handler.
func (h requests) Handle(ctx context.Context, r slog.Record) error {
	if id := requestid.From(ctx); id != nil {
		r.AddAttrs(slog.String("request_id", id.String()), slog.String("trace_id", id.Trace()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h requests) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requests{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h requests) WithGroup(name string) slog.Handler { return requests{h.Handler.WithGroup(name)} }

func inUTC(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		a.Value = slog.TimeValue(a.Value.Time().UTC())
	}
	return a
}

// NewRegistry returns a registry with the metrics of the process, the Go runtime and the build. Roles that share a process
// have one each.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "nearside_build_info",
		Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{
			"version": Version(), "commit": buildSetting("vcs.revision"), "go": buildInfo().GoVersion,
		},
	})
	build.Set(1)
	// A new registry refuses none of these.
	registry.MustRegister(
		build,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return registry
}

// Version returns the version that was built: a tag, a pseudo-version or "(devel)".
func Version() string { return buildInfo().Main.Version }

func buildInfo() *debug.BuildInfo {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info
	}
	return &debug.BuildInfo{}
}

func buildSetting(key string) string {
	for _, s := range buildInfo().Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}
