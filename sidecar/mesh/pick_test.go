package mesh

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearside-dev/nearside/internal/value"
)

type noRows struct{}

func (noRows) Version() (Version, bool)                                        { return Version{}, false }
func (noRows) Read(func(table string, v []value.Value) error) (Version, error) { return Version{}, nil }

func newService(t *testing.T, places ...string) (*Router, *service) {
	t.Helper()
	r, err := New(Options{Region: "eu", Source: noRows{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := &service{name: "acme.Echo"}
	var all []place
	for i, region := range places {
		all = append(all, place{service: s.name, region: region, url: "http://127.0.0.1:" + string(rune('1'+i))})
	}
	if s.endpoints, s.near, err = r.endpointsOf(nil, all); err != nil {
		t.Fatal(err)
	}
	return r, s
}

// share counts where calls go.
func share(t *testing.T, r *Router, s *service, calls int) map[string]int {
	t.Helper()
	got := make(map[string]int)
	for range calls {
		e, ok := r.take(s, nil)
		if !ok {
			t.Fatal("no endpoint")
		}
		got[e.region]++
		e.give(nil)
	}
	return got
}

func TestEndpointsNearbyComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := newService(t, "us", "eu", "ap", "eu")
		if got := share(t, r, s, 100); got["eu"] != 100 {
			t.Errorf("calls went to %v", got)
		}
		for _, e := range s.endpoints[:s.near] {
			e.down.Store(true)
		}
		if got := share(t, r, s, 100); got["us"] != 50 || got["ap"] != 50 {
			t.Errorf("of regions that nothing is known of: %v", got)
		}
		for _, e := range s.endpoints {
			e.rtt.Store(map[string]int64{"us": 80, "ap": 200, "eu": 1}[e.region])
		}
		if got := share(t, r, s, 100); got["us"] != 100 {
			t.Errorf("not the nearest one: %v", got)
		}
		// Calls that fail in a row put an endpoint aside, for a while.
		for range breakerConsecutive {
			e, _ := r.take(s, nil)
			e.give(errors.New("failed"))
		}
		if got := share(t, r, s, 100); got["ap"] != 100 {
			t.Errorf("to one that fails: %v", got)
		}
		time.Sleep(breakerTimeout + time.Millisecond)
		if got := share(t, r, s, 100); got["us"] != 100 {
			t.Errorf("not back to one that may try again: %v", got)
		}
		for _, e := range s.endpoints {
			e.down.Store(true)
		}
		if _, ok := r.take(s, nil); ok {
			t.Error("an endpoint that is down was taken")
		}
	})
}

func TestTheCheaperOfTwo(t *testing.T) {
	r, s := newService(t, "eu", "eu")
	fast, slow := s.endpoints[0], s.endpoints[1]
	fast.took(time.Millisecond, time.Second)
	slow.took(time.Second, time.Second)
	for range 100 {
		e, ok := r.take(s, nil)
		if !ok || e.endpoint != fast {
			t.Fatal("the slow one was taken")
		}
		e.give(errNotCounted)
	}
	// A thousand calls in flight make the fast one cost as much.
	fast.inFlight.Store(1001)
	if e, _ := r.take(s, nil); e.endpoint != slow {
		t.Error("the busy one was taken")
	}
	// One long call counts at once, short ones by and by.
	fast.took(2*time.Second, 2*time.Second)
	before := fast.cost()
	fast.took(time.Millisecond, 2*time.Second+time.Millisecond)
	if fast.cost() < before*0.99 {
		t.Error("one short call made a slow endpoint a fast one")
	}
	fast.took(time.Millisecond, 2*time.Second+10*ewmaTime)
	if fast.cost() > before/100 {
		t.Error("a slow call is not forgotten")
	}
}

func TestRepeatingHasABudget(t *testing.T) {
	var b budget
	now := time.Unix(1000, 0)
	count := func() (n int) {
		for b.spend(now) {
			n++
		}
		return n
	}
	if n := count(); n != 3 {
		t.Errorf("%d at once, want 3", n)
	}
	for range 100 {
		b.earn()
	}
	if n := count(); n != 20 {
		t.Errorf("%d after 100 calls, want 20", n)
	}
	now = now.Add(2 * time.Second)
	if n := count(); n != 6 {
		t.Errorf("%d after two seconds, want 6", n)
	}
}

func TestTimeouts(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       time.Duration
	}{
		{"Connect-Timeout-Ms", "250", 250 * time.Millisecond},
		{"Connect-Timeout-Ms", "-1", 0},
		{"Connect-Timeout-Ms", "12345678901", 0},
		{"Connect-Timeout-Ms", "0", 1},
		{"Grpc-Timeout", "250m", 250 * time.Millisecond},
		{"Grpc-Timeout", "3S", 3 * time.Second},
		{"Grpc-Timeout", "99999999H", 0},
		{"Grpc-Timeout", "5x", 0},
		{"Grpc-Timeout", "m", 0},
	} {
		if got := timeoutOf(http.Header{test.name: {test.text}}); got != test.want {
			t.Errorf("%s: %s is %v, want %v", test.name, test.text, got, test.want)
		}
	}
}

func TestDialAddress(t *testing.T) {
	for in, want := range map[string]string{
		"http://a": "a:80", "https://a": "a:443", "http://a:1": "a:1", "http://[::1]": "[::1]:80", "http://[::1]:9": "[::1]:9",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := dialAddress(u); got != want {
			t.Errorf("%s is at %s, want %s", in, got, want)
		}
	}
}
