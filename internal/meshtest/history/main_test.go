package history_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/replication"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	shop   = 100 // the database
	region = "eu"
)

// complaints collects what is logged above Info: a copy that heals itself must not pass for one that was right.
type complaints struct {
	mu   sync.Mutex
	said []string
}

func (c *complaints) Enabled(_ context.Context, level slog.Level) bool { return level > slog.LevelInfo }

func (c *complaints) WithAttrs([]slog.Attr) slog.Handler { return c }

func (c *complaints) WithGroup(string) slog.Handler { return c }

func (c *complaints) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, text)
	return nil
}

func (c *complaints) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said
}

// origin is the primary's side: a database, its log, and the service that sends it.
type origin struct {
	t    *testing.T
	log  *changelog.Log
	db   *engine.DB
	mesh *replicatest.Primary
	url  string

	meshRecords [][]byte
	// chunk is called after each chunk of a snapshot was read, after the last one too, with how many there were.
	chunk func(n int)
}

// startOrigin starts a primary whose records carry so many bytes of tables that were made or rewritten; 0 is the default.
func startOrigin(t *testing.T, wholeTableBytes int) *origin {
	t.Helper()
	o := &origin{t: t, mesh: replicatest.NewPrimary()}
	var err error
	if o.log, err = changelog.Open("log", changelog.Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	o.commitMesh(replicatest.Schema(replicatest.MeshDatabases, replicatest.MeshPlacements))
	o.commitMesh(replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(shop, "shop")))
	o.db, err = engine.Open(engine.Config{
		ID: shop, Path: filepath.Join(t.TempDir(), "shop.sqlite"), Log: o.log, Logger: slog.New(slog.DiscardHandler),
		Metrics: engine.NewMetrics(prometheus.NewRegistry()), WholeTableBytes: wholeTableBytes,
	})
	if err != nil {
		t.Fatal(err)
	}
	service := replication.New(o.log, replication.Config{
		MeshID: [16]byte{1}, BookmarkKey: []byte("key"), PrimaryRegion: "home", Logger: slog.New(slog.DiscardHandler),
		Source: func(id uint32) (replication.Source, bool) { return &choppy{DB: o.db, o: o}, id == shop },
	})
	mux := http.NewServeMux()
	mux.Handle(service.Handler())
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.url = "http://" + listener.Addr().String()
	server := &http.Server{Handler: mux, Protocols: protocols, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		service.Close()
		_ = server.Close()
		<-served
		if err := o.db.Close(); err != nil {
			t.Error(err)
		}
		if err := o.log.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func (o *origin) commitMesh(change replicatest.Change) {
	o.t.Helper()
	record := o.mesh.Commit(change)
	o.meshRecords = append(o.meshRecords, record)
	b := o.log.NewBatch(meshdb.DatabaseID)
	defer b.Close()
	if err := b.Record(o.mesh.Version(), record); err != nil {
		o.t.Fatal(err)
	}
	if err := b.Commit(); err != nil {
		o.t.Fatal(err)
	}
	o.log.Publish(meshdb.DatabaseID, changelog.Head{Epoch: 1, Version: o.mesh.Version(), Checksum: o.mesh.Checksum()})
}

// transact runs a transaction and returns the version that it made, 0 for none.
func (o *origin) transact(statements []string) (version uint64, err error) {
	tx := &engine.Transaction{}
	for _, sql := range statements {
		tx.Operations = append(tx.Operations, engine.SQL(sql))
	}
	c, err := o.db.Transact(context.Background(), tx)
	if err != nil {
		return 0, err
	}
	return c.Version, nil
}

func (o *origin) schema() *catalog.Catalog {
	o.t.Helper()
	_, schema, err := o.db.Schema(context.Background())
	if err != nil {
		o.t.Fatal(err)
	}
	return schema
}

// choppy reads chunks of at most two rows, with commits in between.
type choppy struct {
	*engine.DB

	o *origin
	n int
}

func (c *choppy) ReadChunk(ctx context.Context, start engine.ChunkStart, wanted []uint32) (engine.Chunk, error) {
	chunk, err := c.DB.ReadChunk(ctx, start, wanted)
	if c.o.chunk != nil {
		c.o.chunk(c.n)
	}
	c.n++
	if len(chunk.Rows) > 2 {
		chunk.Rows, chunk.Last = chunk.Rows[:2], false
	}
	return chunk, err
}

func openStore(t *testing.T, c *complaints) *replica.Store {
	t.Helper()
	s, err := replica.OpenStore("replica", replica.Options{
		FS: vfs.NewMem(), Logger: slog.New(c), MemTableBytes: 256 << 10, CacheBytes: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// follow has a store follow the primary until the test ends. beats gets something at each heartbeat that is not waited for.
func (o *origin) follow(s *replica.Store) (beats <-chan struct{}) {
	beat := make(chan struct{}, 1)
	client := httpclient.NewStreaming()
	f := replica.NewFollower(s, replicationv1connect.NewReplicationServiceClient(client, o.url), replica.FollowerConfig{
		Region: region, PingInterval: time.Millisecond, StuckAfter: time.Minute, MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond,
		OnHeartbeat: func() {
			select {
			case beat <- struct{}{}:
			default:
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	o.t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			o.t.Errorf("follower: %v", err)
		}
		client.CloseIdleConnections()
	})
	return beat
}

// trim removes from the log all that can be removed, the first record at least.
func trim(t *testing.T, o *origin) {
	t.Helper()
	n, err := o.db.TrimLog(changelog.Retention{Age: time.Nanosecond, Bytes: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Fatal("nothing was trimmed")
	}
}
