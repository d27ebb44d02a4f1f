package freeport

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/server"
)

// TestReserve has two tests want the same port: the second one gets it when the first one has ended, whether it listens just then or
// not.
func TestReserve(t *testing.T) {
	port := 0
	t.Run("first", func(t *testing.T) {
		var err error
		if port, err = strconv.Atoi(strings.TrimPrefix(Addr(t), "127.0.0.1:")); err != nil {
			t.Fatal(err)
		}
		if Reserve(t, port) || Reserve(t, port+server.AdminPortOffset) {
			t.Error("it is another one's too")
		}
		ln, err := net.Listen("tcp", address(port))
		if err != nil {
			t.Fatalf("it is for servers: %v", err)
		}
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
	})
	if !Reserve(t, port) {
		t.Error("it is kept for longer than the test runs")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if Reserve(t, ln.Addr().(*net.TCPAddr).Port) {
		t.Error("somebody listens there")
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
}
