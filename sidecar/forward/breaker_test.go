package forward

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

func wantState(t *testing.T, r *region, want string) {
	t.Helper()
	if got := r.State(); got != want {
		t.Fatalf("breaker is %s, want %s", got, want)
	}
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, stub{query: func(context.Context) error { return nil }}.handler(), Options{})
		wantState(t, r, "closed")

		r.primary.cut.Store(true)
		for range 2 { // of three attempts each
			wantReason(t, r.query(t.Context()), unavailable)
		}
		wantState(t, r, "open")
		dials := r.primary.dials.Load()
		begin := time.Now()
		wantReason(t, r.query(t.Context()), unavailable)
		if r.primary.dials.Load() != dials || time.Since(begin) != 0 {
			t.Error("an open breaker let a call pass, or waited")
		}

		time.Sleep(breakerTimeout + time.Millisecond)
		wantState(t, r, "half-open")
		wantReason(t, r.query(t.Context()), unavailable)
		wantState(t, r, "open")

		r.primary.cut.Store(false)
		wantReason(t, r.query(t.Context()), unavailable)
		time.Sleep(breakerTimeout + time.Millisecond)
		for range breakerProbes {
			if err := r.query(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		wantState(t, r, "closed")
	})
}

// The stream from the primary is back: calls go at once.
func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, stub{query: func(context.Context) error { return nil }}.handler(), Options{})
		r.primary.cut.Store(true)
		for range 2 {
			wantReason(t, r.query(t.Context()), unavailable)
		}
		wantState(t, r, "open")
		r.primary.cut.Store(false)
		r.Reset()
		wantState(t, r, "closed")
		if err := r.query(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A heartbeat half-opens the breaker at once: one call may try for each, and its success closes it.
func TestHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, stub{query: func(context.Context) error { return nil }}.handler(), Options{})
		r.Heard() // nothing to do
		r.primary.cut.Store(true)
		for range 2 {
			wantReason(t, r.query(t.Context()), unavailable)
		}
		begin := time.Now()
		wantState(t, r, "open")
		r.Heard()
		wantState(t, r, "half-open")
		dials := r.primary.dials.Load()
		wantReason(t, r.query(t.Context()), unavailable)
		if got := r.primary.dials.Load() - dials; got != 1 {
			t.Errorf("%d attempts for one heartbeat", got)
		}
		wantState(t, r, "open")
		r.primary.cut.Store(false)
		wantReason(t, r.query(t.Context()), unavailable)
		r.Heard()
		if err := r.query(t.Context()); err != nil {
			t.Error(err)
		}
		wantState(t, r, "closed")
		if took := time.Since(begin); took >= breakerTimeout {
			t.Errorf("closed after %v, which the breaker's own time does too", took)
		}
	})
}

// Slow calls that try whether a half-open breaker may close do not hold up the others once the primary is heard.
func TestSlowProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finish, slow := make(chan struct{}), true
		r := newRegion(t, stub{query: func(context.Context) error {
			if slow {
				<-finish
			}
			return nil
		}}.handler(), Options{})
		r.primary.cut.Store(true)
		for range 2 {
			wantReason(t, r.query(t.Context()), unavailable)
		}
		r.primary.cut.Store(false)
		time.Sleep(breakerTimeout + time.Millisecond)
		answered := make(chan error, breakerProbes)
		for range breakerProbes {
			go func() { answered <- r.query(t.Context()) }()
		}
		synctest.Wait()
		slow = false
		wantReason(t, r.query(t.Context()), unavailable)
		r.Heard()
		if err := r.query(t.Context()); err != nil {
			t.Error(err)
		}
		wantState(t, r, "closed")
		close(finish)
		for range breakerProbes {
			if err := <-answered; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestWhatDoesNotTrip(t *testing.T) {
	answer := func(err error) func(context.Context) error { return func(context.Context) error { return err } }
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	tests := []struct {
		name   string
		query  func(context.Context) error
		silent bool
		call   func(context.Context) (context.Context, context.CancelFunc)
		want   string
	}{
		{name: "caller's mistake", query: answer(connect.NewError(connect.CodeInvalidArgument, errTest)), want: "closed"},
		{name: "bug", query: answer(connect.NewError(connect.CodeInternal, errTest)), want: "closed"},
		{name: "too much", query: answer(connect.NewError(connect.CodeResourceExhausted, errTest)), want: "closed"},
		{name: "cancelled", query: hang, want: "closed", call: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Millisecond, cancel)
			return ctx, cancel
		}},
		{name: "deadline", query: hang, want: "closed", call: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 10*time.Millisecond)
		}},
		{name: "silence of one who is heard", query: nil, want: "closed"},
		{name: "silence", query: nil, silent: true, want: "open"},
		{
			name: "cannot serve", want: "open",
			query: func(context.Context) error {
				wire, _ := rpcerr.ToConnect(rpcerr.New(datav1.ErrorReason_ERROR_REASON_STORE_FAILED, "disk"))
				return wire
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan struct{})
				defer close(ended)
				query := tt.query
				if query == nil {
					query = func(context.Context) error { <-ended; return errTest } // deaf to its deadline
				}
				r := newRegion(t, stub{query: query}.handler(), Options{
					Connected: func() bool { return !tt.silent }, Timeout: 100 * time.Millisecond,
				})
				for range breakerMinCalls {
					ctx, cancel := t.Context(), func() {}
					if tt.call != nil {
						ctx, cancel = tt.call(ctx)
					}
					if err := r.query(ctx); err == nil {
						t.Fatal("no error")
					}
					cancel()
				}
				wantState(t, r, tt.want)
			})
		})
	}
}

// What callers are told of a primary that takes no connections does not say where it is.
func TestUnavailableWithoutAddress(t *testing.T) {
	p, err := New(Options{Region: "eu-west-1", URL: "http://127.0.0.1:1", HTTPClient: &http.Client{Transport: http.DefaultTransport}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Query(t.Context(), connect.NewRequest(&datav1.QueryRequest{}))
	wantReason(t, err, unavailable)
	if text := err.Error(); strings.Contains(text, "127.0.0.1") || !strings.Contains(text, "refused") {
		t.Error(text)
	}
}
