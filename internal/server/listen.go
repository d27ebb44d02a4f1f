package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// ErrNotLoopback means that an address can be reached from other machines, which is not allowed until callers are
// authenticated.
var ErrNotLoopback = errors.New("address is not a loopback address")

// Listen listens on a TCP address, host:port. Unless insecure is set, every address that the host stands for must be a
// loopback address, else the error is ErrNotLoopback.
func Listen(ctx context.Context, addr string, insecure bool) (net.Listener, error) {
	if !insecure {
		if err := checkLoopback(ctx, addr); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return ln, nil
}

func checkLoopback(ctx context.Context, addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if host == "" {
		return fmt.Errorf("%w: no host stands for all interfaces", ErrNotLoopback)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if !netip.Addr.IsLoopback(a.Unmap()) {
			return fmt.Errorf("%w: %s", ErrNotLoopback, a)
		}
	}
	return nil
}

// limitListener accepts no more connections than there are slots; further ones wait in the kernel's queue.
type limitListener struct {
	net.Listener

	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newLimitListener(ln net.Listener, limit int) *limitListener {
	return &limitListener{Listener: ln, slots: make(chan struct{}, limit), closed: make(chan struct{})}
}

// open returns how many connections there are.
func (l *limitListener) open() int { return len(l.slots) }

// Accept implements net.Listener.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitConn{Conn: conn, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close implements net.Listener.
func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitConn struct {
	net.Conn

	release func()
}

// Close implements net.Conn.
func (c *limitConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}
