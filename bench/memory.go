package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/nearside-dev/nearside/bench/internal/load"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

// hotRows is how many rows are read again and again where memory is measured: they fit into a sidecar's default cache.
const hotRows = 10_000

const getFromMemory = "Get by key, sidecar's memory"

var batchFromMemory = fmt.Sprintf("BatchGet of %d keys, sidecar's memory", batchGetKeys)

// measureMemory measures reads of rows that a sidecar has in memory.
func (b *bench) measureMemory(ctx context.Context, version uint64) error {
	if !b.wants(getFromMemory) && !b.wants(batchFromMemory) && !b.wants(selectFromCache) {
		return nil
	}
	b.logf("a sidecar with the default cache copies the rows")
	n, err := b.start(ctx, "eu-central-1", "sidecar", "--region", "eu-central-1", "--primary", "http://"+b.primary.addr,
		withoutCallers)
	if err != nil {
		return err
	}
	if err := n.caughtUp(ctx, version); err != nil {
		return err
	}
	if err := b.warm(ctx, n); err != nil {
		return err
	}
	rows := min(b.rows, hotRows)
	key := func(random *rand.Rand) *datav1.Key {
		return &datav1.Key{Values: []*datav1.Value{integer(random.Int64N(int64(rows)))}}
	}
	err = b.closed(ctx, measurement{name: getFromMemory, servers: []*node{n}}, n, func(c *load.Client, random *rand.Rand) error {
		return c.Call(datav1connect.DataServiceGetProcedure, &datav1.GetRequest{Database: database, Table: table, Key: key(random)}, nil)
	})
	if err != nil {
		return err
	}
	err = b.closed(ctx, measurement{name: batchFromMemory, servers: []*node{n}}, n, func(c *load.Client, random *rand.Rand) error {
		req := &datav1.BatchGetRequest{Database: database, Table: table}
		for range batchGetKeys {
			req.Keys = append(req.Keys, key(random))
		}
		return c.Call(datav1connect.DataServiceBatchGetProcedure, req, nil)
	})
	if err != nil {
		return err
	}
	if err := b.measureResults(ctx, n); err != nil {
		return err
	}
	return b.stop(n)
}

// warm reads the hot rows until memory answers nearly all of them.
func (b *bench) warm(ctx context.Context, n *node) error {
	c, err := n.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	rows := min(b.rows, hotRows)
	for range 20 {
		missed := uint64(0)
		for first := 0; first < rows; first += batchGetKeys {
			req := &datav1.BatchGetRequest{Database: database, Table: table}
			for id := first; id < min(first+batchGetKeys, rows); id++ {
				req.Keys = append(req.Keys, &datav1.Key{Values: []*datav1.Value{integer(int64(id))}})
			}
			var res datav1.BatchGetResponse
			if err := c.Call(datav1connect.DataServiceBatchGetProcedure, req, &res); err != nil {
				return err
			}
			missed += res.GetAnswer().GetRowsRead()
		}
		if missed*100 < uint64(rows) {
			return nil
		}
	}
	return errors.New("the rows do not stay in memory")
}
