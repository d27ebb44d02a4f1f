package replica

import (
	"math"
	"sync/atomic"
	"time"
)

// UnknownStaleness is the staleness of a copy that nobody ever vouched for.
const UnknownStaleness = time.Duration(math.MaxInt64)

// link is the clock of a follower's connection: when the last heartbeat was asked for that it has processed. It stands still
// while there is no connection, so the copies grow old.
type link struct{ heard atomic.Pointer[time.Time] }

// freshness is what is known of a copy's age. It is immutable once published; the follower makes the next one.
type freshness struct {
	// target is what the primary last said that it has.
	targetEpoch   uint32
	targetVersion uint64
	// live is the clock of the connection as long as the copy has all that the primary has said over it, else nil.
	live *link
	// since is when a copy that is not live was last known to be complete; zero if never by this process.
	since time.Time
	// behind says that the copy will be live when it has reached target.
	behind bool
}

// Target returns what the primary last said to have: as much as the copy has, until a primary was heard.
func (d *Database) Target() (epoch uint32, version uint64) {
	a, f := d.state.Load(), d.freshness.Load()
	if f.targetEpoch < a.epoch || f.targetEpoch == a.epoch && f.targetVersion < a.version {
		return a.epoch, a.version
	}
	return f.targetEpoch, f.targetVersion
}

// Staleness returns how old the copy can be: the time since the last heartbeat was asked for whose published version the
// copy has. It is measured on the monotonic clock and grows while the primary is not heard.
//
// A process that has not heard a primary yet estimates: the wall clock now, less that of the last heartbeat at which all
// copies were complete, which the process before wrote down about once a second. A wall clock that was set forward makes the
// estimate too great, one that was set back makes it too small, but never less than the time since the store was opened.
// With nothing written down it is UnknownStaleness.
//
// As long as it is asked for, a heartbeat comes every FollowerConfig.PingInterval.
func (d *Database) Staleness(now time.Time) time.Duration {
	d.store.activity.note()
	f := d.freshness.Load()
	since := f.since
	if f.live != nil {
		since = *f.live.heard.Load()
	}
	if !since.IsZero() {
		return max(0, now.Sub(since))
	}
	if d.store.heardAt == 0 {
		return UnknownStaleness
	}
	return max(now.Sub(d.store.openedAt), now.Round(0).Sub(time.Unix(0, d.store.heardAt)))
}

// Live reports whether the copy has all that the primary has said over the connection there is now.
func (d *Database) Live() bool { return d.freshness.Load().live != nil }

// heard notes what the primary has, as a heartbeat says. A copy that has not reached it stops being live, before the link's
// clock moves on to that heartbeat. heard, caughtUp and lost are for the follower alone.
func (d *Database) heard(epoch uint32, version uint64) {
	f := *d.freshness.Load()
	f.targetEpoch, f.targetVersion = epoch, version
	if ok, err := d.state.Load().reaches(epoch, version); !ok || err != nil {
		f = f.frozen()
	}
	f.behind = f.live == nil
	d.freshness.Store(&f)
}

// caughtUp makes the copy live if it has reached what the primary last said, and reports whether it is live. It is as fresh
// as the last heartbeat then, not as the one that named the version: those in between named no newer one.
func (d *Database) caughtUp(l *link) bool {
	f := *d.freshness.Load()
	if !f.behind {
		return f.live != nil
	}
	if ok, err := d.state.Load().reaches(f.targetEpoch, f.targetVersion); !ok || err != nil {
		return false
	}
	f.live, f.behind = l, false
	d.freshness.Store(&f)
	return true
}

// lost notes that nobody vouches for the copy any more: it ages from now on.
func (d *Database) lost() {
	f := d.freshness.Load().frozen()
	f.behind = false
	d.freshness.Store(&f)
}

func (f *freshness) frozen() freshness {
	g := *f
	if g.live != nil {
		g.since, g.live = *g.live.heard.Load(), nil
	}
	return g
}
