package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/nearside-dev/nearside/bench/internal/load"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

const (
	readAcross  = "Get by key from the primary, through a sidecar"
	writeAcross = "one-row write, through a sidecar"
	overPlain   = " with a plain link"
	overMTLS    = " with a link by mTLS"
)

// measureLink measures what the nodes' certificates add to calls that a region passes on: two meshes of the same rows, one whose
// region is a node with a certificate and one whose region comes without TLS, in turn. Processor time is that of both ends. Writes
// go in bundles, reads each for itself.
func (b *bench) measureLink(ctx context.Context, _ uint64) error {
	names := []string{readAcross + overPlain, readAcross + overMTLS, writeAcross + overPlain, writeAcross + overMTLS}
	wanted := false
	for _, name := range names {
		wanted = wanted || b.wants(name)
	}
	if !wanted {
		return nil
	}
	rows := min(b.rows, hotRows)
	var id atomic.Int64
	id.Store(int64(rows))
	read := func(c *load.Client, random *rand.Rand) error {
		return c.Call(datav1connect.DataServiceGetProcedure, &datav1.GetRequest{
			Database: database, Table: table, Key: &datav1.Key{Values: []*datav1.Value{integer(random.Int64N(int64(rows)))}},
			Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY},
		}, nil)
	}
	writeNext := func(c *load.Client, random *rand.Rand) error { return write(c, random, id.Add(1)) }
	meshes := make([][]*node, 2)
	for i, link := range []string{overPlain, overMTLS} {
		nodes, err := b.linkMesh(ctx, link == overMTLS)
		if err != nil {
			return err
		}
		meshes[i] = nodes
	}
	// Twice each: processor time drifts with what else the machine does.
	for range 2 {
		for i, call := range []func(*load.Client, *rand.Rand) error{read, writeNext} {
			for j, nodes := range meshes {
				if err := b.closed(ctx, measurement{name: names[2*i+j], servers: nodes}, nodes[1], call); err != nil {
					return err
				}
			}
		}
	}
	for _, nodes := range meshes {
		if err := errors.Join(b.stop(nodes[1]), b.stop(nodes[0])); err != nil {
			return err
		}
	}
	return nil
}

// linkMesh starts a primary and a region, and sees to it that their link is what is to be measured.
func (b *bench) linkMesh(ctx context.Context, mtls bool) ([]*node, error) {
	name, flags := "mtls", []string(nil)
	if !mtls {
		name, flags = "plain", []string{"--require-node-certificates=false"}
	}
	primary, region, err := b.pair(ctx, name, flags, nil)
	if err != nil {
		return nil, err
	}
	_, err = os.Stat(filepath.Join(b.data, region.Name, "node", "node.pem"))
	if has := !errors.Is(err, fs.ErrNotExist); has != mtls {
		return nil, fmt.Errorf("that %s has a certificate of a node is %t", region.Name, has)
	}
	return []*node{primary, region}, nil
}
