package forward

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// canonicalAuthorization is the header of callers' credentials, which the primary verifies again.
const canonicalAuthorization = "Authorization"

// passed are the headers of a caller that the primary gets to see, in canonical form; those of traces as from leaves them.
var passed = []string{canonicalAuthorization, canonicalBookmark, canonicalKey, requestid.ParentHeader, requestid.StateHeader}

// effect is what repeating a call does.
type effect int

const (
	reads      effect = iota // nothing, and so does the call itself
	repeatable               // nothing, by the nature of the call or because of its idempotency key
	writes                   // perhaps something, perhaps an error
)

// call is one call on its way to the primary.
type call struct {
	primary *Primary
	method  string
	effect  effect
	header  http.Header
	key     string // idempotency key, if the call has one
	// sent is whether an attempt that got no answer may have reached the primary.
	sent bool
}

// newCall begins a call.
func (p *Primary) newCall(method string, e effect, header http.Header) *call {
	c := &call{primary: p, method: method, effect: e, header: make(http.Header, len(passed))}
	for _, name := range passed {
		if values := header[name]; len(values) > 0 {
			c.header[name] = values
		}
	}
	return c
}

// from tells the primary which request it is that the call is made for, and where the caller is, which it takes from nodes alone.
func (c *call) from(ctx context.Context) {
	c.named(ctx)
	c.located(ctx)
}

// located tells the primary where the caller is.
func (c *call) located(ctx context.Context) {
	if address := identity.AddressOf(ctx); address.IsValid() {
		c.header[canonicalOrigin] = []string{address.String()}
	}
}

// named tells the primary which request it is that the call is made for.
func (c *call) named(ctx context.Context) { requestid.From(ctx).Set(c.header) }

// newKeyedCall begins a call that an idempotency key makes repeatable: the one in the message, the caller's header or, where
// there is neither, a new one.
func (p *Primary) newKeyedCall(method string, header http.Header, inMessage string) *call {
	c := p.newCall(method, repeatable, header)
	c.key = inMessage
	if c.key == "" {
		c.key = c.first(canonicalKey)
	}
	if c.key == "" {
		c.key = generatedKey()
		c.header[canonicalKey] = []string{c.key}
	}
	return c
}

// first returns a header's first value; name is in canonical form.
func (c *call) first(name string) string {
	if values := c.header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// generatedKey returns a key that nobody else makes. It begins with the time, so that new keys come after old ones: at the
// primary a new key's look-up then ends in memory, where that of a random one reads a block of the disk.
func generatedKey() string {
	id, err := uuid.NewV7()
	if err != nil {
		id = uuid.New() // panics without randomness, as it must
	}
	return rpcheader.GeneratedKeyPrefix + id.String()
}

// unary passes one call to the primary.
func unary[Req, Res any](
	ctx context.Context, c *call, msg *Req,
	send func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error),
) (*connect.Response[Res], error) {
	c.from(ctx)
	var res *connect.Response[Res]
	err := c.run(ctx, func(ctx context.Context) (err error) {
		req := connect.NewRequest(msg)
		copyHeader(req.Header(), c.header)
		res, err = send(traced(ctx), req)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := connect.NewResponse(res.Msg)
	if m, ok := any(res.Msg).(answered); ok {
		c.primary.rewrite(m)
		rpcheader.SetAnswer(out.Header(), m.GetAnswer())
	}
	return out, nil
}

// copyHeader sets the headers of an attempt. The idempotency key's is not in canonical form: a net/http transport that finds
// one repeats requests by itself, and retries are made and counted in one place only.
func copyHeader(to, from http.Header) {
	for name, values := range from {
		if name == canonicalKey {
			name = rpcheader.IdempotencyKey
		}
		to[name] = values
	}
}

var (
	canonicalKey      = http.CanonicalHeaderKey(rpcheader.IdempotencyKey)
	canonicalOrigin   = http.CanonicalHeaderKey(rpcheader.Origin)
	canonicalBookmark = http.CanonicalHeaderKey(rpcheader.Bookmark)
)

type answered interface{ GetAnswer() *datav1.Answer }

// rewrite says in an answer of the primary whose listener answers.
func (p *Primary) rewrite(m answered) {
	if a := m.GetAnswer(); a != nil {
		a.Region = p.region
		a.ServedByPrimary = true
	}
}

// run makes attempts until one is answered, counts the outcome and returns the error for the caller.
func (c *call) run(ctx context.Context, attempt func(context.Context) error) error {
	err := c.primary.slots.admit(c.primary.region, "calls")
	if err == nil {
		err = c.attempts(ctx, c.primary.limitsOf(ctx), nil, attempt)
		c.primary.slots.release()
	}
	c.primary.metrics.outcome(c.method, err)
	return err
}

// attempts makes attempts until one is answered. failed is the error of a first one that was made already, if there was one.
func (c *call) attempts(caller context.Context, l limits, failed error, attempt func(context.Context) error) error {
	ctx, cancel := l.with(caller)
	defer cancel()
	for n, err := 0, failed; ; n++ {
		if err == nil {
			err = c.once(ctx, attempt)
		}
		if err == nil {
			return nil
		}
		if caller.Err() != nil {
			return caller.Err()
		}
		if n == maxRetries || !c.retryable(err) || !sleep(ctx, backoff(n)) {
			return c.final(err)
		}
		c.primary.metrics.retries.Inc()
		err = nil
	}
}

// once makes one attempt. An error is the primary's own (connect.IsWireError) or says why there was no answer.
func (c *call) once(ctx context.Context, attempt func(context.Context) error) error {
	done, err := c.primary.allow()
	if err != nil {
		return fmt.Errorf("%w: %w", errRejected, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer c.primary.listen(ctx, cancel).Stop()
	var wrote atomic.Bool // the trace is called on the transport's goroutines
	err = attempt(&attemptContext{Context: ctx, wrote: &wrote})
	err, verdict := c.primary.judge(ctx, err)
	done(verdict)
	if err != nil && !connect.IsWireError(err) && wrote.Load() {
		c.sent = true
	}
	return err
}

// attemptContext is the context of an attempt.
type attemptContext struct {
	context.Context //nolint:containedctx // it is a context

	wrote *atomic.Bool // that the attempt may have reached the primary
}

type wroteKey struct{}

// Value implements context.Context.
func (a *attemptContext) Value(key any) any {
	if key == (wroteKey{}) {
		return a.wrote
	}
	return a.Context.Value(key)
}

// traced returns the context of an attempt that is made as an HTTP request, which notes when it may have reached the primary.
func traced(ctx context.Context) context.Context {
	wrote, ok := ctx.Value(wroteKey{}).(*atomic.Bool)
	if !ok {
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }})
}

// listen cancels an attempt with errSilent when the primary has not been heard for too long. It looks again until the
// attempt's context ends.
func (p *Primary) listen(ctx context.Context, cancel context.CancelCauseFunc) *time.Timer {
	var timer *time.Timer
	begun := make(chan struct{}) // closed when timer is set
	heard := time.Now()
	timer = time.AfterFunc(silenceInterval, func() {
		<-begun
		if p.connected() {
			heard = time.Now()
		}
		switch {
		case ctx.Err() != nil:
		case time.Since(heard) >= silenceLimit:
			cancel(errSilent)
		default:
			timer.Reset(silenceInterval)
		}
	})
	close(begun)
	return timer
}

// errRejected marks what the breaker did not let pass.
var errRejected = errors.New("breaker")

// judge returns what an attempt's error means, and what it tells the breaker: nil is success.
func (p *Primary) judge(ctx context.Context, err error) (meaning, verdict error) {
	switch {
	case err == nil:
		p.silent.Store(false)
		return nil, nil
	case isOverBudget(err):
		return err, errNotCounted
	case connect.IsWireError(err):
		p.silent.Store(false)
		// The primary answers. Only where it says that it cannot serve is that held against it, and not where it says that
		// this region asks too much.
		switch connect.CodeOf(err) {
		case connect.CodeUnavailable:
			return err, err
		case connect.CodeResourceExhausted, connect.CodeCanceled, connect.CodeDeadlineExceeded:
			return err, errNotCounted
		default:
			return err, nil
		}
	case errors.Is(context.Cause(ctx), errSilent):
		p.silent.Store(true)
		return errSilent, errSilent
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return p.late()
	case ctx.Err() != nil:
		return err, errNotCounted
	default:
		return err, err // Connect's code says nothing here: a connection reset has that of a cancelled call
	}
}

// late judges an attempt that got no answer within its time.
func (p *Primary) late() (meaning, verdict error) {
	if p.connected() {
		return errNoAnswer, errNotCounted
	}
	p.silent.Store(true)
	return errSilent, errSilent
}

// isOverBudget reports whether an answer came for which this region has no memory at the moment.
func isOverBudget(err error) bool {
	return !connect.IsWireError(err) && rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_OVERLOADED
}

// retryable reports whether another attempt does no harm and may help.
func (c *call) retryable(err error) bool {
	if c.effect == writes && c.sent {
		return false
	}
	if connect.IsWireError(err) {
		if connect.CodeOf(err) != connect.CodeUnavailable || c.effect == writes {
			return false
		}
		e, ok := rpcerr.FromError(err)
		return !ok || e.RetryAfter() <= retryBackoff
	}
	return !isOverBudget(err) && !errors.Is(err, errRejected) && !errors.Is(err, errNoAnswer)
}

// final returns the caller's error for the last attempt's.
func (c *call) final(err error) error {
	if c.sent && c.effect != reads {
		// Under the same key the primary's verdict on a later attempt is its verdict on the first one, unless it is none.
		switch code := connect.CodeOf(err); {
		case !connect.IsWireError(err), code == connect.CodeUnavailable, code == connect.CodeResourceExhausted,
			code == connect.CodeDeadlineExceeded, code == connect.CodeCanceled:
			return c.primary.outcomeUnknown(c.key, err)
		}
	}
	switch {
	case connect.IsWireError(err), isOverBudget(err):
		return err
	case errors.Is(err, errNoAnswer) && !errors.Is(err, errSilent):
		return context.DeadlineExceeded
	default:
		return c.primary.unavailable(err)
	}
}

func backoff(n int) time.Duration {
	d := retryBackoff << n
	return d/2 + rand.N(d/2)
}

// sleep waits and reports whether there is still time for anything after that.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A caller's deadline is split: the primary is told to stop a little before this region gives up waiting for it, and that is
// a little before the caller gives up, so that each can still say what happened.
const (
	deadlineShare  = 50 // of the time that is left, one part for each hop
	minDeadlineCut = time.Millisecond
	maxDeadlineCut = 20 * time.Millisecond
)

// limits are how long a call may take.
type limits struct {
	deadline  time.Time // of the waiting here
	announced time.Time // of the work at the primary
	callers   bool      // the caller has one
}

func (p *Primary) limitsOf(caller context.Context) limits {
	now := time.Now()
	deadline, ok := caller.Deadline()
	if !ok {
		deadline = now.Add(p.timeout)
	}
	cut := min(max(deadline.Sub(now)/deadlineShare, minDeadlineCut), maxDeadlineCut)
	if ok {
		deadline = deadline.Add(-cut)
	}
	return limits{deadline: deadline, announced: deadline.Add(-cut), callers: ok}
}

func (l limits) with(caller context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithDeadline(caller, l.deadline)
	return &announced{Context: ctx, deadline: l.announced}, cancel
}

// milliseconds is how long the primary may work, at least one.
func (l limits) milliseconds(now time.Time) uint32 {
	return uint32(min(max(l.announced.Sub(now).Milliseconds(), 1), math.MaxInt32))
}

// announced is a context that tells the primary an earlier deadline than its own.
type announced struct {
	context.Context //nolint:containedctx // it is a context

	deadline time.Time
}

// Deadline implements context.Context.
func (a *announced) Deadline() (time.Time, bool) { return a.deadline, true }
