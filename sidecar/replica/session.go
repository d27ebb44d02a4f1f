package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshdb"
)

// protocolVersion is the newest replication protocol that this package speaks.
const protocolVersion = 1

// saveInterval is how often heardAt is written.
const saveInterval = time.Second

var (
	errStuck = errors.New("nothing came from the primary for too long")
	errEnded = errors.New("stream ended") // the receiver finds out why
)

// session is one connection. One goroutine receives and works on what it receives, so that a message wakes up no second one;
// another sends pings. They take turns.
type session struct {
	mu       sync.Mutex // held by the one whose turn it is; guards the follower's copies, too
	ended    bool       // nothing can be sent any more
	busyAt   time.Time  // when there was last something to do
	f        *Follower
	stream   *connect.BidiStreamForClient[replicationv1.SubscribeRequest, replicationv1.SubscribeResponse]
	welcomed bool

	// watchdog ends the session when nothing was received for too long. It stands still while we work on what we received.
	watchdog *time.Timer

	ctx       context.Context //nolint:containedctx // ends with the connection, and with it the snapshots
	snapshots bool            // the primary sends them
	fetches   sync.WaitGroup
	fetched   chan fetched
	fetching  int

	diverged map[uint32]*followed // with tables to be copied anew
	waiting  map[uint32]*followed // to be asked for again at their retryAt
	behind   map[uint32]*followed // asked for, but not known to be complete yet
}

// connect runs one connection to its end, and returns why it ended and whether a primary of our mesh had welcomed us.
func (f *Follower) connect(ctx context.Context) (welcomed bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &session{
		f:       f,
		waiting: make(map[uint32]*followed), behind: make(map[uint32]*followed), diverged: make(map[uint32]*followed),
		ctx: ctx, fetched: make(chan fetched),
	}
	s.watchdog = time.AfterFunc(f.config.StuckAfter, func() { cancel(errStuck) })
	s.stream = f.client.Subscribe(httpclient.WithProgress(ctx, s.heard)) // a large message may take longer than that
	defer s.watchdog.Stop()

	// HTTP/2 does not look at the context while it waits for more of the request, and it waits for that at any time.
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = s.stream.CloseRequest() // nothing is lost: the stream is over
	})
	err = s.send(&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Hello{Hello: &replicationv1.Hello{
		Region: f.config.Region, Url: f.config.URL, ProtocolVersion: protocolVersion,
		Capabilities: []string{capabilitySnapshot, capabilityPlacement},
	}}})
	s.ended = err != nil
	done := make(chan struct{})
	var tickErr error
	go func() {
		defer close(done)
		if tickErr = s.runTicks(); tickErr != nil {
			cancel(nil) // the receiver waits for the primary
		}
	}()
	err = s.receive()
	if errors.Is(context.Cause(ctx), errStuck) {
		err = errStuck
	}
	cancel(nil)
	<-closed
	<-done
	if tickErr != nil {
		err = tickErr
	}
	s.fetches.Wait()
	_ = s.stream.CloseResponse() // what it could say, the receiver was told
	f.connected.Store(false)
	for _, c := range f.copies {
		c.cancelFetch = nil
		c.database.lost()
	}
	return s.welcomed, err
}

// receive works on what comes until the stream ends or something is wrong that another connection may cure.
func (s *session) receive() error {
	for {
		msg, err := s.stream.Receive()
		if err != nil {
			return err
		}
		if err := s.received(msg); err != nil {
			return err
		}
	}
}

func (s *session) received(msg *replicationv1.SubscribeResponse) error {
	return s.turn(func() error {
		s.heard()
		return s.handle(msg)
	})
}

// ends notes that nothing can be sent any more, which is no error of its own: the receiver finds out why.
func (s *session) ends(err error) error {
	if !errors.Is(err, errEnded) {
		return err
	}
	s.ended = true
	return nil
}

func (s *session) send(msg *replicationv1.SubscribeRequest) error {
	if err := s.stream.Send(msg); err != nil {
		return fmt.Errorf("%w: %w", errEnded, err)
	}
	return nil
}

// runTicks sends pings and sees to what is due, until the session ends or something is wrong.
func (s *session) runTicks() error {
	timer := time.NewTimer(untilTick(time.Now(), s.f.config.PingInterval))
	defer timer.Stop()
	tick := func() error {
		now := time.Now()
		return s.turn(func() error {
			timer.Reset(untilTick(now, s.interval(now)))
			return s.tick(now)
		})
	}
	for {
		var err error
		select {
		case r := <-s.fetched:
			err = s.turn(func() error { return s.fetchEnded(r) })
		case <-timer.C:
			err = tick()
		case <-s.f.store.activity.stir:
			err = tick()
		case <-s.ctx.Done():
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// interval returns how long it is to the tick after the one at now.
func (s *session) interval(now time.Time) time.Duration {
	a := &s.f.store.activity
	if a.looked() || !s.welcomed || len(s.behind) > 0 || len(s.waiting) > 0 || len(s.diverged) > 0 || s.fetching > 0 {
		s.busyAt = now
	}
	if now.Sub(s.busyAt) < s.f.config.IdleAfter || !a.rest() {
		return s.f.config.PingInterval
	}
	return s.f.config.IdlePingInterval
}

// turn does something with the session, unless nothing can be sent any more: then only what the primary says at the end is of
// interest.
func (s *session) turn(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	return s.ends(f())
}

// untilTick returns the time to the next tick. Ticks are at multiples of the interval on the wall clock, so that all followers
// of a machine wake up at the same moment, and a primary beside them, too, once for all of them. It is half an interval at
// least: a wall clock that was set back or lags does not make two ticks of one.
func untilTick(now time.Time, interval time.Duration) time.Duration {
	left := now.Truncate(interval).Add(interval).Sub(now)
	if left < interval/2 {
		left += interval
	}
	return left
}

func (s *session) heard() { s.watchdog.Reset(s.f.config.StuckAfter) }

func (s *session) handle(msg *replicationv1.SubscribeResponse) error {
	if w := msg.GetWelcome(); w != nil {
		return s.welcome(w)
	}
	if !s.welcomed {
		return nil // whatever it is, it does not count before we know whom we talk to
	}
	switch m := msg.GetMessage().(type) {
	case *replicationv1.SubscribeResponse_Records:
		s.f.store.activity.note()
		return s.records(m.Records)
	case *replicationv1.SubscribeResponse_Heartbeat:
		return s.heartbeat(m.Heartbeat)
	case *replicationv1.SubscribeResponse_Refusal:
		return s.refused(m.Refusal)
	case *replicationv1.SubscribeResponse_Placement:
		return s.placement(m.Placement)
	default:
		return nil
	}
}

func (s *session) welcome(w *replicationv1.Welcome) error {
	if s.welcomed {
		return nil
	}
	if w.GetProtocolVersion() == 0 || w.GetProtocolVersion() > protocolVersion {
		return fmt.Errorf("primary speaks replication protocol %d", w.GetProtocolVersion())
	}
	id := Identity{BookmarkKey: w.GetBookmarkKey(), PrimaryRegion: w.GetPrimaryRegion()}
	if len(w.GetMeshId()) != len(id.MeshID) || len(id.BookmarkKey) == 0 {
		return fmt.Errorf("welcome with a mesh id of %d bytes and a key of %d", len(w.GetMeshId()), len(id.BookmarkKey))
	}
	copy(id.MeshID[:], w.GetMeshId())
	if err := s.f.store.Adopt(id); err != nil {
		return err
	}
	s.welcomed, s.busyAt = true, time.Now()
	s.snapshots = slices.Contains(w.GetCapabilities(), capabilitySnapshot)
	s.f.store.repairs.Store(s.snapshots)
	for _, c := range s.f.copies {
		c.asked, c.again, c.refusals = false, false, 0
	}
	if err := s.follow(meshdb.DatabaseID); err != nil {
		return err
	}
	s.f.stamp = [2]tableSum{}
	if err := s.reconcile(); err != nil {
		return err
	}
	s.f.connected.Store(true)
	s.f.logger.Info("connected to the primary", slog.String("primary_region", id.PrimaryRegion))
	s.f.config.OnConnect()
	return s.ping()
}

func (s *session) ping() error {
	return s.send(&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Ping{
		Ping: &replicationv1.Ping{SentNanos: int64(time.Since(s.f.origin))},
	}})
}

func (s *session) tick(now time.Time) error {
	if !s.welcomed {
		return nil
	}
	for id, c := range s.waiting {
		if now.Before(c.retryAt) {
			continue
		}
		if err := s.follow(id); err != nil {
			return err
		}
	}
	if err := s.repairMarked(); err != nil {
		return err
	}
	s.repair(now)
	return s.ping()
}

func (s *session) heartbeat(h *replicationv1.Heartbeat) error {
	f := s.f
	asked := f.origin.Add(time.Duration(h.GetEchoedNanos()))
	if now := time.Now(); asked.After(now) {
		return fmt.Errorf("heartbeat answers a ping of %v from now", asked.Sub(now))
	}
	for _, p := range h.GetPublished() {
		if c := f.copies[p.GetDatabaseId()]; c != nil && c.asked {
			c.database.heard(p.GetEpoch(), p.GetVersion())
		}
	}
	f.link.heard.Store(&asked)
	for _, c := range s.behind {
		if err := s.caughtUp(c); err != nil {
			return err
		}
	}
	for _, p := range h.GetPublished() {
		if c := f.copies[p.GetDatabaseId()]; c != nil && c.asked {
			if err := s.caughtUp(c); err != nil {
				return err
			}
		}
	}
	f.config.OnHeartbeat()
	return s.save(asked)
}

// save writes down, once in a while, that all copies were complete when a heartbeat was asked for.
func (s *session) save(asked time.Time) error {
	f := s.f
	if len(s.behind) > 0 || len(s.waiting) > 0 || s.fetching > 0 || time.Since(f.savedAt) < saveInterval {
		return nil
	}
	f.savedAt = time.Now()
	return f.store.saveHeardAt(f.savedAt.Add(-f.savedAt.Sub(asked)))
}
