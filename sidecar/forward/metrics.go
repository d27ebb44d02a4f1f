package forward

import (
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

type metrics struct {
	calls         *prometheus.CounterVec
	retries       prometheus.Counter
	breakerOpened prometheus.Counter
	breakerState  prometheus.Collector
	inFlight      prometheus.Collector
	streams       prometheus.Collector
}

func newMetrics(p *Primary, r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_forward_calls_total",
			Help: "Calls passed to the primary by what came of them: ok, the primary's code, unreachable, unknown or overloaded.",
		}, []string{"method", "outcome"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_forward_retries_total", Help: "Attempts after the first.",
		}),
		breakerOpened: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_forward_breaker_opened_total", Help: "Times that the breaker towards the primary opened.",
		}),
		breakerState: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "nearside_forward_breaker_state", Help: "The breaker towards the primary: 0 closed, 1 half-open, 2 open.",
		}, func() float64 { return float64(p.breaker.Load().State()) }),
		inFlight: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "nearside_forward_in_flight", Help: "Calls to the primary that wait for an answer.",
		}, func() float64 { return float64(len(p.slots)) }),
		streams: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "nearside_forward_streams", Help: "Streams from the primary that are passed on.",
		}, func() float64 { return float64(len(p.streams)) }),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.calls, m.retries, m.breakerOpened, m.breakerState, m.inFlight, m.streams} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of forwarded calls: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) outcome(method string, err error) {
	outcome := "ok"
	switch own, ok := errors.AsType[*rpcerr.Error](err); {
	case err == nil:
	case !ok:
		wire, _ := rpcerr.ToConnect(err)
		outcome = connect.CodeOf(wire).String()
	case own.Reason() == datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE:
		outcome = "unreachable"
	case own.Reason() == datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN:
		outcome = "unknown"
	default:
		outcome = "overloaded"
	}
	m.calls.WithLabelValues(method, outcome).Inc()
}
