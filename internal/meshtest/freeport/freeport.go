// Package freeport finds addresses for servers that a test stops and starts again.
//
// The ports are below those that the system gives to listeners on port 0 and to outgoing connections, 32768 and up on Linux:
// one of these may be taken by a connection of another test while its server is down.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/nearside-dev/nearside/internal/server"
)

const (
	first = 10_000
	count = 9_000 // the admin ports above them stay below 20000, where other tests look for ports
	tries = 100
)

// Addr returns a loopback address whose port, and the admin port above it, nobody listens on.
func Addr(tb testing.TB) string {
	tb.Helper()
	for range tries {
		port := first + rand.IntN(count)
		if addr := address(port); free(tb, addr) && free(tb, address(port+server.AdminPortOffset)) {
			return addr
		}
	}
	tb.Fatal("no free pair of ports")
	return ""
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func free(tb testing.TB, addr string) bool {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", addr)
	if err != nil {
		return false
	}
	if err := ln.Close(); err != nil {
		tb.Fatal(err)
	}
	return true
}
