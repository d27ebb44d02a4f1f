package client

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// How Retry repeats.
const (
	maxTries   = 4
	firstDelay = 50 * time.Millisecond // doubled for each further try
	maxDelay   = 2 * time.Second       // a server that asks for more is not waited for
)

// Retry returns a client interceptor that repeats unary calls which failed for a moment, where a repeat cannot do harm: at
// most 4 tries, with jitter, within the context's deadline.
//
// Repeated are calls that failed with unavailable, as those whose connection broke do, or with aborted and the reason
// OUTCOME_UNKNOWN, and that either have no side effects or carry an idempotency key. The data API's writes are given a key
// if they have none; other services' calls are repeated if the caller set the header idempotency-key.
func Retry() connect.Interceptor { return retrier{} }

type retrier struct{}

var _ connect.Interceptor = retrier{}

// WrapUnary implements connect.Interceptor.
func (retrier) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if !req.Spec().IsClient {
			return next(ctx, req)
		}
		if keyed, ok := req.Any().(interface{ GetIdempotencyKey() string }); ok &&
			keyed.GetIdempotencyKey() == "" && req.Header().Get(rpcheader.IdempotencyKey) == "" {
			req.Header().Set(rpcheader.IdempotencyKey, rand.Text())
			// The key is this call's: the caller may use its request again for another.
			defer req.Header().Del(rpcheader.IdempotencyKey)
		}
		for try := 1; ; try++ {
			res, err := next(ctx, req)
			err = rpcerr.Unanswered(err)
			if err == nil || try == maxTries || !repeatable(req) || !momentary(err) || !pause(ctx, err, try) {
				return res, err
			}
		}
	}
}

// WrapStreamingClient implements connect.Interceptor. It does nothing: what a stream has delivered cannot be taken back.
func (retrier) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor. It does nothing.
func (retrier) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// repeatable reports whether doing a request twice is the same as doing it once.
func repeatable(req connect.AnyRequest) bool {
	if req.Spec().IdempotencyLevel == connect.IdempotencyNoSideEffects ||
		req.Header().Get(rpcheader.IdempotencyKey) != "" {
		return true
	}
	keyed, ok := req.Any().(interface{ GetIdempotencyKey() string })
	return ok && keyed.GetIdempotencyKey() != ""
}

// momentary reports whether the same call may succeed soon.
func momentary(err error) bool {
	return connect.CodeOf(err) == connect.CodeUnavailable ||
		rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN
}

// pause waits before the next try. It is false where that would be too late.
func pause(ctx context.Context, err error, try int) bool {
	delay := firstDelay << (try - 1)
	delay = delay/2 + mathrand.N(delay/2)
	if e, ok := rpcerr.FromError(err); ok {
		delay = max(delay, e.RetryAfter())
	}
	if delay > maxDelay {
		return false
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= delay {
		return false
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
