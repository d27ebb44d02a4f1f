package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

type metrics struct {
	changes   prometheus.Counter
	tailReads prometheus.Counter
	ended     *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_watch_changes_total", Help: "Changes of rows told to watchers.",
		}),
		tailReads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearside_watch_tail_reads_total", Help: "Reads of the log's tail on the disk by watchers that were behind.",
		}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_watch_ended_total", Help: "Watches that ended, by why.",
		}, []string{"why"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.changes, m.tailReads, m.ended} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of watches: %w", err)
		}
	}
	return m, nil
}

// WhyEnded names why a watch ended: an error's reason, or that the caller went.
func WhyEnded(err error) string {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return "gone"
	}
	if reason := rpcerr.ReasonOf(err); reason != datav1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return strings.ToLower(strings.TrimPrefix(reason.String(), "ERROR_REASON_"))
	}
	return "failed"
}
