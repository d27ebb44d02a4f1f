// Package spool keeps what a region has recorded for the audit until the primary has it: on the disk, in order, each entry bound
// to the one before. An entry is on the disk before it is sent, so that what the primary has been told under a number is never
// told otherwise; what it has already it leaves out.
package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
)

// DefaultMaxBytes is how large a spool becomes.
const DefaultMaxBytes = 16 << 20

const (
	fileName = "audit.spool"
	// compactBytes is from what size on a file is made anew when all that is in it is delivered.
	compactBytes   = 256 << 10
	batch          = 500
	deliverTimeout = 10 * time.Second
	firstPause     = time.Second
	longestPause   = 15 * time.Second
)

// ErrFull means that there is no room for entries until others are delivered.
var ErrFull = errors.New("the audit spool is full")

// Options configures a Spool. Dir, Region, Client and Logger are required.
type Options struct {
	Dir    string
	Region string
	Client replicationv1connect.AuditSpoolServiceClient
	Logger *slog.Logger

	MaxBytes   int64 // default DefaultMaxBytes
	Registerer prometheus.Registerer
}

// Spool is a region's entries that the primary may not have. It may be used concurrently.
type Spool struct {
	options Options
	path    string
	wake    chan struct{}

	mu        sync.Mutex
	file      *file
	delivered place // the last that the primary is known to have
	offset    int64 // behind it in the file
}

// Open opens the spool of a folder, which it makes.
func Open(o Options) (*Spool, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	s := &Spool{options: o, path: filepath.Join(o.Dir, fileName), wake: make(chan struct{}, 1)}
	f, err := openFile(s.path)
	if err != nil {
		return nil, err
	}
	s.start(f)
	s.Wake()
	if o.Registerer == nil {
		return s, nil
	}
	return s, o.Registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearside_audit_undelivered", Help: "Entries on this node's disk that the primary may not have.",
	}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(s.file.end.sequence - s.delivered.sequence)
	}))
}

func (s *Spool) start(f *file) {
	s.file, s.delivered, s.offset = f, f.begin, f.headerBytes()
}

// Append puts entries on the disk. It returns ErrFull, and takes none, where there is no room for all.
func (s *Spool) Append(entries []*authv1.AuditEntry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, _, err := frames(entries, s.file.end)
	if err != nil {
		return err
	}
	if s.file.size+int64(len(b)) > s.options.MaxBytes {
		if err := s.shorten(); err != nil {
			return err
		}
		if s.file.size+int64(len(b)) > s.options.MaxBytes {
			return ErrFull
		}
	}
	if err := s.file.append(entries); err != nil {
		return err
	}
	s.Wake()
	return nil
}

// Wake has the spool try at once to deliver what it has: the primary may be there again.
func (s *Spool) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run delivers until ctx ends.
func (s *Spool) Run(ctx context.Context) {
	pause := firstPause
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-s.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		err := s.deliver(ctx)
		if err == nil {
			pause = firstPause
			timer.Stop() // until there is something
			continue
		}
		if pause == firstPause {
			s.options.Logger.DebugContext(ctx, "audit entries not delivered", slog.Any("error", err))
		}
		timer.Reset(pause)
		pause = min(2*pause, longestPause)
	}
}

// deliver sends all that there is.
func (s *Spool) deliver(ctx context.Context) error {
	for broken := false; ; {
		s.mu.Lock()
		f, from := s.file, s.delivered
		entries, to, err := f.read(s.offset, batch)
		s.mu.Unlock()
		if err != nil {
			return fmt.Errorf("read audit spool: %w", err)
		}
		if len(entries) == 0 {
			return s.compact()
		}
		_, end, err := frames(entries, from)
		if err != nil {
			return err
		}
		res, err := s.send(ctx, from, entries)
		if err != nil {
			return err
		}
		if res.GetBroken() {
			if err := s.renew(ctx, res.GetLastSequence()); err != nil {
				return err
			}
			if broken = !broken; broken {
				continue
			}
			return errors.New("the primary takes no audit entries")
		}
		if res.GetLastSequence() < end.sequence {
			return fmt.Errorf("the primary has entry %d, and was sent %d", res.GetLastSequence(), end.sequence)
		}
		s.mu.Lock()
		if s.file == f { // else it was shortened meanwhile, and what was sent is sent again
			s.delivered, s.offset = end, to
		}
		s.mu.Unlock()
	}
}

func (s *Spool) send(ctx context.Context, from place, entries []*authv1.AuditEntry) (*replicationv1.DeliverResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, deliverTimeout)
	defer cancel()
	res, err := s.options.Client.Deliver(ctx, connect.NewRequest(&replicationv1.DeliverRequest{
		Region: s.options.Region, Spool: from.spool, FirstSequence: from.sequence + 1, PreviousHash: from.hash[:], Entries: entries,
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// compact makes the file anew where all of it is delivered and it is large.
func (s *Spool) compact() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delivered != s.file.end || s.file.size < compactBytes {
		return nil
	}
	return s.replace(s.delivered, nil)
}

// shorten makes the file anew without what is delivered.
func (s *Spool) shorten() error {
	if s.delivered == s.file.begin {
		return nil
	}
	entries, err := s.undelivered()
	if err != nil {
		return err
	}
	return s.replace(s.delivered, entries)
}

func (s *Spool) undelivered() ([]*authv1.AuditEntry, error) {
	entries, _, err := s.file.read(s.offset, math.MaxInt)
	if err != nil {
		err = fmt.Errorf("read audit spool: %w", err)
	}
	return entries, err
}

// renew begins another spool with what is not delivered of this one, which the primary does not take any more: it was put back
// to an earlier state, or the file was.
func (s *Spool) renew(ctx context.Context, last uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.options.Logger.WarnContext(ctx, "the primary does not know this audit spool: another one begins",
		slog.Uint64("sequence", s.delivered.sequence), slog.Uint64("primary_has", last))
	entries, err := s.undelivered()
	if err != nil {
		return err
	}
	return s.replace(newPlace(), entries)
}

func (s *Spool) replace(begin place, entries []*authv1.AuditEntry) error {
	f, err := createFile(s.path, begin, entries)
	if err != nil {
		return err
	}
	old := s.file
	s.start(f)
	return old.Close()
}

// Close closes the file. Nothing may be appended any more.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Close()
}
