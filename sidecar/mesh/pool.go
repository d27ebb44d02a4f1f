package mesh

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

const upstreamBytes = 4 << 10 // of a connection's memory, between two calls

// pool keeps connections to an endpoint that wait for a call, the last one used first.
type pool struct {
	address string

	mu     sync.Mutex
	free   []*upstream
	closed bool
}

// upstream is a connection that carries one HTTP/1.1 call after the other.
type upstream struct {
	net.Conn

	raw   syscall.RawConn
	probe func(fd uintptr) bool // is alive's, made once
	gone  bool
	since time.Time // it is free
	used  bool      // for a call before

	out []byte // the request
	in  []byte // what was received and not used
	buf []byte // in's memory
}

// get returns a free connection, or a new one, which must be made by the time that is given.
func (p *pool) get(ctx context.Context, ends time.Time) (*upstream, error) {
	for {
		p.mu.Lock()
		n := len(p.free)
		if n == 0 {
			p.mu.Unlock()
			return p.dial(ctx, ends)
		}
		u := p.free[n-1]
		p.free[n-1] = nil
		p.free = p.free[:n-1]
		p.mu.Unlock()
		if u.alive() {
			u.used = true
			return u, nil
		}
		_ = u.Close()
	}
}

func (p *pool) dial(ctx context.Context, ends time.Time) (*upstream, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout, Deadline: ends}).DialContext(ctx, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	u := &upstream{Conn: conn, buf: make([]byte, upstreamBytes)}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if u.raw, err = tcp.SyscallConn(); err != nil {
			_ = conn.Close()
			return nil, err
		}
		u.probe = func(fd uintptr) bool {
			var b [1]byte
			_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			u.gone = err != syscall.EAGAIN // bytes that nobody asked for are no better than an end
			return true
		}
	}
	return u, nil
}

// alive reports whether the other side has neither ended a free connection nor said something on it.
func (u *upstream) alive() bool {
	if time.Since(u.since) > idleConnTime || u.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	return u.raw == nil || u.raw.Read(u.probe) == nil && !u.gone
}

// put gives a connection back for the next call.
func (p *pool) put(u *upstream) {
	u.since, u.in = time.Now(), nil
	if cap(u.out) > copyBytes {
		u.out = nil
	}
	if len(u.buf) > upstreamBytes {
		u.buf = make([]byte, upstreamBytes)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.free) >= maxIdleConns {
		_ = u.Close()
		return
	}
	p.free = append(p.free, u)
}

// tidy closes the connections that were free for too long.
func (p *pool) tidy(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.free) && now.Sub(p.free[n].since) > idleConnTime {
		_ = p.free[n].Close()
		n++
	}
	p.free = append(p.free[:0], p.free[n:]...)
}

func (p *pool) idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free)
}

// close closes all free connections; those that are given back later are closed too.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, u := range p.free {
		_ = u.Close()
	}
	p.free = nil
}
