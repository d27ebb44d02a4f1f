package server

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/nearside-dev/nearside/internal/requestid"
)

// naming answers with the name of the request as its handler has it, without net/http where the body does not begin with "pass".
type naming struct {
	mu      sync.Mutex
	express []string // names that were there without net/http
}

func (n *naming) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/panic") {
		panic("a secret")
	}
	id := requestid.From(r.Context())
	_, _ = io.WriteString(w, id.String()+" "+id.Trace()) // a test's caller
}

func (n *naming) ServeExpress(_ context.Context, _ *http.Request, body []byte, a *ExpressAnswer) bool {
	n.mu.Lock()
	n.express = append(n.express, a.Request.String())
	n.mu.Unlock()
	if strings.HasPrefix(string(body), "pass") {
		return false
	}
	text := a.Request.String() + " " + a.Request.Trace()
	a.Bytes = append(a.Bytes, "HTTP/1.1 200 OK\r\n"...)
	a.EndHead(len(text))
	a.Bytes = append(a.Bytes, text...)
	return true
}

var (
	drawnID = regexp.MustCompile(`^[0-9a-f]{32}$`)
	trace   = "0af7651916cd43dd8448eb211c80319c"
	traced  = "traceparent: 00-" + trace + "-b7ad6b7169203331-01\r\nX-Test: 1" // joined to a header of its own
)

// Each request has one name, in its answer's head and wherever it is looked for, on each way that it can go.
func TestRequestsHaveNames(t *testing.T) {
	n := &naming{}
	mux := http.NewServeMux()
	mux.Handle("/e", n)
	mux.HandleFunc("/general", n.ServeHTTP)
	_, url := start(t, mux, Config{Name: "test", Express: true, MaxBodyBytes: 1000})
	addr := strings.TrimPrefix(url, "http://")
	names := make(map[string]bool)
	for _, tt := range []struct {
		name, request string
		id, trace     string // "" is one of its own
		status        int
	}{
		{"express", post("/e", "a"), "", "", 200},
		{"express, named", post("/e", "a", "X-Request-Id: mine-1", traced), "mine-1", trace, 200},
		{"express, named badly", post("/e", "a", "X-Request-Id: mine 1", "traceparent: 00-1"), "", "", 200},
		{"express, named twice", post("/e", "a", "X-Request-Id: mine-1", "x-request-id: mine-2"), "", "", 200},
		{"passed", post("/e", "pass"), "", "", 200},
		{"passed, named", post("/e", "pass", "X-Request-Id: mine-2"), "mine-2", "", 200},
		{"general", post("/general", "a"), "", "", 200},
		{"general, named", post("/general", "a", "X-Request-Id: mine-3", traced), "mine-3", trace, 200},
		{"general, named badly", post("/general", "a", "X-Request-Id: "+strings.Repeat("m", 65), traced+"\r\n"+traced), "", "", 200},
		{"GET", "GET /general HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine-4\r\n\r\n", "mine-4", "", 200},
		{"too large", post("/general", strings.Repeat("x", 1001), "X-Request-Id: mine-5"), "mine-5", "-", http.StatusRequestEntityTooLarge},
		{"nothing there", post("/nothing", "a"), "", "-", http.StatusNotFound},
	} {
		c, r := dial(t, addr)
		for range 2 { // the second on the same connection is another one
			n.express = nil
			send(t, c, tt.request)
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			lines := res.Header["X-Request-Id"]
			if len(lines) != 1 || res.StatusCode != tt.status {
				t.Fatalf("%s: status %d, %d names: %v", tt.name, res.StatusCode, len(lines), lines)
			}
			id, seen, _ := strings.Cut(string(body), " ")
			switch {
			case tt.trace == "-":
				id = lines[0] // the body is an error
			case tt.trace == "" && tt.id == "" && seen != lines[0], tt.trace == "" && !drawnID.MatchString(seen), tt.trace != "" && seen != tt.trace:
				t.Errorf("%s: trace %s, request %s", tt.name, seen, lines[0])
			}
			if id != lines[0] || tt.id != "" && id != tt.id || tt.id == "" && (!drawnID.MatchString(id) || names[id]) {
				t.Errorf("%s: named %s, its handler has %s", tt.name, lines[0], id)
			}
			if len(n.express) > 0 && n.express[0] != id {
				t.Errorf("%s: named %s before it was left to net/http, which named it %s", tt.name, n.express[0], id)
			}
			if tt.id == "" {
				names[id] = true
			}
			if res.Close {
				break
			}
		}
	}
}

// What panics is found in the log by the request's id.
func TestPanicsAreNamed(t *testing.T) {
	var logs logBuffer
	n := &naming{}
	mux := http.NewServeMux()
	mux.HandleFunc("/panic", n.ServeHTTP)
	mux.Handle("/e", &echoExpress{})
	_, url := start(t, mux, Config{Name: "test", Express: true, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	for id, request := range map[string]string{
		"mine-1": post("/panic", "a", "X-Request-Id: mine-1"), "mine-2": post("/e", "panic", "X-Request-Id: mine-2"),
	} {
		c, r := dial(t, strings.TrimPrefix(url, "http://"))
		send(t, c, request)
		if _, err := http.ReadResponse(r, nil); err == nil {
			t.Errorf("%s: answered", id)
		}
		if text := logs.String(); !strings.Contains(text, "request_id="+id) || !strings.Contains(text, "a secret") {
			t.Errorf("%s is not in the log: %s", id, text)
		}
	}
}

// The head of an answer without net/http is made without an allocation, the name too.
func TestNamesAllocateNothing(t *testing.T) {
	for _, given := range []requestid.Given{{}, requestid.Of("mine", "")} {
		a := &ExpressAnswer{Bytes: make([]byte, 0, 1024)}
		a.EndHead(1)
		if n := testing.AllocsPerRun(1000, func() {
			a.Request, a.Bytes = given.New(), a.Bytes[:0]
			a.EndHead(100)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}
