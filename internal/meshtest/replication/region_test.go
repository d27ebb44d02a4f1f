package replication_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// region is a sidecar's store and follower.
type region struct {
	t        *testing.T
	store    *replica.Store
	follower *replica.Follower
	registry *prometheus.Registry
	connects atomic.Int64
	beats    chan struct{} // capacity 1
	errors   errorLog
	stop     func()
}

func startRegion(t *testing.T, p *primary, name string, disk vfs.FS) *region {
	t.Helper()
	return startRegionAt(t, p.addr, name, disk)
}

func startRegionAt(t *testing.T, addr, name string, disk vfs.FS) *region {
	t.Helper()
	r := &region{t: t, registry: prometheus.NewRegistry(), beats: make(chan struct{}, 1)}
	store, err := replica.OpenStore("replica", replica.Options{
		FS: disk, Logger: slog.New(&r.errors), Registerer: r.registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	httpClient := httpclient.NewStreaming()
	client := replicationv1connect.NewReplicationServiceClient(httpClient, "http://"+addr)
	r.store = store
	r.follower = replica.NewFollower(store, client, replica.FollowerConfig{
		Region: name, URL: "http://" + name,
		PingInterval: 2 * time.Millisecond, MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond,
		StuckAfter: 300 * time.Millisecond, Redial: httpClient.CloseIdleConnections,
		OnConnect: func() { r.connects.Add(1) },
		OnHeartbeat: func() {
			select {
			case r.beats <- struct{}{}:
			default:
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- r.follower.Run(ctx) }()
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

// heartbeat waits for the next heartbeat.
func (r *region) heartbeat() {
	r.t.Helper()
	select {
	case <-r.beats:
	case <-r.t.Context().Done():
		r.t.Fatal("no heartbeat")
	}
}

// eventually waits until a condition holds that no event tells of: it looks again and again.
func (r *region) eventually(what string, condition func() bool) {
	r.t.Helper()
	ctx := r.t.Context()
	for !condition() {
		// Something that takes its time and yields: a look at every copy through the store.
		r.metric("nearside_replica_databases")
		if ctx.Err() != nil {
			r.t.Fatalf("not %s", what)
		}
	}
}

// reaches waits until the region serves all that was committed to a database.
func (r *region) reaches(d *database) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("at version %d of database %d", d.Version(), d.id), func() bool {
		have, ok := r.store.Database(d.id)
		if !ok || have.Problem() != nil {
			return false
		}
		return have.WaitFor(r.t.Context(), 1, d.Version()) == nil
	})
}

// same compares the rows of a table with the primary's.
func (r *region) same(d *database, table *catalog.Table) {
	r.t.Helper()
	have, ok := r.store.Database(d.id)
	if !ok {
		r.t.Fatalf("no copy of database %d", d.id)
	}
	snap, err := have.Snapshot()
	if err != nil {
		r.t.Fatal(err)
	}
	defer snap.Close()
	it, err := snap.NewRowIter(table, nil, nil, false)
	if err != nil {
		r.t.Fatal(err)
	}
	got := make(map[string][]byte)
	for it.Next() {
		v, _, err := it.Value()
		if err != nil {
			r.t.Fatal(err)
		}
		got[string(it.Key())] = bytes.Clone(v)
	}
	if err := it.Close(); err != nil {
		r.t.Fatal(err)
	}
	if want := d.Rows(table); snap.Version() != d.Version() || !maps.EqualFunc(want, got, bytes.Equal) {
		r.t.Fatalf("database %d at version %d has %d rows, the primary at %d %d",
			d.id, snap.Version(), len(got), d.Version(), len(want))
	}
}

// cable carries connections to a primary. Cut, it loses what is on its way without a word; new connections pass.
type cable struct {
	addr string

	mu    sync.Mutex
	conns []net.Conn
	alive chan struct{} // closed when the present connections are cut
}

func startCable(t *testing.T, to string) *cable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{addr: listener.Addr().String(), alive: make(chan struct{})}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			c.mu.Lock()
			c.conns = append(c.conns, near, far)
			cut := c.alive
			c.mu.Unlock()
			for from, to := range map[net.Conn]net.Conn{near: far, far: near} {
				running.Go(func() { carry(from, to, cut) })
			}
		}
	})
	t.Cleanup(func() {
		listener.Close()
		c.mu.Lock()
		for _, conn := range c.conns {
			conn.Close()
		}
		c.mu.Unlock()
		running.Wait()
	})
	return c
}

func carry(from, to net.Conn, cut <-chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			to.Close()
			return
		}
		select {
		case <-cut: // lost
			continue
		default:
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.alive)
	c.alive = make(chan struct{})
}

func (r *region) metric(name string) float64 {
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Error(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

func (r *region) noErrors() {
	r.t.Helper()
	for _, text := range r.errors.take() {
		r.t.Errorf("logged: %s", text)
	}
}

// errorLog keeps errors.
type errorLog struct {
	mu    sync.Mutex
	texts []string
}

func (l *errorLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }
func (l *errorLog) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *errorLog) WithGroup(string) slog.Handler                    { return l }

func (l *errorLog) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.texts = append(l.texts, text)
	return nil
}

func (l *errorLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	texts := l.texts
	l.texts = nil
	return texts
}
