package graphql

import (
	"log/slog"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vektah/gqlparser/v2/ast"
)

// What is kept of documents that were found to be good: those that are asked for again and again need not be looked at again.
const (
	maxKept      = 32 << 20 // bytes of all, by weightOf
	maxKeptBytes = 8 << 10  // of the text of each
)

// weightOf is how much memory a document takes, rather too much than too little: a test compares it with what it does take.
func weightOf(text string) int { return 4<<10 + 160*len(text) }

// prepared is a schema with the documents that were asked of it.
type prepared struct {
	schema *Schema

	mu     sync.RWMutex
	kept   map[string]*document
	weight int // of kept
}

func newPrepared(s *Schema) *prepared { return &prepared{schema: s, kept: make(map[string]*document)} }

// document returns a query's document, or what is wrong with it.
func (p *prepared) document(text string) (*document, []graphError) {
	p.mu.RLock()
	d := p.kept[text]
	p.mu.RUnlock()
	if d != nil {
		return d, nil
	}
	d, problems := p.schema.parse(text)
	if len(problems) > 0 || len(text) > maxKeptBytes {
		return d, problems
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if other := p.kept[text]; other != nil {
		return other, nil
	}
	p.weight += weightOf(text)
	for other := range p.kept { // any: what is asked for often is back soon
		if p.weight <= maxKept {
			break
		}
		p.weight -= weightOf(other)
		delete(p.kept, other)
	}
	p.kept[strings.Clone(text)] = d
	return d, nil
}

// latest returns the schemas of the services that there are now.
func (h *Handler) latest() *schemas {
	version := h.source.Version()
	if s := h.current.Load(); s != nil && s.version == version {
		return s
	}
	h.building.Lock()
	defer h.building.Unlock()
	if s := h.current.Load(); s != nil && s.version == version {
		return s
	}
	services := h.source.Services()
	s := &schemas{version: version, all: h.build(services)}
	var public []Service
	for _, service := range services {
		if service.Public {
			public = append(public, service)
		}
	}
	if len(public) > 0 {
		s.public = h.build(public)
	}
	h.current.Store(s)
	return s
}

// build makes a schema. Where the services have none together, it is that of those that have one with those before them.
func (h *Handler) build(services []Service) *prepared {
	skipped := func(service string, err error) {
		h.logger.Warn("service left out of the GraphQL schema", slog.String("service", service), slog.Any("error", err))
	}
	s, err := Build(services, skipped)
	for err != nil && len(services) > 0 {
		skipped(string(services[len(services)-1].Descriptor.FullName()), err)
		services = services[:len(services)-1]
		s, err = Build(services, skipped)
	}
	if err != nil {
		s = &Schema{ast: &ast.Schema{Types: map[string]*ast.Definition{}}}
	}
	return newPrepared(s)
}

// metrics are a handler's.
type metrics struct {
	operations    *prometheus.CounterVec
	answered      prometheus.Counter // of operations: queries that were
	seconds       prometheus.Histogram
	calls         prometheus.Counter
	refused       *prometheus.CounterVec
	subscriptions prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_graphql_operations_total", Help: "GraphQL operations, by type and outcome: answered, partial or refused.",
		}, []string{"type", "outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nearside_graphql_operation_seconds", Help: "Time of GraphQL queries and mutations.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}),
		calls: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_graphql_calls_total", Help: "Calls that GraphQL operations came to.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_graphql_refused_total", Help: "GraphQL operations above a limit, by the limit.",
		}, []string{"limit"}),
		subscriptions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearside_graphql_subscriptions", Help: "GraphQL subscriptions that are served now.",
		}),
	}
	for _, c := range []prometheus.Collector{m.operations, m.seconds, m.calls, m.refused, m.subscriptions} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	m.answered = m.operations.WithLabelValues(string(ast.Query), "answered")
	return m, nil
}
