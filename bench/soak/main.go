// Command soak keeps a mesh of the real binary under a steady load for a long time, reads and some writes in three regions, and
// says whether few enough requests failed and whether they were fast enough. Requests are due at even intervals whatever becomes
// of earlier ones, and latencies count from then. It talks to this machine only, and needs Linux.
//
//	go run ./bench/soak -nearside bin/nearside
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1) //nolint:gocritic // the process ends, and with it the signals' handler
	}
}

// settings is what a run is told.
type settings struct {
	nearside    string // the binary
	dir         string
	duration    time.Duration
	rate        int
	writes      int // percent
	keys        int
	connections int
	maxErrors   float64 // percent of all requests
	maxP95      time.Duration
}

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	var s settings
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.StringVar(&s.nearside, "nearside", "bin/nearside", "the binary to run")
	flags.StringVar(&s.dir, "dir", "", "where to make the folder for the data, removed at the end (default the system's)")
	flags.DurationVar(&s.duration, "duration", 10*time.Minute, "how long")
	flags.IntVar(&s.rate, "rate", 10_000, "requests a second")
	flags.IntVar(&s.writes, "writes", 5, "percent of the requests")
	flags.IntVar(&s.keys, "keys", 100_000, "rows in the table")
	flags.IntVar(&s.connections, "connections", 96, "at a time, over three regions")
	flags.Float64Var(&s.maxErrors, "max-errors", 0.1, "percent of requests that may fail")
	flags.DurationVar(&s.maxP95, "max-p95", 100*time.Millisecond, "latency that 95 percent of the requests must not exceed")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if s.duration <= 0 || s.rate < 1 || s.writes < 0 || s.writes > 100 || s.keys < 1 || s.connections < 1 || flags.NArg() > 0 {
		return errors.New("want a duration, a rate, 0 to 100 percent of writes, keys, connections, and no arguments")
	}
	if s.dir, err = os.MkdirTemp(s.dir, "nearside-soak-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	return soak(ctx, s, stdout)
}
