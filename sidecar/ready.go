package sidecar

import (
	"context"
	"errors"
	"fmt"

	"github.com/nearside-dev/nearside/internal/meshdb"
)

// Ready returns nil when the sidecar is ready, else why it is not.
func (s *Sidecar) Ready() error {
	if ready, reason := s.health.Ready(); !ready {
		return errors.New(reason)
	}
	return nil
}

// WaitReady returns when the sidecar is ready for the first time, with nil, or when it failed, was closed or ctx ended.
func (s *Sidecar) WaitReady(ctx context.Context) error {
	select {
	case <-s.ready:
		return s.Ready()
	case <-s.healthy.Done():
		return s.Ready()
	case <-ctx.Done():
		return errors.Join(ctx.Err(), s.Ready())
	}
}

// onHeartbeat is called by the follower and does not block.
func (s *Sidecar) onHeartbeat() {
	select {
	case s.progress <- struct{}{}:
	default:
	}
}

// awaitReady makes the sidecar ready once its copies are complete. From then on it stays so: it can answer from them, and
// what it cannot answer it can still pass on.
func (s *Sidecar) awaitReady() {
	for !s.checkReady(false) {
		select {
		case <-s.progress:
		case <-s.running.Done():
			return
		}
	}
}

// checkReady makes the sidecar ready if it can be, and reports whether it is. At the start a copy of _mesh from an earlier run
// is enough; later all databases of the region must be complete.
func (s *Sidecar) checkReady(atStart bool) bool {
	select {
	case <-s.ready:
		return true
	default:
	}
	if err := s.synchronised(atStart); err != nil {
		s.sayNotReady("not synchronised: "+err.Error(), false)
		return false
	}
	s.sayReady()
	close(s.ready)
	return true
}

// sayReady and sayNotReady publish whether the sidecar is ready. What is final stays.
func (s *Sidecar) sayReady() {
	s.final.Lock()
	defer s.final.Unlock()
	if !s.final.said {
		s.health.SetReady()
		s.logger.Info("sidecar ready")
	}
}

func (s *Sidecar) sayNotReady(reason string, final bool) {
	s.final.Lock()
	defer s.final.Unlock()
	if !s.final.said {
		s.health.SetNotReady(reason)
		s.final.said = final
	}
}

var errNoCopy = errors.New("no copy yet")

func (s *Sidecar) synchronised(atStart bool) error {
	mesh, ok := s.store.Database(meshdb.DatabaseID)
	if !ok {
		return errNoCopy
	}
	if err := mesh.Problem(); err != nil {
		return err
	}
	if atStart {
		return nil
	}
	databases, err := s.directory.Databases()
	if err != nil {
		return err
	}
	for _, d := range databases {
		if !d.Placed() {
			continue
		}
		c, ok := s.store.Database(d.ID())
		if !ok {
			return fmt.Errorf("database %s: %w", d.Name(), errNoCopy)
		}
		if err := c.Problem(); err != nil {
			return fmt.Errorf("database %s: %w", d.Name(), err)
		}
	}
	return nil
}
