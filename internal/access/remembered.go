package access

import (
	"net/http"
	"time"

	"github.com/nearside-dev/nearside/internal/identity"
)

// remembered is what is known of the caller of a connection: requests on it mostly show the same credential, for the same method. It
// spares finding things, not deciding them: that a credential is genuine does not change, and everything else is asked of the rows
// and the clock for each request.
type remembered struct {
	guard *Guard
	of    *http.Request // with the credential among its headers
	known *verified     // the credential

	// The buckets of a request for path, by principal and as state says.
	state     *state
	principal *identity.Principal
	path      string
	buckets   [scopes]rated
	limited   int // how many there are
}

// rated is a bucket and its limit.
type rated struct {
	*bucket

	rate Rate
}

// caller returns who sends a request. first is that the credential was not known to the node.
func (m *remembered) caller(g *Guard, r *http.Request, now time.Time) (p *identity.Principal, first bool, err error) {
	s, err := g.verifier.state()
	if m.of != r || m.guard != g {
		*m = remembered{}
		text, wrong := shown(r.Header)
		if wrong != nil {
			return nil, false, wrong
		}
		if err != nil {
			return nil, false, err
		}
		var c *verified
		if c, first, err = g.verifier.find(s, text, now); err != nil {
			return nil, first, err
		}
		m.guard, m.of, m.known = g, r, c
	}
	if err != nil {
		return nil, false, err
	}
	p, err = g.verifier.principal(s, m.known, now)
	return p, first, err
}

// limit finds the buckets of a request, but for those of its message.
func (m *remembered) limit(l *limits, s *state, path, remote string, p *identity.Principal, now time.Time) {
	m.state, m.principal, m.path, m.limited = s, p, path, 0
	for of := range s.scopes {
		if !s.scopes[of] {
			continue
		}
		k := limitKey{scope: scope(of)}
		switch k.scope {
		case scopeIdentity:
			if p.Kind == identity.Anonymous {
				continue
			}
			k.subject = p.ID
		case scopeMethod:
			k.subject = path
		case scopeAddress:
			k.subject = addressOf(remote)
		default:
			continue
		}
		if rate, ok := s.rate(k); ok {
			m.buckets[m.limited] = rated{bucket: l.bucket(k, rate, now), rate: rate}
			m.limited++
		}
	}
}

// take takes a token of each bucket, and reports whether there was one in each; else it has taken none.
func (m *remembered) take(l *limits, now time.Time) bool {
	for i := range m.limited {
		b := &m.buckets[i]
		if _, ok := l.takeFrom(&b.bucket, b.rate, now); !ok {
			m.giveBack(i)
			return false
		}
	}
	return true
}

// giveBack puts back what was taken from the first n buckets.
func (m *remembered) giveBack(n int) {
	for _, b := range m.buckets[:n] {
		b.bucket.giveBack()
	}
}
