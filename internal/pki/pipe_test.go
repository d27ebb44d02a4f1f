package pki

import "net"

// pipe returns both ends of a connection that buffers, which net.Pipe does not: TLS writes its last messages unread.
func pipe() (near, far net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := ln.Accept()
		accepted <- c
	}()
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		panic(err)
	}
	return near, <-accepted
}
