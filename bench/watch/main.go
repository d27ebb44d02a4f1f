// Command watch measures change feeds: how long after a write at the primary watchers in another region have it, and what idle
// watchers cost. It starts a primary and a region as processes of their own.
//
//	make build && go run ./bench/watch
//
// A write's time is from before it is sent to the event at a watcher, so the write itself is in it. The writers, and all
// watchers, are in this process, on the same processors. It reads /proc and so runs on Linux only. The folder that it works in is
// removed afterwards.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/bench/internal/load"
	"github.com/nearside-dev/nearside/bench/internal/node"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/histogram"
	"github.com/nearside-dev/nearside/internal/httpclient"
)

const (
	database = "watched"
	table    = "events"
	writers  = 16 // connections
	groups   = 100
	warmUp   = time.Second
)

type bench struct {
	binary   string
	rate     int
	watchers int
	idle     int
	duration time.Duration

	primary, region *node.Node
	data            datav1connect.DataServiceClient // of the region
	ids             atomic.Int64
}

func main() {
	b := &bench{}
	flag.StringVar(&b.binary, "nearside", "bin/nearside", "the binary to run")
	flag.IntVar(&b.rate, "rate", 2000, "writes a second")
	flag.IntVar(&b.watchers, "watchers", groups, "watchers at a time, while there are writes")
	flag.IntVar(&b.idle, "idle", 1000, "idle watchers")
	flag.DurationVar(&b.duration, "duration", 5*time.Second, "how long each measurement takes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := b.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "watch:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "nearside-watch-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if b.primary, err = node.Start(ctx, b.binary, dir, "primary", "primary"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.primary.Stop()) }()
	if b.region, err = node.Start(ctx, b.binary, dir, "region", "sidecar", "--region", "eu-west-1", "--primary", b.primary.URL()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.region.Stop()) }()
	client := httpclient.NewStreaming()
	defer client.CloseIdleConnections()
	b.data = datav1connect.NewDataServiceClient(client, b.region.URL())
	if err := b.setUp(ctx); err != nil {
		return err
	}
	if err := b.measureIdle(ctx); err != nil {
		return err
	}
	for _, mode := range []struct {
		name   string
		filter func(watcher int) map[string]*datav1.Value
	}{
		{"each of a part of the rows", func(i int) map[string]*datav1.Value {
			return map[string]*datav1.Value{"part": integer(int64(i % groups))}
		}},
		{"each of all rows", func(int) map[string]*datav1.Value { return nil }},
	} {
		if err := b.measureEvents(ctx, mode.name, mode.filter); err != nil {
			return fmt.Errorf("%s: %w", mode.name, err)
		}
	}
	return nil
}

func integer(n int64) *datav1.Value { return &datav1.Value{Kind: &datav1.Value_Integer{Integer: n}} }

// setUp makes the table, and waits until the region has it.
func (b *bench) setUp(ctx context.Context) error {
	primary := datav1connect.NewDataServiceClient(httpclient.NewUnary(), b.primary.URL())
	if _, err := primary.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: database})); err != nil {
		return err
	}
	_, err := primary.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{Database: database, Statement: &datav1.Statement{
		Sql: "CREATE TABLE " + table + " (id INTEGER PRIMARY KEY, part INTEGER NOT NULL, sent INTEGER NOT NULL, text TEXT NOT NULL)",
	}}))
	if err != nil {
		return err
	}
	return b.region.Complete(ctx, database, 1)
}

// watch watches until ctx ends. Begun is called when the stream has begun, told for each change.
func (b *bench) watch(ctx context.Context, equal map[string]*datav1.Value, begun func(), told func(*datav1.WatchResponse_Change)) error {
	stream, err := b.data.Watch(ctx, connect.NewRequest(&datav1.WatchRequest{Database: database, Table: table, Equal: equal}))
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // the watch has ended
	for first := true; stream.Receive(); first = false {
		if first {
			begun()
		}
		for _, c := range stream.Msg().GetChanges() {
			told(c)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return stream.Err()
}

// start starts so many watchers and returns when all of their streams have begun. End ends them.
func (b *bench) start(
	ctx context.Context, n int, filter func(int) map[string]*datav1.Value, told func(watcher int, c *datav1.WatchResponse_Change),
) (end func() error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var running, beginning sync.WaitGroup
	beginning.Add(n)
	for i := range n {
		running.Go(func() {
			begun := sync.OnceFunc(beginning.Done)
			if err := b.watch(ctx, filter(i), begun, func(c *datav1.WatchResponse_Change) { told(i, c) }); err != nil {
				cancel(fmt.Errorf("watcher %d: %w", i, err))
			}
			begun()
		})
	}
	beginning.Wait()
	return func() error {
		err := context.Cause(ctx)
		cancel(context.Canceled)
		running.Wait()
		return err
	}
}

// measureIdle measures the memory of watchers that nothing is told.
func (b *bench) measureIdle(ctx context.Context) error {
	none := func(int) map[string]*datav1.Value { return nil }
	ignore := func(int, *datav1.WatchResponse_Change) {}
	// A few come and go first, for what the process takes once.
	if err := b.start(ctx, b.idle/10, none, ignore)(); err != nil {
		return err
	}
	before, err := b.region.Memory()
	if err != nil {
		return err
	}
	end := b.start(ctx, b.idle, none, ignore)
	timer := time.NewTimer(2 * b.duration)
	defer timer.Stop()
	cpu, err := b.region.CPU()
	if err != nil {
		return err
	}
	begun := time.Now()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	used, err := b.region.CPU()
	if err != nil {
		return err
	}
	elapsed := time.Since(begun)
	after, err := b.region.Memory()
	if err != nil {
		return err
	}
	if err := end(); err != nil {
		return err
	}
	fmt.Printf("%d idle watchers: %.1f KiB each (resident memory %d MiB before, %d MiB with them), %.2f %% of a core\n",
		b.idle, float64(int64(after.Resident)-int64(before.Resident))/1024/float64(b.idle), before.Resident>>20, after.Resident>>20,
		(used-cpu).Seconds()/elapsed.Seconds()*100)
	return nil
}

// measureEvents measures how long after their writes changes reach watchers.
func (b *bench) measureEvents(ctx context.Context, name string, filter func(int) map[string]*datav1.Value) error {
	latencies := make([]histogram.Histogram, b.watchers)
	var measuring atomic.Bool // not before the warm-up is over
	end := b.start(ctx, b.watchers, filter, func(i int, c *datav1.WatchResponse_Change) {
		if !measuring.Load() || c.GetRow() == nil {
			return
		}
		sent := c.GetRow().GetValues()[2].GetInteger()
		latencies[i].Record(time.Duration(time.Now().UnixNano() - sent))
	})
	tasks := make([]load.Task, writers)
	for i := range tasks {
		c, err := load.Dial(ctx, b.primary.Addr)
		if err != nil {
			return errors.Join(err, end())
		}
		defer c.Close()
		part := int64(i)
		tasks[i] = func() (time.Duration, error) {
			part = (part + writers) % groups
			begun := time.Now()
			err := c.Call(datav1connect.DataServiceTransactProcedure, &datav1.TransactRequest{
				Database: database, Operations: []*datav1.Operation{{Operation: &datav1.Operation_Put{Put: &datav1.Put{
					Table: table, Values: map[string]*datav1.Value{
						"id": integer(b.ids.Add(1)), "part": integer(part), "sent": integer(begun.UnixNano()),
						"text": {Kind: &datav1.Value_Text{Text: text}},
					},
				}}}},
			}, nil)
			return time.Since(begun), err
		}
	}
	if _, err := load.Paced(ctx, warmUp, b.rate, tasks); err != nil {
		return errors.Join(err, end())
	}
	before, err := b.region.CPU()
	if err != nil {
		return errors.Join(err, end())
	}
	measuring.Store(true)
	r, err := load.Paced(ctx, b.duration, b.rate, tasks)
	if err != nil {
		return errors.Join(err, end())
	}
	after, err := b.region.CPU()
	if err := errors.Join(err, end()); err != nil {
		return err
	}
	var all histogram.Histogram
	for i := range latencies {
		all.Merge(&latencies[i])
	}
	ms := func(q float64) float64 { return float64(all.Quantile(q).Microseconds()) / 1000 }
	fmt.Printf("%d watchers, %s: %.0f writes/s, %.0f events/s, write to event p50 %.2f ms, p99 %.2f ms, max %.0f ms; "+
		"the region takes %.2f of a core, %.1f µs an event\n", b.watchers, name,
		r.Rate(), float64(all.Count())/r.Elapsed.Seconds(), ms(0.5), ms(0.99), ms(1),
		(after-before).Seconds()/r.Elapsed.Seconds(), (after-before).Seconds()*1e6/float64(all.Count()))
	return nil
}

// text makes a row of about 200 bytes.
const text = "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz" +
	"0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz"
