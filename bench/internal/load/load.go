package load

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nearside-dev/nearside/internal/histogram"
)

// Result is what the clients of one run saw.
type Result struct {
	Requests uint64
	Elapsed  time.Duration
	Latency  histogram.Histogram
}

// Rate returns the requests of a second.
func (r *Result) Rate() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// Task is one client's work for one request. It returns what to record, which need not be all the time it took; a negative
// duration is not recorded, but counts as a request. The first error ends the run.
type Task func() (time.Duration, error)

// Closed has each task repeat without a pause until d has passed: as many requests are on their way as there are tasks.
func Closed(ctx context.Context, d time.Duration, tasks []Task) (*Result, error) {
	deadline := time.Now().Add(d)
	return run(ctx, tasks, func(int, uint64) (time.Time, bool) { return time.Time{}, time.Now().Before(deadline) })
}

// Paced has the tasks together begin rate requests a second, in turn, until d has passed. A task that is late begins its next
// request at once.
func Paced(ctx context.Context, d time.Duration, rate int, tasks []Task) (*Result, error) {
	begin := time.Now()
	total := uint64(d.Seconds() * float64(rate))
	return run(ctx, tasks, func(task int, done uint64) (time.Time, bool) {
		n := done*uint64(len(tasks)) + uint64(task)
		return begin.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second))), n < total
	})
}

// run runs the tasks. next says when a task's next request is due, given how many it has done, and whether there is one.
func run(ctx context.Context, tasks []Task, next func(task int, done uint64) (time.Time, bool)) (*Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([]Result, len(tasks))
	begin := time.Now()
	var all sync.WaitGroup
	for i, task := range tasks {
		all.Go(func() {
			if err := repeat(ctx, task, &results[i], func(done uint64) (time.Time, bool) { return next(i, done) }); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	sum := &Result{Elapsed: time.Since(begin)}
	for i := range results {
		sum.Requests += results[i].Requests
		sum.Latency.Merge(&results[i].Latency)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if sum.Requests == 0 {
		return nil, errors.New("no request was made")
	}
	return sum, nil
}

func repeat(ctx context.Context, task Task, r *Result, next func(done uint64) (time.Time, bool)) error {
	for ctx.Err() == nil {
		due, more := next(r.Requests)
		if !more {
			return nil
		}
		if err := until(ctx, due); err != nil {
			return err
		}
		d, err := task()
		if err != nil {
			return err
		}
		r.Requests++
		if d >= 0 {
			r.Latency.Record(d)
		}
	}
	return nil
}

// until waits for a time that may have passed.
func until(ctx context.Context, due time.Time) error {
	wait := time.Until(due)
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
