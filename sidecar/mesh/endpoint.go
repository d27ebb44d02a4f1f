package mesh

import (
	"errors"
	"math"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	breakerTimeout     = time.Second // open, before calls may try again
	breakerProbes      = 3           // calls that may try at a time, and must succeed to close it
	breakerConsecutive = 5           // failures in a row that open it
	breakerMinCalls    = 20          // in the window, before their ratio counts
	breakerWindow      = 10 * time.Second

	maxInFlightEndpoint = 1024

	// ewmaTime is how long a measurement matters: after it a third is left.
	ewmaTime = 10 * time.Second
)

// What is known of an endpoint's protocols.
const (
	h2Unknown int32 = iota
	h2Spoken
	h2Not
)

// endpoint is one place where a service answers, and what is known of it. It may be used concurrently.
type endpoint struct {
	place

	base *url.URL
	near bool // in the gateway's region, or in each
	pool pool
	head []byte // the end of the first line of a request, and the line Host

	breaker  *gobreaker.TwoStepCircuitBreaker[struct{}]
	inFlight atomic.Int64
	down     atomic.Bool   // its check fails
	http2    atomic.Int32  // whether it speaks HTTP/2 without TLS
	ewma     atomic.Uint64 // math.Float64bits of seconds; of unary calls
	measured atomic.Int64  // nanoseconds since the router began: when ewma was
	checked  atomic.Int64  // the same of its next check; 0 is at once
	rtt      atomic.Int64  // nanoseconds that its last check took; 0 is not known
	checking atomic.Bool

	// suspected is when a call could not reach it, in nanoseconds since the router began; 0 is not. It is taken where no other one is
	// usable, until a check has told more.
	suspected atomic.Int64
}

func (r *Router) newEndpoint(p place, base *url.URL) *endpoint {
	e := &endpoint{
		place: p, base: base, near: p.region == "" || p.region == r.region,
		head: []byte(" HTTP/1.1\r\nHost: " + base.Host + "\r\n"),
		breaker: gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Name: p.service + " " + p.url, MaxRequests: breakerProbes, Interval: breakerWindow, Timeout: breakerTimeout,
			ReadyToTrip: func(c gobreaker.Counts) bool {
				return c.ConsecutiveFailures >= breakerConsecutive || c.Requests >= breakerMinCalls && c.TotalFailures*2 >= c.Requests
			},
			IsSuccessful: func(err error) bool { return err == nil },
			IsExcluded:   func(err error) bool { return errors.Is(err, errNotCounted) },
		}),
	}
	e.pool.address = dialAddress(base)
	return e
}

// dialAddress is a URL's host with a port.
func dialAddress(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	if u.Scheme == "https" {
		return u.Host + ":443"
	}
	return u.Host + ":80"
}

// errNotCounted marks what says nothing about an endpoint.
var errNotCounted = errors.New("not counted")

// usable reports whether a call may be sent there, as far as is known.
func (e *endpoint) usable() bool {
	return !e.down.Load() && e.inFlight.Load() < maxInFlightEndpoint && e.breaker.State() != gobreaker.StateOpen
}

// cost is how long a call is to be expected to wait there, in units of which only the order matters.
func (e *endpoint) cost() float64 {
	return math.Float64frombits(e.ewma.Load()) * float64(e.inFlight.Load()+1)
}

// took notes how long a call took, now being since the router began. A longer time than expected counts at once, a shorter
// one by and by.
func (e *endpoint) took(d, now time.Duration) {
	sample := d.Seconds()
	before := e.measured.Swap(int64(now))
	was := math.Float64frombits(e.ewma.Load())
	if sample < was {
		w := math.Exp(-float64(int64(now)-before) / float64(ewmaTime))
		sample = was*w + sample*(1-w)
	}
	e.ewma.Store(math.Float64bits(sample))
}

// state is the endpoint's: up, suspect, down or ejected.
func (e *endpoint) state() string {
	switch {
	case e.down.Load():
		return "down"
	case e.breaker.State() == gobreaker.StateOpen:
		return "ejected"
	case e.suspected.Load() != 0:
		return "suspect"
	default:
		return "up"
	}
}
