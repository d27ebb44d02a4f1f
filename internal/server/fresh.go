package server

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// freshGrace is how long a connection that has not sent anything is given when its server closes.
const freshGrace = 100 * time.Millisecond

// freshConns is the connections on which nothing was received yet. Clients open some in advance and never use them, and
// http.Server.Shutdown waits five seconds for the first byte of each.
type freshConns struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// note is the server's ConnState.
func (f *freshConns) note(c net.Conn, state http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state != http.StateNew {
		delete(f.conns, c)
		return
	}
	if f.conns == nil {
		f.conns = make(map[net.Conn]struct{})
	}
	f.conns[c] = struct{}{}
}

func (f *freshConns) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		_ = c.Close() // its client learns what Shutdown would tell it later
	}
}
