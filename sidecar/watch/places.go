package watch

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Defaults of Limits.
const (
	DefaultMaxWatchers            = 4096
	DefaultMaxWatchersPerDatabase = 3072
	DefaultMaxWatchersPerClient   = 2048
)

// MaxRequestBytes is how large the request of a watch may be, of a table or of a query: what it asks for is kept as long as it goes on.
const MaxRequestBytes = 64 << 10

// CheckSize returns REQUEST_TOO_LARGE for the request of a watch that is larger than MaxRequestBytes.
func CheckSize(request proto.Message) error {
	n := proto.Size(request)
	if n <= MaxRequestBytes {
		return nil
	}
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE, "the request of a watch takes %d bytes, it may take %d", n, MaxRequestBytes).
		With("limit", strconv.Itoa(MaxRequestBytes))
}

// Limits is how many watchers there may be, of tables and of queries. Zeros are the defaults.
type Limits struct {
	// Total is how many in all; default DefaultMaxWatchers.
	Total int
	// PerDatabase is how many of one database; default DefaultMaxWatchersPerDatabase.
	PerDatabase int
	// PerClient is how many of one caller; default DefaultMaxWatchersPerClient.
	PerClient int
}

// Places are the places of a sidecar's watchers. They may be used concurrently.
type Places struct {
	limits  Limits
	refused *prometheus.CounterVec

	mu         sync.Mutex // guards what follows
	total      int
	byDatabase map[uint32]int
	byClient   map[string]int
}

// NewPlaces returns free places. The error is a metric's that the registerer has already; nil registers none.
func NewPlaces(l Limits, r prometheus.Registerer) (*Places, error) {
	l.Total = cmp.Or(l.Total, DefaultMaxWatchers)
	l.PerDatabase = cmp.Or(l.PerDatabase, DefaultMaxWatchersPerDatabase)
	l.PerClient = cmp.Or(l.PerClient, DefaultMaxWatchersPerClient)
	p := &Places{
		limits: l, byDatabase: make(map[uint32]int), byClient: make(map[string]int),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_watch_refused_total", Help: "Watches refused because there are too many, by whose limit it was.",
		}, []string{"limit"}),
	}
	if r == nil {
		return p, nil
	}
	watchers := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearside_watchers", Help: "Watches of tables and queries that are served now.",
	}, func() float64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return float64(p.total)
	})
	if err := errors.Join(r.Register(p.refused), r.Register(watchers)); err != nil {
		return nil, fmt.Errorf("register metrics of watchers: %w", err)
	}
	return p, nil
}

// Enter takes a place for a client's watch of a database, to be given back with leave. The error is OVERLOADED.
func (p *Places) Enter(database uint32, client string) (leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range []struct {
		scope      string
		taken, max int
	}{
		{"region", p.total, p.limits.Total},
		{"database", p.byDatabase[database], p.limits.PerDatabase},
		{"client", p.byClient[client], p.limits.PerClient},
	} {
		if l.taken >= l.max {
			p.refused.WithLabelValues(l.scope).Inc()
			return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED,
				"there are %d watchers of this %s in the region, which is the limit", l.max, l.scope).
				With("limit", strconv.Itoa(l.max)).With("scope", l.scope).WithRetryAfter(retryAfter)
		}
	}
	p.total++
	p.byDatabase[database]++
	p.byClient[client]++
	return func() { p.leave(database, client) }, nil
}

func (p *Places) leave(database uint32, client string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total--
	if p.byDatabase[database]--; p.byDatabase[database] == 0 {
		delete(p.byDatabase, database)
	}
	if p.byClient[client]--; p.byClient[client] == 0 {
		delete(p.byClient, client)
	}
}
