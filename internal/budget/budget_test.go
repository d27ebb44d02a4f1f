package budget

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// call opens an account of a call.
func call(t *testing.T, b *Budget) (ctx context.Context, done func()) {
	t.Helper()
	return b.Open(t.Context())
}

func TestCallsShareABudget(t *testing.T) {
	b := New(3 << 20)
	registry := prometheus.NewRegistry()
	registry.MustRegister(b.Collectors("test")...)
	first, firstDone := call(t, b)
	second, secondDone := call(t, b)
	defer secondDone()

	m := NewMeter(first)
	for range 3 << 10 { // the free one, and two of the budget's
		if err := m.Add(1 << 10); err != nil {
			t.Fatalf("after %d bytes: %v", m.Size(), err)
		}
	}
	if used := b.used.Load(); used != 2<<20 {
		t.Errorf("2 MiB above the free one take %d bytes", used)
	}
	other := NewMeter(second)
	if err := other.Add(FreeBytes); err != nil {
		t.Errorf("what is free: %v", err)
	}
	err := other.Add(1<<20 + 1)
	if e, ok := rpcerr.FromError(err); !ok || e.Reason() != datav1.ErrorReason_ERROR_REASON_OVERLOADED || e.RetryAfter() != retryAfter {
		t.Errorf("more than there is: %v", err)
	}
	if used := b.used.Load(); used != 2<<20 {
		t.Errorf("what was refused takes %d bytes", used-2<<20)
	}
	firstDone()
	if err := m.Add(8 << 20); err != nil || b.used.Load() != 0 {
		t.Errorf("after its end a call takes %d bytes: %v", b.used.Load(), err)
	}
	if err := other.Add(1); err != nil {
		t.Errorf("after the other's end: %v", err)
	}
	const want = `
# HELP nearside_server_answers_refused_total Calls that were refused because all answers together took too much.
# TYPE nearside_server_answers_refused_total counter
nearside_server_answers_refused_total{listener="test"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "nearside_server_answers_refused_total"); err != nil {
		t.Error(err)
	}
}

func TestWithoutABudget(t *testing.T) {
	m := NewMeter(t.Context())
	if err := m.Add(1 << 40); err != nil || m.Size() != 1<<40 {
		t.Errorf("%d bytes, %v", m.Size(), err)
	}
	var zero Meter
	if err := zero.Add(1 << 40); err != nil {
		t.Error(err)
	}
}

// TestTransport reads answers of another node for calls with a small budget.
func TestTransport(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.CopyN(w, zeros{}, 8<<20)
	}))
	defer server.Close()
	client := &http.Client{Transport: Transport{server.Client().Transport}}
	defer client.CloseIdleConnections()
	get := func(ctx context.Context, contentType string) (int, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", contentType)
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return len(body), err
	}
	b := New(4 << 20)
	ctx, done := call(t, b)
	if n, err := get(ctx, "application/proto"); rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_OVERLOADED || n >= 8<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n, err := get(ctx, "application/connect+proto"); n != 8<<20 || err != nil {
		t.Errorf("a stream: %d bytes, %v", n, err)
	}
	if n, err := get(t.Context(), "application/proto"); n != 8<<20 || err != nil {
		t.Errorf("without a budget: %d bytes, %v", n, err)
	}
	done()
	if used := b.used.Load(); used != 0 {
		t.Errorf("%d bytes are left", used)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func BenchmarkMeter(b *testing.B) {
	ctx, done := New(DefaultBytes).Open(b.Context())
	defer done()
	b.ReportAllocs()
	m := NewMeter(ctx)
	for b.Loop() {
		if err := m.Add(1); err != nil {
			b.Fatal(err)
		}
	}
}
