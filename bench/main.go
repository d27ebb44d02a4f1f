// Command bench measures a whole mesh of the real binary, its roles as processes of their own, beside a bare Connect echo of
// the same message, and prints what it measured as tables. Every number printed comes from the run. It talks to this machine
// only, and needs Linux.
//
//	go run ./bench -nearside bin/nearside
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // the process ends, and with it the signals' handler
	}
}

// settings is what a run is told.
type settings struct {
	nearside string        // the binary
	dir      string        // for data; empty is a temporary folder
	profiles string        // folder for CPU profiles; empty is none
	duration time.Duration // of each measurement
	rows     int           // in the table
	clients  int
	rate     int            // of the paced writes, a second
	only     *regexp.Regexp // names of the measurements to make
}

// wants reports whether a measurement is to be made.
func (s *settings) wants(name string) bool { return s.only.MatchString(name) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	if len(args) > 0 && args[0] == echoCommand {
		return serveEcho(ctx, args[1:])
	}
	s := settings{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.nearside, "nearside", "bin/nearside", "the binary to measure")
	flags.StringVar(&s.dir, "dir", "", "where to make the folder for the data, removed at the end (default the system's)")
	flags.StringVar(&s.profiles, "profiles", "", "folder for processor profiles of the measured processes (default none)")
	flags.DurationVar(&s.duration, "duration", 8*time.Second, "of each measurement")
	flags.IntVar(&s.rows, "rows", 1_000_000, "in the table")
	flags.IntVar(&s.clients, "clients", 64, "at a time")
	flags.IntVar(&s.rate, "rate", 2000, "writes a second while the lag is measured")
	only := flags.String("only", "", "regular expression: measure only calls whose name it matches, and the lag if it matches that (default everything)")
	quick := flags.Bool("quick", false, "whether it works at all: few rows, short measurements")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *quick {
		s.duration, s.rows, s.clients, s.rate = 300*time.Millisecond, 5000, 8, 200
	}
	if s.duration <= 0 || s.rows < 1000 || s.clients < 1 || s.rate < 1 || flags.NArg() > 0 {
		return errors.New("want a duration, at least 1,000 rows, a client and a write a second, and no arguments")
	}
	if s.only, err = regexp.Compile(*only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	dir, err := os.MkdirTemp(s.dir, "nearside-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{settings: s, data: dir, progress: stderr}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.measure(ctx); err != nil {
		return err
	}
	return b.report.write(stdout, s)
}
