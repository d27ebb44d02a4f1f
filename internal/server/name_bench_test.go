package server

import (
	"bufio"
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"testing"
)

// short answers as Get from memory does, with the same headers, and spends nothing on what is in them.
type short struct{ body []byte }

func (s *short) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header()["Content-Type"] = []string{"application/proto"}
	_, _ = w.Write(s.body) // a benchmark's caller
}

func (s *short) ServeExpress(_ context.Context, _ *http.Request, _ []byte, a *ExpressAnswer) bool {
	a.Bytes = append(a.Bytes, "HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\n"...)
	a.EndHead(len(s.body))
	a.Bytes = append(a.Bytes, s.body...)
	return true
}

// BenchmarkListener asks for one short answer after the other over a connection, with and without net/http. The client allocates
// nothing.
func BenchmarkListener(b *testing.B) {
	for _, path := range []string{"/express", "/general"} {
		b.Run(path[1:], func(b *testing.B) {
			s := &short{body: bytes.Repeat([]byte("x"), 64)}
			mux := http.NewServeMux()
			mux.Handle("/express", s)
			mux.HandleFunc("/general", s.ServeHTTP)
			ln, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			server, err := Start(ln, mux, Config{Name: "bench", Express: true, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = server.Close(canceled()) })
			c, err := new(net.Dialer).DialContext(b.Context(), "tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = c.Close() })
			r, request := bufio.NewReader(c), []byte(post(path, "0123456789", "Content-Type: application/proto", "Authorization: Bearer nsk_0123456789"))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(request); err != nil {
					b.Fatal(err)
				}
				length := 0
				for {
					line, err := r.ReadSlice('\n')
					if err != nil {
						b.Fatal(err)
					}
					if n, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
						if length, err = strconv.Atoi(string(bytes.TrimSpace(n))); err != nil {
							b.Fatal(err)
						}
					}
					if len(line) == 2 {
						break
					}
				}
				if _, err := r.Discard(length); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
