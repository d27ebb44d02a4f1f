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
	m, ok := a.Caller.(*remembered)
	if !ok {
		m = &remembered{}
		a.Caller = m
	}
	now := g.verifier.at(a.Began)
	p, first, err := m.caller(g, r, now)
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
	if m.state != s || m.principal != p || m.path != e.path {
		m.limit(g.limits, s, e.path, r.RemoteAddr, p, now)
	}
	if !m.take(g.limits, now) {
		return false
	}
	if !e.short.ExpressPrincipal(ctx, r, p, body, a) {
		m.giveBack(m.limited) // who answers instead takes them again
		return false
	}
	return true
}

// insideAddr is where calls of services in this process come from.
const insideAddr = "127.0.0.1:0"

// Inside returns a method for calls that a service in this process makes in its caller's name, who has passed the chain: what else the
// chain would check of them on their way through the network is checked here. What it refuses is not answered.
func (c *Chain) Inside(path string, method hotrpc.Method) hotrpc.Method {
	return func(p *identity.Principal, header http.Header, msg []byte, a *hotrpc.Answer) bool {
		if !c.guard.mayCall(p, path, c.foreign) {
			return false
		}
		s := c.guard.verifier.current.Load()
		if s == nil || len(s.limits) == 0 {
			return method(p, header, msg, a)
		}
		var m remembered
		now := c.guard.limits.clock()
		m.limit(c.guard.limits, s, path, insideAddr, p, now)
		if !m.take(c.guard.limits, now) {
			return false
		}
		if !method(p, header, msg, a) {
			m.giveBack(m.limited)
			return false
		}
		return true
	}
}
