// Package loadgen makes requests from many connections at once, as fast as they are answered or at a given rate, and counts
// what comes back. It knows nothing of what a request is.
package loadgen

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nearside-dev/nearside/internal/histogram"
)

// Task makes one request and says of which kind it was, as an index into Plan.Kinds. It is called by one goroutine.
type Task func(ctx context.Context) (kind int, err error)

// Plan says what Run does.
type Plan struct {
	Kinds []string
	Tasks []Task // one for each connection
	// Rate is requests a second in all. They are due at even intervals, whether or not earlier ones were answered, and a
	// request's latency counts from when it was due: a server that stalls cannot hide that by stalling the generator (this is
	// what is called coordinated omission). 0 means that each task begins its next request when the last one was answered.
	Rate     int
	WarmUp   time.Duration // before what counts; default none
	Duration time.Duration
	Begun    func() // called after the warm-up; default nothing
}

// grace is how long after its end a run at a rate goes on with requests that are due; what is left then is missed.
const grace = 5 * time.Second

// Kind is what came back for the requests of a kind.
type Kind struct {
	Name     string
	Requests uint64 // answered, those with an error too
	Errors   uint64
	Latency  histogram.Histogram // of those without
	LastErr  error               // nil if there was none
}

// Result is what came back.
type Result struct {
	Elapsed time.Duration
	Kinds   []Kind
	Missed  uint64 // requests that were due and not begun in time
}

// Total sums the kinds up. Missed requests count as errors.
func (r *Result) Total() Kind {
	sum := Kind{Name: "all", Requests: r.Missed, Errors: r.Missed}
	for i := range r.Kinds {
		sum.add(&r.Kinds[i])
	}
	return sum
}

// Add adds what came back in another run of the same plan, after this one.
func (r *Result) Add(other *Result) {
	r.Elapsed += other.Elapsed
	r.Missed += other.Missed
	for i := range r.Kinds {
		r.Kinds[i].add(&other.Kinds[i])
	}
}

func (k *Kind) add(other *Kind) {
	k.Requests += other.Requests
	k.Errors += other.Errors
	k.Latency.Merge(&other.Latency)
	if other.LastErr != nil {
		k.LastErr = other.LastErr
	}
}

// Run does what a plan says. That requests fail is no error; that ctx ended is.
func Run(ctx context.Context, p Plan) (*Result, error) {
	if len(p.Tasks) == 0 || len(p.Kinds) == 0 || p.Duration <= 0 {
		return nil, errors.New("a plan needs tasks, kinds and a duration")
	}
	if p.WarmUp > 0 {
		if _, err := p.run(ctx, p.WarmUp); err != nil {
			return nil, err
		}
	}
	if p.Begun != nil {
		p.Begun()
	}
	return p.run(ctx, p.Duration)
}

func (p *Plan) run(ctx context.Context, d time.Duration) (*Result, error) {
	results := make([]Result, len(p.Tasks))
	begin := time.Now()
	var all sync.WaitGroup
	for i, task := range p.Tasks {
		results[i].Kinds = make([]Kind, len(p.Kinds))
		all.Go(func() {
			if p.Rate > 0 {
				p.paced(ctx, i, task, begin, d, &results[i])
			} else {
				closed(ctx, task, begin.Add(d), &results[i])
			}
		})
	}
	all.Wait()
	sum := &Result{Elapsed: time.Since(begin), Kinds: make([]Kind, len(p.Kinds))}
	for i := range p.Kinds {
		sum.Kinds[i].Name = p.Kinds[i]
	}
	for i := range results {
		sum.Missed += results[i].Missed
		for k := range results[i].Kinds {
			sum.Kinds[k].add(&results[i].Kinds[k])
		}
	}
	return sum, ctx.Err()
}

// closed repeats a task without a pause.
func closed(ctx context.Context, task Task, deadline time.Time, r *Result) {
	for ctx.Err() == nil {
		begin := time.Now()
		if !begin.Before(deadline) {
			return
		}
		r.request(ctx, task, begin)
	}
}

// paced begins a task's share of the requests when they are due, or at once where they were due before.
func (p *Plan) paced(ctx context.Context, i int, task Task, begin time.Time, d time.Duration, r *Result) {
	end := begin.Add(d + grace)
	total := uint64(d.Seconds() * float64(p.Rate))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := uint64(i); n < total; n += uint64(len(p.Tasks)) {
		due := begin.Add(time.Duration(float64(n) / float64(p.Rate) * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		} else if ctx.Err() != nil {
			return
		}
		if !time.Now().Before(end) {
			r.Missed += (total - n + uint64(len(p.Tasks)) - 1) / uint64(len(p.Tasks))
			return
		}
		r.request(ctx, task, due)
	}
}

// request makes one request, whose latency counts from a time. One that the end of ctx broke off is not counted.
func (r *Result) request(ctx context.Context, task Task, from time.Time) {
	kind, err := task(ctx)
	took := time.Since(from)
	if err != nil && ctx.Err() != nil {
		return
	}
	if kind < 0 || kind >= len(r.Kinds) {
		panic(fmt.Sprintf("loadgen: a task made a request of kind %d of %d", kind, len(r.Kinds)))
	}
	k := &r.Kinds[kind]
	k.Requests++
	if err != nil {
		k.Errors++
		k.LastErr = err
		return
	}
	k.Latency.Record(took)
}
