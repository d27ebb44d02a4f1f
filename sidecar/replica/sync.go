package replica

import (
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// syncInterval is how long what was committed may wait for the disk. Pebble's log keeps what does not fill a block of 32 KiB in the
// memory of the process, a small copy all of it.
const syncInterval = 100 * time.Millisecond

// syncer has what was committed synced once in an interval, in the background, while there is something. It ends with the store.
func (s *Store) syncer() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.unsynced:
		case <-s.closing:
			return // closing the store writes what is left
		}
		timer.Reset(syncInterval)
		select {
		case <-timer.C:
		case <-s.closing:
			return
		}
		if err := s.db.LogData(nil, pebble.Sync); err != nil && s.Failed() == nil {
			s.logger.Warn("replica not synced", slog.Any("error", err))
		}
	}
}

// wantSync has the syncer sync.
func (s *Store) wantSync() {
	select {
	case s.unsynced <- struct{}{}:
	default: // it will, after what this commit wrote
	}
}
