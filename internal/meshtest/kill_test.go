package meshtest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// kills is how often the kill tests kill; fewer with -short.
func kills() int {
	if testing.Short() {
		return 4
	}
	return 20
}

// load is 64 writers that never give up a write: each repeats it under its idempotency key until it is acknowledged.
type load struct {
	t       *testing.T
	clients []datav1connect.DataServiceClient
	stop    chan struct{}
	wg      sync.WaitGroup
	acked   atomic.Int64
	retried atomic.Int64
}

const writers = 64

func startLoad(t *testing.T, clients ...datav1connect.DataServiceClient) *load {
	t.Helper()
	l := &load{t: t, clients: clients, stop: make(chan struct{})}
	for w := range writers {
		l.wg.Go(func() { l.write(w) })
	}
	return l
}

func (l *load) write(w int) {
	client := l.clients[w%len(l.clients)]
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		v := fmt.Sprintf("%d.%d", w, i)
		for try := 0; ; try++ {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			req := connect.NewRequest(&datav1.ExecuteRequest{
				Database: "d", Statement: &datav1.Statement{Sql: fmt.Sprintf("INSERT INTO w (v) VALUES ('%s')", v)},
			})
			req.Header().Set(rpcheader.IdempotencyKey, v)
			_, err := client.Execute(ctx, req)
			cancel()
			if err == nil {
				l.acked.Add(1)
				break
			}
			// The value is not unique in the table: a write done twice would be seen, not refused.
			switch connect.CodeOf(err) {
			case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeAborted, connect.CodeCanceled, connect.CodeResourceExhausted:
				l.retried.Add(1)
			default:
				l.t.Errorf("write %s: %v", v, err)
				return
			}
			if try > 2000 {
				l.t.Errorf("write %s: gave up: %v", v, err)
				return
			}
			pause(5 * time.Millisecond)
		}
	}
}

// pause waits for real time to pass in other processes.
func pause(d time.Duration) { <-time.After(d) }

// end stops the load and returns how many writes were acknowledged. Writes in progress are seen through.
func (l *load) end() int64 {
	close(l.stop)
	l.wg.Wait()
	return l.acked.Load()
}

func clientsOf(
	t *testing.T, ps *meshtest.Processes, regions ...string,
) (clients []datav1connect.DataServiceClient, done func()) {
	t.Helper()
	http := httpclient.NewUnary()
	meshtest.Show(t, http, ps.AdminFile())
	for _, r := range regions {
		clients = append(clients, datav1connect.NewDataServiceClient(http, ps.URL(r)))
	}
	return clients, http.CloseIdleConnections
}

func setUp(t *testing.T, client datav1connect.DataServiceClient) {
	t.Helper()
	ctx := context.Background()
	if _, err := client.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: "d"})); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
		Database: "d", Statement: &datav1.Statement{Sql: "CREATE TABLE w (id INTEGER PRIMARY KEY, v TEXT)"},
	})); err != nil {
		t.Fatal(err)
	}
}

// checkOnce compares what was acknowledged with what is there: every write once.
func checkOnce(t *testing.T, client datav1connect.DataServiceClient, acked int64) {
	t.Helper()
	res, err := client.Query(context.Background(), connect.NewRequest(&datav1.QueryRequest{
		Database: "d", Statement: &datav1.Statement{Sql: "SELECT count(*), count(DISTINCT v) FROM w"},
		Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY},
	}))
	if err != nil {
		t.Fatal(err)
	}
	row := res.Msg.GetResult().GetRows()[0].GetValues()
	if rows, distinct := row[0].GetInteger(), row[1].GetInteger(); rows != acked || distinct != acked {
		t.Errorf("%d writes acknowledged, %d rows of %d values", acked, rows, distinct)
	}
}

// TestKillPrimaryUnderLoad kills the primary again and again under 64 writers in two regions. Nothing that was acknowledged
// is lost, nothing is there twice, and the regions equal the primary afterwards.
func TestKillPrimaryUnderLoad(t *testing.T) {
	http := httpclient.NewUnary()
	defer http.CloseIdleConnections()
	ps := meshtest.StartProcesses(t, http, east, west)
	clients, done := clientsOf(t, ps, east, west)
	defer done()
	setUp(t, clients[0])
	l := startLoad(t, clients...)
	var slowest time.Duration
	for range kills() {
		before := l.acked.Load()
		meshtest.Eventually(t, "writes go on", func(context.Context) error {
			if now := l.acked.Load(); now < before+100 {
				return fmt.Errorf("%d acknowledged", now-before)
			}
			return nil
		})
		pause(rand.N(50 * time.Millisecond))
		ps.KillPrimary()
		begun := time.Now()
		ps.StartPrimary()
		ps.WaitReady(ps.PrimaryURL())
		slowest = max(slowest, time.Since(begun))
	}
	acked := l.end()
	checkOnce(t, clients[0], acked)
	meshtest.WaitSync(t, http, ps.PrimaryURL(), ps.URLs(), "d")
	meshtest.CompareAll(t, http, ps.PrimaryURL(), ps.URLs(), "d")
	t.Logf("%d kills, %d writes acknowledged, %d tries repeated, slowest return to service %v",
		kills(), acked, l.retried.Load(), slowest)
}

// TestKillSidecarUnderLoad kills a region again and again: it goes on from its own copy and equals the primary afterwards.
func TestKillSidecarUnderLoad(t *testing.T) {
	http := httpclient.NewUnary()
	defer http.CloseIdleConnections()
	ps := meshtest.StartProcesses(t, http, east, west)
	clients, done := clientsOf(t, ps, east, west)
	defer done()
	setUp(t, clients[0])
	l := startLoad(t, clients[0]) // through the region that lives
	var slowest time.Duration
	for range kills() {
		before := l.acked.Load()
		meshtest.Eventually(t, "writes go on", func(context.Context) error {
			if now := l.acked.Load(); now < before+100 {
				return fmt.Errorf("%d acknowledged", now-before)
			}
			return nil
		})
		pause(rand.N(50 * time.Millisecond))
		ps.KillSidecar(west)
		begun := time.Now()
		ps.StartSidecar(west)
		ps.WaitReady(ps.URL(west))
		slowest = max(slowest, time.Since(begun))
	}
	acked := l.end()
	checkOnce(t, clients[0], acked)
	meshtest.WaitSync(t, http, ps.PrimaryURL(), ps.URLs(), "d")
	meshtest.CompareAll(t, http, ps.PrimaryURL(), ps.URLs(), "d")
	t.Logf("%d kills, %d writes acknowledged, slowest return to service %v", kills(), acked, slowest)
}
