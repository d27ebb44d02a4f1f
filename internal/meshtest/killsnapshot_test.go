package meshtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
)

// killed is a mesh of processes of which a region needs a snapshot that takes long.
type killed struct {
	t       *testing.T
	ps      *meshtest.Processes
	http    *http.Client
	link    *faultproxy.Proxy
	primary datav1connect.DataServiceClient
	west    datav1connect.DataServiceClient
}

// slow is a link over which the snapshot takes half a minute: time enough to meet it in the middle, whatever the machine
// has to do besides.
var slow = faultproxy.Link{BytesPerSecond: 400 << 10}

func (k *killed) exec(sql string) {
	k.t.Helper()
	if _, err := k.primary.Execute(context.Background(), connect.NewRequest(&datav1.ExecuteRequest{
		Database: "d", Statement: &datav1.Statement{Sql: sql},
	})); err != nil {
		k.t.Fatalf("%s: %v", sql, err)
	}
}

// trimmed waits until the primary's log no longer has a version: with a wrong checksum, it is then refused for another reason.
func (k *killed) trimmed(id uint32, version uint64) {
	k.t.Helper()
	streams := httpclient.NewStreaming()
	defer streams.CloseIdleConnections()
	client := replicationv1connect.NewReplicationServiceClient(streams, k.ps.PrimaryURL())
	meshtest.Eventually(k.t, fmt.Sprintf("version %d is trimmed", version), func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream := client.Subscribe(ctx)
		defer func() { _ = errors.Join(stream.CloseRequest(), stream.CloseResponse()) }()
		for _, m := range []*replicationv1.SubscribeRequest{
			{Message: &replicationv1.SubscribeRequest_Hello{Hello: &replicationv1.Hello{Region: west, ProtocolVersion: 1}}},
			{Message: &replicationv1.SubscribeRequest_Follow{Follow: &replicationv1.Follow{
				DatabaseId: id, Epoch: 1, Version: version, Checksum: make([]byte, 16),
			}}},
		} {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		for {
			res, err := stream.Receive()
			if err != nil {
				return err
			}
			if r := res.GetRefusal(); r.GetReason() == replicationv1.Refusal_REASON_TRIMMED {
				return nil
			} else if r != nil {
				return fmt.Errorf("refused: %v", r)
			}
		}
	})
}

// status returns what the region says of the database.
func (k *killed) status(ctx context.Context) (*controlv1.GetStatusResponse_Database, error) {
	region, err := meshtest.Status(ctx, k.http, k.ps.URL(west))
	if err != nil {
		return nil, err
	}
	for _, d := range region.GetDatabases() {
		if d.GetName() == "d" {
			return d, nil
		}
	}
	return nil, fmt.Errorf("status: %v", region)
}

// middle waits until at least so many rows of the snapshot are there, and returns how many. They are never fewer than floor:
// then it would have begun anew.
func (k *killed) middle(floor, atLeast uint64) (rows uint64) {
	k.t.Helper()
	meshtest.Eventually(k.t, "a snapshot is in the middle", func(ctx context.Context) error {
		d, err := k.status(ctx)
		if err != nil {
			return err
		}
		s := d.GetSnapshot()
		if s.GetRows() < floor {
			k.t.Fatalf("there were %d rows, status is %v", floor, d)
		}
		if s.GetRows() < atLeast || s.GetFinishing() {
			return fmt.Errorf("status: %v", d)
		}
		rows = s.GetRows()
		return nil
	})
	return rows
}

// old checks that the region answers from its old copy, and says that it is old.
func (k *killed) old() {
	k.t.Helper()
	res, err := k.west.Get(context.Background(), connect.NewRequest(&datav1.GetRequest{
		Database: "d", Table: "t", Key: &datav1.Key{Values: []*datav1.Value{{Kind: &datav1.Value_Integer{Integer: 1}}}},
	}))
	if err != nil {
		k.t.Fatal(err)
	}
	a := res.Msg.GetAnswer()
	if v := res.Msg.GetRow().GetValues()[1].GetText(); v != "old" || a.GetSource() == datav1.Source_SOURCE_PRIMARY || a.GetStalenessMs() == 0 {
		k.t.Errorf("row 1 is %q, answer %v", v, a)
	}
	if d, err := k.status(context.Background()); err != nil || d.GetProblem() != "" {
		k.t.Errorf("status: %v, %v", d, err)
	}
}

// TestKillInTheMiddleOfASnapshot kills a region and then the primary while the region takes a snapshot in the place of its
// copy. The old copy answers meanwhile, the snapshot goes on where it was, and no row differs in the end.
func TestKillInTheMiddleOfASnapshot(t *testing.T) {
	k := &killed{t: t, http: httpclient.NewUnary()}
	defer k.http.CloseIdleConnections()
	k.ps = meshtest.StartProcesses(t, k.http, west)
	k.primary = datav1connect.NewDataServiceClient(k.http, k.ps.PrimaryURL())
	k.west = datav1connect.NewDataServiceClient(k.http, k.ps.URL(west))
	k.link = faultproxy.Start(t, strings.TrimPrefix(k.ps.PrimaryURL(), "http://"))
	created, err := k.primary.CreateDatabase(t.Context(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: "d"}))
	if err != nil {
		t.Fatal(err)
	}
	k.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, noise BLOB)")
	k.exec("CREATE INDEX t_v ON t (v, id)")
	k.exec("INSERT INTO t WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 40000) " +
		"SELECT i, 'old', randomblob(200) FROM s")
	meshtest.WaitSync(t, k.http, k.ps.PrimaryURL(), k.ps.URLs(), "d")

	// While the region is away the log is trimmed. The next primary keeps it, and with it what a snapshot goes on from.
	k.ps.KillSidecar(west)
	k.exec("UPDATE t SET v = 'new' WHERE id % 2 = 1")
	k.exec("DELETE FROM t WHERE id % 10 = 2")
	k.ps.KillPrimary()
	k.ps.SetPrimaryArgs("--log-keep-age", "100ms", "--require-node-certificates=false") // trimmed asks as a node and is none
	k.ps.StartPrimary()
	k.ps.WaitReady(k.ps.PrimaryURL())
	k.exec("INSERT INTO t VALUES (50000, 'last', NULL)")
	k.trimmed(created.Msg.GetDatabase().GetId(), 4)
	k.exec("INSERT INTO t VALUES (50001, 'after the trim', NULL)") // what is on the disk then, the trim before it is too
	k.ps.KillPrimary()
	k.ps.SetPrimaryArgs()
	k.ps.StartPrimary()
	k.ps.WaitReady(k.ps.PrimaryURL())

	k.link.Set(faultproxy.Down, slow)
	k.ps.SetThrough(west, k.link.Addr())
	k.ps.StartSidecar(west)
	had := k.middle(0, 2000)
	k.old()

	k.ps.KillSidecar(west)
	k.link.Cut()
	k.ps.StartSidecar(west)
	k.ps.WaitReady(k.ps.URL(west))
	had -= had / 2 // what the operating system had not been given yet is lost
	had = k.middle(had, had)
	k.old()
	k.link.Heal()
	k.link.Set(faultproxy.Down, slow)
	had = k.middle(had, had+2000)

	k.ps.KillPrimary()
	k.old()
	had = k.middle(had, had)
	k.ps.StartPrimary()
	k.ps.WaitReady(k.ps.PrimaryURL())
	k.middle(had, had+2000)
	k.old()
	k.link.Set(faultproxy.Down, faultproxy.Link{})
	meshtest.WaitSync(t, k.http, k.ps.PrimaryURL(), k.ps.URLs(), "d")
	if n := meshtest.CompareAll(t, k.http, k.ps.PrimaryURL(), k.ps.URLs(), "d"); n != 36002 {
		t.Errorf("%d rows", n)
	}
}

// TestLargeRecordOverASlowLink has a region follow a commit that takes longer on its way than a primary may be silent.
func TestLargeRecordOverASlowLink(t *testing.T) {
	k := &killed{t: t, http: httpclient.NewUnary()}
	defer k.http.CloseIdleConnections()
	k.ps = meshtest.StartProcesses(t, k.http, west)
	k.primary = datav1connect.NewDataServiceClient(k.http, k.ps.PrimaryURL())
	k.link = faultproxy.Start(t, strings.TrimPrefix(k.ps.PrimaryURL(), "http://"))
	if _, err := k.primary.CreateDatabase(t.Context(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: "d"})); err != nil {
		t.Fatal(err)
	}
	k.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
	k.ps.KillSidecar(west)
	k.link.Set(faultproxy.Down, slow)
	k.ps.SetThrough(west, k.link.Addr())
	k.ps.StartSidecar(west)
	k.ps.WaitReady(k.ps.URL(west))
	k.exec("INSERT INTO t VALUES (1, randomblob(2500000))") // six seconds
	meshtest.WaitSync(t, k.http, k.ps.PrimaryURL(), k.ps.URLs(), "d")
	if n := meshtest.CompareAll(t, k.http, k.ps.PrimaryURL(), k.ps.URLs(), "d"); n != 1 {
		t.Errorf("%d rows", n)
	}
}
