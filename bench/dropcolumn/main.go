// Command dropcolumn measures what ALTER TABLE … DROP COLUMN costs on a large table: it starts a primary and a region as
// processes of their own, fills a table, drops a column, and prints how long that took at the primary, when the region answered
// from its own copy again, how many bytes went there, and the processor time of both.
//
//	make build && go run ./bench/dropcolumn
//
// It reads /proc and so runs on Linux only. The folder that it works in is removed afterwards.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/bench/internal/node"
	"github.com/nearside-dev/nearside/bench/internal/tap"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

const (
	database = "large"
	batch    = 100_000 // rows of a transaction
)

func main() {
	binary := flag.String("nearside", "bin/nearside", "the binary to run")
	rows := flag.Int("rows", 1_000_000, "rows in the table")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *binary, *rows)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "dropcolumn:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary string, rows int) (err error) {
	dir, err := os.MkdirTemp("", "nearside-dropcolumn-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	primary, err := node.Start(ctx, binary, dir, "primary", "primary")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, primary.Stop()) }()
	wire, err := tap.Start(ctx, primary.Addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wire.Close()) }()
	region, err := node.Start(ctx, binary, dir, "region", "sidecar", "--region", "eu-west-1", "--primary", "http://"+wire.Addr())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, region.Stop()) }()

	m := mesh{
		primary: datav1connect.NewDataServiceClient(http.DefaultClient, primary.URL()),
		region:  datav1connect.NewDataServiceClient(http.DefaultClient, region.URL()),
	}
	if err := m.fill(ctx, rows); err != nil {
		return err
	}
	nodes := []*node.Node{primary, region}
	before := make([]time.Duration, len(nodes))
	for i, n := range nodes {
		if before[i], err = n.CPU(); err != nil {
			return err
		}
	}
	sent, begun := wire.Count(), time.Now()
	bookmark, err := m.execute(ctx, "ALTER TABLE t DROP COLUMN c")
	if err != nil {
		return err
	}
	answered := time.Since(begun)
	if err := m.awaitRegion(ctx, bookmark, rows); err != nil {
		return err
	}
	served := time.Since(begun)
	fmt.Printf("rows %d\nanswered after %.2f s\nregion answers by itself after %.2f s\nreplication sent %.3f MB\n",
		rows, answered.Seconds(), served.Seconds(), float64(wire.Count().Down-sent.Down)/1e6)
	for i, n := range nodes {
		after, err := n.CPU()
		if err != nil {
			return err
		}
		fmt.Printf("processor time of the %s %.2f s\n", n.Name, (after - before[i]).Seconds())
	}
	return nil
}

// mesh is the two listeners.
type mesh struct {
	primary, region datav1connect.DataServiceClient
}

func (m *mesh) execute(ctx context.Context, sql string) (bookmark string, err error) {
	res, err := m.primary.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
		Database: database, Statement: &datav1.Statement{Sql: sql},
	}))
	if err != nil {
		return "", fmt.Errorf("%s: %w", sql, err)
	}
	return res.Msg.GetAnswer().GetBookmark(), nil
}

func (m *mesh) fill(ctx context.Context, rows int) error {
	if _, err := m.primary.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: database})); err != nil {
		return err
	}
	bookmark, err := m.execute(ctx, "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b INTEGER, c TEXT, d REAL)")
	for from := 0; from < rows && err == nil; from += batch {
		bookmark, err = m.execute(ctx, fmt.Sprintf(`WITH RECURSIVE n(i) AS (VALUES (%d) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < %d)
			INSERT INTO t SELECT i, hex(randomblob(40)), i %% 97, hex(randomblob(20)), i / 3.0 FROM n`, from, min(rows, from+batch)))
	}
	if err != nil {
		return err
	}
	return m.awaitRegion(ctx, bookmark, rows)
}

// awaitRegion returns when the region answers of the bookmark's version from its own copy.
func (m *mesh) awaitRegion(ctx context.Context, bookmark string, rows int) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		res, err := m.region.Query(ctx, connect.NewRequest(&datav1.QueryRequest{
			Database: database, Statement: &datav1.Statement{Sql: "SELECT id FROM t ORDER BY id DESC LIMIT 1"},
			Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_AT_LEAST, Bookmark: bookmark},
		}))
		if err == nil && !res.Msg.GetAnswer().GetServedByPrimary() {
			if last := res.Msg.GetResult().GetRows()[0].GetValues()[0].GetInteger(); last != int64(rows)-1 {
				return fmt.Errorf("the region's last row is %d", last)
			}
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
