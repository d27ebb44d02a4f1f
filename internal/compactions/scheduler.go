// Package compactions decides when a Pebble store may compact.
package compactions

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// recheck is how long a compaction waits at most after the store has come to allow it.
const recheck = 100 * time.Millisecond

// Scheduler lets a store run as many compactions at a time as it allows itself. Pebble's own does so too, but asks the store
// ten times a second for as long as it is open; that was half of what an idle process had to wake up for. This one asks
// while a compaction waits, and when one ends.
//
// It is for one store, and safe for concurrent use.
type Scheduler struct {
	db pebble.DBForCompaction // set once, before anything else is called

	mu       sync.Mutex
	turn     sync.Cond // for granting to become false
	granting bool      // somebody calls the store without mu
	running  int
	closed   bool
	timer    *time.Timer // asks again; armed while a compaction may wait
}

var (
	_ pebble.CompactionScheduler   = (*Scheduler)(nil)
	_ pebble.CompactionGrantHandle = (*Scheduler)(nil)
)

// New returns a Scheduler for Options.Experimental.CompactionScheduler.
func New() *Scheduler {
	s := &Scheduler{}
	s.turn.L = &s.mu
	return s
}

// Register implements pebble.CompactionScheduler.
func (s *Scheduler) Register(_ int, db pebble.DBForCompaction) { s.db = db }

// Unregister implements pebble.CompactionScheduler. The store is not called any more when it returns.
func (s *Scheduler) Unregister() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	for s.granting {
		s.turn.Wait()
	}
}

// TrySchedule implements pebble.CompactionScheduler. The store does not ask again for what was refused: it is asked.
func (s *Scheduler) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false, nil
	}
	if s.db.GetAllowedWithoutPermission() > s.running {
		s.running++
		return true, s
	}
	s.armLocked(recheck)
	return false, nil
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler. Its caller holds locks that granting needs.
func (s *Scheduler) UpdateGetAllowedWithoutPermission() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db.GetAllowedWithoutPermission() > s.running {
		s.armLocked(0)
	}
}

func (s *Scheduler) armLocked(wait time.Duration) {
	switch {
	case s.closed:
	case s.timer == nil:
		s.timer = time.AfterFunc(wait, s.grant)
	default:
		s.timer.Reset(wait)
	}
}

// grant starts what waits and is allowed.
func (s *Scheduler) grant() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.granting && !s.closed {
		s.turn.Wait()
	}
	if s.closed {
		return
	}
	s.granting = true
	waiting := true
	for waiting && !s.closed && s.db.GetAllowedWithoutPermission() > s.running {
		s.running++ // before it can be Done
		s.mu.Unlock()
		waiting, _ = s.db.GetWaitingCompaction()
		waiting = waiting && s.db.Schedule(s)
		s.mu.Lock()
		if !waiting {
			s.running--
		}
	}
	s.granting = false
	s.turn.Broadcast()
	if waiting {
		s.armLocked(recheck)
	}
}

// Done implements pebble.CompactionGrantHandle: a compaction has ended.
func (s *Scheduler) Done() {
	s.mu.Lock()
	s.running--
	s.mu.Unlock()
	s.grant()
}

// Started implements pebble.CompactionGrantHandle.
func (s *Scheduler) Started() {}

// MeasureCPU implements pebble.CompactionGrantHandle.
func (s *Scheduler) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats implements pebble.CompactionGrantHandle.
func (s *Scheduler) CumulativeStats(pebble.CompactionGrantHandleStats) {}
