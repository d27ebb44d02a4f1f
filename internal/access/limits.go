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

type bucket struct {
	tokens float64
	at     time.Time
}

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
	shard := &l.shards[maphash.String(l.seed, k.subject)%bucketShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	b := shard.buckets[k]
	if b == nil {
		if len(shard.buckets) >= maxShardBuckets {
			for other := range shard.buckets {
				delete(shard.buckets, other)
				break
			}
		}
		b = &bucket{tokens: rate.Burst, at: now}
		shard.buckets[k] = b
	}
	b.tokens = min(rate.Burst, b.tokens+max(0, now.Sub(b.at).Seconds())*rate.PerSecond)
	b.at = now
	if b.tokens >= 1 {
		b.tokens--
		return 0, true
	}
	return time.Duration(math.Ceil((1 - b.tokens) / rate.PerSecond * float64(time.Second))), false
}

// giveBack puts a token back that was taken for nothing.
func (l *limits) giveBack(k limitKey) {
	shard := &l.shards[maphash.String(l.seed, k.subject)%bucketShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if b := shard.buckets[k]; b != nil {
		b.tokens++ // no more than there were
	}
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
