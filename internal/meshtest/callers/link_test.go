package callers_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/meshdb"
)

// link is a region's way to its primary, which knows what replication says: it can hold the rights back while the data goes on, and
// looks whether the primary ever sends a record before what of _mesh that record needs. All else it passes on as it is.
type link struct {
	t       *testing.T
	addr    string
	streams *http.Client
	client  replicationv1connect.ReplicationServiceClient

	pausing sync.RWMutex // held to take nothing in from the primary

	mu        sync.Mutex
	hold      bool
	secret    []byte          // in a record that the test waits for
	passed    bool            // that record has gone on to the region
	database  uint32          // of that record
	given     map[uint32]bool // databases that the region no longer follows since then
	needing   int             // records that need more of _mesh than the record before in their database
	tooEarly  string          // a record that came before what it needs
	newestFor map[uint32]uint64
}

// newLink starts a link to a primary and returns it. It ends with the test.
func newLink(t *testing.T, primaryAddr string) *link {
	t.Helper()
	// Little of a stream is on its way at a time, so that whoever sends is held up when nothing is taken in.
	streamProtocols := new(http.Protocols)
	streamProtocols.SetUnencryptedHTTP2(true)
	streams := &http.Client{Transport: &http.Transport{
		Protocols: streamProtocols, DisableCompression: true, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
	}}
	l := &link{t: t, streams: streams, given: make(map[uint32]bool), newestFor: make(map[uint32]uint64)}
	base := "http://" + primaryAddr
	l.client = replicationv1connect.NewReplicationServiceClient(l.streams, base)
	target, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	mux := http.NewServeMux()
	mux.Handle("/", proxy)
	mux.Handle(replicationv1connect.NewReplicationServiceHandler(l))
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux, Protocols: protocols} // the region is no stranger
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(ln) // until Close
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
		transport.CloseIdleConnections()
		l.streams.CloseIdleConnections()
	})
	l.addr = ln.Addr().String()
	return l
}

// holdRights has nothing of _mesh come to the region until the function that it returns is called. passed then reports whether a
// record with a text in it has come to the region meanwhile, and refused whether the region has refused it.
func (l *link) holdRights(secret string) (passed, refused func() bool, release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold, l.secret, l.passed = true, []byte(secret), false
	clear(l.given)
	passed = func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.passed
	}
	refused = func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.passed && l.given[l.database]
	}
	return passed, refused, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.hold = false
	}
}

// pause has the primary be held up while it sends, until the function that it returns is called.
func (l *link) pause() (goOn func()) {
	l.pausing.Lock()
	return l.pausing.Unlock
}

// order returns how many records needed more of _mesh than the one before, and the first that came too early; "" is none.
func (l *link) order() (needing int, tooEarly string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.needing, l.tooEarly
}

// Snapshot implements replicationv1connect.ReplicationServiceHandler.
func (l *link) Snapshot(
	ctx context.Context, req *connect.Request[replicationv1.SnapshotRequest], out *connect.ServerStream[replicationv1.SnapshotResponse],
) error {
	in, err := l.client.Snapshot(ctx, connect.NewRequest(req.Msg))
	if err != nil {
		return err
	}
	defer in.Close()
	for in.Receive() {
		if err := out.Send(in.Msg()); err != nil {
			return err
		}
	}
	return in.Err()
}

// Subscribe implements replicationv1connect.ReplicationServiceHandler.
func (l *link) Subscribe(
	ctx context.Context, down *connect.BidiStream[replicationv1.SubscribeRequest, replicationv1.SubscribeResponse],
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up := l.client.Subscribe(ctx)
	s := &session{link: l}
	go func() { // it ends when the handler has
		for {
			m, err := down.Receive()
			if err != nil {
				_ = up.CloseRequest()
				return
			}
			s.said(m)
			if up.Send(m) != nil {
				return
			}
		}
	}()
	for {
		l.pausing.RLock()
		l.pausing.RUnlock() //nolint:staticcheck // it is the waiting that counts
		m, err := up.Receive()
		if err != nil {
			return err
		}
		for _, m := range s.through(m) {
			if err := down.Send(m); err != nil {
				return err
			}
		}
	}
}

// session is one stream.
type session struct {
	link      *link
	mesh      uint64 // how far the region has _mesh, or the primary has sent it
	held      []*replicationv1.SubscribeResponse
	published *replicationv1.Heartbeat_Published // of _mesh, that the region was not told
}

// said notes what the region says to the primary.
func (s *session) said(m *replicationv1.SubscribeRequest) {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := m.GetFollow(); f != nil && f.GetDatabaseId() == meshdb.DatabaseID {
		s.mesh = max(s.mesh, f.GetVersion())
	}
	if u := m.GetUnfollow(); u != nil {
		l.given[u.GetDatabaseId()] = true
	}
}

// through returns what goes on to the region when a message has come: heartbeats come several times a second.
func (s *session) through(m *replicationv1.SubscribeResponse) []*replicationv1.SubscribeResponse {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	s.look(m.GetRecords())
	var out []*replicationv1.SubscribeResponse
	if !l.hold {
		out, s.held = s.held, nil
	}
	if h := m.GetHeartbeat(); h != nil {
		if !l.hold && s.published != nil {
			h.Published, s.published = append(h.Published, s.published), nil
		}
		if l.hold {
			for i, p := range h.GetPublished() {
				if p.GetDatabaseId() == meshdb.DatabaseID {
					s.published = p
					h.Published = append(h.Published[:i:i], h.Published[i+1:]...)
					break
				}
			}
		}
	}
	r := m.GetRecords()
	if l.hold && r != nil && r.GetDatabaseId() == meshdb.DatabaseID {
		s.held = append(s.held, m)
		return out
	}
	for _, record := range r.GetRecords() {
		if len(l.secret) > 0 && bytes.Contains(record, l.secret) {
			l.passed, l.database = true, r.GetDatabaseId()
		}
	}
	return append(out, m)
}

// look notes what the primary has sent.
func (s *session) look(r *replicationv1.Records) {
	l := s.link
	if r == nil {
		return
	}
	if r.GetDatabaseId() == meshdb.DatabaseID {
		s.mesh = max(s.mesh, r.GetFirstVersion()+uint64(len(r.GetRecords()))-1)
		return
	}
	for _, encoded := range r.GetRecords() {
		var record replicationv1.CommitRecord
		if err := proto.Unmarshal(encoded, &record); err != nil {
			l.t.Errorf("a record of database %d: %v", r.GetDatabaseId(), err)
			return
		}
		if record.GetMeshVersion() > l.newestFor[r.GetDatabaseId()] {
			l.newestFor[r.GetDatabaseId()] = record.GetMeshVersion()
			l.needing++
		}
		if record.GetMeshVersion() > s.mesh && l.tooEarly == "" {
			l.tooEarly = record.String()
		}
	}
}
