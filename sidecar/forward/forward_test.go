package forward

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

const (
	unavailable    = datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE
	outcomeUnknown = datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN
	overloaded     = datav1.ErrorReason_ERROR_REASON_OVERLOADED
)

func TestPassesThrough(t *testing.T) {
	var seen http.Header
	primary := stub{execute: func(
		_ context.Context, req *connect.Request[datav1.ExecuteRequest],
	) (*connect.Response[datav1.ExecuteResponse], error) {
		seen = req.Header()
		return connect.NewResponse(&datav1.ExecuteResponse{
			Result: &datav1.ResultSet{RowsAffected: 3},
			Answer: &datav1.Answer{Region: "us-east-1", Bookmark: "b1", Source: datav1.Source_SOURCE_PRIMARY},
		}), nil
	}}
	r := newRegion(t, primary.handler(), Options{})
	req := connect.NewRequest(&datav1.ExecuteRequest{Database: "d", Statement: statement()})
	for _, name := range []string{"Authorization", "nearside-bookmark", "traceparent", "cookie"} {
		req.Header().Set(name, "my "+name)
	}
	res, err := r.client.Execute(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if res.Msg.Result.RowsAffected != 3 || res.Msg.Answer.Region != "eu-west-1" || !res.Msg.Answer.ServedByPrimary {
		t.Errorf("answer is %v", res.Msg)
	}
	if got := res.Header().Get(rpcheader.Bookmark); got != "b1" {
		t.Errorf("bookmark header is %q", got)
	}
	want := http.Header{
		"Authorization": {"my Authorization"}, "Nearside-Bookmark": {"my nearside-bookmark"}, "Traceparent": {"my traceparent"},
	}
	got := http.Header{}
	for _, name := range []string{"Authorization", "Nearside-Bookmark", "Traceparent", "Cookie"} {
		if v := seen.Values(name); v != nil {
			got[name] = v
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if seen.Get(rpcheader.IdempotencyKey) == "" {
		t.Error("a write went out without an idempotency key")
	}
	if ms, err := strconv.Atoi(seen.Get("Connect-Timeout-Ms")); err != nil || ms > int(DefaultTimeout.Milliseconds()) || ms < 20000 {
		t.Errorf("timeout is %q", seen.Get("Connect-Timeout-Ms"))
	}
}

func TestKeepsCallersKey(t *testing.T) {
	var seen []string
	primary := stub{execute: func(
		_ context.Context, req *connect.Request[datav1.ExecuteRequest],
	) (*connect.Response[datav1.ExecuteResponse], error) {
		seen = append(seen, req.Header().Get(rpcheader.IdempotencyKey)+"/"+req.Msg.IdempotencyKey)
		return connect.NewResponse(&datav1.ExecuteResponse{}), nil
	}}
	r := newRegion(t, primary.handler(), Options{})
	inHeader := connect.NewRequest(&datav1.ExecuteRequest{Database: "d", Statement: statement()})
	inHeader.Header().Set(rpcheader.IdempotencyKey, "k1")
	inField := connect.NewRequest(&datav1.ExecuteRequest{Database: "d", Statement: statement(), IdempotencyKey: "k2"})
	for _, req := range []*connect.Request[datav1.ExecuteRequest]{inHeader, inField} {
		if _, err := r.client.Execute(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"k1/", "/k2"}, seen); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsPassUnchanged(t *testing.T) {
	sent, _ := rpcerr.ToConnect(rpcerr.New(datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED, "row is at version 41").
		With("operation", "1").With("present_version", "41"))
	attempts := 0
	r := newRegion(t, stub{query: func(context.Context) error { attempts++; return sent }}.handler(), Options{})
	got := wantReason(t, r.query(t.Context()), datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED)
	if got.Code() != sent.Code() || got.Error() != sent.Message() || got.Metadata("present_version") != "41" {
		t.Errorf("got %v %q %q", got.Code(), got, got.Metadata("present_version"))
	}
	if attempts != 1 {
		t.Errorf("%d attempts", attempts)
	}
}

// The connection ends after the work was done: the repeat has the same key, and where it fails too nobody is told that
// nothing was done.
func TestConnectionEndsBeforeAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys []string
		answers, dropped, queried := 1, 0, 0
		primary := stub{
			execute: func(
				_ context.Context, req *connect.Request[datav1.ExecuteRequest],
			) (*connect.Response[datav1.ExecuteResponse], error) {
				keys = append(keys, req.Header().Get(rpcheader.IdempotencyKey))
				if len(keys) > answers {
					return connect.NewResponse(&datav1.ExecuteResponse{Replayed: true}), nil
				}
				hangUp()
				return nil, nil
			},
			drop:  func() { dropped++; hangUp() },
			query: func(context.Context) error { queried++; hangUp(); return nil },
		}
		r := newRegion(t, primary.handler(), Options{})

		if err := r.executeWith(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(keys) != 2 || keys[0] == "" || keys[0] != keys[1] {
			t.Errorf("keys of the attempts: %q", keys)
		}

		keys, answers = nil, 100
		e := wantReason(t, r.executeWith(t.Context()), outcomeUnknown)
		if len(keys) != 1+maxRetries || e.Metadata("idempotency_key") != keys[0] || e.RetryAfter() == 0 {
			t.Errorf("keys of the attempts: %q, metadata %q", keys, e.Metadata("idempotency_key"))
		}

		r.Reset()
		_, err := r.client.DeleteDatabase(t.Context(), connect.NewRequest(&datav1.DeleteDatabaseRequest{Name: "d"}))
		wantReason(t, err, outcomeUnknown)
		if dropped != 1 {
			t.Errorf("a call that must not be repeated was made %d times", dropped)
		}

		r.Reset()
		wantReason(t, r.query(t.Context()), unavailable)
		if queried != 1+maxRetries {
			t.Errorf("%d attempts of a read", queried)
		}
	})
}

func TestNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		r := newRegion(t, stub{}.handler(), Options{Registerer: registry})
		r.primary.cut.Store(true)
		begin := time.Now()
		for _, err := range []error{r.query(t.Context()), r.executeWith(t.Context())} {
			e := wantReason(t, err, unavailable)
			if e.Code() != connect.CodeUnavailable || e.RetryAfter() == 0 {
				t.Errorf("%v, retry after %v", e.Code(), e.RetryAfter())
			}
		}
		if took := time.Since(begin); took > 200*time.Millisecond {
			t.Errorf("two refusals took %v", took)
		}
		if got := calls(t, registry, "Execute", "unreachable"); got != 1 {
			t.Errorf("%v unreachable calls counted", got)
		}
	})
}

// Packets vanish: the caller is told before its own deadline.
func TestBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, stub{}.handler(), Options{Connected: func() bool { return false }})
		r.primary.dark.Store(true)
		defer r.primary.Close()
		for _, tt := range []struct {
			call func(context.Context) error
			want rpcerr.Reason
		}{{r.query, unavailable}, {r.executeWith, outcomeUnknown}} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			r.Reset()
			wantReason(t, tt.call(ctx), tt.want)
			if ctx.Err() != nil {
				t.Errorf("%v came too late", tt.want)
			}
			cancel()
		}
		r.Reset()
		for _, want := range []time.Duration{silenceLimit, 0} { // the first one opens the breaker
			begin := time.Now()
			wantReason(t, r.query(t.Context()), unavailable)
			if took := time.Since(begin); took != want {
				t.Errorf("without a deadline it took %v, want %v", took, want)
			}
		}
	})
}

// A long call is waited for as long as the primary is heard.
func TestLongCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone atomic.Bool
		origin := time.Now()
		r := newRegion(t, stub{query: func(ctx context.Context) error {
			select {
			case <-time.After(20 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}.handler(), Options{Connected: func() bool {
			return !gone.Load() && time.Since(origin)%time.Second < 900*time.Millisecond
		}})
		if err := r.query(t.Context()); err != nil {
			t.Error(err)
		}
		// From here on it is not: there is no answer to wait for.
		gone.Store(true)
		begin := time.Now()
		wantReason(t, r.query(t.Context()), unavailable)
		if took := time.Since(begin); took != silenceLimit {
			t.Errorf("gave up after %v", took)
		}
	})
}

func TestDefaultTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, stub{}.handler(), Options{})
		r.primary.dark.Store(true)
		defer r.primary.Close()
		begin := time.Now()
		if err := r.query(t.Context()); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
			t.Error(err)
		}
		if took := time.Since(begin); took != DefaultTimeout {
			t.Errorf("it took %v", took)
		}
	})
}

// The primary is told to stop before the region gives up, so that its own answer arrives.
func TestPrimaryAnswersItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, stub{query: func(ctx context.Context) error {
			<-ctx.Done()
			return connect.NewError(connect.CodeDeadlineExceeded, errTest)
		}}.handler(), Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := r.query(ctx)
		if connect.CodeOf(err) != connect.CodeDeadlineExceeded || ctx.Err() != nil || err.Error() != "deadline_exceeded: test" {
			t.Errorf("error is %v, context is %v", err, ctx.Err())
		}
	})
}

// A caller's deadline shrinks on its way to the primary, whatever the caller speaks.
func TestDeadlineShrinks(t *testing.T) {
	for name, options := range map[string][]connect.ClientOption{
		"connect": nil, "grpc-web": {connect.WithGRPCWeb()}, "json": {connect.WithProtoJSON()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var left time.Duration
				r := newRegion(t, stub{query: func(ctx context.Context) error {
					deadline, _ := ctx.Deadline()
					left = time.Until(deadline)
					return nil
				}}.handler(), Options{})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				client := datav1connect.NewDataServiceClient(r.gateway.client(t), "http://gateway", options...)
				req := connect.NewRequest(&datav1.QueryRequest{Database: "d", Statement: statement()})
				if _, err := client.Query(ctx, req); err != nil {
					t.Fatal(err)
				}
				if want := time.Second - 2*maxDeadlineCut; left > want || left < want-maxDeadlineCut {
					t.Errorf("the primary has %v, want a little below %v", left, want)
				}
			})
		})
	}
}

func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finish := make(chan struct{})
		r := newRegion(t, stub{query: func(context.Context) error { <-finish; return nil }}.handler(), Options{MaxInFlight: 2})
		answered := make(chan error, 2)
		for range 2 {
			go func() { answered <- r.query(t.Context()) }()
		}
		synctest.Wait()
		if e := wantReason(t, r.query(t.Context()), overloaded); e.RetryAfter() == 0 {
			t.Error("no hint when to retry")
		}
		close(finish)
		for range 2 {
			if err := <-answered; err != nil {
				t.Error(err)
			}
		}
		if err := r.query(t.Context()); err != nil {
			t.Errorf("after the others: %v", err)
		}
	})
}

func TestNotAPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<h1>It works!</h1>"))
		}), Options{})
		wantReason(t, r.query(t.Context()), unavailable)
	})
}
