package faultproxy

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

const (
	dialTimeout = 2 * time.Second
	// maxPipes is how many connections there may be at a time; more are refused.
	maxPipes = 1024
	// pieceBytes is how much is carried at a time.
	pieceBytes = 32 << 10
)

// Side is a direction.
type Side int

// The directions of a connection.
const (
	Up   Side = iota // from who dialled to the target
	Down             // back
)

func (s Side) String() string {
	if s == Up {
		return "up"
	}
	return "down"
}

// Kind says which connections a fault is about. What a connection speaks shows in its first bytes.
type Kind int

// The kinds of connection.
const (
	HTTP1 Kind = iota // all that is not HTTP2
	HTTP2             // HTTP/2 with prior knowledge, or over TLS that offers nothing else
)

// Link is how one direction treats what it carries. The zero value carries it at once.
type Link struct {
	// Delay is how long each piece waits before it is carried on.
	Delay time.Duration
	// BytesPerSecond is how fast it is carried; 0 is without limit.
	BytesPerSecond int
	// Lose takes everything in and carries nothing on. A connection that has lost something never carries anything again.
	Lose bool
}

// Proxy carries connections to its target until the test ends. Its methods may be called concurrently.
type Proxy struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	down   bool // connections are refused
	links  [2]Link
	cuts   []*cut
	taps   []*Tap
	held   *hold
	pipes  map[*pipe]struct{}
}

// cut is one that is to be made.
type cut struct {
	kind Kind
	side Side
	left int64
	all  bool // of all connections, which are refused afterwards
	lose bool // the connection stays, and what follows is lost
	done chan struct{}
}

// hold is one that is made, or to be made.
type hold struct {
	kind     Kind
	side     Side
	left     int64
	reached  chan struct{}
	released chan struct{}
}

// Start starts a proxy to a target, host:port, on a free port of the loopback interface.
func Start(tb testing.TB, target string) *Proxy {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{listener: listener, target: target, pipes: make(map[*pipe]struct{})}
	p.running.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// Addr is where it listens, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

func (p *Proxy) close() {
	_ = p.listener.Close() // accept ends, whatever it says
	p.mu.Lock()
	p.closed = true
	p.endAll(nil)
	p.mu.Unlock()
	p.running.Wait()
}

// Set changes how a direction treats what it carries, of all connections.
func (p *Proxy) Set(side Side, l Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links[side] = l
}

// Cut ends all connections and refuses new ones until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	p.endAll(nil)
}

func (p *Proxy) endAll(but *pipe) {
	for c := range p.pipes {
		if c != but {
			c.end()
		}
	}
}

// Heal lets connections pass again, undisturbed. Those that lost something stay dead.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down, p.links, p.cuts, p.taps = false, [2]Link{}, nil, nil
	if p.held != nil {
		close(p.held.released)
		p.held = nil
	}
}

// HoldAfter carries n more bytes in a direction on connections of a kind and then nothing until Heal, when it goes on with
// what it had: nothing is lost. The channel is closed when there is something that it holds. There is one hold at a time.
func (p *Proxy) HoldAfter(kind Kind, side Side, n int64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = &hold{kind: kind, side: side, left: n, reached: make(chan struct{}), released: make(chan struct{})}
	return p.held.reached
}

// pass returns how many of n bytes may be carried on now, and what to wait for before the rest; nil if that is all.
func (p *Proxy) pass(kind Kind, side Side, n int) (now int, released <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.held
	if h == nil || h.kind != kind || h.side != side {
		return n, nil
	}
	now = int(min(int64(n), h.left))
	h.left -= int64(now)
	if now == n {
		return n, nil
	}
	select {
	case <-h.reached:
	default:
		close(h.reached)
	}
	return now, h.released
}

// CutAfter carries n more bytes in a direction on connections of a kind and then ends the connection that carried the last
// one; with n = 0, the one that was to carry the next. The channel is closed before that has any effect.
func (p *Proxy) CutAfter(kind Kind, side Side, n int64) <-chan struct{} {
	return p.cutAfter(&cut{kind: kind, side: side, left: n})
}

// CutAllAfter is CutAfter and, with the last byte, Cut.
func (p *Proxy) CutAllAfter(kind Kind, side Side, n int64) <-chan struct{} {
	return p.cutAfter(&cut{kind: kind, side: side, left: n, all: true})
}

// LoseAfter is CutAfter, but instead of an end there is silence: the connection stays and carries nothing more that way.
func (p *Proxy) LoseAfter(kind Kind, side Side, n int64) <-chan struct{} {
	return p.cutAfter(&cut{kind: kind, side: side, left: n, lose: true})
}

func (p *Proxy) cutAfter(c *cut) <-chan struct{} {
	c.done = make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = append(p.cuts, c)
	return c.done
}

// admit returns how many of n bytes may be carried on by a connection, and the cut that these are its last for, or nil.
func (p *Proxy) admit(by *pipe, kind Kind, side Side, n int) (int, *cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var due *cut
	for _, c := range p.cuts {
		if c.kind == kind && c.side == side && c.left <= int64(n) && (due == nil || c.left < due.left) {
			due = c
		}
	}
	if due != nil {
		n = int(due.left)
		if due.all { // all of it now: when the last byte is there, the test may go on and heal
			p.down = true
			p.endAll(by)
		}
		close(due.done)
	}
	rest := p.cuts[:0]
	for _, c := range p.cuts {
		if c.kind == kind && c.side == side {
			c.left -= int64(n)
		}
		if c != due {
			rest = append(rest, c)
		}
	}
	p.cuts = rest
	return n, due
}

func (p *Proxy) link(side Side) Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[side]
}

func (p *Proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // that one alone
		}
		c := newPipe(p, near)
		p.mu.Lock()
		refused := p.closed || p.down || len(p.pipes) >= maxPipes
		if !refused {
			p.pipes[c] = struct{}{}
		}
		p.mu.Unlock()
		if refused {
			c.end()
			continue
		}
		p.running.Go(c.run)
	}
}
