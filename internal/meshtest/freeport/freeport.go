// Package freeport finds addresses for servers that a test stops and starts again.
//
// The ports are below those that the system gives to listeners on port 0 and to outgoing connections, 32768 and up on Linux:
// one of these may be taken by a connection of another test while its server is down. They are kept from other tests, also of other
// processes, by a socket of UDP on the same port, which nothing else here uses.
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

// Addr returns a loopback address whose port, and the admin port above it, are the test's until it ends.
func Addr(tb testing.TB) string {
	tb.Helper()
	for range tries {
		port := first + rand.IntN(count)
		if Reserve(tb, port, port+server.AdminPortOffset) {
			return address(port)
		}
	}
	tb.Fatal("no free pair of ports")
	return ""
}

// Reserve keeps ports of the loopback address for the test until it ends. It reports false, and keeps none, where somebody listens on
// one of them or another test has it.
func Reserve(tb testing.TB, ports ...int) bool {
	tb.Helper()
	var held []net.PacketConn
	release := func() {
		for _, conn := range held {
			if err := conn.Close(); err != nil {
				tb.Error(err)
			}
		}
	}
	for _, port := range ports {
		conn, err := new(net.ListenConfig).ListenPacket(tb.Context(), "udp", address(port))
		if err == nil {
			held = append(held, conn)
		}
		if err != nil || !free(tb, address(port)) {
			release()
			return false
		}
	}
	tb.Cleanup(release)
	return true
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// free reports whether nobody listens on an address.
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
