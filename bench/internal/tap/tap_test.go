package tap

import (
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCount(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 20)
			if _, err := io.ReadFull(conn, b); err == nil {
				_, _ = conn.Write([]byte("answer"))
			}
			conn.Close()
		}
	}()
	defer func() {
		ln.Close()
		<-served
	}()
	tap, err := Start(t.Context(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		say  string
		want Count
	}{
		{"POST / HTTP/1.1 and1", Count{}},
		{"PRI * HTTP/2.0 and12", Count{Up: 20, Down: 6}},
	} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", tap.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(tt.say)); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); string(got) != "answer" || err != nil {
			t.Errorf("%q is answered %q, %v", tt.say, got, err)
		}
		if got := tap.Count(); got != tt.want {
			t.Errorf("after %q: counted %+v, want %+v", tt.say, got, tt.want)
		}
		conn.Close()
	}
	idle, err := new(net.Dialer).DialContext(t.Context(), "tcp", tap.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if err := tap.Close(); err != nil {
		t.Error(err)
	}
}
