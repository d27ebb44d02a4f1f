package forward

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
)

type uncounted struct{}

func (uncounted) Begin()                             {}
func (uncounted) Answered(time.Duration)             {}
func (uncounted) Failed(connect.Code, time.Duration) {}
func (uncounted) Passed()                            {}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// calls returns how many calls the primary got.
func (b *bundler) calls() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.keys) + len(b.alone)
}

// hotTwins returns a region's general handler, and the hot way before it; passed counts what the latter leaves to the former.
func hotTwins(t *testing.T, p *Primary, passed *int) (general, hot http.Handler) {
	t.Helper()
	errs, err := rpcerr.NewInterceptor(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	options := []connect.HandlerOption{connect.WithInterceptors(errs)}
	for _, c := range server.Compressions() {
		options = append(options, connect.WithCompression(c.Name, c.Decompressor, c.Compressor))
	}
	_, general = datav1connect.NewDataServiceHandler(p, options...)
	return general, hotrpc.NewWriteHandler(hotrpc.WriteOptions{
		Method: func(ctx context.Context, header http.Header, msg []byte, a *hotrpc.Answer) error {
			return p.TransactHot(ctx, errs, nil, header, msg, a)
		},
		General: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			*passed++
			general.ServeHTTP(w, r)
		}),
		Metrics: uncounted{}, Procedure: datav1connect.DataServiceTransactProcedure, Errors: errs,
	})
}

// A caller cannot tell which of the two ways its transaction went, and the primary gets it once.
func TestHotTransactIsLikeTheGeneralHandler(t *testing.T) {
	p := &bundler{}
	p.bundle = func(
		ctx context.Context, calls []*replicationv1.TransactBundleRequest_Call,
	) ([]*replicationv1.TransactBundleResponse_Outcome, error) {
		switch calls[0].IdempotencyKey {
		case "error":
			return []*replicationv1.TransactBundleResponse_Outcome{{Outcome: &replicationv1.TransactBundleResponse_Outcome_Error{
				Error: &replicationv1.TransactBundleResponse_Error{Code: uint32(connect.CodeFailedPrecondition), Message: "no good"},
			}}}, nil
		case "later":
			return []*replicationv1.TransactBundleResponse_Outcome{{Outcome: &replicationv1.TransactBundleResponse_Outcome_Later{Later: true}}}, nil
		}
		return answerAll(ctx, calls)
	}
	r := newRegion(t, p.handler(), Options{})
	passed := 0
	general, hot := hotTwins(t, r.Primary, &passed)

	plain := encode(t, put(3))
	sql := put(3)
	sql.Operations[0] = &datav1.Operation{Operation: &datav1.Operation_Statement{Statement: &datav1.Statement{Sql: "DELETE FROM t"}}}
	keyed := put(3)
	keyed.IdempotencyKey = "mine"
	type request struct {
		name   string
		body   []byte
		header []string
		hot    bool
	}
	requests := []request{
		{name: "put", body: plain, hot: true},
		{name: "key", body: plain, header: []string{"Idempotency-Key", "k"}, hot: true},
		{name: "key in the message", body: encode(t, keyed), hot: true},
		{name: "trace and bookmark", body: plain, header: []string{"Traceparent", "00-1-2-01", "Nearside-Bookmark", "b"}, hot: true},
		{name: "timeout", body: plain, header: []string{"Connect-Timeout-Ms", "60000"}, hot: true},
		{name: "error", body: plain, header: []string{"Idempotency-Key", "error"}, hot: true},
		{name: "alone after a bundle", body: plain, header: []string{"Idempotency-Key", "later"}, hot: true},
		{name: "SQL", body: encode(t, sql)},
		{name: "invalid", body: encode(t, &datav1.TransactRequest{})},
		{name: "authorized", body: plain, header: []string{"Authorization", "x"}, hot: true},
		{name: "long credential", body: plain, header: []string{"Authorization", strings.Repeat("x", maxAuthorizationBytes+1)}},
		{name: "long key", body: plain, header: []string{"Idempotency-Key", strings.Repeat("k", 256)}},
	}
	for i := 1; i < len(plain); i++ {
		requests = append(requests, request{name: "cut off", body: plain[:i]})
	}
	for _, req := range requests {
		ask := func(h http.Handler) (w *httptest.ResponseRecorder, body any, calls int) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, datav1connect.DataServiceTransactProcedure, bytes.NewReader(req.body))
			r.Header.Set("Content-Type", "application/proto")
			for i := 0; i < len(req.header); i += 2 {
				r.Header.Set(req.header[i], req.header[i+1])
			}
			before := p.calls()
			w = httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				return w, w.Body.String(), p.calls() - before
			}
			m := new(datav1.TransactResponse)
			if err := proto.Unmarshal(w.Body.Bytes(), m); err != nil {
				t.Fatal(err)
			}
			return w, m, p.calls() - before
		}
		want, wantBody, wantCalls := ask(general)
		before := passed
		got, gotBody, gotCalls := ask(hot)
		if want.Code != got.Code || wantCalls != gotCalls {
			t.Errorf("%s: status %d after %d calls, the general handler's is %d after %d", req.name, got.Code, gotCalls, want.Code, wantCalls)
		}
		if diff := cmp.Diff(want.Header(), got.Header()); diff != "" {
			t.Errorf("%s: headers (-general +hot):\n%s", req.name, diff)
		}
		if diff := cmp.Diff(wantBody, gotBody, protocmp.Transform()); diff != "" {
			t.Errorf("%s: body (-general +hot):\n%s", req.name, diff)
		}
		if is := passed == before; is != req.hot && req.name != "cut off" {
			t.Errorf("%s: went the hot way: %v, want %v", req.name, is, req.hot)
		}
	}
}
