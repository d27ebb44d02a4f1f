package faultproxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a server that sends back what it gets and tells how much that was when a connection ends.
type echo struct {
	addr string
	got  chan []byte
}

func startEcho(t *testing.T) *echo {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{addr: listener.Addr().String(), got: make(chan []byte, 64)}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				var got bytes.Buffer
				_, _ = io.Copy(conn, io.TeeReader(conn, &got))
				e.got <- got.Bytes()
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		running.Wait()
	})
	return e
}

func dial(t *testing.T, p *faultproxy.Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// say sends text and reads as much back.
func say(conn net.Conn, text string) error {
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("sent %q, got %q", text, got)
	}
	return nil
}

func TestCutAfter(t *testing.T) {
	e := startEcho(t)
	p := faultproxy.Start(t, e.addr)
	const text = "hello, world"
	for n := range len(text) + 1 {
		up := p.CutAfter(faultproxy.HTTP1, faultproxy.Up, int64(n))
		conn := dial(t, p)
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		<-up
		if got := <-e.got; string(got) != text[:n] {
			t.Errorf("cut after %d bytes: the target got %q", n, got)
		}

		down := p.CutAfter(faultproxy.HTTP1, faultproxy.Down, int64(n))
		other := p.CutAfter(faultproxy.HTTP2, faultproxy.Down, 0) // not of this kind
		conn = dial(t, p)
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		<-down
		if got, err := io.ReadAll(conn); string(got) != text[:n] {
			t.Errorf("cut after %d bytes: got %q, %v", n, got, err)
		}
		if got := <-e.got; string(got) != text {
			t.Errorf("the target got %q", got)
		}
		select {
		case <-other:
			t.Error("a cut of HTTP/2 met a connection that speaks something else")
		default:
		}
		p.Heal()
	}
	second := p.CutAfter(faultproxy.HTTP2, faultproxy.Up, 20) // counted over connections
	if err := say(dial(t, p), "PRI * HTTP/2.0"); err != nil {
		t.Error(err)
	}
	if err := say(dial(t, p), "PRI * HTTP/2.0"); err == nil {
		t.Error("not cut")
	}
	<-second
}

func TestCutAndHeal(t *testing.T) {
	e := startEcho(t)
	p := faultproxy.Start(t, e.addr)
	conn := dial(t, p)
	if err := say(conn, "a"); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	if err := say(conn, "b"); err == nil {
		t.Error("a cut connection carries")
	}
	refused(t, p)
	p.Heal()
	conn = dial(t, p)
	if err := say(conn, "d"); err != nil {
		t.Error(err)
	}
	cut := p.CutAllAfter(faultproxy.HTTP1, faultproxy.Up, 0)
	if err := say(conn, "e"); err == nil {
		t.Error("a cut connection carries")
	}
	<-cut
	refused(t, p)
}

func TestLose(t *testing.T) {
	e := startEcho(t)
	p := faultproxy.Start(t, e.addr)
	for _, side := range []faultproxy.Side{faultproxy.Up, faultproxy.Down} {
		conn := dial(t, p)
		p.Set(side, faultproxy.Link{Lose: true})
		if _, err := io.WriteString(conn, "lost"); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 9)); n > 0 || !isTimeout(err) {
			t.Errorf("%v: got %d bytes, %v: not even an end should come", side, n, err)
		}
		p.Heal()
		if _, err := io.WriteString(conn, "lost too"); err != nil {
			t.Fatal(err)
		}
		if err := say(dial(t, p), "new"); err != nil {
			t.Errorf("a new connection after %v was healed: %v", side, err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 9)); n > 0 || !isTimeout(err) {
			t.Errorf("%v: got %d bytes, %v over a connection that has lost some", side, n, err)
		}
	}
}

func TestLoseAfter(t *testing.T) {
	e := startEcho(t)
	p := faultproxy.Start(t, e.addr)
	const text = "hello, world"
	for n := range len(text) {
		tap := p.Tap(faultproxy.HTTP1, faultproxy.Up)
		lost := p.LoseAfter(faultproxy.HTTP1, faultproxy.Up, int64(n))
		conn := dial(t, p)
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		<-lost
		got := make([]byte, n)
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != text[:n] {
			t.Errorf("lost after %d bytes: got %q, %v", n, got, err)
		}
		if err := say(dial(t, p), "new"); err != nil {
			t.Errorf("a new connection: %v", err)
		}
		conn.Close()
		if got := <-e.got; string(got) != text[:n] && string(got) != "new" {
			t.Errorf("the target got %q", got)
		}
		if got := string(tap.Bytes()); got != text+"new" {
			t.Errorf("tapped %q", got)
		}
		p.Heal()
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

func TestSlow(t *testing.T) {
	e := startEcho(t)
	p := faultproxy.Start(t, e.addr)
	p.Set(faultproxy.Down, faultproxy.Link{Delay: 10 * time.Millisecond, BytesPerSecond: 1000})
	conn := dial(t, p)
	begun := time.Now()
	if err := say(conn, "ten bytes!"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 20*time.Millisecond {
		t.Errorf("10 bytes took %v", took)
	}
}

func refused(t *testing.T, p *faultproxy.Proxy) {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return
	}
	defer conn.Close()
	if err := say(conn, "anyone?"); err == nil {
		t.Error("a new connection carries while the link is cut")
	}
}

func TestHold(t *testing.T) {
	e := startEcho(t)
	p := faultproxy.Start(t, e.addr)
	reached := p.HoldAfter(faultproxy.HTTP1, faultproxy.Down, 3)
	first, second := dial(t, p), dial(t, p)
	if _, err := io.WriteString(first, "abcdefg"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(first, got[:3]); err != nil || string(got[:3]) != "abc" {
		t.Fatalf("got %q, %v before the hold", got[:3], err)
	}
	<-reached
	if _, err := io.WriteString(second, "more"); err != nil {
		t.Fatal(err)
	}
	p.Heal()
	if _, err := io.ReadFull(first, got); err != nil || string(got) != "defg" {
		t.Errorf("got %q, %v after the hold", got, err)
	}
	if _, err := io.ReadFull(second, got); err != nil || string(got) != "more" {
		t.Errorf("got %q, %v of another connection after the hold", got, err)
	}
}
