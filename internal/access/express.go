package access

import (
	"context"
	"net/http"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/server"
)

var _ server.Expresser = (*Chain)(nil)

// Express implements server.Expresser: a method that has a short way has it without net/http too, behind the same checks.
func (c *Chain) Express(path string) server.Express {
	if Describe(path) != "credential" {
		return nil
	}
	if short := c.short[path]; short != nil {
		return &express{chain: c, path: path, short: short}
	}
	if c.others != nil && !Known(path) {
		return &express{chain: c, path: path, short: c.others}
	}
	return nil
}

// ShortExpress is a handler that takes its caller without a context and answers without net/http, or not at all.
type ShortExpress interface {
	ExpressPrincipal(ctx context.Context, r *http.Request, p *identity.Principal, body []byte, a *server.ExpressAnswer) bool
}

// express is the chain before one short handler. What is to be refused it leaves to the chain's ServeHTTP, which finds the same
// and has the words for it.
type express struct {
	chain *Chain
	path  string
	short ShortExpress
}

// ServeExpress implements server.Express.
func (e *express) ServeExpress(ctx context.Context, r *http.Request, body []byte, a *server.ExpressAnswer) bool {
	g := e.chain.guard
	p, first, err := g.verifier.request(r.Header)
	if first && err == nil && g.auditor != nil {
		g.auditor.Seen(r.WithContext(requestid.With(ctx, a.Request)), p)
	}
	if err != nil && e.chain.open != nil && e.chain.open(e.path) {
		p, err = g.nobody()
	}
	if err != nil || !g.mayCall(p, e.path) {
		return false
	}
	s := g.verifier.current.Load()
	if s == nil || len(s.limits) == 0 {
		return e.short.ExpressPrincipal(ctx, r, p, body, a)
	}
	var taken [scopes]limitKey // by scope; tokens go back if the answer is left to another way, which takes them again
	ok := e.take(s, &taken, r, p) && e.short.ExpressPrincipal(ctx, r, p, body, a)
	if !ok {
		for _, k := range taken {
			if k.scope != scopeNone {
				g.limits.giveBack(k)
			}
		}
	}
	return ok
}

// take takes a token of each bucket that a request has, and reports whether there was one in each.
func (e *express) take(s *state, taken *[scopes]limitKey, r *http.Request, p *identity.Principal) bool {
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
			k.subject = e.path
		case scopeAddress:
			k.subject = addressOf(r.RemoteAddr)
		default:
			continue // of the message
		}
		rate, limited := s.rate(k)
		if !limited {
			continue
		}
		if _, ok := e.chain.guard.limits.take(k, rate); !ok {
			return false
		}
		taken[of] = k
	}
	return true
}
