package sidecar

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const shopID = uint32(100)

var (
	quiet  = slog.New(slog.DiscardHandler)
	secret = []byte("0123456789abcdef")

	items   = replicatest.Table(10, "items", "id", "name")
	regions = replicatest.Table(3, "regions", "id", "name", "url", "is_primary")
)

// primary is a primary with the database shop, which has a table items: replication of real records, and a DataService that
// only says that it was asked. It can be stopped and started again at the same address.
type primary struct {
	datav1connect.UnimplementedDataServiceHandler
	replicationv1connect.UnimplementedReplicationServiceHandler

	addr   string
	server *server.Server
	pings  chan struct{} // has an element after a sidecar was welcomed and went on

	mu      sync.Mutex
	mesh    *replicatest.Primary
	shop    *replicatest.Primary
	records map[uint32][][]byte
}

func newPrimary(t *testing.T) *primary {
	t.Helper()
	p := &primary{
		addr: freeport.Addr(t), pings: make(chan struct{}, 1),
		mesh: replicatest.NewPrimary(), shop: replicatest.NewPrimary(), records: make(map[uint32][][]byte),
	}
	p.commitMesh(
		replicatest.Schema(replicatest.MeshDatabases, replicatest.MeshPlacements, regions),
		replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(shopID, "shop")),
	)
	p.commit(replicatest.Schema(items), replicatest.Put(items, item(1, "apple")))
	p.start(t)
	t.Cleanup(func() { p.stop(t) })
	return p
}

func item(id int64, name string) rowcodec.Row { return replicatest.Row(id, value.Text(name)) }

func meshRegion(id int64, name, url string, primary int64) rowcodec.Row {
	return replicatest.Row(id, value.Text(name), value.Text(url), value.Integer(primary))
}

func (p *primary) commitMesh(changes ...replicatest.Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records[meshdb.DatabaseID] = append(p.records[meshdb.DatabaseID], p.mesh.Commit(changes...))
}

func (p *primary) commit(changes ...replicatest.Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shop.MeshVersion = p.mesh.Version()
	p.records[shopID] = append(p.records[shopID], p.shop.Commit(changes...))
}

func (p *primary) start(t *testing.T) {
	t.Helper()
	ln, err := server.Listen(t.Context(), p.addr, false)
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	options, err := server.HandlerOptions(quiet, nil)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(p, options...))
	path, handler := replicationv1connect.NewReplicationServiceHandler(p, options...)
	mux.Handle(path, server.EndOnDrain(handler))
	if p.server, err = server.Start(ln, mux, server.Config{Name: "primary", Logger: quiet}); err != nil {
		t.Fatal(err)
	}
}

// stop ends the primary and cuts off who is connected.
func (p *primary) stop(t *testing.T) {
	t.Helper()
	if p.server == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.server.Close(ctx) // says that it cut somebody off
	p.server = nil
}

func (p *primary) url() string { return "http://" + p.addr }

// Subscribe implements replicationv1connect.ReplicationServiceHandler.
func (p *primary) Subscribe(
	_ context.Context, stream *connect.BidiStream[replicationv1.SubscribeRequest, replicationv1.SubscribeResponse],
) error {
	sent := make(map[uint32]int)
	for {
		msg, err := stream.Receive()
		if err != nil {
			return err
		}
		switch m := msg.GetMessage().(type) {
		case *replicationv1.SubscribeRequest_Hello:
			err = stream.Send(&replicationv1.SubscribeResponse{Message: &replicationv1.SubscribeResponse_Welcome{
				Welcome: &replicationv1.Welcome{
					ProtocolVersion: 1, MeshId: make([]byte, 16), BookmarkKey: secret, PrimaryRegion: "us-east-1",
				},
			}})
		case *replicationv1.SubscribeRequest_Follow:
			sent[m.Follow.GetDatabaseId()] = int(m.Follow.GetVersion())
		case *replicationv1.SubscribeRequest_Ping:
			err = p.answerPing(stream, sent, m.Ping)
		}
		if err != nil {
			return err
		}
	}
}

func (p *primary) answerPing(
	stream *connect.BidiStream[replicationv1.SubscribeRequest, replicationv1.SubscribeResponse],
	sent map[uint32]int, ping *replicationv1.Ping,
) error {
	heartbeat := &replicationv1.Heartbeat{EchoedNanos: ping.GetSentNanos()}
	for id, n := range sent {
		p.mu.Lock()
		records := p.records[id]
		p.mu.Unlock()
		if n < len(records) {
			err := stream.Send(&replicationv1.SubscribeResponse{Message: &replicationv1.SubscribeResponse_Records{
				Records: &replicationv1.Records{DatabaseId: id, FirstVersion: uint64(n) + 1, Records: records[n:]},
			}})
			if err != nil {
				return err
			}
			sent[id] = len(records)
		}
		heartbeat.Published = append(heartbeat.Published, &replicationv1.Heartbeat_Published{
			DatabaseId: id, Epoch: 1, Version: uint64(len(records)),
		})
	}
	select {
	case p.pings <- struct{}{}:
	default:
	}
	return stream.Send(&replicationv1.SubscribeResponse{Message: &replicationv1.SubscribeResponse_Heartbeat{Heartbeat: heartbeat}})
}

// Execute implements datav1connect.DataServiceHandler.
func (*primary) Execute(
	context.Context, *connect.Request[datav1.ExecuteRequest],
) (*connect.Response[datav1.ExecuteResponse], error) {
	return connect.NewResponse(&datav1.ExecuteResponse{Answer: &datav1.Answer{Region: "us-east-1", Bookmark: "b"}}), nil
}

// Get implements datav1connect.DataServiceHandler.
func (*primary) Get(
	context.Context, *connect.Request[datav1.GetRequest],
) (*connect.Response[datav1.GetResponse], error) {
	return connect.NewResponse(&datav1.GetResponse{Answer: &datav1.Answer{Source: datav1.Source_SOURCE_PRIMARY}}), nil
}

// startSidecar starts a sidecar and stops it with the test, if it is not stopped by then.
func startSidecar(t *testing.T, c Config) *Sidecar {
	t.Helper()
	if c.Region == "" {
		c.Region = "eu-west-1"
	}
	if c.Listen == "" {
		c.Listen = freeport.Addr(t)
	}
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	c.Logger, c.NoAuth = quiet, true
	s, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopSidecar(t, s) })
	return s
}

func stopSidecar(t *testing.T, s *Sidecar) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

func waitReady(t *testing.T, s *Sidecar) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}
