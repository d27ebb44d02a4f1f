package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/nearside-dev/nearside/bench/internal/load"
	"github.com/nearside-dev/nearside/bench/internal/process"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

const (
	mixedCalls = "Get by key with 5 % one-row writes, three regions in one process"
	upRows     = 100_000 // at most, in the one process's table
	writeEvery = 20      // calls for one write

	primaryPortOffset = -1010 // of nearside up's primary, from its first gateway's port
)

// measureUp measures a mesh of three regions in one process: clients of all of them read, and write now and then.
func (b *bench) measureUp(ctx context.Context, _ uint64) error {
	if !b.wants(mixedCalls) {
		return nil
	}
	regions := []string{"us-east-1", "eu-west-1", "ap-southeast-1"}
	addr, err := process.FreeAddr(ctx, 1, 2, adminPortOffset, adminPortOffset+1, adminPortOffset+2, primaryPortOffset)
	if err != nil {
		return err
	}
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	p, err := process.Start("up", b.nearside, "up", "--port", text, "--regions", strings.Join(regions, ","),
		"--dir", filepath.Join(b.data, "up"), "--log-level", "warn", withoutCallers)
	if err != nil {
		return err
	}
	at := func(offset int) string { return net.JoinHostPort(host, strconv.Itoa(port+offset)) }
	mesh := &node{Process: p, addr: addr}
	b.nodes = append(b.nodes, mesh)
	if err := mesh.ready(ctx); err != nil {
		return err
	}
	rows := min(b.rows, upRows)
	b.logf("filling the one process with %d rows", rows)
	version, err := fill(ctx, &node{Process: p, addr: at(primaryPortOffset)}, rows)
	if err != nil {
		return err
	}
	m := measurement{name: mixedCalls, servers: []*node{mesh}}
	for i := range regions {
		gateway := &node{Process: p, addr: at(i)}
		if err := gateway.caughtUp(ctx, version); err != nil {
			return err
		}
		m.targets = append(m.targets, gateway.addr)
	}
	var id atomic.Int64
	id.Store(int64(rows))
	err = b.closed(ctx, m, mesh, func(c *load.Client, random *rand.Rand) error {
		if random.IntN(writeEvery) == 0 {
			return write(c, random, id.Add(1))
		}
		key := &datav1.Key{Values: []*datav1.Value{integer(random.Int64N(int64(rows)))}}
		return c.Call(datav1connect.DataServiceGetProcedure, &datav1.GetRequest{Database: database, Table: table, Key: key}, nil)
	})
	if err != nil {
		return fmt.Errorf("three regions in one process: %w", err)
	}
	return b.stop(mesh)
}
