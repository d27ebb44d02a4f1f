package replication

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	testMesh = [16]byte{7, 7, 7}
	testKey  = []byte("a key of thirty-two bytes, or so")
)

type writer struct {
	t    testing.TB
	log  *changelog.Log
	id   uint32
	head changelog.Head
	size int // of each record's padding
}

// append makes n records durable, the first of them after those that are there.
func (w *writer) append(n int, meshVersion uint64) {
	w.t.Helper()
	b := w.log.NewBatch(w.id)
	defer b.Close()
	for range n {
		record, err := proto.Marshal(&replicationv1.CommitRecord{
			Version: w.head.Version + 1, Epoch: 1, PreviousChecksum: w.head.Checksum[:], MeshVersion: meshVersion,
			Actor: strings.Repeat("x", w.size),
		})
		if err != nil {
			w.t.Fatal(err)
		}
		w.head = changelog.Head{Epoch: 1, Version: w.head.Version + 1, Checksum: changelog.ChecksumOf(record)}
		if err := b.Record(w.head.Version, record); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := b.Commit(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) publish() { w.log.Publish(w.id, w.head) }

func openLog(tb testing.TB) *changelog.Log {
	tb.Helper()
	log, err := changelog.Open("log", changelog.Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := log.Close(); err != nil {
			tb.Error(err)
		}
	})
	return log
}

// serve serves a log on a loopback listener, over HTTP/2 without TLS.
func serve(
	tb testing.TB, log *changelog.Log, config Config, interceptors ...connect.Interceptor,
) (*Service, replicationv1connect.ReplicationServiceClient) {
	tb.Helper()
	config.MeshID, config.BookmarkKey, config.PrimaryRegion = testMesh, testKey, "us-east-1"
	config.Logger = slog.New(slog.DiscardHandler)
	service := New(log, config)
	interceptor, err := rpcerr.NewInterceptor(config.Logger)
	if err != nil {
		tb.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(service.Handler(connect.WithInterceptors(append(interceptors, interceptor)...)))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: mux, Protocols: protocols}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	client := httpclient.NewStreaming()
	tb.Cleanup(func() {
		service.Close()
		client.CloseIdleConnections()
		if err := server.Close(); err != nil {
			tb.Error(err)
		}
		<-served
	})
	return service, replicationv1connect.NewReplicationServiceClient(client, "http://"+listener.Addr().String())
}

// total is the sum of a metric over its labels.
func total(t *testing.T, registry *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return sum
}

// peer is a subscriber that a test drives by hand.
type peer struct {
	t      testing.TB
	stream *connect.BidiStreamForClient[replicationv1.SubscribeRequest, replicationv1.SubscribeResponse]
	cancel context.CancelFunc
}

func dial(tb testing.TB, client replicationv1connect.ReplicationServiceClient, hello *replicationv1.Hello) *peer {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &peer{t: tb, stream: client.Subscribe(ctx), cancel: cancel}
	tb.Cleanup(p.close)
	err := p.stream.Send(&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Hello{Hello: hello}})
	if err != nil && !errors.Is(err, io.EOF) { // EOF is that the stream was refused already; Receive says why
		tb.Fatal(err)
	}
	return p
}

func subscribe(tb testing.TB, client replicationv1connect.ReplicationServiceClient) *peer {
	tb.Helper()
	p := dial(tb, client, &replicationv1.Hello{Region: "eu-west-1", Url: "http://eu", ProtocolVersion: 9})
	w := p.receive().GetWelcome()
	if !bytes.Equal(w.GetMeshId(), testMesh[:]) || !bytes.Equal(w.GetBookmarkKey(), testKey) ||
		w.GetPrimaryRegion() != "us-east-1" || w.GetProtocolVersion() != 1 {
		tb.Fatalf("welcome: %v", w)
	}
	return p
}

func (p *peer) close() {
	p.cancel()
	_ = p.stream.CloseRequest()
	_ = p.stream.CloseResponse()
}

// send fails the test unless m is sent or the service has ended the stream: why it did is what receiving says.
func (p *peer) send(m *replicationv1.SubscribeRequest) {
	p.t.Helper()
	if err := p.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		p.t.Fatal(err)
	}
}

func (p *peer) follow(f *replicationv1.Follow) {
	p.t.Helper()
	p.send(&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Follow{Follow: f}})
}

func (p *peer) ping(nanos int64) {
	p.t.Helper()
	p.send(&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Ping{
		Ping: &replicationv1.Ping{SentNanos: nanos},
	}})
}

func (p *peer) receive() *replicationv1.SubscribeResponse {
	p.t.Helper()
	m, err := p.stream.Receive()
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// copies is what a subscriber has received.
type copies struct {
	t       testing.TB
	have    map[uint32]changelog.Head
	listed  map[uint32]uint64
	largest int // records in a message
}

func newCopies(tb testing.TB) *copies {
	return &copies{t: tb, have: make(map[uint32]changelog.Head), listed: make(map[uint32]uint64)}
}

// take checks a message: records continue what is there and come after what they need of _mesh, and what a heartbeat lists
// has come.
func (c *copies) take(m *replicationv1.SubscribeResponse) {
	c.t.Helper()
	if h := m.GetHeartbeat(); h != nil {
		for _, p := range h.GetPublished() {
			c.listed[p.GetDatabaseId()] = p.GetVersion()
			if have := c.have[p.GetDatabaseId()]; have.Version < p.GetVersion() {
				c.t.Errorf("heartbeat lists version %d of database %d, only %d came", p.GetVersion(), p.GetDatabaseId(), have.Version)
			}
		}
		return
	}
	records := m.GetRecords()
	if records == nil {
		c.t.Fatalf("unexpected message %v", m)
	}
	id := records.GetDatabaseId()
	head := c.have[id]
	if records.GetFirstVersion() != head.Version+1 {
		c.t.Fatalf("records of database %d begin at %d after %d", id, records.GetFirstVersion(), head.Version)
	}
	for _, encoded := range records.GetRecords() {
		var r replicationv1.CommitRecord
		if err := proto.Unmarshal(encoded, &r); err != nil {
			c.t.Fatal(err)
		}
		if r.GetVersion() != head.Version+1 || !bytes.Equal(r.GetPreviousChecksum(), head.Checksum[:]) {
			c.t.Fatalf("record %d of database %d does not follow %v", r.GetVersion(), id, head)
		}
		if mesh := c.have[meshdb.DatabaseID].Version; r.GetMeshVersion() > mesh {
			c.t.Fatalf("record %d of database %d needs _mesh at %d, which is at %d", r.GetVersion(), id, r.GetMeshVersion(), mesh)
		}
		head = changelog.Head{Epoch: r.GetEpoch(), Version: r.GetVersion(), Checksum: changelog.ChecksumOf(encoded)}
	}
	c.largest = max(c.largest, len(records.GetRecords()))
	c.have[id] = head
}

// until takes messages until a database has reached a version.
func (c *copies) until(p *peer, id uint32, version uint64) {
	c.t.Helper()
	for c.have[id].Version < version {
		c.take(p.receive())
	}
}
