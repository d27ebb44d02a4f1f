package snapshot_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/primary"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// origin is a primary whose log is trimmed whenever something can be.
type origin struct {
	t      *testing.T
	http   *http.Client
	stop   func()
	addr   string
	client datav1connect.DataServiceClient
	id     uint32
	dir    string
	trims  atomic.Int64
	// checkpoints of SQLite's WAL
	checkpoints atomic.Int64
}

func startPrimary(t *testing.T) *origin {
	t.Helper()
	return startPrimaryThatTrims(t, 5*time.Millisecond, closed())
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// startPrimaryThatTrims is startPrimary, but trims so often, and not before a channel is closed.
func startPrimaryThatTrims(t *testing.T, every time.Duration, after <-chan struct{}) *origin {
	t.Helper()
	o := &origin{t: t, dir: t.TempDir(), http: httpclient.NewUnary()}
	t.Cleanup(o.http.CloseIdleConnections)
	o.start(every, after)
	o.id = o.create("shop")
	return o
}

// start starts the primary on what the folder has.
func (o *origin) start(every time.Duration, after <-chan struct{}) {
	o.t.Helper()
	p, err := primary.Start(context.Background(), primary.Config{
		Dir: o.dir, Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", Region: "home", Logger: slog.New(slog.DiscardHandler), NoAuth: true,
		Keep: changelog.Retention{Age: time.Nanosecond, Bytes: 1 << 40}, TrimInterval: every,
		Failpoint: func(place string) {
			switch place {
			case "before-trim":
				select {
				case <-after:
				case <-o.t.Context().Done():
				}
			case "after-trim":
				o.trims.Add(1)
			case "after-checkpoint":
				o.checkpoints.Add(1)
			}
		},
	})
	if err != nil {
		o.t.Fatal(err)
	}
	o.stop = sync.OnceFunc(func() {
		o.http.CloseIdleConnections()
		if err := p.Close(context.Background()); err != nil {
			o.t.Error(err)
		}
	})
	o.t.Cleanup(o.stop)
	o.addr = p.URL()[len("http://"):]
	o.client = datav1connect.NewDataServiceClient(o.http, p.URL())
}

func (o *origin) create(name string) uint32 {
	o.t.Helper()
	res, err := o.client.CreateDatabase(o.t.Context(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: name}))
	if err != nil {
		o.t.Fatal(err)
	}
	return res.Msg.GetDatabase().GetId()
}

func (o *origin) try(sql string) error {
	_, err := o.client.Execute(context.Background(), connect.NewRequest(&datav1.ExecuteRequest{
		Database: "shop", Statement: &datav1.Statement{Sql: sql},
	}))
	return err
}

func (o *origin) exec(statements ...string) {
	o.t.Helper()
	for _, sql := range statements {
		if err := o.try(sql); err != nil {
			o.t.Fatalf("%s: %v", sql, err)
		}
	}
}

// trimmed commits until the log has been trimmed after some of it.
func (o *origin) trimmed() {
	o.t.Helper()
	o.exec("CREATE TABLE IF NOT EXISTS tick (id INTEGER PRIMARY KEY)")
	for until := o.trims.Load() + 6; o.trims.Load() < until; {
		o.exec("INSERT INTO tick DEFAULT VALUES")
	}
}

func (o *origin) rows(sql string) [][]value.Value {
	o.t.Helper()
	res, err := o.client.Query(o.t.Context(), connect.NewRequest(&datav1.QueryRequest{
		Database: "shop", Statement: &datav1.Statement{Sql: sql},
		Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY},
	}))
	if err != nil {
		o.t.Fatal(err)
	}
	var rows [][]value.Value
	for _, r := range res.Msg.GetResult().GetRows() {
		rows = append(rows, value.FromProtos(r.GetValues()))
	}
	return rows
}

// region is a sidecar's store and follower.
type region struct {
	t        *testing.T
	o        *origin
	store    *replica.Store
	registry *prometheus.Registry
	stop     func()
	beats    atomic.Int64 // heartbeats
}

func startRegion(t *testing.T, o *origin, addr string, disk vfs.FS, options ...connect.ClientOption) *region {
	t.Helper()
	r := &region{t: t, o: o, registry: prometheus.NewRegistry()}
	out := io.Discard
	if testing.Verbose() {
		out = t.Output()
	}
	store, err := replica.OpenStore("replica", replica.Options{
		FS: disk, Logger: slog.New(slog.NewTextHandler(out, nil)), Registerer: r.registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.store = store
	httpClient := httpclient.NewStreaming()
	follower := replica.NewFollower(store, replicationv1connect.NewReplicationServiceClient(httpClient, "http://"+addr, options...),
		replica.FollowerConfig{
			Region: "eu", URL: "http://eu", PingInterval: 2 * time.Millisecond, MinBackoff: time.Millisecond,
			MaxBackoff: 10 * time.Millisecond, StuckAfter: time.Second, Redial: httpClient.CloseIdleConnections,
			OnHeartbeat: func() { r.beats.Add(1) },
		})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- follower.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("follower: %v", err)
		}
		httpClient.CloseIdleConnections()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// eventually looks again and again until a condition holds.
func (r *region) eventually(what string, condition func() bool) {
	r.t.Helper()
	for !condition() {
		r.metric("nearside_replica_databases") // takes its time and yields
		if r.t.Context().Err() != nil {
			r.t.Fatalf("not %s", what)
		}
	}
}

func (r *region) metric(name string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

// caughtUp waits until the region serves the last of what was committed before, all tables of it.
func (r *region) caughtUp() *replica.Database {
	r.t.Helper()
	var d *replica.Database
	r.o.exec("CREATE TABLE IF NOT EXISTS mark (n INTEGER PRIMARY KEY)", "INSERT INTO mark DEFAULT VALUES")
	want := len(r.o.rows("SELECT n FROM mark"))
	r.eventually("caught up", func() bool {
		var ok bool
		if d, ok = r.store.Database(r.o.id); !ok || d.Problem() != nil || len(d.DivergedTables()) > 0 {
			return false
		}
		snap, err := d.Snapshot()
		if err != nil {
			return false
		}
		defer snap.Close()
		t := snap.Catalog().TableByName("mark")
		if t == nil {
			return false
		}
		n, err := snap.RowCount(t)
		return err == nil && n == uint64(want)
	})
	return d
}

// same compares all tables, row by row and index by index, with the primary's.
func (r *region) same(d *replica.Database) {
	r.t.Helper()
	snap, err := d.Snapshot()
	if err != nil {
		r.t.Fatal(err)
	}
	defer snap.Close()
	for _, t := range snap.Catalog().Tables {
		have := make(map[string][]string)
		it, err := snap.NewRowIter(t, nil, nil, false)
		if err != nil {
			r.t.Fatal(err)
		}
		for it.Next() {
			v, version, err := it.Value()
			if err != nil {
				r.t.Fatal(err)
			}
			if version == 0 || version > snap.Version() {
				r.t.Errorf("table %s: row version %d at version %d", t.Name, version, snap.Version())
			}
			row, err := rowcodec.DecodeRow(t, it.Key(), v)
			if err != nil {
				r.t.Fatal(err)
			}
			have[text(row.Values)] = append(have[text(row.Values)], "")
			for i := range t.Indexes {
				prefix := rowcodec.AppendIndexKey(nil, t, &t.Indexes[i], row, it.Key())
				if _, ok, err := snap.GetUnique(t, &t.Indexes[i], prefix); !ok || err != nil {
					r.t.Errorf("table %s: row %x is not in index %s: %v", t.Name, it.Key(), t.Indexes[i].Name, err)
				}
			}
		}
		if err := it.Close(); err != nil {
			r.t.Fatal(err)
		}
		want := make(map[string][]string)
		for _, row := range r.o.rows(`SELECT * FROM "` + t.Name + `"`) {
			want[text(row)] = append(want[text(row)], "")
		}
		if diff := cmp.Diff(want, have); diff != "" {
			r.t.Fatalf("table %s at version %d (-primary +region):\n%s", t.Name, snap.Version(), diff)
		}
	}
}

func text(vs []value.Value) string {
	s := ""
	for _, v := range vs {
		switch v.Kind() {
		case value.KindInteger:
			s += strconv.FormatInt(v.Integer(), 10)
		case value.KindReal:
			s += strconv.FormatFloat(v.Real(), 'g', -1, 64) + "r"
		default:
			s += v.Kind().String() + ":" + v.Text()
		}
		s += "|"
	}
	return s
}

// cable passes bytes between a region and the primary until it is cut.
type cable struct {
	addr   string
	target string

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	left  int64 // bytes until the next cut; none where negative
}

func startCable(t *testing.T, target string) *cable {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{addr: ln.Addr().String(), target: target, conns: make(map[net.Conn]struct{}), left: -1}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			c.mu.Lock()
			c.conns[in], c.conns[out] = struct{}{}, struct{}{}
			c.mu.Unlock()
			running.Go(func() { c.pipe(out, in, false) })
			running.Go(func() { c.pipe(in, out, true) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		c.cut()
		running.Wait()
	})
	return c
}

func (c *cable) pipe(to, from net.Conn, counted bool) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_, _ = to.Write(buf[:n])
		}
		if counted && c.spend(int64(n)) {
			c.cut()
		}
		if err != nil {
			_ = to.Close()
			_ = from.Close()
			return
		}
	}
}

// spend counts bytes and reports that the cut is due.
func (c *cable) spend(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left < 0 {
		return false
	}
	if c.left -= n; c.left >= 0 {
		return false
	}
	return true
}

// cutAfter cuts all connections after so many bytes from the primary.
func (c *cable) cutAfter(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = n
}

func (c *cable) pending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left >= 0
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.Close()
	}
	clear(c.conns)
	c.left = -1
}
