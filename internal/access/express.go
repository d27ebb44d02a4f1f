package access

import (
	"context"
	"net/http"

	"github.com/nearside-dev/nearside/internal/hotrpc"
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
	if err != nil || !g.mayCall(p, e.path, e.chain.foreign) {
		return false
	}
	s := g.verifier.current.Load()
	if s == nil || len(s.limits) == 0 {
		return e.short.ExpressPrincipal(ctx, r, p, body, a)
	}
	return e.limited(s, r.RemoteAddr, p, func() bool { return e.short.ExpressPrincipal(ctx, r, p, body, a) })
}

// limited has a request answered if there are tokens for it. They go back if the answer is left to another way, which takes them
// again.
func (e *express) limited(s *state, remote string, p *identity.Principal, answer func() bool) bool {
	var taken [scopes]limitKey // by scope
	ok := e.take(s, &taken, remote, p) && answer()
	if !ok {
		for _, k := range taken {
			if k.scope != scopeNone {
				e.chain.guard.limits.giveBack(k)
			}
		}
	}
	return ok
}

// insideAddr is where calls of services in this process come from.
const insideAddr = "127.0.0.1:0"

// Inside returns a method for calls that a service in this process makes in its caller's name, who has passed the chain: what else the
// chain would check of them on their way through the network is checked here. What it refuses is not answered.
func (c *Chain) Inside(path string, method hotrpc.Method) hotrpc.Method {
	e := &express{chain: c, path: path}
	return func(p *identity.Principal, header http.Header, msg []byte, a *hotrpc.Answer) bool {
		if !c.guard.mayCall(p, path, c.foreign) {
			return false
		}
		s := c.guard.verifier.current.Load()
		if s == nil || len(s.limits) == 0 {
			return method(p, header, msg, a)
		}
		return e.limited(s, insideAddr, p, func() bool { return method(p, header, msg, a) })
	}
}

// take takes a token of each bucket that a request has, and reports whether there was one in each.
func (e *express) take(s *state, taken *[scopes]limitKey, remote string, p *identity.Principal) bool {
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
			k.subject = addressOf(remote)
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
