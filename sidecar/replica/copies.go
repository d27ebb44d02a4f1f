package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
)

// Pauses before a database is asked for again.
const (
	retryPause     = 100 * time.Millisecond // doubled with each refusal in a row
	maxRetryPause  = time.Second
	maxRewipePause = time.Minute // a copy that was wiped before it was ever complete again
)

// followed is a database that the follower keeps a copy of.
type followed struct {
	id       uint32
	database *Database
	asked    bool      // on this connection, and neither refused nor given up
	again    bool      // asked for a second time: records of the first may still come
	retryAt  time.Time // while it is in session.waiting
	refusals int       // in a row, on this connection
	// cancelFetch ends the snapshot that is being taken; nil if none is. fetchFailures counts those in a row that were not.
	cancelFetch   context.CancelFunc
	fetchFailures int
	wipes         int       // in a row, without having been complete in between
	snapshot      bool      // to be replaced by a snapshot, not followed
	inLine        bool      // for a snapshot, while it is in session.waiting: it waits for others to end, and for nothing else
	repairAt      time.Time // when tables may be copied anew
	lastErr       string    // to log each failure to apply once
}

// follow asks the primary for a database from where its copy is.
func (s *session) follow(id uint32) error {
	d := s.f.store.ensure(id)
	c := s.f.copies[id]
	if c == nil {
		c = &followed{id: id}
		s.f.copies[id] = c
	}
	c.database, c.inLine = d, false
	delete(s.waiting, id)
	if c.cancelFetch != nil && c.snapshot {
		return nil // followed when it is there
	}
	switch d.state.Load().problem {
	case problemEmpty:
		if err := d.setProblem(problemSyncing); err != nil {
			return err
		}
	case problemDiverged: // found by the process before this one
		if !s.snapshots {
			return s.startOver(c, ErrDiverged)
		}
		c.snapshot = true
	default:
	}
	if b := d.building.Load(); s.snapshots && (c.snapshot || b != nil && b.tables == nil) {
		s.fetchWhole(c)
		return nil
	}
	if len(d.state.Load().diverged) > 0 {
		if !s.snapshots {
			return s.startOver(c, ErrDiverged)
		}
		s.diverged[id] = c
	}
	c.asked = true
	s.behind[id] = c
	a := d.state.Load()
	m := &replicationv1.Follow{DatabaseId: id, Withheld: a.withheld}
	if a.version > 0 {
		m.Epoch, m.Version, m.Checksum = a.epoch, a.version, a.checksum[:]
	}
	return s.send(&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Follow{Follow: m}})
}

// giveUp stops expecting anything of a database on this connection.
func (s *session) giveUp(c *followed) {
	c.asked = false
	delete(s.behind, c.id)
	c.database.lost()
}

func (s *session) unfollow(c *followed) error {
	s.giveUp(c)
	c.again = true
	return s.send(&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Unfollow{
		Unfollow: &replicationv1.Unfollow{DatabaseId: c.id},
	}})
}

// retry asks for a database again after a pause.
func (s *session) retry(c *followed, pause time.Duration) {
	c.retryAt = time.Now().Add(pause)
	s.waiting[c.id] = c
}

// records applies what the primary sent. What is wrong with one database does not end the connection that all of them share.
func (s *session) records(m *replicationv1.Records) error {
	c := s.f.copies[m.GetDatabaseId()]
	if c == nil || !c.asked {
		return nil // on its way when we gave up
	}
	if _, version := c.database.Applied(); c.again && m.GetFirstVersion() != version+1 {
		return nil
	}
	c.again = false
	s.watchdog.Stop()
	err := s.f.store.ApplyRecords(c.id, m.GetRecords())
	s.heard()
	switch {
	case err == nil:
		if len(c.database.state.Load().diverged) > 0 && s.diverged[c.id] == nil {
			s.diverged[c.id] = c
			s.repair(time.Now())
		}
		if err := s.caughtUp(c); err != nil || c.id != meshdb.DatabaseID {
			return err
		}
		return s.reconcile()
	case errors.Is(err, ErrStoreFailed), errors.Is(err, ErrClosed):
		return err
	case errors.Is(err, ErrDiverged):
		if err := s.unfollow(c); err != nil {
			return err
		}
		return s.startOver(c, err)
	case errors.Is(err, ErrFork):
		if err := s.unfollow(c); err != nil {
			return err
		}
		return s.refuseToServe(c, problemFork, err.Error())
	default:
		if text := err.Error(); text != c.lastErr {
			c.lastErr = text
			s.f.logger.Error("records not applied", slog.Uint64("database", uint64(c.id)), slog.Any("error", err))
		}
		if err := s.unfollow(c); err != nil {
			return err
		}
		s.retryRefused(c)
		return nil
	}
}

// caughtUp notes that a copy has all that the primary has, if so. That settles most problems it may have had.
func (s *session) caughtUp(c *followed) error {
	if !c.asked || !c.database.caughtUp(&s.f.link) {
		if c.asked {
			s.behind[c.id] = c
		}
		return nil
	}
	delete(s.behind, c.id)
	c.refusals, c.wipes = 0, 0
	if p := c.database.state.Load().problem; p == problemSyncing || p == problemFork || p == problemAhead {
		if err := c.database.setProblem(problemNone); err != nil {
			return err
		}
		if c.id == meshdb.DatabaseID {
			return s.reconcile() // it can be read only now
		}
	}
	return nil
}

func (s *session) refused(m *replicationv1.Refusal) error {
	c := s.f.copies[m.GetDatabaseId()]
	if c == nil || !c.asked {
		return nil
	}
	s.giveUp(c)
	switch m.GetReason() {
	case replicationv1.Refusal_REASON_FORK:
		return s.refuseToServe(c, problemFork, m.GetMessage())
	case replicationv1.Refusal_REASON_FOLLOWER_AHEAD:
		return s.refuseToServe(c, problemAhead, m.GetMessage())
	case replicationv1.Refusal_REASON_FAR_BEHIND:
		s.fetchWhole(c)
		return nil
	case replicationv1.Refusal_REASON_TRIMMED:
		if s.snapshots {
			s.fetchWhole(c)
			return nil
		}
		return s.startOver(c, fmt.Errorf("the primary's log is trimmed: %s", m.GetMessage()))
	default:
		// NOT_FOUND too: whether the copy is dropped is for _mesh to say, which lists what there is.
		s.retryRefused(c)
		return nil
	}
}

func (s *session) retryRefused(c *followed) {
	s.retry(c, min(maxRetryPause, retryPause<<min(c.refusals, 8)))
	c.refusals++
}

// refuseToServe keeps a copy that contradicts the primary, for somebody to look at, but serves nothing of it. The next
// connection asks again.
func (s *session) refuseToServe(c *followed, p problem, why string) error {
	if c.database.state.Load().problem != p {
		s.f.logger.Error("copy is no longer served", slog.Uint64("database", uint64(c.id)),
			slog.Any("problem", p.err()), slog.String("reason", why))
	}
	return c.database.setProblem(p)
}

// startOver wipes a copy and follows the database from its first record.
func (s *session) startOver(c *followed, why error) error {
	s.f.logger.Error("copy is wiped and made anew", slog.Uint64("database", uint64(c.id)), slog.Any("error", why))
	if err := c.database.wipe(); err != nil {
		return err
	}
	pause := time.Duration(0)
	if c.wipes > 0 {
		pause = min(maxRewipePause, time.Second<<min(c.wipes-1, 8))
	}
	c.wipes++
	s.retry(c, pause)
	return nil
}

// reconcile follows what the copy of _mesh lists for this region and drops what it does not.
func (s *session) reconcile() error {
	f := s.f
	plan, ok, err := f.store.readPlan(f.config.Region, f.stamp)
	if err != nil {
		// Perhaps a row of a newer build: what is followed already still can be.
		f.logger.Error("copy of _mesh not understood", slog.Any("error", err))
		return f.store.Failed()
	}
	if !ok || plan == nil {
		return nil
	}
	f.stamp = plan.stamp
	for id, name := range plan.names {
		if c := f.copies[id]; c == nil || !c.asked && c.cancelFetch == nil && s.waiting[id] == nil {
			if err := s.follow(id); err != nil {
				return err
			}
			s.heard() // there may be many, and meanwhile we do not listen
		}
		f.copies[id].database.name.Store(&name)
	}
	for _, d := range f.store.Databases() {
		if _, listed := plan.names[d.id]; listed || d.id == meshdb.DatabaseID {
			continue
		}
		if c := f.copies[d.id]; c != nil {
			delete(f.copies, d.id)
			delete(s.waiting, d.id)
			delete(s.diverged, d.id)
			if c.cancelFetch != nil {
				c.cancelFetch()
			}
			if err := s.unfollow(c); err != nil {
				return err
			}
		}
		f.logger.Info("copy dropped: not in _mesh for this region", slog.Uint64("database", uint64(d.id)))
		if err := f.store.Drop(d.id); err != nil {
			return err
		}
	}
	return nil
}
