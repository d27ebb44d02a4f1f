// Package replication serves the commit logs of a primary to the sidecars: one stream for each sidecar, which carries all the
// databases that it follows.
//
// A stream holds a place in each log and nothing else. It reads on when the subscriber can take more, so a slow one costs a
// goroutine pair and one group of records, and no commit waits for it.
package replication

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/nodeaccess"
	"github.com/nearside-dev/nearside/internal/placement"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// Defaults of Config.
const (
	DefaultMaxStreams   = 256
	DefaultMaxDatabases = 100_000
	DefaultMaxSnapshots = 16
	// DefaultFarBehindBytes is about where sending the rows once costs less than all that ever happened to them.
	DefaultFarBehindBytes = 256 << 20
)

const (
	protocolVersion = 1
	helloTimeout    = 10 * time.Second
	// lastWriteTimeout is how long a subscriber that does not read may hold up the end of the server.
	lastWriteTimeout = time.Second
)

// Config configures a Service.
type Config struct {
	// MeshID, BookmarkKey and PrimaryRegion are what subscribers are told.
	MeshID        [16]byte
	BookmarkKey   []byte
	PrimaryRegion string
	// OnHello is told of each subscriber before it is welcomed; its error ends the stream. Default: nothing.
	OnHello func(ctx context.Context, region, url string) error
	// Placement returns which regions may hold what. It must be cheap. Default: all regions hold all.
	Placement func() *placement.Rules
	// Exists tells whether there is a database, of one whose log is not published. Default: assume so.
	Exists func(database uint32) bool
	// MaxStreams is how many subscribers there may be at a time; default DefaultMaxStreams.
	MaxStreams int
	// MaxDatabases is how many databases one may follow; default DefaultMaxDatabases.
	MaxDatabases int
	// Source returns a database to take snapshots of; ok is false where it is not served. Default: there are no snapshots.
	Source func(database uint32) (s Source, ok bool)
	// FarBehindBytes is how much log a copy may lack before it is told to take a snapshot; default DefaultFarBehindBytes.
	FarBehindBytes uint64
	// MaxSnapshots is how many snapshots are sent at a time; default DefaultMaxSnapshots.
	MaxSnapshots int
	// Logger is told of logs that cannot be read; default slog.Default().
	Logger *slog.Logger
	// Registerer takes the metrics; default none. It must have none of another Service.
	Registerer prometheus.Registerer
}

// Service implements ReplicationService.
type Service struct {
	log     *changelog.Log
	config  Config
	metrics *metrics

	mu      sync.Mutex
	streams map[*context.CancelCauseFunc]struct{} // what ends each
	closed  bool
	ended   sync.WaitGroup

	snapshots chan struct{} // a place for each that is being sent
}

var _ replicationv1connect.ReplicationServiceHandler = (*Service)(nil)

var errStopping = connect.NewError(connect.CodeUnavailable, errors.New("the primary is stopping"))

// New returns a Service that sends what is published in log.
func New(log *changelog.Log, config Config) *Service {
	if config.OnHello == nil {
		config.OnHello = func(context.Context, string, string) error { return nil }
	}
	if config.Placement == nil {
		config.Placement = func() *placement.Rules { return nil }
	}
	if config.Exists == nil {
		config.Exists = func(uint32) bool { return true }
	}
	if config.MaxStreams == 0 {
		config.MaxStreams = DefaultMaxStreams
	}
	if config.MaxDatabases == 0 {
		config.MaxDatabases = DefaultMaxDatabases
	}
	if config.FarBehindBytes == 0 {
		config.FarBehindBytes = DefaultFarBehindBytes
	}
	if config.MaxSnapshots == 0 {
		config.MaxSnapshots = DefaultMaxSnapshots
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Service{
		log: log, config: config, metrics: newMetrics(config.Registerer), streams: make(map[*context.CancelCauseFunc]struct{}),
		snapshots: make(chan struct{}, config.MaxSnapshots),
	}
}

// Handler returns the path to serve the service at, and its HTTP handler, which needs HTTP/2.
func (s *Service) Handler(options ...connect.HandlerOption) (path string, h http.Handler) {
	// Records would be compressed anew for each subscriber, by the process that has the commits to make.
	options = append(options, connect.WithCompression("gzip", nil, nil))
	path, inner := replicationv1connect.NewReplicationServiceHandler(s, options...)
	return path, server.AnyTime(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), controllerKey{}, http.NewResponseController(w))
		inner.ServeHTTP(w, r.WithContext(ctx))
	}))
}

// controllerKey finds the http.ResponseController of a stream, whose deadlines alone can interrupt reads and writes.
type controllerKey struct{}

// Close ends all streams and waits for them. New ones are refused.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	for cancel := range s.streams {
		(*cancel)(errStopping)
	}
	s.mu.Unlock()
	s.ended.Wait()
}

func (s *Service) enter(cancel *context.CancelCauseFunc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errStopping
	}
	if n := len(s.streams); n >= s.config.MaxStreams {
		s.metrics.overloads.Inc()
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "there are %d subscribers already", n).
			WithRetryAfter(time.Second)
	}
	s.streams[cancel] = struct{}{}
	s.metrics.streams.Inc()
	s.ended.Add(1)
	return nil
}

func (s *Service) leave(cancel *context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, cancel)
	s.metrics.streams.Dec()
	s.ended.Done()
}

// Subscribe implements ReplicationServiceHandler. This goroutine sends; another receives.
func (s *Service) Subscribe(
	ctx context.Context, stream *connect.BidiStream[replicationv1.SubscribeRequest, replicationv1.SubscribeResponse],
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := s.enter(&cancel); err != nil {
		return err
	}
	defer s.leave(&cancel)

	in := newInbox(s.config.MaxDatabases)
	received := make(chan struct{})
	go func() {
		defer close(received)
		for {
			msg, err := stream.Receive()
			if err == nil {
				err = in.put(msg)
			}
			if err != nil {
				in.end(err)
				return
			}
		}
	}()
	interrupted := interruptAtEnd(ctx)
	err := s.subscribe(ctx, stream, in)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // the interrupted read or write may be noticed before it
	}
	cancel(nil)
	if interrupted != nil {
		// The controller must not be touched, nor the request's body, once the handler has returned.
		<-interrupted
		<-received
	}
	return err
}

// interruptAtEnd makes reads and writes of the stream fail when ctx ends; the channel is closed when that was done. It is nil
// where something around the handler hides the deadlines: then reads end only after the handler has returned.
func interruptAtEnd(ctx context.Context) <-chan struct{} {
	rc, ok := ctx.Value(controllerKey{}).(*http.ResponseController)
	if !ok || rc.SetReadDeadline(time.Time{}) != nil {
		return nil
	}
	interrupted := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(interrupted)
		// The connection may be gone already: then they have failed.
		_ = rc.SetReadDeadline(time.Unix(1, 0))
		_ = rc.SetWriteDeadline(time.Now().Add(lastWriteTimeout))
	})
	return interrupted
}

// subscribe runs one stream to its end.
func (s *Service) subscribe(
	ctx context.Context, stream *connect.BidiStream[replicationv1.SubscribeRequest, replicationv1.SubscribeResponse], in *inbox,
) error {
	hello, err := s.awaitHello(ctx, in)
	if err != nil {
		return err
	}
	err = nodeaccess.CheckRegion(identity.From(ctx), replicationv1connect.ReplicationServiceSubscribeProcedure, hello.GetRegion())
	if err != nil {
		return err
	}
	if err := s.config.OnHello(ctx, hello.GetRegion(), hello.GetUrl()); err != nil {
		return err
	}
	watcher := s.log.Watch()
	defer watcher.Close()
	err = stream.Send(&replicationv1.SubscribeResponse{Message: &replicationv1.SubscribeResponse_Welcome{
		Welcome: &replicationv1.Welcome{
			ProtocolVersion: min(hello.GetProtocolVersion(), protocolVersion),
			Capabilities:    s.capabilities(hello),
			MeshId:          s.config.MeshID[:],
			BookmarkKey:     s.config.BookmarkKey,
			PrimaryRegion:   s.config.PrimaryRegion,
		},
	}})
	if err != nil {
		return err
	}
	able := s.capabilities(hello)
	sub := &subscriber{
		service: s, stream: stream, in: in, watcher: watcher, region: placement.RegionOf(ctx, hello.GetRegion()),
		wishes:  make(map[uint32]*replicationv1.Follow),
		cursors: make(map[uint32]*cursor), unlisted: make(map[uint32]*cursor), groupBytes: maxGroupBytes,
		snapshots: slices.Contains(able, capabilitySnapshot), placements: slices.Contains(able, capabilityPlacement),
	}
	defer func() { s.metrics.queued.Sub(float64(len(sub.queue))) }()
	return sub.run(ctx)
}

func (s *Service) awaitHello(ctx context.Context, in *inbox) (*replicationv1.Hello, error) {
	timer := time.NewTimer(helloTimeout)
	defer timer.Stop()
	for {
		hello, err := in.takeHello()
		if err != nil {
			return nil, err
		}
		if hello != nil {
			return hello, checkHello(hello)
		}
		select {
		case <-in.wakeup:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-timer.C:
			return nil, connect.NewError(connect.CodeDeadlineExceeded, errors.New("no hello"))
		}
	}
}

func checkHello(h *replicationv1.Hello) error {
	switch {
	case h.GetRegion() == "" || len(h.GetRegion()) > 63:
		return rpcerr.InvalidField("hello.region", "must have 1 to 63 bytes")
	case len(h.GetUrl()) > 2048:
		return rpcerr.InvalidField("hello.url", "must have at most 2048 bytes")
	case h.GetProtocolVersion() == 0:
		return rpcerr.InvalidField("hello.protocol_version", "must be at least 1")
	default:
		return nil
	}
}
