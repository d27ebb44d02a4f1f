package access

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Rate is a token bucket's: it gets so many tokens each second, and holds so many.
type Rate struct{ PerSecond, Burst float64 }

// loginRate is how often an address may try to log in.
var loginRate = Rate{PerSecond: 5, Burst: 50}

type scope uint8

const (
	scopeNone scope = iota
	scopeIdentity
	scopeAddress
	scopeMethod
	scopeDatabase
	scopeLogin // not a row's
	scopes
)

var scopeNames = [scopes]string{"", "identity", "address", "method", "database", "login"}

func scopeOf(name string) scope {
	for s := scopeIdentity; s < scopeLogin; s++ {
		if scopeNames[s] == name {
			return s
		}
	}
	return scopeNone
}

// limitKey names a bucket, or a row of rate_limits, whose subject may be "" for each.
type limitKey struct {
	scope   scope
	subject string
}

const (
	bucketShards    = 16
	maxShardBuckets = 4096
)

// limits are the buckets of a listener's callers. Their number is bounded: a new one takes the place of any other, which then
// begins full again.
type limits struct {
	clock  func() time.Time
	seed   maphash.Seed
	shards [bucketShards]bucketShard
}

type bucketShard struct {
	mu      sync.Mutex
	buckets map[limitKey]*bucket
}

// bucket is kept by who takes from it often.
type bucket struct {
	key limitKey

	mu     sync.Mutex
	tokens float64
	at     time.Time
	gone   bool // another one has its place: there is nothing to take here any more
}

// clockBack is how much earlier than the last one a request's moment may be. Beyond that the clock has been put back.
const clockBack = time.Second

func newLimits(clock func() time.Time) *limits {
	l := &limits{clock: clock, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].buckets = make(map[limitKey]*bucket)
	}
	return l
}

// rate returns the limit of a subject, if there is one.
func (s *state) rate(k limitKey) (Rate, bool) {
	if !s.scopes[k.scope] {
		return Rate{}, false
	}
	if r, ok := s.limits[k]; ok {
		return r, true
	}
	r, ok := s.limits[limitKey{scope: k.scope}]
	return r, ok
}

// take takes a token, or says when there is one.
func (l *limits) take(k limitKey, rate Rate) (wait time.Duration, ok bool) {
	now := l.clock()
	b := l.bucket(k, rate, now)
	return l.takeFrom(&b, rate, now)
}

// bucket returns the bucket of a subject.
func (l *limits) bucket(k limitKey, rate Rate, now time.Time) *bucket {
	shard := &l.shards[maphash.String(l.seed, k.subject)%bucketShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	b := shard.buckets[k]
	if b == nil {
		if len(shard.buckets) >= maxShardBuckets {
			for key, other := range shard.buckets {
				delete(shard.buckets, key)
				other.leave()
				break
			}
		}
		b = &bucket{key: k, tokens: rate.Burst, at: now}
		shard.buckets[k] = b
	}
	return b
}

// takeFrom takes a token from a bucket that was found earlier, or from the one that there is instead, which then is *b.
func (l *limits) takeFrom(b **bucket, rate Rate, now time.Time) (wait time.Duration, ok bool) {
	for {
		wait, ok, gone := (*b).take(rate, now)
		if !gone {
			return wait, ok
		}
		*b = l.bucket((*b).key, rate, now)
	}
}

func (b *bucket) take(rate Rate, now time.Time) (wait time.Duration, ok, gone bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return 0, false, true
	}
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens, b.at = b.tokens+passed.Seconds()*rate.PerSecond, now
	} else if passed < -clockBack {
		b.at = now
	}
	b.tokens = min(rate.Burst, b.tokens)
	if b.tokens >= 1 {
		b.tokens--
		return 0, true, false
	}
	return time.Duration(math.Ceil((1 - b.tokens) / rate.PerSecond * float64(time.Second))), false, false
}

// giveBack puts a token back that was taken for nothing.
func (b *bucket) giveBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens++ // no more than there were
}

func (b *bucket) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gone = true
}

// addressOf is the address of a caller, without its port; an IPv6 address counts with its whole /64, which one machine has.
func addressOf(remote string) string {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	addr := a.Addr().Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}

func limited(s scope, wait time.Duration) *rpcerr.Error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_RATE_LIMITED, "too many requests: the limit of this %s", scopeNames[s]).
		With("scope", scopeNames[s]).WithRetryAfter(wait)
}
