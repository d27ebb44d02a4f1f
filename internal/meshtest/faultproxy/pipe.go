package faultproxy

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"
)

// preface is what HTTP/2 begins with.
const preface = "PRI * HTTP/2.0"

// offersHTTP2 is in what TLS begins with, where HTTP/2 is the one protocol that is offered (RFC 7301).
const offersHTTP2 = "\x00\x03\x02h2"

// pipe is one connection and what it is carried on by.
type pipe struct {
	proxy  *Proxy
	ctx    context.Context //nolint:containedctx // ends with the connection
	cancel context.CancelFunc
	once   sync.Once

	mu    sync.Mutex
	conns [2]net.Conn // what each side reads from
	kind  Kind
}

func newPipe(p *Proxy, near net.Conn) *pipe {
	c := &pipe{proxy: p}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.conns[Up] = near
	return c
}

// run carries both directions until one ends.
func (c *pipe) run() {
	defer func() {
		c.end()
		c.proxy.mu.Lock()
		delete(c.proxy.pipes, c)
		c.proxy.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
	defer cancel()
	var dialer net.Dialer
	far, err := dialer.DialContext(ctx, "tcp", c.proxy.target)
	if err != nil {
		return
	}
	c.mu.Lock()
	c.conns[Down] = far
	c.mu.Unlock()
	if c.ctx.Err() != nil { // ended before it knew of far
		reset(far)
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		c.carry(Down, far, c.conns[Up])
		c.end()
	})
	c.carry(Up, c.conns[Up], far)
	c.end()
	back.Wait()
}

// end ends the connection on both sides with a reset, as a lost one would be found to be.
func (c *pipe) end() {
	c.once.Do(func() {
		c.cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, conn := range c.conns {
			if conn != nil {
				reset(conn)
			}
		}
	})
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // else what was carried last may still arrive, or not
	}
	_ = conn.Close()
}

func (c *pipe) carry(side Side, from, to net.Conn) {
	buf := make([]byte, pieceBytes)
	lost, begun := false, false
	for {
		n, err := from.Read(buf)
		if n > 0 && side == Up && !begun {
			begun = true
			c.note(buf[:n])
		}
		link := c.proxy.link(side)
		c.proxy.tap(c.speaks(), side, buf[:n])
		if lost = lost || link.Lose; n > 0 && !lost {
			if !c.wait(link, n) {
				return
			}
			var on bool
			if on, lost = c.forward(side, to, buf[:n]); !on {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// note finds out what the connection speaks. Nothing comes down before the first bytes went up.
func (c *pipe) note(first []byte) {
	if strings.Contains(string(first), offersHTTP2) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.kind = HTTP2
		return
	}
	if len(first) > len(preface) {
		first = first[:len(preface)]
	}
	if strings.HasPrefix(preface, string(first)) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.kind = HTTP2
	}
}

// wait makes a piece as slow as the link is.
func (c *pipe) wait(l Link, n int) bool {
	d := l.Delay
	if l.BytesPerSecond > 0 {
		d += time.Duration(n) * time.Second / time.Duration(l.BytesPerSecond)
	}
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

func (c *pipe) speaks() Kind {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kind
}

// forward carries a piece on, as soon as nothing holds it. on is false where the connection is at its end, lost where it
// carries nothing more.
func (c *pipe) forward(side Side, to net.Conn, piece []byte) (on, lost bool) {
	kind := c.speaks()
	now, released := c.proxy.pass(kind, side, len(piece))
	if released == nil {
		return c.write(kind, side, to, piece)
	}
	if now > 0 {
		if on, lost = c.write(kind, side, to, piece[:now]); !on || lost {
			return on, lost
		}
	}
	select {
	case <-released:
		return c.forward(side, to, piece[now:])
	case <-c.ctx.Done():
		return false, false
	}
}

// write carries a piece on, up to a cut, and returns what forward does.
func (c *pipe) write(kind Kind, side Side, to net.Conn, piece []byte) (on, lost bool) {
	n, due := c.proxy.admit(c, kind, side, len(piece))
	if n > 0 {
		if _, err := to.Write(piece[:n]); err != nil {
			return false, false
		}
	}
	switch {
	case due == nil:
		return true, false
	case due.lose:
		return true, true
	default:
		_ = to.Close() // without a reset, which would overtake what was carried
		c.end()
		return false, false
	}
}
