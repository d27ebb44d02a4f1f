// Package budget bounds the memory that all calls of a listener together take for what they gather before they answer.
//
// Each answer has a limit of its own, but hundreds may be gathered at a time. A listener's Budget gives each request an Account;
// what gathers rows for it measures them with a Meter, which is refused with OVERLOADED where there is no more to be had. What a
// request has taken is given back when its answer is sent, or has failed.
package budget

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

const (
	// DefaultBytes is a listener's budget: four of the largest answers.
	DefaultBytes = 256 << 20
	// FreeBytes is what each call may gather besides: few gather more.
	FreeBytes = 1 << 20
	// step is how much is taken at a time.
	step = 256 << 10
	// retryAfter is when those may try again for whom there was nothing left.
	retryAfter = time.Second
)

// Budget is what the calls of a listener may take at a time. It may be used concurrently.
type Budget struct {
	limit   int64
	used    atomic.Int64
	refused atomic.Int64
}

// New returns a Budget of so many bytes.
func New(limit int64) *Budget { return &Budget{limit: limit} }

// Collectors returns the metrics of a listener's budget.
func (b *Budget) Collectors(listener string) []prometheus.Collector {
	labels := prometheus.Labels{"listener": listener}
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "nearside_server_answer_bytes", Help: "Bytes that answers above a megabyte take while they are gathered and sent.",
			ConstLabels: labels,
		}, func() float64 { return float64(b.used.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "nearside_server_answers_refused_total", Help: "Calls that were refused because all answers together took too much.",
			ConstLabels: labels,
		}, func() float64 { return float64(b.refused.Load()) }),
	}
}

type accountKey struct{}

// Open returns a request's context with an account, and what closes it when the answer has been sent.
func (b *Budget) Open(ctx context.Context) (with context.Context, done func()) {
	a := &Account{budget: b}
	return context.WithValue(ctx, accountKey{}, a), a.close
}

// Account is what a call has taken. It may be used concurrently, and after the call's end, when it takes nothing any more. A nil
// Account is one of a call without a budget.
type Account struct {
	budget *Budget

	mu     sync.Mutex
	taken  int64
	closed bool
}

// From returns the account of a call's context, or nil.
func From(ctx context.Context) *Account {
	a, _ := ctx.Value(accountKey{}).(*Account)
	return a
}

func (a *Account) take(n int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	if used := a.budget.used.Add(n); used > a.budget.limit {
		a.budget.used.Add(-n)
		a.budget.refused.Add(1)
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "the answers that are being gathered take all the memory they may").
			With("limit", strconv.FormatInt(a.budget.limit, 10)).WithRetryAfter(retryAfter)
	}
	a.taken += n
	return nil
}

func (a *Account) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.budget.used.Add(-a.taken)
	a.taken = 0
}

// Meter measures one answer. The zero Meter measures and refuses nothing.
type Meter struct {
	account *Account
	size    int64
	paid    int64 // what may be reached before more is taken
}

// NewMeter returns a meter of an answer to the call of ctx.
func NewMeter(ctx context.Context) Meter { return Meter{account: From(ctx), paid: FreeBytes} }

// Size is how many bytes were added.
func (m *Meter) Size() int { return int(m.size) }

// Add adds bytes to the answer. The error is OVERLOADED.
func (m *Meter) Add(n int) error {
	if m.size += int64(n); m.size <= m.paid || m.account == nil {
		return nil
	}
	more := (m.size - m.paid + step - 1) / step * step
	if err := m.account.take(more); err != nil {
		return err
	}
	m.paid += more
	return nil
}
