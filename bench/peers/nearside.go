package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/bench/internal/load"
	"github.com/nearside-dev/nearside/bench/internal/node"
	"github.com/nearside-dev/nearside/bench/internal/process"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/cli/workload"
)

// startNearside starts a primary and a region. Reads go to the region, writes to each.
func startNearside(ctx context.Context, s *settings, dir string) (_ *running, err error) {
	var nodes []*node.Node
	stop := func() error {
		var errs []error
		for _, n := range slices.Backward(nodes) {
			errs = append(errs, n.Stop())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	primary, err := node.Start(ctx, s.nearside, dir, "primary", "primary")
	if err != nil {
		return nil, err
	}
	nodes = append(nodes, primary)
	data := datav1connect.NewDataServiceClient(http.DefaultClient, primary.URL())
	table := &workload.Workload{Database: "bench", Keys: s.rows}
	if err := table.Prepare(ctx, data, nil); err != nil {
		return nil, err
	}
	described, err := data.GetDatabase(ctx, connect.NewRequest(&datav1.GetDatabaseRequest{Name: table.Database}))
	if err != nil {
		return nil, err
	}
	region, err := node.Start(ctx, s.nearside, dir, "eu-west-1", "sidecar", "--region", "eu-west-1", "--primary", primary.URL())
	if err != nil {
		return nil, err
	}
	nodes = append(nodes, region)
	if err := region.Complete(ctx, table.Database, described.Msg.GetDatabase().GetVersion()); err != nil {
		return nil, err
	}
	http.DefaultClient.CloseIdleConnections()
	read := func(c *load.Client, random *rand.Rand) error {
		return c.Call(datav1connect.DataServiceGetProcedure, getRequest(random, s.rows), nil)
	}
	write := func(c *load.Client, random *rand.Rand) error {
		return c.Call(datav1connect.DataServiceTransactProcedure, &datav1.TransactRequest{
			Database: table.Database, Operations: []*datav1.Operation{{Operation: &datav1.Operation_Put{Put: &datav1.Put{
				Table: "bench_rows", Values: map[string]*datav1.Value{
					"id": integer(random.Int64N(int64(s.rows))), "n": integer(random.Int64N(1 << 30)), "text": text(payload),
				},
			}}}},
		}, nil)
	}
	return &running{servers: []*process.Process{primary.Process, region.Process}, stop: stop, calls: []call{
		closedLoop(s, "Get by key, in the region", connectTask(ctx, region.Addr, read)),
		closedLoop(s, "durable put of a row, at the primary", connectTask(ctx, primary.Addr, write)),
		closedLoop(s, "durable put of a row, through the region", connectTask(ctx, region.Addr, write)),
	}}, nil
}
