// Command manydb measures what many small databases cost: it starts a primary and three regions as processes of their own,
// fills the databases, and prints a table of times, memory, file handles, goroutines and idle processor time.
//
//	make build && go run ./bench/manydb
//
// It reads /proc and so runs on Linux only. The folder that it works in is removed afterwards.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
)

var regions = []string{"us-east-1", "eu-west-1", "ap-southeast-1"}

const (
	callers   = 8   // at once
	valueSize = 180 // bytes of a row's text: some 200 with the rest
)

type bench struct {
	program   string
	databases int
	rows      int
	idle      time.Duration
	port      int
	dir       string

	data    datav1connect.DataServiceClient
	primary *process
	regions []*process
	out     *tabwriter.Writer
}

func main() {
	b := &bench{}
	flag.StringVar(&b.program, "program", "bin/nearside", "the program to measure")
	flag.IntVar(&b.databases, "databases", 1000, "how many databases")
	flag.IntVar(&b.rows, "rows", 1000, "rows of each")
	flag.DurationVar(&b.idle, "idle", 20*time.Second, "how long to watch the idle mesh")
	flag.IntVar(&b.port, "port", 17070, "the primary's port; the regions follow, admin listeners are 1000 ports higher")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := b.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "manydb:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "manydb-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	defer func() {
		for _, p := range append(b.regions, b.primary) {
			err = errors.Join(err, p.stop())
		}
	}()
	if err := b.start(ctx); err != nil {
		return err
	}
	fmt.Printf("%d databases of %d rows, a primary and %d regions\n\n", b.databases, b.rows, len(b.regions))
	b.out = tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	b.line("step", "seconds", "process", "RSS MiB", "files", "goroutines")
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"empty mesh", func(context.Context) error { return nil }},
		{"create and fill", b.fill},
		{"all regions complete", b.awaitCopies},
		{"stop the primary", func(context.Context) error { return b.primary.stop() }},
		{"start the primary", func(ctx context.Context) error { return b.primary.start(ctx) }},
		{"stop a region", func(context.Context) error { return b.last().stop() }},
		{"start a region", func(ctx context.Context) error { return b.last().start(ctx) }},
		{"query every database once", b.queryAll},
	} {
		begun := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := b.report(ctx, step.name, time.Since(begun)); err != nil {
			return err
		}
	}
	if err := b.watchIdle(ctx); err != nil {
		return err
	}
	return b.out.Flush()
}

// line adds a line to the table. What cannot be written shows at its Flush.
func (b *bench) line(cells ...string) { _, _ = fmt.Fprintln(b.out, strings.Join(cells, "\t")) }

func (b *bench) address(offset int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port+offset))
}

func (b *bench) start(ctx context.Context) (err error) {
	b.primary = &process{
		name: "primary", program: b.program, url: "http://" + b.address(0), admin: "http://" + b.address(1000),
		args: []string{"primary", "--listen", b.address(0), "--dir", b.dir + "/primary", "--log-level", "warn", "--insecure-no-auth"},
	}
	if err := b.primary.start(ctx); err != nil {
		return err
	}
	b.data = datav1connect.NewDataServiceClient(httpclient.NewUnary(), b.primary.url)
	for i, region := range regions {
		p := &process{
			name: region, program: b.program, url: "http://" + b.address(i+1), admin: "http://" + b.address(1001+i),
			args: []string{
				"sidecar", "--region", region, "--primary", b.primary.url, "--listen", b.address(i + 1),
				"--dir", b.dir + "/" + region, "--log-level", "warn", "--insecure-no-auth",
			},
		}
		b.regions = append(b.regions, p)
		if err := p.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// each calls f for each database, a few at once.
func (b *bench) each(f func(name string) error) error {
	names := make(chan string)
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for name := range names {
				if errs[i] == nil {
					errs[i] = f(name)
				}
			}
		})
	}
	for i := range b.databases {
		names <- fmt.Sprintf("tenant-%04d", i)
	}
	close(names)
	wg.Wait()
	return errors.Join(errs...)
}

func (b *bench) fill(ctx context.Context) error {
	return b.each(func(name string) error {
		if _, err := b.data.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: name})); err != nil {
			return err
		}
		_, err := b.data.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{Database: name, Statement: &datav1.Statement{
			Sql: "CREATE TABLE notes (id INTEGER PRIMARY KEY, author INTEGER NOT NULL, text TEXT NOT NULL)",
		}}))
		if err != nil {
			return err
		}
		req := &datav1.BatchInsertRequest{Database: name, Table: "notes", Columns: []string{"id", "author", "text"}}
		for i := range b.rows {
			text := fmt.Sprintf("%s note %d ", name, i)
			req.Rows = append(req.Rows, &datav1.Row{Values: []*datav1.Value{
				{Kind: &datav1.Value_Integer{Integer: int64(i + 1)}},
				{Kind: &datav1.Value_Integer{Integer: int64(i * 7919 % 97)}},
				{Kind: &datav1.Value_Text{Text: text + strings.Repeat("x", max(0, valueSize-len(text)))}},
			}})
		}
		_, err = b.data.BatchInsert(ctx, connect.NewRequest(req))
		return err
	})
}

// awaitCopies returns when every region has all that the primary has.
func (b *bench) awaitCopies(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, p := range b.regions {
		status := controlv1connect.NewStatusServiceClient(httpclient.NewUnary(), p.url)
		for {
			res, err := status.GetStatus(ctx, connect.NewRequest(&controlv1.GetStatusRequest{LocalOnly: true}))
			if err != nil {
				return err
			}
			if b.complete(res.Msg) {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

func (b *bench) complete(status *controlv1.GetStatusResponse) bool {
	n := 0
	for _, d := range status.GetRegions()[0].GetDatabases() {
		if d.GetProblem() == "" && d.GetLag() == 0 && d.GetVersion() == 2 {
			n++
		}
	}
	return n == b.databases
}

func (b *bench) last() *process { return b.regions[len(b.regions)-1] }

func (b *bench) queryAll(ctx context.Context) error {
	return b.each(func(name string) error {
		res, err := b.data.Query(ctx, connect.NewRequest(&datav1.QueryRequest{
			Database: name, Statement: &datav1.Statement{Sql: "SELECT count(*), sum(length(text)) FROM notes"},
		}))
		if err == nil && res.Msg.GetResult().GetRows()[0].GetValues()[0].GetInteger() != int64(b.rows) {
			err = fmt.Errorf("%s has %v", name, res.Msg.GetResult())
		}
		return err
	})
}

func (b *bench) processes() []*process { return append([]*process{b.primary}, b.regions...) }

// report prints what the processes hold.
func (b *bench) report(ctx context.Context, step string, took time.Duration) error {
	seconds := fmt.Sprintf("%.2f", took.Seconds())
	for _, p := range b.processes() {
		if p.cmd == nil {
			continue
		}
		u, err := p.usage(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		b.line(step, seconds, p.name, fmt.Sprintf("%.0f", u.rssMiB), strconv.Itoa(u.files), strconv.Itoa(u.goroutines))
		step, seconds = "", ""
	}
	return nil
}

// watchIdle prints the processor time that the mesh takes while nobody asks it for anything.
func (b *bench) watchIdle(ctx context.Context) error {
	pause := func(d time.Duration) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := pause(5 * time.Second); err != nil { // compactions and collections of what was before
		return err
	}
	before := make([]time.Duration, len(b.processes()))
	begun := time.Now()
	for i, p := range b.processes() {
		var err error
		if before[i], err = p.cpu(); err != nil {
			return err
		}
	}
	if err := pause(b.idle); err != nil {
		return err
	}
	total := 0.0
	took := time.Since(begun).Seconds()
	b.line("")
	b.line("idle", "seconds", "process", "% of a core")
	for i, p := range b.processes() {
		after, err := p.cpu()
		if err != nil {
			return err
		}
		share := 100 * (after - before[i]).Seconds() / took
		total += share
		b.line("", fmt.Sprintf("%.1f", took), p.name, fmt.Sprintf("%.2f", share))
	}
	b.line("", "", "all", fmt.Sprintf("%.2f", total))
	return nil
}
