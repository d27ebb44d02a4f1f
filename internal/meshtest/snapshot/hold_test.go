package snapshot_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// hold stops snapshots at their second chunk, once it is armed and until it is let go. All other streams go on.
type hold struct {
	armed atomic.Bool
	held  chan struct{} // a value for each snapshot that is stopped
	free  chan struct{} // closed to let go
}

func newHold() *hold { return &hold{held: make(chan struct{}, 16), free: make(chan struct{})} }

func (h *hold) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }

func (h *hold) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (h *hold) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		if spec.Procedure != replicationv1connect.ReplicationServiceSnapshotProcedure || !h.armed.Load() {
			return conn
		}
		return &heldConn{StreamingClientConn: conn, ctx: ctx, hold: h}
	}
}

type heldConn struct {
	connect.StreamingClientConn

	ctx    context.Context //nolint:containedctx // the call's
	hold   *hold
	chunks int
}

func (c *heldConn) Receive(m any) error {
	if err := c.StreamingClientConn.Receive(m); err != nil {
		return err
	}
	if res, ok := m.(*replicationv1.SnapshotResponse); !ok || res.GetChunk() == nil {
		return nil
	}
	if c.chunks++; c.chunks != 2 {
		return nil
	}
	select {
	case c.hold.held <- struct{}{}:
	default:
	}
	select {
	case <-c.hold.free:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// TestOldCopyAnswersMeanwhile has a region away for longer than the log is kept, and stops the snapshot that it then needs in
// the middle: the old copy answers as it was, all of it and its indexes, and grows older though the primary is heard.
func TestOldCopyAnswersMeanwhile(t *testing.T) {
	away := make(chan struct{})
	o := startPrimaryThatTrims(t, 5*time.Millisecond, away)
	o.fill(2500)
	link := faultproxy.Start(t, o.addr)
	h := newHold()
	r := startRegion(t, o, link.Addr(), vfs.NewMem(), connect.WithInterceptors(h))
	d := r.caughtUp()
	r.same(d)
	_, before := d.Applied()
	h.armed.Store(true)

	link.Cut()
	close(away)
	o.exec("UPDATE item SET name = 'later'", "DELETE FROM note")
	o.trimmed()
	link.Heal()
	<-h.held
	p, ok := d.SnapshotProgress()
	if !ok || p.Rows == 0 || p.Finishing {
		t.Fatalf("the snapshot is not in the middle: %+v, %v", p, ok)
	}
	inAnHour := time.Now().Add(time.Hour)
	age := d.Staleness(inAnHour)
	for beat := range int64(4) {
		readOther(t, d)
		snap, err := d.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		item := snap.Catalog().TableByName("item")
		prefix := indexKey(t, item, "name 5")
		_, old, err := snap.GetUnique(item, &item.Indexes[0], prefix)
		if n, countErr := snap.RowCount(item); n != 2500 || !old || snap.Version() != before || err != nil || countErr != nil {
			t.Errorf("version %d, %d rows, name 5 is there: %v; %v, %v", snap.Version(), n, old, err, countErr)
		}
		if err := snap.Close(); err != nil {
			t.Error(err)
		}
		if now := d.Staleness(inAnHour); now != age {
			t.Errorf("heartbeat %d makes the old copy younger: it is %v old instead of %v", beat, now, age)
		}
		heard := r.beats.Load()
		r.eventually("another heartbeat", func() bool { return r.beats.Load() > heard })
	}
	close(h.free)
	r.same(r.caughtUp())
	r.eventually("counted", func() bool { return r.metric("nearside_replica_snapshots_total") > 0 }) // a moment after it can be read
}

// TestOtherTablesAnswerDuringARepair stops the copy of one table in the middle: it alone cannot be read.
func TestOtherTablesAnswerDuringARepair(t *testing.T) {
	o := startPrimary(t)
	o.fill(2500)
	h := newHold()
	r := startRegion(t, o, o.addr, vfs.NewMem(), connect.WithInterceptors(h))
	d := r.caughtUp()
	had := r.metric("nearside_replica_snapshots_total")
	h.armed.Store(true)
	snap, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	item := snap.Catalog().TableByName("item")
	if marked, err := d.MarkDiverged(snap, replica.Damage{Tables: []uint32{item.ID}}); !marked || err != nil {
		t.Fatal(marked, err)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	<-h.held
	o.exec("UPDATE item SET name = 'changed' WHERE id < 100", "INSERT INTO stock VALUES ('now', 1, 1)")
	for want := len(o.rows("SELECT 1 FROM stock")); ; {
		if snap, err = d.Snapshot(); err != nil {
			t.Fatal(err)
		}
		readOther(t, d)
		_, _, _, itemErr := snap.GetRow(item, []byte("any"))
		n, err := snap.RowCount(snap.Catalog().TableByName("stock"))
		if err := errors.Join(err, snap.Close()); err != nil || !errors.Is(itemErr, replica.ErrDiverged) {
			t.Fatalf("the table that differs: %v; the others: %v", itemErr, err)
		}
		if n == uint64(want) {
			break // it goes on following, too
		}
	}
	close(h.free)
	r.same(r.caughtUp())
	r.eventually("counted", func() bool { return r.metric("nearside_replica_repairs_total") > 0 }) // a moment after it can be read
	if n := r.metric("nearside_replica_repairs_total"); n != 1 {
		t.Errorf("%v repairs", n)
	}
	if n := r.metric("nearside_replica_snapshots_total"); n != had {
		t.Errorf("%v snapshots of whole databases", n)
	}
}

// indexKey is what the entries of a table's first index begin with whose first part is a text.
func indexKey(t *testing.T, table *catalog.Table, first string) []byte {
	t.Helper()
	key, err := rowcodec.AppendIndexPrefix(nil, table, &table.Indexes[0], []value.Value{value.Text(first)})
	if err != nil {
		t.Fatal(err)
	}
	return key
}
