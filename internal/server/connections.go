package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/requestid"
)

const (
	// refusals is how many connections above the limit there may be while their clients are told so.
	refusals = 64
	// refusalTime is how long such a connection has.
	refusalTime = 5 * time.Second
	// farewellTime is how long the end of TLS may take to be said.
	farewellTime = 200 * time.Millisecond
	// pieceBytes is how much is sent within one Config.StallTimeout at least, if it is taken in at all.
	pieceBytes = 64 << 10
)

// client is what the connections from one address have together.
type client struct {
	addr        netip.Addr
	connections int          // under connections.mu
	requests    atomic.Int64 // in flight
}

// connections accepts connections and counts them, in all and by client. Those above a limit are marked: their requests are
// to be refused. Where there are too many of these too, further ones wait in the kernel's queue.
type connections struct {
	net.Listener
	tlsCounters

	security Security
	nodes    nodes
	logger   *slog.Logger

	limit, perClient int
	stall            time.Duration
	places           chan struct{} // limit and refusals
	closed           chan struct{}
	once             sync.Once

	mu      sync.Mutex
	open    int
	clients map[netip.Addr]*client
}

func newConnections(ln net.Listener, c Config) *connections {
	return &connections{
		Listener: ln, security: c.Security, logger: c.Logger, limit: c.MaxConnections, perClient: c.MaxConnectionsPerClient, stall: c.StallTimeout,
		places: make(chan struct{}, c.MaxConnections+refusals),
		closed: make(chan struct{}), clients: make(map[netip.Addr]*client),
	}
}

// count returns how many connections there are.
func (l *connections) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// Accept implements net.Listener.
func (l *connections) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	raw, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	addr, _ := netip.ParseAddrPort(raw.RemoteAddr().String()) // the zero one is a client too
	c := &conn{Conn: raw, listener: l, stall: l.stall}
	var refused limitName
	c.client, refused = l.enter(addr.Addr().Unmap())
	c.peer.Address = c.client.addr.WithZone("")
	var timer *time.Timer
	if refused != "" {
		c.refused.Store(&refused)
		timer = time.AfterFunc(refusalTime, func() { _ = raw.Close() })
	}
	c.leave = sync.OnceFunc(func() {
		if timer != nil {
			timer.Stop()
		}
		l.nodes.forget(c)
		l.leave(c.client)
		<-l.places
	})
	return c, nil
}

// enter counts a connection and says which limit it is above, or "".
func (l *connections) enter(addr netip.Addr) (from *client, refused limitName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from = l.clients[addr]; from == nil {
		from = &client{addr: addr}
		l.clients[addr] = from
	}
	l.open++
	from.connections++
	switch {
	case l.open > l.limit:
		return from, limitConnections
	case from.connections > l.perClient:
		return from, limitClientConnections
	default:
		return from, ""
	}
}

func (l *connections) leave(from *client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if from.connections--; from.connections == 0 {
		delete(l.clients, from.addr)
	}
}

// Close implements net.Listener.
func (l *connections) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// conn is an accepted connection. It is given up when the other side takes nothing in for too long.
type conn struct {
	net.Conn

	listener *connections
	client   *client
	stall    time.Duration
	refused  atomic.Pointer[limitName] // its requests are to be refused for this, or nil
	leave    func()
	peer     identity.Peer

	once    sync.Once // guards what open finds out
	opened  error
	secured atomic.Pointer[tls.Conn] // nil for plaintext
	first   [1]byte
	pending bool // first was not read yet; for the reader alone
	closing atomic.Bool
	begin   []byte // was received already, and is read first
	// named is the name of the first request that net/http reads, where it got one before; the request's goroutine takes it.
	named *requestid.ID
}

// writeWire writes to the network.
func (c *conn) writeWire(b []byte) (n int, err error) {
	stall := c.stall
	if c.closing.Load() {
		stall = farewellTime
	}
	for {
		if err := c.SetWriteDeadline(time.Now().Add(stall)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(b[n:min(len(b), n+pieceBytes)])
		if n += m; err != nil || n == len(b) {
			return n, err
		}
	}
}

type connKey struct{}

// withConn lets handlers find the connection that a request came over.
func withConn(ctx context.Context, c net.Conn) context.Context {
	ctx = context.WithValue(ctx, connKey{}, c)
	if c, ok := c.(*conn); ok {
		ctx = identity.WithPeer(ctx, &c.peer)
	}
	return ctx
}
