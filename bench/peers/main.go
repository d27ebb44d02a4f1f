// Command peers measures the same two things, a read of one row by its key and a durable write of one row, of Nearside and of
// what one could use instead, one after the other on this machine, beside a bare net/http handler and a bare Connect echo. What
// is not installed is printed as such. It needs Linux.
//
//	go run ./bench/peers -nearside bin/nearside
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nearside-dev/nearside/bench/internal/process"
	"github.com/nearside-dev/nearside/internal/loadgen"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1) //nolint:gocritic // the process ends, and with it the signals' handler
	}
}

// settings is what a run is told.
type settings struct {
	nearside string // the binary
	dir      string // for data
	duration time.Duration
	rows     int
	clients  int
	only     string // names of peers, separated by commas; empty is all
}

// peer is something to measure.
type peer struct {
	name string
	// start starts it, fills it and returns what it is to be asked. What it started is stopped by measured's stop, or by start
	// itself if that fails. errNotInstalled says that there is none here.
	start func(ctx context.Context, s *settings, dir string) (*running, error)
}

var errNotInstalled = errors.New("not installed")

// running is a peer that answers.
type running struct {
	servers []*process.Process // whose use of processor and memory counts, with all below them
	calls   []call
	stop    func() error
}

// call is one thing that a peer is asked, over and over.
type call struct {
	name string
	// run asks for a while, with all clients.
	run func(ctx context.Context, d time.Duration) (*outcome, error)
}

// outcome is what came of a call.
type outcome struct {
	requests uint64
	elapsed  time.Duration
	p50, p99 time.Duration
}

// peers are all, the bare ones first.
var peers = []peer{
	{"net/http", startHTTP}, {"connect-go echo", startEcho}, {"Nearside", startNearside}, {"Redis", startRedis},
	{"PostgreSQL", startPostgres}, {"Dapr", startDapr},
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	if len(args) > 0 && (args[0] == echoCommand || args[0] == httpCommand) {
		return serve(ctx, args[0], args[1:])
	}
	var s settings
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.nearside, "nearside", "bin/nearside", "the binary to measure")
	flags.StringVar(&s.dir, "dir", "", "where to make the folder for the data, removed at the end (default the system's)")
	flags.DurationVar(&s.duration, "duration", 8*time.Second, "of each measurement, after a fifth of it to warm up")
	flags.IntVar(&s.rows, "rows", 100_000, "rows or keys")
	flags.IntVar(&s.clients, "clients", 64, "at a time")
	flags.StringVar(&s.only, "only", "", "peers to measure, separated by commas (default all)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if s.duration <= 0 || s.rows < 1 || s.clients < 1 || flags.NArg() > 0 {
		return errors.New("want a duration, rows, clients, and no arguments")
	}
	var only []string
	if s.only != "" {
		only = strings.Split(s.only, ",")
	}
	for _, name := range only {
		if !slices.ContainsFunc(peers, func(p peer) bool { return p.name == name }) {
			return fmt.Errorf("there is no peer %q", name)
		}
	}
	if s.dir, err = os.MkdirTemp(s.dir, "nearside-peers-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if err := os.Chmod(s.dir, 0o755); err != nil { //nolint:gosec // a peer that runs as another user finds its own folder in it
		return err
	}
	out := &report{w: stdout}
	out.begin(&s)
	for i, p := range peers {
		if only != nil && !slices.Contains(only, p.name) {
			continue
		}
		fmt.Fprintln(stderr, p.name) //nolint:errcheck // progress is for eyes
		dir := filepath.Join(s.dir, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := measure(ctx, p, &s, dir, out); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return out.err
}

// measure starts a peer, asks it and stops it.
func measure(ctx context.Context, p peer, s *settings, dir string, out *report) (err error) {
	r, err := p.start(ctx, s, dir)
	if errors.Is(err, errNotInstalled) {
		out.absent(p.name)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	for _, c := range r.calls {
		if _, err := c.run(ctx, s.duration/5); err != nil { // to warm up
			return fmt.Errorf("%s: %w", c.name, err)
		}
		before, err := usage(r.servers)
		if err != nil {
			return err
		}
		o, err := c.run(ctx, s.duration)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		after, err := usage(r.servers)
		if err != nil {
			return err
		}
		out.line(p.name, c.name, o, after.CPU-before.CPU, after.Memory)
	}
	return nil
}

func usage(servers []*process.Process) (sum process.Usage, err error) {
	for _, p := range servers {
		u, err := p.Usage()
		if err != nil {
			return sum, err
		}
		sum.CPU += u.CPU
		sum.Memory += u.Memory
	}
	return sum, nil
}

// closedLoop returns a call of our own load generator. task makes each client's task, and what ends its connection.
func closedLoop(s *settings, name string, task func(client int) (loadgen.Task, func(), error)) call {
	return call{name: name, run: func(ctx context.Context, d time.Duration) (*outcome, error) {
		plan := loadgen.Plan{Kinds: []string{name}, Duration: d}
		for i := range s.clients {
			t, end, err := task(i)
			if err != nil {
				return nil, err
			}
			defer end()
			plan.Tasks = append(plan.Tasks, t)
		}
		r, err := loadgen.Run(ctx, plan)
		if err != nil {
			return nil, err
		}
		all := r.Total()
		if all.Errors > 0 || all.Requests == 0 {
			return nil, fmt.Errorf("%d of %d requests failed: %w", all.Errors, all.Requests, errors.Join(all.LastErr, io.ErrUnexpectedEOF))
		}
		return &outcome{requests: all.Requests, elapsed: r.Elapsed, p50: all.Latency.Quantile(0.5), p99: all.Latency.Quantile(0.99)}, nil
	}}
}

// report prints a table as it grows.
type report struct {
	w   io.Writer
	err error
}

func (r *report) printf(format string, args ...any) {
	if r.err == nil {
		_, r.err = fmt.Fprintf(r.w, format, args...)
	}
}

func (r *report) begin(s *settings) {
	r.printf("%s; %d clients, %v a measurement, %d rows\n\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"), s.clients, s.duration, s.rows)
	r.printf("| peer | call | requests/s | p50 ms | p99 ms | server CPU s per 100 k | memory MiB |\n|---|---|---|---|---|---|---|\n")
}

func (r *report) absent(name string) { r.printf("| %s | not installed | | | | | |\n", name) }

func (r *report) line(name, call string, o *outcome, cpu time.Duration, memory uint64) {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	r.printf("| %s | %s | %.0f | %.2f | %.2f | %.2f | %d |\n", name, call, float64(o.requests)/o.elapsed.Seconds(), ms(o.p50), ms(o.p99),
		cpu.Seconds()/float64(o.requests)*100_000, memory>>20)
}
