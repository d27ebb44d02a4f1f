package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// echoExpress answers "pass…" through net/http only, and says which way it answered.
type echoExpress struct {
	wait    func(ctx context.Context) // for "wait…"
	express atomic.Int64
}

func (e *echoExpress) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
	fmt.Fprintf(w, "general %s %s", r.Header.Get("X-Test"), body) //nolint:errcheck // a test's caller
}

func (e *echoExpress) ServeExpress(ctx context.Context, r *http.Request, body []byte, a *ExpressAnswer) bool {
	switch {
	case bytes.HasPrefix(body, []byte("pass")):
		return false
	case bytes.HasPrefix(body, []byte("panic")):
		panic("a secret")
	case bytes.HasPrefix(body, []byte("wait")):
		e.wait(ctx)
	}
	e.express.Add(1)
	text := fmt.Sprintf("express %s %s", r.Header.Get("X-Test"), body)
	a.Bytes = append(a.Bytes, "HTTP/1.1 200 OK\r\n"...)
	a.EndHead(len(text))
	a.Bytes = append(a.Bytes, text...)
	return true
}

// readExpress is asked about GET too.
type readExpress struct{ echoExpress }

func (e *readExpress) ExpressGet() bool { return true }

func (e *readExpress) ServeExpress(ctx context.Context, r *http.Request, body []byte, a *ExpressAnswer) bool {
	if r.Method == http.MethodGet {
		body = []byte("read")
	}
	a.Extra = []byte("X-Extra: " + r.Method + "\r\n")
	return e.echoExpress.ServeExpress(ctx, r, body, a)
}

// TestExpressReads has GET and POST follow each other on a connection.
func TestExpressReads(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("/e", &readExpress{})
	_, url := start(t, mux, Config{Name: "test", Express: true})
	c, r := dial(t, strings.TrimPrefix(url, "http://"))
	const get = "GET /e HTTP/1.1\r\nHost: h\r\nX-Test: g\r\n\r\n"
	for _, tt := range []struct{ request, want, extra string }{
		{get, "express g read", "GET"}, {post("/e", "a"), "express  a", "POST"}, {get, "express g read", "GET"},
		{get[:5], "", ""}, {get[5:] + get, "express g read", "GET"}, {"", "express g read", "GET"},
		{"GET /e?q HTTP/1.1\r\nHost: h\r\n\r\n", "general  ", ""}, {get, "general g ", ""},
	} {
		send(t, c, tt.request)
		if tt.want == "" {
			continue
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || string(body) != tt.want || res.Header.Get("X-Extra") != tt.extra {
			t.Errorf("%q: %q, %v, %v", tt.request, body, res.Header, err)
		}
		res.Body.Close()
	}
	for _, request := range []string{"GET /e HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", "GET /e HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"} {
		c, r := dial(t, strings.TrimPrefix(url, "http://"))
		send(t, c, request)
		if body, _ := read(t, r); body != "general  " {
			t.Errorf("%q: %q", request, body)
		}
	}
}

// TestInnerAnswer: what is taken of a call that another has made, and what is not.
func TestInnerAnswer(t *testing.T) {
	var i InnerAnswer
	r := &http.Request{Method: http.MethodPost, Header: http.Header{}}
	answer := func(f func(*ExpressAnswer) bool) bool {
		return i.Call(t.Context(), expressFunc(f), r, nil, &ExpressAnswer{Began: time.Now()})
	}
	if !answer(func(a *ExpressAnswer) bool {
		a.Bytes = append(a.Bytes, "HTTP/1.1 404 Not Found\r\nEtag: \"1\"\r\nEtag-More: x\r\n"...)
		a.EndHead(4)
		a.Bytes = append(a.Bytes, "\r\n\r\n"...)
		return true
	}) || i.Status != 404 || string(i.Line("Etag")) != `"1"` || i.Line("Etag-") != nil || string(i.Body) != "\r\n\r\n" {
		t.Errorf("%d %q %q", i.Status, i.Head, i.Body)
	}
	for name, f := range map[string]func(*ExpressAnswer) bool{
		"nobody answers": func(*ExpressAnswer) bool { return false },
		"given up":       func(a *ExpressAnswer) bool { a.Abort(); return true },
		"nothing":        func(*ExpressAnswer) bool { return true },
		"in pieces": func(a *ExpressAnswer) bool {
			a.Bytes = append(a.Bytes, "HTTP/1.1 200 OK\r\n"...)
			a.EndHeadChunked()
			if a.Flush() == nil {
				t.Error("a piece was taken")
			}
			a.Abort()
			return true
		},
	} {
		if answer(f) || i.Status != 0 || i.Body != nil {
			t.Errorf("%s: %d %q", name, i.Status, i.Body)
		}
	}
}

type expressFunc func(*ExpressAnswer) bool

func (f expressFunc) ServeExpress(_ context.Context, _ *http.Request, _ []byte, a *ExpressAnswer) bool {
	return f(a)
}

func startExpress(t *testing.T, e *echoExpress, c Config) (*Server, string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/e", e)
	mux.HandleFunc("/general", e.ServeHTTP)
	c.Name, c.Express = "test", true
	s, url := start(t, mux, c)
	return s, strings.TrimPrefix(url, "http://")
}

func dial(t *testing.T, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, bufio.NewReader(c)
}

func post(path, body string, headers ...string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: h\r\n" + strings.Join(append(headers, ""), "\r\n") +
		fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

func read(t *testing.T, r *bufio.Reader) (body string, status int) {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), res.StatusCode
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// Whatever comes on one connection, in whatever pieces, each request is answered once, in its turn.
func TestExpressConnections(t *testing.T) {
	long := strings.Repeat("x", 40_000)
	for _, tt := range []struct {
		name     string
		requests []string
		want     []string
	}{
		{"one after the other", []string{post("/e", "a", "X-Test: 1"), post("/e", "b"), post("/e", "c", "X-Test: 2", "x-test: 3")},
			[]string{"express 1 a", "express  b", "express 2 c"}},
		{"in one piece", []string{post("/e", "a") + post("/e", "b", "X-Test: t") + post("/general", "c") + post("/e", "d")},
			[]string{"express  a", "express t b", "general  c", "general  d"}},
		{"passed", []string{post("/e", "a"), post("/e", "pass", "X-Test: t"), post("/e", "b")},
			[]string{"express  a", "general t pass", "general  b"}},
		{"large", []string{post("/e", long), post("/e", long+"y")}, []string{"express  " + long, "express  " + long + "y"}},
		{"too large", []string{post("/e", long+long), post("/e", "a")}, []string{"general  " + long + long, "general  a"}},
		{"chunks", []string{"POST /e HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", post("/e", "b")},
			[]string{"general  a", "general  b"}},
		{"GET", []string{"GET /e HTTP/1.1\r\nHost: h\r\n\r\n"}, []string{"general  "}},
		{"a body is announced", []string{post("/e", "a", "Expect: 100-continue")}, []string{"", "general  a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, addr := startExpress(t, &echoExpress{}, Config{})
			c, r := dial(t, addr)
			var got []string
			for _, request := range tt.requests {
				send(t, c, request)
				for range max(1, len(tt.want)-len(tt.requests)+1) {
					body, _ := read(t, r)
					got = append(got, body)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestExpressRequestInPieces(t *testing.T) {
	e := &echoExpress{}
	_, addr := startExpress(t, e, Config{})
	request := post("/e", "body", "X-Test: t")
	for i := 1; i < len(request); i++ {
		c, r := dial(t, addr)
		send(t, c, request[:i])
		send(t, c, request[i:])
		if body, _ := read(t, r); !strings.HasSuffix(body, " t body") {
			t.Errorf("in two pieces at %d: %q", i, body)
		}
		_ = c.Close()
	}
}

// net/http waits for the rest of a request that comes slowly.
func TestExpressHandsSlowRequestsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		e := &echoExpress{}
		mux := http.NewServeMux()
		mux.Handle("/e", e)
		s, err := Start(ln, mux, Config{Name: "t", Express: true, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		client, conn := net.Pipe()
		ln.conns <- conn
		request := post("/e", "body", "X-Test: t")
		send(t, client, request[:20])
		time.Sleep(2 * expressPatience)
		send(t, client, request[20:])
		if body, _ := read(t, bufio.NewReader(client)); body != "general t body" {
			t.Error(body)
		}
		_ = client.Close()
		idle, conn := net.Pipe()
		ln.conns <- conn
		r := bufio.NewReader(idle)
		send(t, idle, post("/e", "a"))
		if body, _ := read(t, r); body != "express  a" {
			t.Error(body)
		}
		begun := time.Now()
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		if d := time.Since(begun); d < idleTimeout || d > idleTimeout+expressIdleTrust {
			t.Errorf("an idle connection was kept for %v", d)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A caller that goes ends its call, and what comes while a call runs is the next request.
func TestExpressWatchesLongCalls(t *testing.T) {
	begun, gone, finish := make(chan struct{}), make(chan struct{}), make(chan struct{})
	e := &echoExpress{wait: func(ctx context.Context) {
		begun <- struct{}{}
		select {
		case <-ctx.Done():
			close(gone)
		case <-finish:
		}
	}}
	_, addr := startExpress(t, e, Config{})
	c, r := dial(t, addr)
	send(t, c, post("/e", "wait"))
	<-begun
	send(t, c, post("/e", "next")) // before the watch or during it
	time.AfterFunc(3*expressWatch, func() { finish <- struct{}{} })
	for _, want := range []string{"express  wait", "express  next"} {
		if body, _ := read(t, r); body != want {
			t.Errorf("%q, want %q", body, want)
		}
	}
	send(t, c, post("/e", "wait"))
	<-begun
	_ = c.Close()
	<-gone
}

func TestExpressClose(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	e := &echoExpress{wait: func(context.Context) {
		close(begun)
		<-finish
	}}
	s, addr := startExpress(t, e, Config{})
	_, unused := dial(t, addr)
	idle, idleReader := dial(t, addr)
	send(t, idle, post("/e", "a"))
	read(t, idleReader)
	busy, r := dial(t, addr)
	send(t, busy, post("/e", "wait"))
	<-begun
	closed := make(chan error)
	go func() { closed <- s.Close(t.Context()) }()
	for _, r := range []*bufio.Reader{idleReader, unused} {
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	close(finish)
	if body, _ := read(t, r); body != "express  wait" {
		t.Error(body)
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestExpressCloseCutsOffAtItsDeadline(t *testing.T) {
	begun := make(chan struct{})
	e := &echoExpress{wait: func(ctx context.Context) {
		close(begun)
		<-ctx.Done()
	}}
	s, addr := startExpress(t, e, Config{})
	c, _ := dial(t, addr)
	send(t, c, post("/e", "wait"))
	<-begun
	if err := s.Close(canceled()); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v", err)
	}
	s.express.running.Wait()
}

func TestExpressLimitsAndPanics(t *testing.T) {
	var logs logBuffer
	begun, finish := make(chan struct{}), make(chan struct{})
	e := &echoExpress{wait: func(context.Context) {
		close(begun)
		<-finish
	}}
	_, addr := startExpress(t, e, Config{
		MaxRequestsPerClient: 1, MaxBodyBytes: 10, Logger: slog.New(slog.NewTextHandler(&logs, nil)),
	})
	c, r := dial(t, addr)
	send(t, c, post("/e", "wait"))
	<-begun
	other, otherReader := dial(t, addr)
	send(t, other, post("/e", "a"))
	if body, status := read(t, otherReader); status != http.StatusTooManyRequests || !strings.Contains(body, "too many requests") {
		t.Errorf("one request too many: %d %q", status, body)
	}
	close(finish)
	read(t, r)
	send(t, c, post("/e", "12345678901"))
	if _, status := read(t, r); status != http.StatusRequestEntityTooLarge {
		t.Errorf("one byte too many: %d", status)
	}
	c, r = dial(t, addr)
	send(t, c, post("/e", "panic"))
	if res, err := http.ReadResponse(r, nil); err == nil {
		_ = res.Body.Close()
		t.Error("a panic was answered as if nothing had happened")
	}
	if !strings.Contains(logs.String(), "a secret") {
		t.Error("a panic is not in the log")
	}
}

func FuzzExpressHead(f *testing.F) {
	f.Add([]byte(post("/nearside.data.v1.DataService/Get", "body", "Content-Type: application/proto", "X-Test: a ")))
	f.Add([]byte("POST /a HTTP/1.1\r\nHost: [::1]:80\r\nA: b\r\na:c\r\nContent-Length: 010\r\nConnection: Keep-Alive\r\n\r\n0123456789"))
	f.Add([]byte("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"))
	f.Add([]byte("POST /a?b HTTP/1.1\r\nHost: h\r\n folded\r\nContent-Length : 1\r\nTransfer-Encoding: chunked\r\n\r\na"))
	f.Add([]byte("GET /v1/users/usr_1 HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\nGET /"))
	f.Add([]byte("GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var h expressHead
		whole := h.parse(data)
		for i := range min(len(data), 200) {
			var part expressHead
			if v := part.parse(data[:i]); v == headOK && whole != headOK || v == headForeign && whole == headOK {
				t.Fatalf("of %d bytes %v, of all %v", i, v, whole)
			}
		}
		if whole != headOK {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Del("Connection")
		r.Header.Del("Content-Length")
		if diff := cmp.Diff(r.Header, h.request.Header); diff != "" {
			t.Errorf("headers (-net/http +express):\n%s", diff)
		}
		if r.Method != h.method || h.request.Method != h.method || h.method == http.MethodGet && h.bodyBytes > 0 || r.URL.Path != string(h.path) || r.RequestURI != string(h.path) ||
			r.ContentLength != int64(h.bodyBytes) || r.Proto != "HTTP/1.1" || r.Close || len(r.TransferEncoding) > 0 {
			t.Errorf("%+v is not %s %d", r, h.path, h.bodyBytes)
		}
		body, _ := io.ReadAll(r.Body)
		if n := min(len(data), h.size+h.bodyBytes); !bytes.Equal(body, data[h.size:n]) {
			t.Errorf("body %q, want %q", body, data[h.size:n])
		}
	})
}

// FuzzExpressHeadAgain compares a head that has understood another one before with one that has not.
func FuzzExpressHeadAgain(f *testing.F) {
	first := post("/a", "body", "Content-Type: application/proto", "X-Test: a")
	for _, second := range []string{
		first, post("/a", "a longer body", "Content-Type: application/proto", "X-Test: a"), post("/b", "body", "Content-Type: application/proto", "X-Test: a"),
		post("/a", "body", "Content-Type: application/proto", "X-Test: b"), strings.Replace(first, "Content-Length: 4", "Content-Length: 0", 1),
		strings.Replace(first, "Content-Length: 4", "Content-Length: ", 1), strings.Replace(first, "Content-Length: 4", "Content-Length: 1234567", 1),
		strings.Replace(first, "Content-Length: 4", "Content-Length: 04", 1), strings.Replace(first, "Content-Length: 4\r\n", "", 1),
		strings.Replace(first, "POST", "GET", 1), first[:len(first)-6], first[:20],
		strings.Replace(first, "\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n", 1), strings.Replace(first, "HTTP/1.1\r\n", "HTTP/1.1\r\n\r\n", 1),
	} {
		f.Add([]byte(first), []byte(second))
	}
	f.Add([]byte("GET /a HTTP/1.1\r\nHost: h\r\n\r\n"), []byte("POST /a HTTP/1.1\r\nHost: h\r\n\r\n"))
	f.Add([]byte("GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"), []byte("GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"))
	f.Add([]byte("POST /a HTTP/1.1\r\nContent-Length:\t 1 \r\nHost: h\r\n\r\n"), []byte("POST /a HTTP/1.1\r\nContent-Length:\t 22 \r\nHost: h\r\n\r\n"))
	f.Fuzz(func(t *testing.T, before, data []byte) {
		var h, fresh expressHead
		_ = h.parse(before)
		// By its address one knows a request's headers again: those of one that was there stay what they were.
		first, header := h.request, http.Header(nil)
		if first != nil {
			header = first.Header.Clone()
		}
		got, want := h.parse(data), fresh.parse(data)
		if first != nil {
			if diff := cmp.Diff(header, first.Header); diff != "" {
				t.Errorf("headers of %q became, after %q:\n%s", before, data, diff)
			}
		}
		if got != want {
			t.Fatalf("after %q %q is %v, want %v", before, data, got, want)
		}
		if want != headOK {
			return
		}
		if h.size != fresh.size || h.bodyBytes != fresh.bodyBytes || h.method != fresh.method || !bytes.Equal(h.path, fresh.path) || h.given != fresh.given ||
			h.request.Method != fresh.request.Method || h.request.ContentLength != fresh.request.ContentLength {
			t.Errorf("after %q %q is %+v, want %+v", before, data, h, fresh)
		}
		if diff := cmp.Diff(fresh.request.Header, h.request.Header); diff != "" {
			t.Errorf("headers after %q:\n%s", before, diff)
		}
	})
}
