package loadgen

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// takes returns a task whose requests take as long as it says, given how many there were before.
func takes(f func(n int) (time.Duration, error)) Task {
	n := 0
	return func(context.Context) (int, error) {
		d, err := f(n)
		n++
		time.Sleep(d)
		return 0, err
	}
}

func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := takes(func(int) (time.Duration, error) { return 10 * time.Millisecond, nil })
		fails := takes(func(n int) (time.Duration, error) {
			if n%2 == 1 {
				return 20 * time.Millisecond, errors.New("no")
			}
			return 20 * time.Millisecond, nil
		})
		r, err := Run(t.Context(), Plan{Kinds: []string{"get"}, Tasks: []Task{slow, fails}, WarmUp: time.Second, Duration: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		all := r.Total()
		if all.Requests != 150 || all.Errors != 25 || all.LastErr == nil || all.Latency.Count() != 125 || r.Missed != 0 || r.Elapsed != time.Second {
			t.Errorf("%d requests, %d errors, %d latencies, %v", all.Requests, all.Errors, all.Latency.Count(), r.Elapsed)
		}
	})
}

// TestStallIsSeen: a server that stalls for a second makes all that was due in that second slow, not one request.
func TestStallIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stalls := takes(func(n int) (time.Duration, error) {
			if n == 100 {
				return time.Second, nil
			}
			return time.Millisecond, nil
		})
		r, err := Run(t.Context(), Plan{Kinds: []string{"get"}, Tasks: []Task{stalls}, Rate: 100, Duration: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		all := r.Total()
		if all.Requests != 1000 || all.Errors != 0 {
			t.Errorf("%d requests, %d errors", all.Requests, all.Errors)
		}
		if p50, p95, most := all.Latency.Quantile(0.5), all.Latency.Quantile(0.95), all.Latency.Quantile(1); p50 > 2*time.Millisecond ||
			p95 < 400*time.Millisecond || most < time.Second {
			t.Errorf("p50 %v, p95 %v, max %v", p50, p95, most)
		}
	})
}

// TestMissed: what a server too slow for the rate leaves over is counted, and the run ends.
func TestMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func() Task { return takes(func(int) (time.Duration, error) { return time.Second, nil }) }
		r, err := Run(t.Context(), Plan{Kinds: []string{"get"}, Tasks: []Task{slow(), slow()}, Rate: 10, Duration: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		all := r.Total()
		if all.Requests != 100 || r.Missed == 0 || all.Latency.Count() != 100-r.Missed || r.Elapsed > 10*time.Second+grace+time.Second {
			t.Errorf("%d requests, %d missed, %d answered in %v", all.Requests, r.Missed, all.Latency.Count(), r.Elapsed)
		}
	})
}

func TestStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []int{0, 10} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			task := takes(func(int) (time.Duration, error) { return time.Millisecond, nil })
			_, err := Run(ctx, Plan{Kinds: []string{"get"}, Tasks: []Task{task}, Rate: rate, Duration: time.Hour})
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("rate %d: %v", rate, err)
			}
		}
		if _, err := Run(t.Context(), Plan{}); err == nil {
			t.Error("an empty plan ran")
		}
	})
}
