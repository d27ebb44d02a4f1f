package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/bench/internal/load"
	"github.com/nearside-dev/nearside/bench/internal/node"
	"github.com/nearside-dev/nearside/bench/internal/process"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/cli/workload"
	"github.com/nearside-dev/nearside/internal/loadgen"
)

const (
	database = "soak"
	parts    = 10 // of the duration, each with a line of its own
)

var regions = []string{"us-east-1", "eu-west-1", "ap-southeast-1"}

// soak starts the mesh, puts the load on it and judges what came back.
func soak(ctx context.Context, s settings, out io.Writer) (err error) {
	var nodes []*node.Node
	defer func() {
		for _, n := range slices.Backward(nodes) {
			err = errors.Join(err, n.Stop())
		}
	}()
	primary, err := node.Start(ctx, s.nearside, s.dir, "primary", "primary")
	if err != nil {
		return err
	}
	nodes = append(nodes, primary)
	data := datav1connect.NewDataServiceClient(http.DefaultClient, primary.URL())
	table := &workload.Workload{Database: database, Keys: s.keys}
	if err := table.Prepare(ctx, data, nil); err != nil {
		return err
	}
	described, err := data.GetDatabase(ctx, connect.NewRequest(&datav1.GetDatabaseRequest{Name: database}))
	if err != nil {
		return err
	}
	for _, region := range regions {
		n, err := node.Start(ctx, s.nearside, s.dir, region, "sidecar", "--region", region, "--primary", primary.URL())
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
		if err := n.Complete(ctx, database, described.Msg.GetDatabase().GetVersion()); err != nil {
			return err
		}
	}
	http.DefaultClient.CloseIdleConnections()
	return s.measure(ctx, nodes, out)
}

func (s *settings) measure(ctx context.Context, nodes []*node.Node, out io.Writer) error {
	plan := loadgen.Plan{Kinds: []string{"get", "write"}, Rate: s.rate, Duration: s.duration / parts}
	for i := range s.connections {
		c := &caller{
			addr: nodes[1+i%len(regions)].Addr, keys: int64(s.keys), writes: s.writes, random: rand.New(rand.NewPCG(7, uint64(i))),
		}
		defer c.close()
		plan.Tasks = append(plan.Tasks, c.request)
	}
	before, err := usage(nodes)
	if err != nil {
		return err
	}
	sum := &loadgen.Result{Kinds: []loadgen.Kind{{Name: "get"}, {Name: "write"}}}
	for range parts {
		r, err := loadgen.Run(ctx, plan)
		if err != nil {
			return err
		}
		sum.Add(r)
		all := r.Total()
		if err := line(out, fmt.Sprintf("after %4.0f s", sum.Elapsed.Seconds()), &all, r.Elapsed); err != nil {
			return err
		}
	}
	after, err := usage(nodes)
	if err != nil {
		return err
	}
	for i := range sum.Kinds {
		if err := line(out, sum.Kinds[i].Name, &sum.Kinds[i], sum.Elapsed); err != nil {
			return err
		}
	}
	all := sum.Total()
	if err := line(out, "all", &all, sum.Elapsed); err != nil {
		return err
	}
	for i, n := range nodes {
		_, err := fmt.Fprintf(out, "%-14s %.2f s of CPU per 100,000 requests of all, memory %d MiB before and %d MiB after\n", n.Name,
			(after[i].CPU-before[i].CPU).Seconds()/float64(all.Requests)*100_000, before[i].Memory>>20, after[i].Memory>>20)
		if err != nil {
			return err
		}
	}
	return s.judge(&all)
}

// line writes what came back.
func line(w io.Writer, name string, k *loadgen.Kind, elapsed time.Duration) error {
	ms := func(q float64) float64 { return float64(k.Latency.Quantile(q).Microseconds()) / 1000 }
	_, err := fmt.Fprintf(w, "%-14s %9d requests, %.0f/s, %.4f %% failed, p50 %.2f ms, p95 %.2f ms, p99 %.2f ms, max %.0f ms\n", name,
		k.Requests, float64(k.Requests-k.Errors)/elapsed.Seconds(), failed(k), ms(0.5), ms(0.95), ms(0.99), ms(1))
	return err
}

// failed is the percentage of requests that failed.
func failed(k *loadgen.Kind) float64 { return float64(k.Errors) / float64(max(k.Requests, 1)) * 100 }

// judge returns which aims were missed.
func (s *settings) judge(all *loadgen.Kind) error {
	var errs []error
	if f := failed(all); all.Requests == 0 || f > s.maxErrors {
		errs = append(errs, fmt.Errorf("%.4f %% of %d requests failed, %v %% may", f, all.Requests, s.maxErrors), all.LastErr)
	}
	if p95 := all.Latency.Quantile(0.95); p95 > s.maxP95 {
		errs = append(errs, fmt.Errorf("p95 is %v, want at most %v", p95, s.maxP95))
	}
	return errors.Join(errs...)
}

func usage(nodes []*node.Node) ([]process.Usage, error) {
	list := make([]process.Usage, len(nodes))
	for i, n := range nodes {
		var err error
		if list[i], err = n.Usage(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// caller makes requests on a connection of its own, which it makes anew after a failure.
type caller struct {
	addr   string
	keys   int64
	writes int
	random *rand.Rand
	conn   *load.Client
}

func (c *caller) close() {
	if c.conn != nil {
		c.conn.Close()
	}
}

// request implements loadgen.Task.
func (c *caller) request(ctx context.Context) (kind int, err error) {
	key := &datav1.Value{Kind: &datav1.Value_Integer{Integer: c.random.Int64N(c.keys)}}
	writes := c.random.IntN(100) < c.writes
	if writes {
		kind = 1
	}
	if c.conn == nil {
		if c.conn, err = load.Dial(ctx, c.addr); err != nil {
			return kind, err
		}
	}
	if writes {
		err = c.conn.Call(datav1connect.DataServiceExecuteProcedure, &datav1.ExecuteRequest{
			Database: database, Statement: &datav1.Statement{
				Sql: "UPDATE bench_rows SET n = n + 1 WHERE id = ?", Parameters: []*datav1.Value{key},
			},
		}, nil)
	} else {
		err = c.conn.Call(datav1connect.DataServiceGetProcedure, &datav1.GetRequest{
			Database: database, Table: "bench_rows", Key: &datav1.Key{Values: []*datav1.Value{key}},
		}, nil)
	}
	if err != nil {
		c.conn.Close()
		c.conn = nil
	}
	return kind, err
}
