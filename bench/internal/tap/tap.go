// Package tap counts the bytes between a sidecar and its primary: a TCP proxy that tells HTTP/2 connections, which carry
// replication, from the others, which carry calls.
package tap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// preface is what an HTTP/2 connection begins with and no request of HTTP/1.1 does.
var preface = []byte("PRI * HTTP/2.0")

// Count is the bytes of all HTTP/2 connections.
type Count struct {
	Up   uint64 // to the target
	Down uint64 // from it
}

// Tap is a proxy from Start to Close.
type Tap struct {
	ln     net.Listener
	target string

	up, down atomic.Uint64

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
	done   sync.WaitGroup
}

// Start begins to pass connections on to target.
func Start(ctx context.Context, target string) (*Tap, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", target, err)
	}
	t := &Tap{ln: ln, target: target, conns: make(map[net.Conn]struct{})}
	t.done.Go(t.accept)
	return t, nil
}

// Addr is where to connect to.
func (t *Tap) Addr() string { return t.ln.Addr().String() }

// Count returns what has been counted so far.
func (t *Tap) Count() Count { return Count{Up: t.up.Load(), Down: t.down.Load()} }

// Close cuts all connections and returns when no goroutine is left.
func (t *Tap) Close() error {
	err := t.ln.Close()
	t.mu.Lock()
	t.closed = true
	for c := range t.conns {
		_ = c.Close() // it may be closed already
	}
	t.mu.Unlock()
	t.done.Wait()
	return err
}

func (t *Tap) accept() {
	for {
		conn, err := t.ln.Accept()
		if err != nil {
			return // Close has closed it; nothing else ends a listener on loopback
		}
		if !t.hold(conn) {
			return
		}
		t.done.Go(func() { t.pass(conn) })
	}
}

// hold notes a connection for Close; false is that the tap is closed, and then the connection is too.
func (t *Tap) hold(conn net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		_ = conn.Close() // nothing was said on it
		return false
	}
	t.conns[conn] = struct{}{}
	return true
}

func (t *Tap) drop(conn net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, conn)
	_ = conn.Close() // it may be closed already
}

func (t *Tap) pass(from net.Conn) {
	defer t.drop(from)
	reader := bufio.NewReader(from)
	first, err := reader.Peek(len(preface))
	if err != nil {
		return // it said less than any request has
	}
	to, err := new(net.Dialer).DialContext(context.Background(), "tcp", t.target)
	if err != nil || !t.hold(to) {
		return // as if the target had hung up
	}
	defer t.drop(to)
	var up, down io.Writer = to, from
	if bytes.Equal(first, preface) {
		up, down = &counter{to, &t.up}, &counter{from, &t.down}
	}
	var both sync.WaitGroup
	both.Go(func() { copyAll(up, reader, from, to) })
	both.Go(func() { copyAll(down, to, from, to) })
	both.Wait()
}

// copyAll copies until an end is gone, and then cuts both: nobody here half-closes.
func copyAll(dst io.Writer, src io.Reader, conns ...net.Conn) {
	_, err := io.Copy(dst, src)
	for _, c := range conns {
		err = errors.Join(err, c.Close())
	}
	_ = err // the peers see the cut
}

type counter struct {
	io.Writer

	n *atomic.Uint64
}

// Write implements io.Writer.
func (c *counter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(uint64(n))
	return n, err
}
