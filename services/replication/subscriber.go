package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"connectrpc.com/connect"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/placement"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// A group of records is bounded so that databases take turns and pings are answered between groups.
const (
	maxGroupBytes   = 1 << 20
	minGroupBytes   = 16 << 10
	maxGroupRecords = 1000
)

// followsAtOnce is how many databases a subscriber is put in place in before anything else has its turn.
const followsAtOnce = 8

// cursor is a place in a database's log.
type cursor struct {
	id     uint32
	sent   uint64 // the version of the last record that was sent
	live   bool   // was listed in a heartbeat: the subscriber takes its silence for "nothing new"
	queued bool
	view   view // what of it may be sent
}

// subscriber is the sending half of a stream. One goroutine uses it.
type subscriber struct {
	service *Service
	stream  *connect.BidiStream[replicationv1.SubscribeRequest, replicationv1.SubscribeResponse]
	in      *inbox
	watcher *changelog.Watcher

	wishes   map[uint32]*replicationv1.Follow // what is still to be done of what the subscriber said; their cursors are gone
	cursors  map[uint32]*cursor
	queue    []*cursor          // those that may have something to send, in turn
	unlisted map[uint32]*cursor // those whose published version may not be what the last heartbeat said

	region     string
	rules      *placement.Rules // that all cursors were last told to look at
	placements bool             // whether it can do without what its region may not hold
	snapshots  bool             // whether it can take them
	groupBytes int              // what a read asks for: less where records are so small that more than maxGroupRecords would fit
}

// run sends until the stream ends, and returns why. nil is that the subscriber said so.
func (s *subscriber) run(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wishes, ping, err := s.in.take()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for id, follow := range wishes {
			s.unfollow(id) // a heartbeat must not speak of a place that the subscriber has left
			s.wishes[id] = follow
		}
		if err := s.followSome(ctx); err != nil {
			return err
		}
		s.reconsider()
		for _, id := range s.watcher.Changed() {
			if c := s.cursors[id]; c != nil {
				s.enqueue(c)
			}
		}
		switch {
		case ping != nil:
			err = s.heartbeat(ctx, ping)
		case len(s.queue) > 0:
			err = s.sendNext(ctx)
		case len(s.wishes) > 0:
		default:
			select {
			case <-s.in.wakeup:
			case <-s.watcher.C():
			case <-ctx.Done():
			}
		}
		if err != nil {
			return err
		}
	}
}

// followSome does a few wishes, that of _mesh first: nothing else may be sent before it. Each reads in the log, and there may be a
// thousand after a restart: meanwhile pings want their answers, and what is followed already its turns.
func (s *subscriber) followSome(ctx context.Context) error {
	if f, ok := s.wishes[meshdb.DatabaseID]; ok {
		if err := s.follow(ctx, meshdb.DatabaseID, f); err != nil {
			return err
		}
	}
	n := 0
	for id, f := range s.wishes {
		if n++; n > followsAtOnce {
			break
		}
		if err := s.follow(ctx, id, f); err != nil {
			return err
		}
	}
	return nil
}

// enqueue notes that there may be news of a database.
func (s *subscriber) enqueue(c *cursor) {
	s.unlisted[c.id] = c
	if !c.queued {
		c.queued = true
		s.queue = append(s.queue, c)
		s.service.metrics.queued.Inc()
	}
}

// sendNext sends a group of the database whose turn it is.
func (s *subscriber) sendNext(ctx context.Context) error {
	c := s.queue[0]
	s.queue = s.queue[1:]
	c.queued = false
	s.service.metrics.queued.Dec()
	more, err := s.sendGroup(ctx, c)
	if more && err == nil {
		s.enqueue(c)
	}
	return err
}

// sendGroup sends a group of a database's records, if there are any, and reports whether there may be more.
//
// A record may need what _mesh had when it was committed. That was published by then, so it is enough to read the records
// first, and then send all that _mesh has before them.
func (s *subscriber) sendGroup(ctx context.Context, c *cursor) (more bool, err error) {
	if s.cursors[c.id] != c {
		return false, nil // unfollowed while it waited for its turn
	}
	if ok, err := s.look(ctx, c); !ok || err != nil {
		return false, err
	}
	if err := s.tell(c); err != nil {
		return false, err
	}
	log := s.service.log
	head, ok := log.Published(c.id)
	if !ok {
		return false, s.refuseUnpublished(c.id)
	}
	if c.sent >= head.Version {
		return c.view.stale && c.view.at == nil, nil
	}
	records, err := log.Read(c.id, c.sent, s.groupBytes)
	if errors.Is(err, changelog.ErrTrimmed) {
		return false, s.refuseTrimmed(c.id, c.sent)
	}
	if err != nil {
		return false, s.refuseUnreadable(c.id, err)
	}
	if len(records) == 0 {
		return true, nil // unpublished between the two calls: the next turn finds out
	}
	records = s.bound(records)
	records, ok, err = s.filtered(c, records)
	if !ok || err != nil {
		return false, err
	}
	if c.id != meshdb.DatabaseID {
		if mesh := s.cursors[meshdb.DatabaseID]; mesh != nil {
			if err := s.drain(ctx, mesh); err != nil {
				return false, err
			}
		}
	}
	sent := s.service.metrics.sending(records)
	err = s.stream.Send(&replicationv1.SubscribeResponse{Message: &replicationv1.SubscribeResponse_Records{
		Records: &replicationv1.Records{DatabaseId: c.id, FirstVersion: c.sent + 1, Records: records},
	}})
	sent(err)
	c.sent += uint64(len(records))
	return c.sent < head.Version || c.view.at != nil && c.sent == c.view.at.head.Version, err
}

// bound cuts a group to its greatest count, and has the next read ask for about what can be sent.
func (s *subscriber) bound(records [][]byte) [][]byte {
	if len(records) <= maxGroupRecords {
		s.groupBytes = min(maxGroupBytes, s.groupBytes+s.groupBytes/4)
		return records
	}
	records = records[:maxGroupRecords]
	size := 0
	for _, r := range records {
		size += len(r)
	}
	s.groupBytes = max(minGroupBytes, min(maxGroupBytes, size))
	return records
}

// drain sends all that a database has published by now.
func (s *subscriber) drain(ctx context.Context, c *cursor) error {
	head, ok := s.service.log.Published(c.id)
	if !ok {
		return s.refuseUnpublished(c.id)
	}
	for s.cursors[c.id] == c && c.sent < head.Version {
		if _, err := s.sendGroup(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// heartbeat answers a ping. What it lists was published when the ping was here and is sent before it. A database that is
// still being caught up with is not listed, so that the others need not wait for it; one that was listed before is, because
// the subscriber counts on hearing of its news.
func (s *subscriber) heartbeat(ctx context.Context, ping *replicationv1.Ping) error {
	h := &replicationv1.Heartbeat{EchoedNanos: ping.GetSentNanos()}
	for id, c := range s.unlisted {
		head, ok := s.service.log.Published(id)
		if !ok {
			if err := s.refuseUnpublished(id); err != nil {
				return err
			}
			continue
		}
		if c.live {
			if err := s.drain(ctx, c); err != nil {
				return err
			}
		}
		if s.cursors[id] != c || c.sent < head.Version {
			continue
		}
		c.live = true
		delete(s.unlisted, id)
		h.Published = append(h.Published, &replicationv1.Heartbeat_Published{
			DatabaseId: id, Epoch: head.Epoch, Version: head.Version,
		})
	}
	return s.stream.Send(&replicationv1.SubscribeResponse{
		Message: &replicationv1.SubscribeResponse_Heartbeat{Heartbeat: h},
	})
}

// follow puts a cursor where the subscriber says that its copy is, or refuses. nil unfollows.
func (s *subscriber) follow(ctx context.Context, id uint32, f *replicationv1.Follow) error {
	s.unfollow(id)
	if f == nil {
		return nil
	}
	rules := s.service.config.Placement()
	withheld, allowed := limited(rules, id, s.region)
	if !allowed {
		return s.refuseUnplaced(id, "the region may not hold the database")
	}
	log := s.service.log
	head, ok := log.Published(id)
	if !ok {
		return s.refuseUnpublished(id)
	}
	at := f.GetVersion()
	if at > head.Version {
		return s.refuse(id, replicationv1.Refusal_REASON_FOLLOWER_AHEAD,
			fmt.Sprintf("the copy has version %d, the log ends with %d", at, head.Version))
	}
	if at > 0 {
		checksum, epoch, err := log.ChecksumAt(id, at)
		switch {
		case errors.Is(err, changelog.ErrNotFound):
			return s.refuseTrimmed(id, at)
		case err != nil:
			return s.refuseUnreadable(id, err)
		case epoch != f.GetEpoch() || string(checksum[:]) != string(f.GetChecksum()):
			return s.refuse(id, replicationv1.Refusal_REASON_FORK,
				fmt.Sprintf("record %d of the copy is epoch %d checksum %x, of the log epoch %d checksum %x",
					at, f.GetEpoch(), f.GetChecksum(), epoch, checksum))
		}
	} else if head.Version > 0 {
		switch _, _, err := log.ChecksumAt(id, 1); {
		case errors.Is(err, changelog.ErrNotFound):
			return s.refuseTrimmed(id, at)
		case err != nil:
			return s.refuseUnreadable(id, err)
		}
	}
	if s.snapshots && at < head.Version {
		behind, err := log.BytesAfter(id, at)
		if err != nil {
			return s.refuseUnreadable(id, err)
		}
		if behind > s.service.config.FarBehindBytes {
			return s.refuse(id, replicationv1.Refusal_REASON_FAR_BEHIND, fmt.Sprintf("the log after %d has %d bytes", at, behind))
		}
	}
	if at > 0 {
		s.service.metrics.resumes.Inc()
	}
	c := &cursor{id: id, sent: at}
	if ok, err := s.restrict(ctx, c, withheld, f.GetWithheld()); !ok || err != nil {
		return err
	}
	c.view.rules = rules
	s.cursors[id] = c
	s.enqueue(c)
	return nil
}

func (s *subscriber) unfollow(id uint32) {
	delete(s.wishes, id)
	delete(s.cursors, id)
	delete(s.unlisted, id)
}

func (s *subscriber) refuse(id uint32, reason replicationv1.Refusal_Reason, message string) error {
	s.unfollow(id)
	s.in.forget(id)
	s.service.metrics.refused(reason)
	return s.stream.Send(&replicationv1.SubscribeResponse{Message: &replicationv1.SubscribeResponse_Refusal{
		Refusal: &replicationv1.Refusal{DatabaseId: id, Reason: reason, Message: message},
	}})
}

func (s *subscriber) refuseTrimmed(id uint32, at uint64) error {
	return s.refuse(id, replicationv1.Refusal_REASON_TRIMMED, fmt.Sprintf("the log no longer has what follows %d", at))
}

func (s *subscriber) refuseUnpublished(id uint32) error {
	if s.service.config.Exists(id) {
		return s.refuse(id, replicationv1.Refusal_REASON_UNAVAILABLE, "the database is not served now")
	}
	return s.refuse(id, replicationv1.Refusal_REASON_NOT_FOUND, "no such database")
}

func (s *subscriber) refuseUnreadable(id uint32, err error) error {
	s.service.config.Logger.Error("log not readable", slog.Uint64("database", uint64(id)), slog.Any("error", err))
	return s.refuse(id, replicationv1.Refusal_REASON_UNAVAILABLE, "the log cannot be read")
}
