package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"connectrpc.com/connect"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
)

const (
	// capabilitySnapshot is the ability to send and take snapshots.
	capabilitySnapshot = "snapshot"
	// maxFetches is how many snapshots a follower takes at a time.
	maxFetches = 2
	// maxFetchPause is the longest pause before a snapshot that came to nothing is tried again.
	maxFetchPause = 30 * time.Second
)

// fetched says how a snapshot ended.
type fetched struct {
	c      *followed
	tables []uint32 // nil: the whole database
	err    error
}

// fetchWhole has a copy replaced by a snapshot. What is served meanwhile is the old one, if it may be served at all.
func (s *session) fetchWhole(c *followed) {
	if c.cancelFetch != nil && !c.snapshot {
		c.cancelFetch() // of tables that the snapshot will have
	}
	c.snapshot = true
	if c.inLine = !s.startFetch(c, nil); c.inLine {
		s.retry(c, retryPause)
	}
}

// repair has tables that differ from the primary's copied anew, unless that waits for its turn or its pause.
func (s *session) repair(now time.Time) {
	for id, c := range s.diverged {
		tables := c.database.DivergedTables()
		if len(tables) == 0 {
			delete(s.diverged, id)
			continue
		}
		if c.asked && !now.Before(c.repairAt) {
			s.startFetch(c, tables)
		}
	}
}

// repairMarked sees to the copies that somebody found to differ since it was last called. Those that were not asked for yet,
// follow sees to.
func (s *session) repairMarked() error {
	if !s.f.store.marked.Swap(false) {
		return nil
	}
	for id, c := range s.f.copies {
		a := c.database.state.Load()
		whole := a.problem == problemDiverged
		switch {
		case !c.asked || !whole && len(a.diverged) == 0:
		case !s.snapshots:
			if err := errors.Join(s.unfollow(c), s.startOver(c, ErrDiverged)); err != nil {
				return err
			}
		case whole:
			if err := s.unfollow(c); err != nil {
				return err
			}
			s.fetchWhole(c)
		default:
			s.diverged[id] = c
		}
	}
	return nil
}

// startFetch takes a snapshot on a goroutine of its own, and returns false where too many are being taken.
func (s *session) startFetch(c *followed, tables []uint32) bool {
	if c.cancelFetch != nil {
		return true
	}
	if s.fetching >= maxFetches {
		return false
	}
	s.fetching++
	ctx, cancel := context.WithCancel(s.ctx)
	c.cancelFetch = cancel
	d := c.database
	s.fetches.Go(func() {
		defer cancel()
		err := s.f.takeSnapshot(ctx, d, tables)
		select {
		case s.fetched <- fetched{c: c, tables: tables, err: err}:
		case <-s.ctx.Done():
		}
	})
	return true
}

// fetchEnded goes on with what a snapshot was for, and gives its place to the next one at once: of a thousand databases each would
// wait for a tick otherwise.
func (s *session) fetchEnded(r fetched) error {
	s.fetching--
	if err := s.fetchDone(r); err != nil {
		return err
	}
	s.repair(time.Now())
	for id, c := range s.waiting {
		if s.fetching >= maxFetches {
			break
		}
		if !c.inLine {
			continue
		}
		if err := s.follow(id); err != nil {
			return err
		}
	}
	return nil
}

// fetchDone goes on with what a snapshot was for.
func (s *session) fetchDone(r fetched) error {
	c := r.c
	c.cancelFetch = nil
	if s.f.copies[c.id] != c {
		return nil // dropped meanwhile
	}
	if err := s.f.store.Failed(); err != nil {
		return err
	}
	log := s.f.logger.With(slog.Uint64("database", uint64(c.id)), slog.Any("tables", r.tables))
	if r.tables != nil && c.snapshot {
		s.fetchWhole(c)
		return nil
	}
	if r.err != nil {
		pause := min(maxFetchPause, retryPause<<min(c.fetchFailures, 10))
		c.fetchFailures++
		if text := r.err.Error(); text != c.lastErr {
			c.lastErr = text
			log.Warn("snapshot not taken", slog.Any("error", r.err))
		}
		if r.tables == nil {
			s.retry(c, pause)
		} else {
			c.repairAt = time.Now().Add(pause)
		}
		return nil
	}
	c.fetchFailures = 0
	if r.tables != nil {
		s.f.store.metrics.repairs.Inc()
		log.Info("tables copied anew")
		return nil
	}
	c.snapshot = false
	s.f.store.metrics.snapshots.Inc()
	_, version := c.database.Applied()
	log.Info("snapshot taken", slog.Uint64("version", version))
	if err := s.follow(c.id); err != nil || c.id != meshdb.DatabaseID {
		return err
	}
	return s.reconcile() // no record need follow what the snapshot has
}

// takeSnapshot takes a snapshot of a database, or of tables of it, or the rest of one.
func (f *Follower) takeSnapshot(ctx context.Context, d *Database, tables []uint32) (err error) {
	b := d.building.Load()
	if b != nil && !slices.Equal(b.tables, tables) {
		if err := d.discardBuild(); err != nil {
			return err
		}
		b = nil
	}
	req := &replicationv1.SnapshotRequest{DatabaseId: d.id, TableIds: tables, Region: f.config.Region}
	if b != nil {
		req.Resume = b.resume()
	}
	stream, err := f.client.Snapshot(ctx, connect.NewRequest(req))
	if err != nil {
		return fmt.Errorf("ask for a snapshot: %w", err)
	}
	defer func() { _ = stream.Close() }() // what it could say, Err has said
	for stream.Receive() {
		var done bool
		if b, done, err = d.take(ctx, b, stream.Msg(), tables); err == nil && !done {
			continue
		}
		if errors.Is(err, errBuild) || errors.Is(err, errBuildStale) || errors.Is(err, ErrDiverged) {
			return errors.Join(err, d.discardBuild())
		}
		return err
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("receive a snapshot: %w", err)
	}
	return errors.New("snapshot without an end")
}

// take takes in a part of a snapshot. done means that it was the last and the copy is in its place.
func (d *Database) take(
	ctx context.Context, b *build, m *replicationv1.SnapshotResponse, tables []uint32,
) (next *build, done bool, err error) {
	if restart := m.GetRestart(); restart != nil {
		return nil, false, fmt.Errorf("%w: %s", errBuildStale, restart.GetMessage())
	}
	if begin := m.GetBegin(); begin != nil {
		if b != nil {
			return nil, false, fmt.Errorf("%w: begun twice", errBuild)
		}
		next, err = d.startBuild(begin, tables)
		return next, false, err
	}
	if b == nil {
		return nil, false, fmt.Errorf("%w: not begun", errBuild)
	}
	switch m := m.GetMessage().(type) {
	case *replicationv1.SnapshotResponse_Chunk:
		next, err = d.addChunk(b, m.Chunk)
	case *replicationv1.SnapshotResponse_Records:
		next, err = d.addRecords(b, m.Records.GetRecords())
	case *replicationv1.SnapshotResponse_Done:
		return nil, true, d.finishBuild(ctx, b, m.Done)
	default:
		next = b // of a newer protocol
	}
	return next, false, err
}
