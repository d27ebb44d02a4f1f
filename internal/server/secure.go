package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nearside-dev/nearside/internal/identity"
)

// Plaintext is from whom a listener takes requests without TLS.
type Plaintext int

// The kinds.
const (
	PlaintextAny      Plaintext = iota // from everybody
	PlaintextLoopback                  // from this machine
	PlaintextNone
)

// Security is how a listener tells who calls. The zero value takes plaintext from everybody and knows nobody.
type Security struct {
	Plaintext Plaintext
	// Callers is the TLS for callers; nil is none. A connection that begins with 0x16 is TLS, any other one plaintext.
	Callers *tls.Config
	// Nodes is the TLS for nodes of the mesh, which ask for NodeName; nil is none.
	Nodes    *tls.Config
	NodeName string
	// Principal returns who is at the other end of a connection of nodes, nil for nobody in particular, or refuses it. It is
	// called as each begins, and again once Disconnect would find it. Required with Nodes.
	Principal func(tls.ConnectionState) (*identity.Principal, error)
	// Refused is told of a connection of nodes whose certificate Principal did not take, by the other end's address. It must not
	// wait. Default: nobody is.
	Refused func(addr string, err error)
}

// recordHandshake is the first byte of TLS.
const recordHandshake = 0x16

// errNoTLS refuses who asks for TLS where there is none for them.
var errNoTLS = errors.New("this listener speaks no TLS")

// open finds out what a connection speaks, and makes its handshake. It returns when the first byte, or the handshake, is there.
// Reading is what calls it first: whoever does has set a deadline by then.
func (c *conn) open() error {
	c.once.Do(func() { c.opened = c.handshake() })
	return c.opened
}

func (c *conn) handshake() error {
	if n, err := c.Conn.Read(c.first[:]); n == 0 {
		return err
	}
	c.pending = true
	if c.first[0] != recordHandshake {
		if !c.plaintextAllowed() {
			c.refused.CompareAndSwap(nil, &limitPlaintext)
		}
		return nil
	}
	s := c.listener.security
	if s.Callers == nil && s.Nodes == nil {
		return errNoTLS
	}
	var ofNode bool
	var who *identity.Principal
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if s.Nodes != nil && hello.ServerName == s.NodeName {
				ofNode = true
				nodes := s.Nodes.Clone()
				// Here, so that who is refused is told that it is for the certificate.
				nodes.VerifyConnection = func(state tls.ConnectionState) (err error) {
					who, err = s.Principal(state)
					return err
				}
				return nodes, nil
			}
			if s.Callers == nil {
				return nil, errNoTLS
			}
			return s.Callers, nil
		},
	}
	secured := tls.Server(&wire{conn: c}, config)
	ctx, cancel := context.WithTimeout(context.Background(), readHeaderTimeout)
	defer cancel()
	err := secured.HandshakeContext(ctx)
	if err == nil && who != nil {
		err = c.recognise(who, secured.ConnectionState())
	}
	if err != nil {
		c.listener.handshakeFailed(c, ofNode, err)
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.secured.Store(secured)
	return nil
}

// recognise notes who is at the other end. Whoever is revoked meanwhile is either refused here or found by Disconnect.
func (c *conn) recognise(who *identity.Principal, state tls.ConnectionState) error {
	c.listener.nodes.know(c, who)
	if _, err := c.listener.security.Principal(state); err != nil {
		return err
	}
	c.peer.Set(who)
	return nil
}

func (c *conn) plaintextAllowed() bool {
	switch c.listener.security.Plaintext {
	case PlaintextAny:
		return true
	case PlaintextLoopback:
		return c.client.addr.IsLoopback()
	default:
		return false
	}
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	if len(c.begin) > 0 {
		n := copy(b, c.begin)
		if c.begin = c.begin[n:]; len(c.begin) == 0 {
			c.begin = nil
		}
		return n, nil
	}
	if err := c.open(); err != nil {
		return 0, err
	}
	if secured := c.secured.Load(); secured != nil {
		return secured.Read(b)
	}
	return c.readWire(b)
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if err := c.open(); err != nil {
		return 0, err
	}
	if secured := c.secured.Load(); secured != nil {
		return secured.Write(b)
	}
	return c.writeWire(b)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	var err error
	if secured := c.secured.Load(); secured != nil {
		c.closing.Store(true)
		err = secured.Close()
	} else {
		err = c.Conn.Close()
	}
	c.leave()
	return err
}

// readWire reads what comes over the network, what open has looked at first.
func (c *conn) readWire(b []byte) (int, error) {
	if c.pending && len(b) > 0 {
		c.pending = false
		b[0] = c.first[0]
		return 1, nil
	}
	return c.Conn.Read(b)
}

// wire is a connection as TLS uses it.
type wire struct{ *conn }

// Read implements net.Conn.
func (w *wire) Read(b []byte) (int, error) { return w.readWire(b) }

// Write implements net.Conn.
func (w *wire) Write(b []byte) (int, error) { return w.writeWire(b) }

// Close implements net.Conn.
func (w *wire) Close() error { return w.Conn.Close() }

// nodes are the connections of a listener whose other end is a node.
type nodes struct {
	mu    sync.Mutex
	conns map[*conn]*identity.Principal
}

func (n *nodes) know(c *conn, p *identity.Principal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns == nil {
		n.conns = make(map[*conn]*identity.Principal)
	}
	n.conns[c] = p
}

func (n *nodes) forget(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

// find returns the connections of nodes that match.
func (n *nodes) find(match func(*identity.Principal) bool) []*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []*conn
	for c, p := range n.conns {
		if match(p) {
			found = append(found, c)
		}
	}
	return found
}

// Secured reports whether a call has come over TLS.
func Secured(ctx context.Context) bool {
	c, ok := ctx.Value(connKey{}).(*conn)
	return ok && c.secured.Load() != nil
}

// Remote returns the address at the other end of a call's connection, and which node that is, or nil. Whose call it is may be
// another matter: a node passes its callers' on.
func Remote(ctx context.Context) (addr string, node *identity.Principal) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return "", nil
	}
	if p := c.peer.Get(); p != nil && p.Kind == identity.Node {
		node = p
	}
	if c.client == nil || !c.client.addr.IsValid() {
		return "", node
	}
	return c.client.addr.WithZone("").String(), node
}

// Disconnect ends the connections of nodes that match, with all that is in flight on them, and returns how many there were.
func (s *Server) Disconnect(match func(*identity.Principal) bool) int {
	found := s.limited.nodes.find(match)
	for _, c := range found {
		_ = c.Conn.Close() // without a farewell, for which it could let us wait
	}
	return len(found)
}

// CountNodes returns how many connections there are of nodes that match.
func (s *Server) CountNodes(match func(*identity.Principal) bool) int {
	return len(s.limited.nodes.find(match))
}

// handshakeFailed counts a failure, and logs it where it is a node's: those of others anybody can cause.
func (l *connections) handshakeFailed(c *conn, ofNode bool, err error) {
	l.failures.Add(1)
	if !ofNode {
		return
	}
	if l.security.Refused != nil {
		l.security.Refused(c.client.addr.WithZone("").String(), err)
	}
	now := time.Now().Unix()
	if last := l.lastLogged.Load(); now == last || !l.lastLogged.CompareAndSwap(last, now) {
		return // one a second is enough to see what goes wrong
	}
	if l.logger == nil {
		return
	}
	l.logger.Warn("connection of a node refused", slog.String("address", c.client.addr.String()), slog.Any("error", err))
}

// tlsCounters are what a listener knows of its handshakes.
type tlsCounters struct {
	failures   atomic.Int64
	lastLogged atomic.Int64 // seconds
}

var _ net.Conn = (*wire)(nil)
