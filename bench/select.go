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

const (
	selectByKey     = "SELECT by key"
	selectFromCache = selectByKey + ", result in sidecar's memory"
	// hotResults is how many statements are asked again and again where their results are kept.
	hotResults = 2000
)

// selectRow asks for a row with SQL. The answer is read into res, if there is one.
func selectRow(c *load.Client, id int64, res *datav1.QueryResponse) error {
	req := &datav1.QueryRequest{Database: database, Statement: &datav1.Statement{
		Sql: "SELECT * FROM " + table + " WHERE id = ?", Parameters: []*datav1.Value{integer(id)},
	}}
	if res == nil {
		return c.Call(datav1connect.DataServiceQueryProcedure, req, nil)
	}
	return c.Call(datav1connect.DataServiceQueryProcedure, req, res)
}

// measureResults measures statements whose results the sidecar has in memory.
func (b *bench) measureResults(ctx context.Context, n *node) error {
	if !b.wants(selectFromCache) {
		return nil
	}
	if err := b.warmResults(ctx, n); err != nil {
		return err
	}
	return b.closed(ctx, measurement{name: selectFromCache, servers: []*node{n}}, n, func(c *load.Client, random *rand.Rand) error {
		return selectRow(c, random.Int64N(hotResults), nil)
	})
}

// warmResults asks the statements until memory answers nearly all of them.
func (b *bench) warmResults(ctx context.Context, n *node) error {
	c, err := n.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for range 20 {
		missed := 0
		for id := range int64(hotResults) {
			var res datav1.QueryResponse
			if err := selectRow(c, id, &res); err != nil {
				return err
			}
			if len(res.GetResult().GetRows()) != 1 {
				return fmt.Errorf("row %d is not there", id)
			}
			if res.GetAnswer().GetSource() != datav1.Source_SOURCE_MEMORY {
				missed++
			}
		}
		if missed*100 < hotResults {
			return nil
		}
	}
	return errors.New("the results do not stay in memory")
}
