// Package forward passes calls from a region to the primary: all writes, SQL, and the reads that the region's replica cannot
// answer.
//
// A call goes through a bound on calls in flight, a deadline, a circuit breaker and, where that is safe, up to two retries.
// It is safe for reads, and for writes under an idempotency key, which a call without one is given here. What the primary
// answers, errors too, passes unchanged but for the region; only a primary that does not answer is an error of this package.
package forward

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/budget"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Defaults.
const (
	DefaultMaxInFlight = 1024
	DefaultMaxStreams  = 128
	DefaultTimeout     = 30 * time.Second
)

const (
	maxRetries   = 2
	retryBackoff = 20 * time.Millisecond // before the first retry; twice as long before the second

	breakerTimeout     = 500 * time.Millisecond // open, before a call may try again
	breakerProbes      = 3                      // calls that may try at a time, and must succeed to close it
	breakerConsecutive = 5                      // failures in a row that open it
	breakerMinCalls    = 20                     // in the window, before their ratio counts
	breakerWindow      = 10 * time.Second
	breakerBucket      = time.Second

	silenceLimit    = 2 * time.Second // not connected, before a call without an answer is given up
	silenceInterval = 250 * time.Millisecond

	overloadedRetryAfter = 100 * time.Millisecond
)

// Options configures a Primary.
type Options struct {
	// Region is the region whose listener answers.
	Region string
	// URL is the base URL of the primary.
	URL string
	// HTTPClient makes the calls. The caller closes its connections.
	HTTPClient *http.Client
	// Connected reports whether the primary is heard by other means than the calls made here. A call without an answer is
	// given up when it has not been for a while; as long as it is, a call that runs into its deadline does not count against
	// the primary, because the deadline may have been too short. Default: always.
	Connected func() bool
	// MaxInFlight is how many unary calls there may be; default DefaultMaxInFlight. More are refused with OVERLOADED.
	MaxInFlight int
	// MaxStreams is the same of streams, which may last long and must not take the calls' places; default DefaultMaxStreams.
	MaxStreams int
	// Timeout is the deadline of calls that come without one, of streams up to their first message; default DefaultTimeout.
	Timeout time.Duration
	// Registerer takes the metrics; default none.
	Registerer prometheus.Registerer
}

// Primary is the primary as a region sees it. It answers all methods of DataService but Watch and WatchQuery, which are
// unimplemented. It may be used concurrently.
type Primary struct {
	datav1connect.UnimplementedDataServiceHandler

	region    string
	client    datav1connect.DataServiceClient
	connected func() bool
	timeout   time.Duration
	slots     slots // of unary calls
	streams   slots
	metrics   *metrics
	bundles   *bundles

	breaker atomic.Pointer[breaker]
	silent  atomic.Bool // a call was given up because the primary is not heard, and none was answered since
	heard   atomic.Bool // since the breaker opened, and no call has tried since
}

var _ datav1connect.DataServiceHandler = (*Primary)(nil)

type breaker = gobreaker.TwoStepCircuitBreaker[struct{}]

// New returns a Primary. The error is a metric's that the registerer has already.
func New(o Options) (*Primary, error) {
	metered := *o.HTTPClient
	metered.Transport = budget.Transport{RoundTripper: metered.Transport}
	p := &Primary{
		region: o.Region,
		// Between nodes compression costs more time than it saves.
		client:    datav1connect.NewDataServiceClient(&metered, o.URL, connect.WithAcceptCompression("gzip", nil, nil)),
		connected: o.Connected,
		timeout:   cmp.Or(o.Timeout, DefaultTimeout),
		slots:     make(slots, cmp.Or(o.MaxInFlight, DefaultMaxInFlight)),
		streams:   make(slots, cmp.Or(o.MaxStreams, DefaultMaxStreams)),
	}
	if p.connected == nil {
		p.connected = func() bool { return true }
	}
	var err error
	if p.metrics, err = newMetrics(p, o.Registerer); err != nil {
		return nil, err
	}
	if p.bundles, err = newBundles(p, o); err != nil {
		return nil, err
	}
	p.Reset()
	return p, nil
}

// Reset closes the breaker. Whoever knows that the primary is back calls it.
func (p *Primary) Reset() {
	p.silent.Store(false)
	p.heard.Store(false)
	p.breaker.Store(gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         "primary",
		MaxRequests:  breakerProbes,
		Interval:     breakerWindow,
		BucketPeriod: breakerBucket,
		Timeout:      breakerTimeout,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return p.silent.Load() || c.ConsecutiveFailures >= breakerConsecutive ||
				c.Requests >= breakerMinCalls && c.TotalFailures*2 >= c.Requests
		},
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				p.metrics.breakerOpened.Inc()
			}
		},
		IsSuccessful: func(err error) bool { return err == nil },
		IsExcluded:   func(err error) bool { return errors.Is(err, errNotCounted) },
	}))
}

// Heard says that the primary gave a sign of life. Where the breaker lets no call through, the next one may try at once, and
// its success closes it: neither the breaker's time nor slow calls that try already hold up the others.
func (p *Primary) Heard() {
	if p.breaker.Load().State() != gobreaker.StateClosed {
		p.heard.Store(true)
	}
}

// State returns the breaker's state: closed, half-open or open.
func (p *Primary) State() string {
	state := p.breaker.Load().State()
	if state == gobreaker.StateOpen && p.heard.Load() {
		state = gobreaker.StateHalfOpen
	}
	return state.String()
}

// allow lets an attempt through the breaker, or says why not. done must be told its verdict.
func (p *Primary) allow() (done func(verdict error), err error) {
	b := p.breaker.Load()
	done, err = b.Allow()
	if err == nil || !p.heard.CompareAndSwap(true, false) {
		return done, err
	}
	return func(verdict error) {
		if verdict == nil && p.breaker.Load() == b {
			p.Reset()
		}
	}, nil
}

// slots are the places of calls in flight.
type slots chan struct{}

// admit takes a place, to be released.
func (s slots) admit(region, what string) error {
	select {
	case s <- struct{}{}:
		return nil
	default:
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED,
			"region %s has %d %s to the primary in flight", region, cap(s), what).
			With("limit", strconv.Itoa(cap(s))).WithRetryAfter(overloadedRetryAfter)
	}
}

func (s slots) release() { <-s }

func (p *Primary) unavailable(cause error) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE, "the primary cannot be reached from region %s: %w",
		p.region, unplaced(cause)).WithRetryAfter(breakerTimeout)
}

// unplaced is the cause of a failed connection without the addresses of its ends, which are nothing for callers.
func unplaced(cause error) error {
	if e, ok := errors.AsType[*net.OpError](cause); ok {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return cause
}

func (p *Primary) outcomeUnknown(key string, cause error) error {
	e := rpcerr.New(datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN,
		"the primary did not say whether it did this: %w", unplaced(cause)).WithRetryAfter(breakerTimeout)
	if key != "" {
		e = e.With("idempotency_key", key)
	}
	return e
}

var (
	// errNotCounted marks what says nothing about the primary.
	errNotCounted = errors.New("not counted")
	// errNoAnswer marks a call that the primary did not answer in time.
	errNoAnswer = errors.New("no answer in time")
)

// errSilent is errNoAnswer of a primary that is not heard by other means either.
var errSilent = fmt.Errorf("%w, and no sign of life", errNoAnswer)
