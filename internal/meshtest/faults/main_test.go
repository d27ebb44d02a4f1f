package faults_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/value"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	east = "us-east-1"
	west = "eu-west-1"
)

const (
	db          = "d"
	createTable = "CREATE TABLE w (id INTEGER PRIMARY KEY, v TEXT)"
)

// startLinked starts a mesh in which every region but the first reaches the primary through a proxy of its own.
func startLinked(t *testing.T, regions ...string) (*meshtest.Mesh, map[string]*faultproxy.Proxy) {
	t.Helper()
	links := make(map[string]*faultproxy.Proxy)
	m := meshtest.Start(t, meshtest.Options{
		Regions: append([]string{east}, regions...),
		Through: func(region, primaryAddr string) string {
			if region == east {
				return primaryAddr
			}
			if links[region] == nil {
				links[region] = faultproxy.Start(t, primaryAddr)
			}
			return links[region].Addr()
		},
	})
	m.Create(db)
	m.Exec("", db, createTable)
	m.WaitSync(db)
	return m, links
}

// insert writes a value, under an idempotency key if there is one.
func insert(ctx context.Context, client datav1connect.DataServiceClient, key, v string) error {
	req := connect.NewRequest(&datav1.ExecuteRequest{
		Database: db, Statement: &datav1.Statement{
			Sql: "INSERT INTO w (v) VALUES (?1)", Parameters: []*datav1.Value{value.ToProto(value.Text(v))},
		},
	})
	if key != "" {
		req.Header().Set(rpcheader.IdempotencyKey, key)
	}
	_, err := client.Execute(ctx, req)
	return err
}

// rows counts the rows at the primary, by value.
func rows(t *testing.T, m *meshtest.Mesh) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	req := &datav1.QueryRequest{Database: db, Statement: &datav1.Statement{Sql: "SELECT v, count(*) FROM w GROUP BY v"}}
	res, err := m.Client("").Query(t.Context(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range res.Msg.GetResult().GetRows() {
		counts[r.GetValues()[0].GetText()] = int(r.GetValues()[1].GetInteger())
	}
	return counts
}

// checkOnce checks that there are n rows, no two of one value.
func checkOnce(t *testing.T, m *meshtest.Mesh, n int64) {
	t.Helper()
	counts := rows(t, m)
	for v, count := range counts {
		if count != 1 {
			t.Errorf("%s was written %d times", v, count)
		}
	}
	if int64(len(counts)) != n {
		t.Errorf("%d rows, want %d", len(counts), n)
	}
}

// get reads a row in a region.
func get(ctx context.Context, m *meshtest.Mesh, region, table string, id int64, c *datav1.Consistency) (*datav1.GetResponse, error) {
	res, err := m.Client(region).Get(ctx, connect.NewRequest(&datav1.GetRequest{
		Database: db, Table: table, Key: &datav1.Key{Values: []*datav1.Value{value.ToProto(value.Integer(id))}}, Consistency: c,
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// status returns what a region says of itself and of the test's database.
func status(ctx context.Context, m *meshtest.Mesh, region string) (
	*controlv1.GetStatusResponse_Region, *controlv1.GetStatusResponse_Database, error,
) {
	r, err := meshtest.Status(ctx, m.HTTP(), m.URL(region))
	if err != nil {
		return nil, nil, err
	}
	for _, d := range r.GetDatabases() {
		if d.GetName() == db {
			return r, d, nil
		}
	}
	return r, nil, fmt.Errorf("no database %s in %v", db, r)
}

// waitConnected waits until a region has its stream from the primary.
func waitConnected(t *testing.T, m *meshtest.Mesh, region string) {
	t.Helper()
	m.Eventually(region+" is connected", func(ctx context.Context) error {
		r, _, err := status(ctx, m, region)
		if err == nil && !r.GetConnected() {
			err = errNotYet
		}
		return err
	})
}

// load is writers that never give up a write: each repeats it under its idempotency key until it is acknowledged.
type load struct {
	t       *testing.T
	stop    chan struct{}
	wg      sync.WaitGroup
	acked   atomic.Int64
	retried atomic.Int64
}

// startLoad starts writers, each of which makes at most limit writes; 0 is without limit. Their values and keys begin with
// name.
func startLoad(t *testing.T, name string, writers, limit int, clients ...datav1connect.DataServiceClient) *load {
	l := &load{t: t, stop: make(chan struct{})}
	for w := range writers {
		l.wg.Go(func() {
			for i := 0; limit == 0 || i < limit; i++ {
				select {
				case <-l.stop:
					return
				default:
				}
				if !l.write(clients[w%len(clients)], fmt.Sprintf("%s.%d.%d", name, w, i)) {
					return
				}
			}
		})
	}
	return l
}

func (l *load) write(client datav1connect.DataServiceClient, v string) bool {
	for range 2000 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := insert(ctx, client, v, v)
		cancel()
		if err == nil {
			l.acked.Add(1)
			return true
		}
		if !mayRepeat(err) {
			l.t.Errorf("write %s: %v", v, err)
			return false
		}
		l.retried.Add(1)
		pause(5 * time.Millisecond)
	}
	l.t.Errorf("write %s: gave up", v)
	return false
}

func mayRepeat(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeAborted, connect.CodeCanceled,
		connect.CodeResourceExhausted:
		return true
	default:
		return false
	}
}

// grow waits until n more writes were acknowledged.
func (l *load) grow(n int64) {
	l.t.Helper()
	before := l.acked.Load()
	meshtest.Eventually(l.t, "writes go on", func(context.Context) error {
		if now := l.acked.Load(); now < before+n {
			return fmt.Errorf("%d acknowledged", now-before)
		}
		return nil
	})
}

// end stops the load, or waits for its limit, and returns how many writes were acknowledged. Those in progress are seen
// through.
func (l *load) end() int64 {
	close(l.stop)
	return l.wait()
}

func (l *load) wait() int64 {
	l.wg.Wait()
	return l.acked.Load()
}

// pause gives other goroutines and processes real time.
func pause(d time.Duration) { <-time.After(d) }

func wantError(t *testing.T, err error, code connect.Code, reason datav1.ErrorReason) {
	t.Helper()
	if connect.CodeOf(err) != code || rpcerr.ReasonOf(err) != reason {
		t.Errorf("error %v (%v), want %v with reason %v", err, rpcerr.ReasonOf(err), code, reason)
	}
}

var errNotYet = errors.New("not yet")
