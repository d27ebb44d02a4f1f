package memory

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counts is what happened to the entries of one kind.
type counts struct {
	hits, misses, old, refused, evictions atomic.Uint64

	bytes atomic.Int64
}

// Stats is what has happened to the entries of one kind since the cache was made.
type Stats struct {
	Hits      uint64 // answered
	Misses    uint64 // not there
	Old       uint64 // there, and no longer valid
	Refused   uint64 // not kept: too large, or more than the cache could take in
	Evictions uint64 // gone for another one, or expired
	Bytes     int64  // taken now
}

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{KindRow, KindPage, KindValue, KindResult} }

// Stats returns the numbers of one kind.
func (c *Cache) Stats(kind Kind) Stats {
	if c == nil {
		return Stats{}
	}
	n := &c.counts[kind]
	return Stats{
		Hits: n.hits.Load(), Misses: n.misses.Load(), Old: n.old.Load(), Refused: n.refused.Load(),
		Evictions: n.evictions.Load(), Bytes: n.bytes.Load(),
	}
}

// Limits returns how much the cache may take, and how much of that one database may; 0 for a nil Cache.
func (c *Cache) Limits() (bytes, database int64) {
	if c == nil {
		return 0, 0
	}
	return c.limit, c.share
}

// DatabaseBytes returns what the entries of a database take now.
func (c *Cache) DatabaseBytes(database uint32) int64 {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if u := c.databases[database]; u != nil {
		return u.bytes.Load()
	}
	return 0
}

var (
	descLookups = prometheus.NewDesc("nearside_memory_lookups_total",
		"Look-ups in the memory cache: hit, miss, or old where the entry is no longer valid.", []string{"kind", "result"}, nil)
	descRefused = prometheus.NewDesc("nearside_memory_refused_total",
		"Entries that the memory cache did not take.", []string{"kind"}, nil)
	descEvictions = prometheus.NewDesc("nearside_memory_evictions_total",
		"Entries that left the memory cache for others, or expired.", []string{"kind"}, nil)
	descBytes = prometheus.NewDesc("nearside_memory_bytes",
		"What the entries of the memory cache take.", []string{"kind"}, nil)
)

func (c *Cache) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	if err := r.Register(collector{c}); err != nil {
		return fmt.Errorf("register metrics of the memory cache: %w", err)
	}
	return nil
}

// collector reads the counts when asked, so that a hit costs one addition.
type collector struct{ cache *Cache }

// Describe implements prometheus.Collector.
func (collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descLookups, descRefused, descEvictions, descBytes} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	for kind := range kinds {
		s, name := c.cache.Stats(kind), kind.String()
		send := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(d, t, v, append([]string{name}, labels...)...)
		}
		send(descLookups, prometheus.CounterValue, float64(s.Hits), "hit")
		send(descLookups, prometheus.CounterValue, float64(s.Misses), "miss")
		send(descLookups, prometheus.CounterValue, float64(s.Old), "old")
		send(descRefused, prometheus.CounterValue, float64(s.Refused))
		send(descEvictions, prometheus.CounterValue, float64(s.Evictions))
		send(descBytes, prometheus.GaugeValue, float64(s.Bytes))
	}
}
