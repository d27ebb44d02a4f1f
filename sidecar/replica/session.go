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
	"github.com/nearside-dev/nearside/internal/meshdb"
)

// protocolVersion is the newest replication protocol that this package speaks.
const protocolVersion = 1

// saveInterval is how often heardAt is written.
const saveInterval = time.Second

var (
	errStuck = errors.New("nothing came from the primary for too long")
	errEnded = errors.New("stream ended") // the receiver knows why
)

// session is one connection. One goroutine runs it; another only receives, so that pings go out while nothing comes in.
type session struct {
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
		f: f, stream: f.client.Subscribe(ctx),
		waiting: make(map[uint32]*followed), behind: make(map[uint32]*followed), diverged: make(map[uint32]*followed),
		ctx: ctx, fetched: make(chan fetched),
	}
	s.watchdog = time.AfterFunc(f.config.StuckAfter, func() { cancel(errStuck) })
	defer s.watchdog.Stop()

	// HTTP/2 does not look at the context while it waits for more of the request, and it waits for that at any time.
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = s.stream.CloseRequest() // nothing is lost: the stream is over
	})
	var receiveErr error
	received, done := make(chan *replicationv1.SubscribeResponse), make(chan struct{})
	err = s.send(&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Hello{Hello: &replicationv1.Hello{
		Region: f.config.Region, Url: f.config.URL, ProtocolVersion: protocolVersion,
		Capabilities: []string{capabilitySnapshot},
	}}})
	go func() {
		defer close(done)
		receiveErr = s.receive(ctx, received)
	}()
	if err == nil {
		err = s.run(received, done) //nolint:contextcheck // it has ctx as s.ctx
	}
	if errors.Is(err, errEnded) {
		<-done
		err = receiveErr
		if errors.Is(context.Cause(ctx), errStuck) {
			err = errStuck
		}
	}
	cancel(nil)
	<-closed
	<-done
	s.fetches.Wait()
	_ = s.stream.CloseResponse() // what it could say, the receiver was told
	f.connected.Store(false)
	for _, c := range f.copies {
		c.cancelFetch = nil
		c.database.lost()
	}
	return s.welcomed, err
}

// receive hands over what comes, until the stream ends.
func (s *session) receive(ctx context.Context, received chan<- *replicationv1.SubscribeResponse) error {
	for {
		msg, err := s.stream.Receive()
		if err != nil {
			return err
		}
		select {
		case received <- msg:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) send(msg *replicationv1.SubscribeRequest) error {
	if err := s.stream.Send(msg); err != nil {
		return fmt.Errorf("%w: %w", errEnded, err)
	}
	return nil
}

// run works on what comes until the stream ends (errEnded) or something is wrong that another connection may cure.
func (s *session) run(received <-chan *replicationv1.SubscribeResponse, done <-chan struct{}) error {
	ticker := time.NewTicker(s.f.config.PingInterval)
	defer ticker.Stop()
	for {
		select {
		case msg := <-received:
			s.heard()
			if err := s.handle(msg); err != nil {
				return err
			}
		case r := <-s.fetched:
			if err := s.fetchEnded(r); err != nil {
				return err
			}
		case <-ticker.C:
			if err := s.tick(time.Now()); err != nil {
				return err
			}
		case <-done:
			return errEnded
		}
	}
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
		return s.records(m.Records)
	case *replicationv1.SubscribeResponse_Heartbeat:
		return s.heartbeat(m.Heartbeat)
	case *replicationv1.SubscribeResponse_Refusal:
		return s.refused(m.Refusal)
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
	s.welcomed = true
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
