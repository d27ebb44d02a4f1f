package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"hash/maphash"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Defaults of VerifierOptions.
const (
	DefaultGrace     = 30 * time.Minute
	DefaultMaxTokens = 16384

	DefaultMaxDecisions = 65536
)

// VerifierOptions configures a Verifier. Source is required.
type VerifierOptions struct {
	Source Source
	// Grace is how long after its end an access token goes on in a region that is cut off from the primary, if it was verified
	// there before and not revoked. Default: DefaultGrace; negative for none.
	Grace time.Duration
	// MaxTokens is how many verified credentials are kept; default DefaultMaxTokens.
	MaxTokens int
	// MaxDecisions is how many decisions by policies are kept; default DefaultMaxDecisions.
	MaxDecisions int
	// Clock is what tokens end by; default time.Now.
	Clock func() time.Time
	// Registerer takes the metrics; default none.
	Registerer prometheus.Registerer
}

// Verifier says whose credential something is. It may be used concurrently.
type Verifier struct {
	source Source
	grace  time.Duration
	clock  func() time.Time
	told   bool // the clock is not time.Now

	reading sync.Mutex // held while the rows are read
	current atomic.Pointer[state]

	seed   maphash.Seed
	shards [cacheShards]cacheShard

	policies keptPolicies // how decisions by policies are kept

	refused  *prometheus.CounterVec
	verified prometheus.Counter
	graced   prometheus.Counter
	waited   prometheus.Counter
}

const cacheShards = 16

// cacheShard keeps verified credentials by their text.
type cacheShard struct {
	mu      sync.RWMutex
	entries map[string]*verified
	max     int
}

// verified is a credential that is genuine, and what the rows said of it last.
type verified struct {
	claims *Claims           // of an access token; nil of an API key
	kid    string            // of the key that it is signed with
	hash   [sha256.Size]byte // of an API key

	answer atomic.Pointer[answer]
}

// answer is what a state makes of a credential.
type answer struct {
	state     *state
	principal *identity.Principal
	ends      int64 // milliseconds since 1970; 0 is never
	keyEnds   int64 // likewise the API key, or the one that has opened a token's session
	err       error
}

// NewVerifier returns a Verifier. The error is a metric's that the registerer has already.
func NewVerifier(o VerifierOptions) (*Verifier, error) {
	v := &Verifier{
		source: o.Source, grace: max(0, cmp.Or(o.Grace, DefaultGrace)), clock: o.Clock, told: o.Clock != nil, seed: maphash.MakeSeed(),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_auth_refused_total", Help: "Requests that were refused, by reason.",
		}, []string{"reason"}),
		verified: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_auth_verified_total", Help: "Credentials that were verified, because they were not known.",
		}),
		graced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_auth_grace_total", Help: "Requests with a token past its end, accepted while the primary is gone.",
		}),
		waited: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_auth_waited_total", Help: "Requests that waited for the rows that their new token was made by.",
		}),
	}
	if v.clock == nil {
		v.clock = time.Now
	}
	v.policies.init(cmp.Or(o.MaxDecisions, DefaultMaxDecisions))
	for i := range v.shards {
		v.shards[i].entries, v.shards[i].max = make(map[string]*verified), max(1, cmp.Or(o.MaxTokens, DefaultMaxTokens)/cacheShards)
	}
	if o.Registerer == nil {
		return v, nil
	}
	collectors := append(v.policies.collectors(v), v.refused, v.verified, v.graced, v.waited, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearside_auth_known_credentials", Help: "Verified credentials that are kept.",
	}, v.known))
	for _, c := range collectors {
		if err := o.Registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (v *Verifier) known() float64 {
	n := 0
	for i := range v.shards {
		s := &v.shards[i]
		s.mu.RLock()
		n += len(s.entries)
		s.mu.RUnlock()
	}
	return float64(n)
}

// state returns what the rows say now.
func (v *Verifier) state() (*state, error) {
	version, ok := v.source.Version()
	if !ok {
		return nil, errNotReady
	}
	if s := v.current.Load(); s != nil && s.version == version {
		return s, nil
	}
	v.reading.Lock()
	defer v.reading.Unlock()
	if s := v.current.Load(); s != nil && s.version == version {
		return s, nil
	}
	s, err := readState(v.source, v.current.Load(), &v.policies)
	if err != nil {
		// Rows that cannot be read say nothing, above all not that a credential was not revoked.
		return nil, errNotReady.Clone().Because(err)
	}
	v.current.Store(s)
	return s, nil
}

var errNotReady = rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY, "this node does not know yet who may call").
	WithRetryAfter(100 * time.Millisecond)

var authorizationHeader = http.CanonicalHeaderKey("Authorization")

// Request returns who sends a request with a header. It allocates nothing for a credential that is known.
func (v *Verifier) Request(h http.Header) (*identity.Principal, error) {
	p, _, err := v.request(h)
	return p, err
}

// request is Request. first is that the credential was not known.
func (v *Verifier) request(h http.Header) (p *identity.Principal, first bool, err error) {
	text, err := shown(h)
	if err != nil {
		return nil, false, err
	}
	return v.credential(text)
}

// shown returns the credential in a request's header.
func shown(h http.Header) (string, error) {
	lines := h[authorizationHeader]
	if len(lines) == 0 {
		return "", errMissing
	}
	if len(lines) > 1 {
		return "", errInvalid // which one would count?
	}
	return bearer(lines[0])
}

func bearer(line string) (string, error) {
	const scheme = "Bearer "
	if len(line) <= len(scheme) || !strings.EqualFold(line[:len(scheme)], scheme) {
		return "", errMissing
	}
	return line[len(scheme):], nil
}

// Header returns who sends a value of the header Authorization.
func (v *Verifier) Header(line string) (*identity.Principal, error) {
	text, err := bearer(line)
	if err != nil {
		return nil, err
	}
	return v.Credential(text)
}

// Credential returns whose an access token or API key is. The error is TOKEN_INVALID, TOKEN_EXPIRED or NOT_READY.
func (v *Verifier) Credential(text string) (*identity.Principal, error) {
	p, _, err := v.credential(text)
	return p, err
}

func (v *Verifier) credential(text string) (p *identity.Principal, first bool, err error) {
	s, err := v.state()
	if err != nil {
		return nil, false, err
	}
	now := v.clock()
	c, first, err := v.find(s, text, now)
	if err != nil {
		return nil, first, err
	}
	if c.claims != nil && v.early(s, c.claims, now) {
		if s, err = v.catchUp(c.claims); err != nil {
			return nil, first, err
		}
	}
	p, err = v.principal(s, c, now)
	return p, first, err
}

// A token is known everywhere as soon as it is made, but whose it is and what that account may do comes with the copy of _mesh.
// Who signs up in one region and goes on in another waits there for a moment, and is not told that the token is not valid.
const (
	// newToken is how old a token may be to be waited for: a copy that is later than that has more to it than the way from the
	// primary, and would hold up each request.
	newToken = 2 * time.Second
	// maxCatchUp is how long one request waits; five times what a read waits for its bookmark.
	maxCatchUp = 250 * time.Millisecond
)

// early says whether a token is so new that the rows for it are on their way.
func (v *Verifier) early(s *state, c *Claims, now time.Time) bool {
	return s.version.before(c.madeBy()) && now.UnixMilli()-c.MadeAtMs < newToken.Milliseconds() && v.source.Connected()
}

// catchUp waits for the rows that a token was made by, and returns what they say; after maxCatchUp what they say without.
func (v *Verifier) catchUp(c *Claims) (*state, error) {
	ctx, cancel := context.WithTimeout(context.Background(), maxCatchUp) // no caller goes away in so short a time
	defer cancel()
	v.waited.Inc()
	v.source.Wait(ctx, c.madeBy())
	return v.state()
}

// find returns a credential that is genuine. What the rows say of it, principal knows.
func (v *Verifier) find(s *state, text string, now time.Time) (c *verified, first bool, err error) {
	shard := &v.shards[maphash.String(v.seed, text)%cacheShards]
	shard.mu.RLock()
	c = shard.entries[text]
	shard.mu.RUnlock()
	if c != nil {
		return c, false, nil
	}
	if c, err = v.first(s, text, now); err != nil {
		return nil, true, err
	}
	shard.keep(strings.Clone(text), c)
	return c, true, nil
}

// at returns what the time is for a request that was there at a moment: that moment, which spares a look at the clock, unless
// there is a clock that says otherwise.
func (v *Verifier) at(began time.Time) time.Time {
	if v.told || began.IsZero() {
		return v.clock()
	}
	return began
}

// keep puts a credential in the place of any other one if there is none free.
func (s *cacheShard) keep(text string, c *verified) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) >= s.max {
		for other := range s.entries {
			delete(s.entries, other)
			break
		}
	}
	s.entries[text] = c
}

// first verifies a credential that is not known.
func (v *Verifier) first(s *state, text string, now time.Time) (*verified, error) {
	v.verified.Inc()
	if len(text) > maxTokenBytes {
		return nil, errInvalid
	}
	if strings.HasPrefix(text, APIKeyPrefix) {
		hash := HashSecret(text)
		if s.keys[hash] == nil {
			return nil, errInvalid
		}
		return &verified{hash: hash}, nil
	}
	claims, kid, err := s.verify(text, now)
	if err != nil {
		return nil, err
	}
	if !now.Before(claims.ExpiresAt.Time) {
		return nil, errExpired // not known before its end
	}
	return &verified{claims: claims, kid: kid}, nil
}

// principal returns what the rows say of a genuine credential.
func (v *Verifier) principal(s *state, c *verified, now time.Time) (*identity.Principal, error) {
	a := c.answer.Load()
	if a == nil || a.state != s {
		a = s.answer(c)
		c.answer.Store(a)
	}
	if a.err != nil {
		return nil, a.err
	}
	at := now.UnixMilli()
	late := at - a.ends
	switch {
	case a.keyEnds != 0 && at >= a.keyEnds:
		return nil, errInvalid // whoever gave the key an end meant it
	case a.ends == 0 || late < 0:
		return a.principal, nil
	case late >= v.grace.Milliseconds() || v.source.Connected():
		return nil, errExpired
	default:
		v.graced.Inc()
		return a.principal, nil
	}
}

// answer looks a credential up.
func (s *state) answer(c *verified) *answer {
	a := &answer{state: s}
	if c.claims == nil {
		key := s.keys[c.hash]
		if key == nil {
			a.err = errInvalid
			return a
		}
		a.keyEnds = key.expires
		a.principal, a.err = s.resolve(key.account, key.id, "", 0)
		return a
	}
	if s.signing[c.kid] == nil {
		a.err = errInvalid // the key was taken back, and with it all that it has signed
		return a
	}
	a.ends, a.keyEnds = c.claims.ExpiresAt.UnixMilli(), s.keyEnds[c.claims.Session]
	a.principal, a.err = s.resolve(c.claims.Subject, c.claims.ID, c.claims.Session, c.claims.MadeAtMs)
	return a
}
