package audit

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
)

// Defaults of RecorderOptions. Entries about nobody in particular, which callers without a credential can cause, and those about
// somebody have such bounds each, so that the former cannot hide the latter.
const (
	DefaultMaxPending = 4096
	DefaultRate       = 20
	DefaultBurst      = 1000
	DefaultInterval   = 250 * time.Millisecond

	writeTimeout = 5 * time.Second
)

// RecorderOptions configures a Recorder. Region, Write and Logger are required.
type RecorderOptions struct {
	Region string
	// Write keeps entries. When it fails it is called again with the same and later ones.
	Write  func(context.Context, []*authv1.AuditEntry) error
	Logger *slog.Logger

	Node       string        // who records; default "", where the primary knows it better
	MaxPending int           // entries that are not written, half of them about nobody; default DefaultMaxPending
	Rate       float64       // entries each second; default DefaultRate
	Burst      int           // entries at once; default DefaultBurst
	Interval   time.Duration // at which what repeats others is written; default DefaultInterval
	Clock      func() time.Time
	Registerer prometheus.Registerer
}

// Recorder collects entries. What has not happened lately is written at once, together with all that has come while the write before
// was under way; what repeats it, at the interval's end, as one entry with a count. It never waits. What is above its bounds is
// dropped, counted, and itself an entry once there is room. It may be used concurrently.
type Recorder struct {
	options RecorderOptions

	mu      sync.Mutex
	pending map[Entry]*pending    // by all but the time and the request
	urgent  int                   // of them, that repeat nothing
	lately  [2]map[Entry]struct{} // what was written in this interval, and in the one before
	nobody  bucket                // of entries about nobody
	known   bucket                // of the others
	dropped uint64                // since the last entry about that
	first   time.Time             // when the first of them was

	wake     chan struct{} // has an element when something is urgent
	recorded *prometheus.CounterVec
	lost     prometheus.Counter
}

type pending struct {
	time               time.Time
	traceID, requestID string // of the first
	count              uint64
	again              bool // repeats what was written a moment ago, and waits for the interval's end
	paid               bool // what it repeats was of this interval, and took the place of both
}

// bucket is what there may be of entries of a kind.
type bucket struct {
	tokens  float64
	at      time.Time
	pending int
}

// take reports whether there may be one more.
func (b *bucket) take(o *RecorderOptions, now time.Time) bool {
	b.tokens = min(float64(o.Burst), b.tokens+max(0, now.Sub(b.at).Seconds())*o.Rate)
	b.at = now
	if b.tokens < 1 || b.pending >= o.MaxPending/2 {
		return false
	}
	b.tokens--
	b.pending++
	return true
}

// NewRecorder returns a Recorder. The error is a metric's that the registerer has already.
func NewRecorder(o RecorderOptions) (*Recorder, error) {
	if o.MaxPending == 0 {
		o.MaxPending = DefaultMaxPending
	}
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	if o.Burst == 0 {
		o.Burst = DefaultBurst
	}
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	r := &Recorder{
		options: o, pending: make(map[Entry]*pending), wake: make(chan struct{}, 1),
		lately: [2]map[Entry]struct{}{make(map[Entry]struct{}), nil},
		nobody: bucket{tokens: float64(o.Burst), at: o.Clock()}, known: bucket{tokens: float64(o.Burst), at: o.Clock()},
		recorded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_audit_recorded_total", Help: "Events that were recorded for the audit by this node, by decision.",
		}, []string{"decision"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_audit_dropped_total", Help: "Events that the audit does not have, because there were too many.",
		}),
	}
	if o.Registerer == nil {
		return r, nil
	}
	for _, c := range []prometheus.Collector{r.recorded, r.lost} {
		if err := o.Registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Record records an event. A nil Recorder records nothing.
func (r *Recorder) Record(e Entry) {
	if r == nil {
		return
	}
	now := r.options.Clock()
	if e.Time.IsZero() {
		e.Time = now
	}
	if e.Region == "" {
		e.Region = r.options.Region
	}
	r.Count(e.Decision)
	key := e
	key.Time, key.TraceID, key.RequestID = time.Time{}, "", "" // each request has others
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pending[key]; p != nil {
		p.count++
		return
	}
	p := &pending{time: e.Time, traceID: e.TraceID, requestID: e.RequestID, count: 1}
	_, p.paid = r.lately[0][key]
	_, before := r.lately[1][key]
	p.again = p.paid || before
	if !p.paid && !r.bucket(key).take(&r.options, now) {
		r.drop(1, now)
		return
	}
	r.pending[key] = p
	if p.again {
		return
	}
	r.urgent++
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// bucket returns what an entry is taken from.
func (r *Recorder) bucket(e Entry) *bucket {
	if e.Actor == "" {
		return &r.nobody
	}
	return &r.known
}

// Count counts an event that is recorded in another way.
func (r *Recorder) Count(d authv1.AuditDecision) { r.recorded.WithLabelValues(Name(d)).Inc() }

// Drop notes that entries were lost after they were taken.
func (r *Recorder) Drop(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(n, r.options.Clock())
}

func (r *Recorder) drop(n uint64, now time.Time) {
	if r.dropped == 0 {
		r.first = now
	}
	r.dropped += n
	r.lost.Add(float64(n))
}

// Run writes what is recorded until ctx ends, and then what is left once more.
func (r *Recorder) Run(ctx context.Context) {
	tick := time.NewTicker(r.options.Interval)
	defer tick.Stop()
	var unwritten []*authv1.AuditEntry // what comes meanwhile goes on to be collected, up to its own bound
	failing := false
	write := func(all bool) {
		if failing && !all {
			return // there is no hurry for what cannot be done
		}
		if unwritten == nil {
			unwritten = r.take(all)
		}
		if unwritten == nil {
			return
		}
		writing, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
		defer cancel()
		err := r.options.Write(writing, unwritten)
		switch {
		case err == nil:
			unwritten, failing = nil, false
		case !failing: // it is said once
			failing = true
			r.options.Logger.WarnContext(ctx, "audit entries not written", slog.Any("error", err))
		}
	}
	for {
		select {
		case <-r.wake:
			write(false)
		case <-tick.C:
			write(true)
		case <-ctx.Done():
			if write(true); unwritten == nil {
				write(true)
			}
			return
		}
	}
}

// take returns what is pending, the oldest first: all of it at the end of an interval, else what repeats nothing.
func (r *Recorder) take(all bool) []*authv1.AuditEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	written := r.lately[0]
	if all {
		r.lately[0], r.lately[1] = make(map[Entry]struct{}), written
	}
	if r.urgent == 0 && (!all || len(r.pending) == 0 && r.dropped == 0) {
		return nil
	}
	out := make([]*authv1.AuditEntry, 0, len(r.pending)+1)
	for key, p := range r.pending {
		if p.again && !all {
			continue
		}
		delete(r.pending, key)
		if !p.paid {
			r.bucket(key).pending--
		}
		written[key] = struct{}{}
		e := key
		e.Time, e.TraceID, e.RequestID = p.time, p.traceID, p.requestID
		out = append(out, e.Proto(r.options.Node, p.count))
	}
	r.urgent = 0
	if r.dropped > 0 && all {
		e := Entry{
			Time: r.first, Region: r.options.Region, Action: "audit", Decision: Dropped,
			Reason: fmt.Sprintf("%d events up to %s were too many", r.dropped, r.options.Clock().UTC().Format(time.RFC3339)),
		}
		out = append(out, e.Proto(r.options.Node, r.dropped))
		r.dropped = 0
	}
	slices.SortStableFunc(out, func(a, b *authv1.AuditEntry) int { return a.GetTime().AsTime().Compare(b.GetTime().AsTime()) })
	return out
}

// Name returns a decision as people and metrics read it.
func Name(d authv1.AuditDecision) string {
	switch d {
	case Allowed:
		return "allowed"
	case Refused:
		return "refused"
	case Denied:
		return "denied"
	case Failed:
		return "failed"
	case Dropped:
		return "dropped"
	default:
		return "unspecified"
	}
}
