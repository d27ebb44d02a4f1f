package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

func failure(reason datav1.ErrorReason, retryAfter time.Duration) error {
	wire, _ := rpcerr.ToConnect(rpcerr.New(reason, "for the test").WithRetryAfter(retryAfter))
	return wire
}

func TestRetry(t *testing.T) {
	unavailable := failure(datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE, 0)
	unknown := failure(datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, 0)
	execute := func(ctx context.Context, c *Client) error {
		_, err := c.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{}))
		return err
	}
	get := func(ctx context.Context, c *Client) error {
		_, err := c.Get(ctx, connect.NewRequest(&datav1.GetRequest{}))
		return err
	}
	create := func(key string) func(context.Context, *Client) error {
		return func(ctx context.Context, c *Client) error {
			req := connect.NewRequest(&datav1.CreateDatabaseRequest{})
			if key != "" {
				req.Header().Set(rpcheader.IdempotencyKey, key)
			}
			_, err := c.CreateDatabase(ctx, req)
			return err
		}
	}
	for _, tc := range []struct {
		name    string
		call    func(context.Context, *Client) error
		fail    []error
		timeout time.Duration
		tries   int
		code    connect.Code // 0: it succeeds
	}{
		{name: "no failure", call: execute, tries: 1},
		{name: "write once unavailable", call: execute, fail: []error{unavailable}, tries: 2},
		{name: "write of unknown outcome", call: execute, fail: []error{unknown}, tries: 2},
		{name: "read once unavailable", call: get, fail: []error{unavailable}, tries: 2},
		{name: "bounded", call: execute, fail: []error{unavailable, unavailable, unavailable, unavailable, unavailable},
			tries: 4, code: connect.CodeUnavailable},
		{name: "mistake", call: execute, fail: []error{failure(datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID, 0)},
			tries: 1, code: connect.CodeInvalidArgument},
		{name: "no key", call: create(""), fail: []error{unavailable}, tries: 1, code: connect.CodeUnavailable},
		{name: "the caller's key", call: create("k"), fail: []error{unavailable}, tries: 2},
		{name: "retry hint too late", call: execute, tries: 1, code: connect.CodeUnavailable,
			fail: []error{failure(datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE, time.Minute)}},
		{name: "deadline too near", call: execute, timeout: 10 * time.Millisecond, tries: 1,
			fail: []error{unavailable}, code: connect.CodeUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &node{}
				for _, err := range tc.fail {
					n.answer = append(n.answer, answer{err: err})
				}
				ctx := t.Context()
				if tc.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tc.timeout)
					defer cancel()
				}
				err := tc.call(ctx, New("http://mesh", WithHTTPClient(serve(n))))
				if tc.code == 0 && err != nil || tc.code != 0 && connect.CodeOf(err) != tc.code {
					t.Errorf("error = %v, want code %v", err, tc.code)
				}
				if len(n.seen) != tc.tries {
					t.Errorf("%d tries, want %d", len(n.seen), tc.tries)
				}
			})
		})
	}
}

func TestRetryUsesOneKeyForOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unavailable := failure(datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE, 0)
		n := &node{answer: []answer{{err: unavailable}, {}, {}, {}}}
		c := New("http://mesh", WithHTTPClient(serve(n)))
		req := connect.NewRequest(&datav1.ExecuteRequest{})
		for range 2 {
			if _, err := c.Execute(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		first, again, second := n.seen[0].Get(rpcheader.IdempotencyKey), n.seen[1].Get(rpcheader.IdempotencyKey),
			n.seen[2].Get(rpcheader.IdempotencyKey)
		if first == "" || first != again {
			t.Errorf("the repeat has key %q, the first try %q", again, first)
		}
		if second == "" || second == first {
			t.Errorf("another call with the same request has key %q", second)
		}
		if _, err := c.Execute(t.Context(), connect.NewRequest(&datav1.ExecuteRequest{IdempotencyKey: "mine"})); err != nil {
			t.Fatal(err)
		}
		if got := n.seen[3].Get(rpcheader.IdempotencyKey); got != "" {
			t.Errorf("a request with a key of its own was given key %q too", got)
		}
	})
}

func TestRetryWaitsAsLongAsTheServerAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{answer: []answer{{err: failure(datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE, time.Second)}}}
		begin := time.Now()
		if _, err := New("http://mesh", WithHTTPClient(serve(n))).Get(t.Context(), connect.NewRequest(&datav1.GetRequest{})); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(begin); waited != time.Second {
			t.Errorf("waited %v, want 1s", waited)
		}
	})
}

func TestRetryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{answer: []answer{{err: failure(datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE, time.Second)}}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := New("http://mesh", WithHTTPClient(serve(n))).Get(ctx, connect.NewRequest(&datav1.GetRequest{}))
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; connect.CodeOf(err) != connect.CodeUnavailable {
			t.Errorf("error = %v, want the failure that was to be repeated", err)
		}
	})
}

func TestWithoutRetry(t *testing.T) {
	n := &node{answer: []answer{{err: failure(datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE, 0)}}}
	_, err := New("http://mesh", WithHTTPClient(serve(n)), WithoutRetry()).Get(t.Context(), connect.NewRequest(&datav1.GetRequest{}))
	if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE || len(n.seen) != 1 {
		t.Errorf("%d tries, error %v", len(n.seen), err)
	}
}

// TestRetryOfBrokenConnections has connections end in the middle of a call, as those of a node that is killed do.
func TestRetryOfBrokenConnections(t *testing.T) {
	for name, end := range map[string]func(c net.Conn, kind string){
		"closed": func(c net.Conn, _ string) { _ = c.Close() },
		"reset": func(c net.Conn, _ string) {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		},
		"cut off": func(c net.Conn, kind string) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: "+kind+"\r\nContent-Length: 99\r\n\r\n\n")
			_ = c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := &node{}
			var mu sync.Mutex // guards keys
			var keys []string
			begin := func() (before []string) {
				mu.Lock()
				defer mu.Unlock()
				before, keys = keys, nil
				return before
			}
			mux := http.NewServeMux()
			path, data := datav1connect.NewDataServiceHandler(n)
			mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				keys = append(keys, r.Header.Get(rpcheader.IdempotencyKey))
				tries := len(keys)
				mu.Unlock()
				_, _ = io.Copy(io.Discard, r.Body)
				if tries > 2 {
					data.ServeHTTP(w, r)
					return
				}
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				end(conn, r.Header.Get("Content-Type"))
			})
			server := httptest.NewServer(mux)
			defer server.Close()
			c := New(server.URL)
			defer c.Close()
			if _, err := c.Execute(t.Context(), connect.NewRequest(&datav1.ExecuteRequest{})); err != nil {
				t.Fatal(err)
			}
			if k := begin(); len(k) != 3 || k[0] == "" || k[0] != k[1] || k[1] != k[2] {
				t.Errorf("the tries have the keys %q", k)
			}
			once := New(server.URL, WithoutRetry())
			defer once.Close()
			_, err := once.Execute(t.Context(), connect.NewRequest(&datav1.ExecuteRequest{}))
			if e, ok := ErrorOf(err); !ok || !e.Momentary() || !errors.Is(err, ErrUnavailable) {
				t.Errorf("without repeats: %v", err)
			}
			begin()
			for _, err := range Rows[int](t.Context(), c.Database("d"), "SELECT 1") {
				if e, ok := ErrorOf(err); !ok || !e.Momentary() || connect.CodeOf(err) != connect.CodeUnavailable {
					t.Errorf("a stream: %v", err)
				}
			}
		})
	}
}
