package server

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Frames of HTTP/2 (RFC 9113, section 6), as no client of good manners sends them.
const (
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameContinuation = 9

	flagEnd        = 1 // of the stream
	flagEndHeaders = 4
)

func appendHTTP2Frame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// headerBlock is a GET as HPACK has it (RFC 7541), of names that all know.
func headerBlock(path string) []byte {
	b := append([]byte{0x82, 0x86, 0x04, byte(len(path))}, path...)
	return append(b, "\x01\x01h"...)
}

// dialHTTP2 begins a connection.
func dialHTTP2(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, _ := dial(t, addr)
	send(t, c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+string(appendHTTP2Frame(nil, frameSettings, 0, 0, nil)))
	return c
}

// flooded is a server whose handlers wait for their caller to go, and which counts them.
type flooded struct {
	addr            string
	now, most, seen atomic.Int64
}

func flood(t *testing.T) *flooded {
	t.Helper()
	f := &flooded{}
	mux := http.NewServeMux()
	mux.HandleFunc("/wait", func(_ http.ResponseWriter, r *http.Request) {
		f.seen.Add(1)
		n := f.now.Add(1)
		defer f.now.Add(-1)
		for {
			most := f.most.Load()
			if n <= most || f.most.CompareAndSwap(most, n) {
				break
			}
		}
		<-r.Context().Done()
	})
	mux.HandleFunc("/well", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") })
	mux.Handle("/e", &echoExpress{})
	_, url := start(t, mux, Config{Name: "test", Express: true})
	f.addr = strings.TrimPrefix(url, "http://")
	return f
}

// isWell checks that somebody else is answered.
func (f *flooded) isWell(t *testing.T) {
	t.Helper()
	c, r := dial(t, f.addr)
	send(t, c, "GET /well HTTP/1.1\r\nHost: h\r\n\r\n")
	if body, status := read(t, r); status != http.StatusOK || body != "well" {
		t.Errorf("somebody else is answered with %d %q", status, body)
	}
}

// ends waits until no handler is left.
func (f *flooded) ends(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); f.now.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d handlers are left", f.now.Load())
		}
	}
}

// A client that opens streams and resets them at once (CVE-2023-44487) has no more handlers at a time than one that waits, is cut off
// when it goes on, and holds nobody up.
func TestResetFlood(t *testing.T) {
	f := flood(t)
	c := dialHTTP2(t, f.addr)
	go func() { _, _ = io.Copy(io.Discard, c) }() // it ends with the connection
	block, cancel := headerBlock("/wait"), binary.BigEndian.AppendUint32(nil, 8)
	cut := false
	for id := uint32(1); id < 400_000 && !cut; {
		var b []byte
		for range 100 {
			b = appendHTTP2Frame(b, frameHeaders, flagEnd|flagEndHeaders, id, block)
			b = appendHTTP2Frame(b, frameReset, 0, id, cancel)
			id += 2
		}
		_, err := c.Write(b)
		cut = err != nil
	}
	f.isWell(t)
	_ = c.Close()
	f.ends(t)
	if most := f.most.Load(); most > maxStreams {
		t.Errorf("%d handlers at a time, want at most %d", most, maxStreams)
	}
	t.Logf("%d handlers, at most %d at a time, cut off %t", f.seen.Load(), f.most.Load(), cut)
}

// Streams beyond the limit are refused, and the others go on.
func TestStreamFlood(t *testing.T) {
	f := flood(t)
	c := dialHTTP2(t, f.addr)
	r := bufio.NewReader(c)
	block := headerBlock("/wait")
	var b []byte
	for id := uint32(1); id < 2*(maxStreams+500); id += 2 {
		b = appendHTTP2Frame(b, frameHeaders, flagEnd|flagEndHeaders, id, block)
	}
	go func() { _, _ = c.Write(b) }() // an error is seen by who reads
	refused, ended := 0, false
	for refused < 500 && !ended {
		var head [9]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			ended = true // which is a refusal too
			break
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(r, payload); err != nil {
			ended = true
			break
		}
		if head[3] == frameReset {
			refused++
		}
	}
	f.isWell(t)
	if most := f.most.Load(); most > maxStreams || refused == 0 && !ended {
		t.Errorf("%d handlers at a time, want at most %d; %d streams refused", most, maxStreams, refused)
	}
	_ = c.Close()
	f.ends(t)
}

// Headers that have no end (CVE-2023-45288) end the connection, and so do pings to which nobody listens.
func TestFramesWithoutEnd(t *testing.T) {
	for _, tt := range []struct {
		name        string
		begin, more []byte
	}{
		{
			"headers", appendHTTP2Frame(nil, frameHeaders, flagEnd, 1, headerBlock("/wait")),
			appendHTTP2Frame(nil, frameContinuation, 0, 1, append([]byte{0x00, 0x01, 'x', 0x7f, 0x80, 0x07}, strings.Repeat("y", 1023)...)),
		},
		{"pings", nil, appendHTTP2Frame(nil, framePing, 0, 0, make([]byte, 8))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := flood(t)
			c := dialHTTP2(t, f.addr)
			send(t, c, string(tt.begin))
			var piece []byte
			for len(piece) < 64<<10 {
				piece = append(piece, tt.more...)
			}
			if err := c.SetWriteDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			sent := 0
			var err error
			for ; sent < 256<<20 && err == nil; sent += len(piece) {
				_, err = c.Write(piece)
			}
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d bytes were taken, and then %v", sent, err)
			}
			f.isWell(t)
			if f.seen.Load() > 0 {
				t.Error("a request without an end has a handler")
			}
			t.Logf("cut off after %d bytes", sent)
		})
	}
}
