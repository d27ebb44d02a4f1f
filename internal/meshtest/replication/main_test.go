package replication_test

import (
	"log/slog"
	"net"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/replication"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var meshID = [16]byte{1, 2, 3}

const bookmarkKey = "key of bookmarks"

// primary is a log and the service in front of it, which can be stopped and started at one address.
type primary struct {
	t      *testing.T
	log    *changelog.Log
	mesh   *database
	meshID [16]byte

	addr    string
	service *replication.Service
	server  *http.Server
	served  chan error
}

// database is one that a test commits to.
type database struct {
	*replicatest.Primary

	p       *primary
	log     *changelog.Log
	id      uint32
	records [][]byte
}

func startPrimary(t *testing.T) *primary {
	t.Helper()
	p := &primary{t: t, addr: freeport.Addr(t), meshID: meshID}
	p.log = p.openLog()
	p.mesh = p.database(meshdb.DatabaseID)
	p.mesh.commit(replicatest.Schema(replicatest.MeshDatabases, replicatest.MeshPlacements))
	p.start()
	t.Cleanup(func() {
		if p.server != nil {
			p.stop()
		}
	})
	return p
}

func (p *primary) openLog() *changelog.Log {
	p.t.Helper()
	log, err := changelog.Open("log", changelog.Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := log.Close(); err != nil {
			p.t.Error(err)
		}
	})
	return log
}

func (p *primary) start() {
	p.t.Helper()
	logger := slog.New(slog.DiscardHandler)
	p.service = replication.New(p.log, replication.Config{
		MeshID: p.meshID, BookmarkKey: []byte(bookmarkKey), PrimaryRegion: "us", Logger: logger,
	})
	interceptor, err := rpcerr.NewInterceptor(logger)
	if err != nil {
		p.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(p.service.Handler(connect.WithInterceptors(interceptor)))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	listener, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.addr = listener.Addr().String()
	server := &http.Server{Handler: mux, Protocols: protocols}
	p.server, p.served = server, make(chan error, 1)
	go func() { p.served <- server.Serve(listener) }()
}

func (p *primary) stop() {
	p.t.Helper()
	p.service.Close()
	if err := p.server.Close(); err != nil {
		p.t.Error(err)
	}
	<-p.served
	p.server = nil
}

// database returns one that is not in _mesh.
func (p *primary) database(id uint32) *database {
	return &database{Primary: replicatest.NewPrimary(), p: p, log: p.log, id: id}
}

func (p *primary) create(id uint32, name string) *database { return p.createAt(id, name) }

func (p *primary) createAt(id uint32, name string, regions ...string) *database {
	p.t.Helper()
	changes := []replicatest.Change{replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(id, name))}
	for _, region := range regions {
		changes = append(changes, replicatest.Put(replicatest.MeshPlacements, replicatest.MeshPlacement(id, region)))
	}
	p.mesh.commit(changes...)
	return p.database(id)
}

// commit makes a commit durable and publishes it.
func (d *database) commit(changes ...replicatest.Change) {
	d.p.t.Helper()
	if d.id != meshdb.DatabaseID {
		d.MeshVersion = d.p.mesh.Version()
	}
	d.append(d.Commit(changes...))
}

// commitWrongSum is commit of a record that no copy can agree with.
func (d *database) commitWrongSum(changes ...replicatest.Change) {
	d.p.t.Helper()
	var r replicationv1.CommitRecord
	if err := proto.Unmarshal(d.Commit(changes...), &r); err != nil {
		d.p.t.Fatal(err)
	}
	r.Tables[0].RowCount++
	b, err := proto.Marshal(&r)
	if err != nil {
		d.p.t.Fatal(err)
	}
	d.append(b)
}

func (d *database) append(record []byte) {
	d.p.t.Helper()
	d.records = append(d.records, record)
	d.write(d.log, len(d.records)-1)
}

// copyTo gives another log the same history.
func (d *database) copyTo(log *changelog.Log) {
	d.p.t.Helper()
	for i := range d.records {
		d.write(log, i)
	}
}

func (d *database) write(log *changelog.Log, i int) {
	d.p.t.Helper()
	b := log.NewBatch(d.id)
	defer b.Close()
	version := uint64(i + 1)
	if err := b.Record(version, d.records[i]); err != nil {
		d.p.t.Fatal(err)
	}
	if err := b.Commit(); err != nil {
		d.p.t.Fatal(err)
	}
	log.Publish(d.id, changelog.Head{Epoch: 1, Version: version, Checksum: changelog.ChecksumOf(d.records[i])})
}
