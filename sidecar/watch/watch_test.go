package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const shop = 100

// region is a copy of one database with the table items, and a hub over it.
type region struct {
	tb      testing.TB
	store   *replica.Store
	primary *replicatest.Primary
	hub     *Hub
	items   *catalog.Table
}

func newRegion(tb testing.TB, ro replica.Options, o Options) *region {
	tb.Helper()
	ro.FS = vfs.NewMem()
	s, err := replica.OpenStore("replica", ro)
	if err != nil {
		tb.Fatal(err)
	}
	r := &region{tb: tb, store: s, primary: replicatest.NewPrimary(), items: replicatest.Table(10, "items", "id", "name")}
	if r.hub, err = New(o); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		r.hub.Close()
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	r.commit(replicatest.Schema(r.items))
	return r
}

func item(id int64, name string) rowcodec.Row {
	return replicatest.Row(id, value.Text(name))
}

func (r *region) commit(changes ...replicatest.Change) {
	r.tb.Helper()
	if err := r.store.ApplyRecords(shop, [][]byte{r.primary.Commit(changes...)}); err != nil {
		r.tb.Fatal(err)
	}
}

// call is a watch that runs.
type call struct {
	messages chan *datav1.WatchResponse
	ended    chan error
	cancel   context.CancelFunc
}

// watch begins a watch whose messages are taken one by one.
func (r *region) watch(req *datav1.WatchRequest, from *bookmark.Bookmark) *call {
	r.tb.Helper()
	d, ok := r.store.Database(shop)
	if !ok {
		r.tb.Fatal("no copy")
	}
	ctx, cancel := context.WithCancel(r.tb.Context())
	c := &call{messages: make(chan *datav1.WatchResponse), ended: make(chan error, 1), cancel: cancel}
	r.tb.Cleanup(cancel)
	req.Table = "items"
	go func() {
		c.ended <- r.hub.Serve(ctx, &Request{
			WatchRequest: req, Database: d, From: from, Binary: true, Answer: func(epoch uint32, version uint64) *datav1.Answer {
				return &datav1.Answer{Bookmark: fmt.Sprintf("%d/%d", epoch, version)}
			},
		}, func(m *datav1.WatchResponse) error {
			// As over the wire.
			b, err := proto.Marshal(m)
			if err != nil {
				return err
			}
			out := &datav1.WatchResponse{}
			if err := proto.Unmarshal(b, out); err != nil {
				return err
			}
			select {
			case c.messages <- out:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return c
}

// next returns the next message with the given bookmark; others without changes are passed over.
func (c *call) next(t *testing.T, want string) *datav1.WatchResponse {
	t.Helper()
	for {
		select {
		case m := <-c.messages:
			if m.GetAnswer().GetBookmark() == want {
				return m
			}
			if len(m.GetChanges()) > 0 {
				t.Fatalf("message %v, want bookmark %s", m, want)
			}
		case err := <-c.ended:
			t.Fatalf("ended before %s: %v", want, err)
		}
	}
}

func (c *call) wantEnd(t *testing.T, reason rpcerr.Reason) {
	t.Helper()
	for {
		select {
		case <-c.messages:
		case err := <-c.ended:
			if rpcerr.ReasonOf(err) != reason {
				t.Errorf("ended with %v, want %v", err, reason)
			}
			return
		}
	}
}

func TestLargeCommitIsSplit(t *testing.T) {
	r := newRegion(t, replica.Options{}, Options{})
	c := r.watch(&datav1.WatchRequest{}, nil)
	c.next(t, "1/1")
	text := strings.Repeat("x", 300<<10)
	r.commit(replicatest.Put(r.items, item(1, text), item(2, text), item(3, text), item(4, text)))
	first := <-c.messages
	if len(first.GetChanges()) != 3 || first.GetAnswer() != nil {
		t.Errorf("the first part has %d changes and the answer %v", len(first.GetChanges()), first.GetAnswer())
	}
	if last := c.next(t, "1/2"); len(last.GetChanges()) != 1 {
		t.Errorf("the last part has %d changes", len(last.GetChanges()))
	}
}

func TestProgress(t *testing.T) {
	r := newRegion(t, replica.Options{}, Options{Progress: time.Millisecond})
	idle := r.watch(&datav1.WatchRequest{Prefix: []*datav1.Value{value.ToProto(value.Integer(7))}}, nil)
	first := idle.next(t, "1/1")
	if first.GetSchema() == "" || len(first.GetColumns()) != 2 || first.GetKeyColumns()[0] != "id" {
		t.Errorf("the first message is %v", first)
	}
	for i := range int64(5) {
		r.commit(replicatest.Put(r.items, item(1, fmt.Sprint(i))))
	}
	if m := idle.next(t, "1/6"); len(m.GetChanges()) != 0 {
		t.Errorf("progress is %v", m)
	}
	r.commit(replicatest.Put(r.items, item(7, "x")))
	if m := idle.next(t, "1/7"); len(m.GetChanges()) != 1 {
		t.Errorf("after progress: %v", m)
	}
}

// TestSlowWatcher stands still while others are told, goes on from the disk, and is told to resume where it cannot.
func TestSlowWatcher(t *testing.T) {
	r := newRegion(t, replica.Options{TailRecords: 200}, Options{CacheBytes: 1})
	slow, fast := r.watch(&datav1.WatchRequest{}, nil), r.watch(&datav1.WatchRequest{}, nil)
	slow.next(t, "1/1")
	fast.next(t, "1/1")
	put := func(from, to int) {
		name := strings.Repeat("x", 2<<10) // some hundred of them are more than the feed keeps
		for v := from; v <= to; v++ {
			r.commit(replicatest.Put(r.items, item(int64(v), name)))
			fast.next(t, fmt.Sprintf("1/%d", v))
		}
	}
	put(2, 150)
	for v := 2; v <= 150; v++ {
		slow.next(t, fmt.Sprintf("1/%d", v))
	}
	put(151, 1000)
	slow.wantEnd(t, datav1.ErrorReason_ERROR_REASON_WATCH_INTERRUPTED)
	again := r.watch(&datav1.WatchRequest{}, &bookmark.Bookmark{DatabaseID: shop, Epoch: 1, Version: 150})
	again.wantEnd(t, datav1.ErrorReason_ERROR_REASON_BOOKMARK_TOO_OLD)
	fromTail := r.watch(&datav1.WatchRequest{Schema: ""}, &bookmark.Bookmark{DatabaseID: shop, Epoch: 1, Version: 900})
	for v := 900; v <= 1000; v++ {
		fromTail.next(t, fmt.Sprintf("1/%d", v))
	}
}

func TestAheadIsWaitedFor(t *testing.T) {
	r := newRegion(t, replica.Options{}, Options{})
	c := r.watch(&datav1.WatchRequest{}, &bookmark.Bookmark{DatabaseID: shop, Epoch: 1, Version: 3})
	for i := range int64(3) {
		r.commit(replicatest.Put(r.items, item(i, "x")))
	}
	c.next(t, "1/3")
	if m := c.next(t, "1/4"); len(m.GetChanges()) != 1 || m.GetChanges()[0].GetKey()[0].GetInteger() != 2 {
		t.Errorf("told %v", m)
	}
}

// TestLostEpoch goes on from a state that the next primary did not have.
func TestLostEpoch(t *testing.T) {
	r := newRegion(t, replica.Options{}, Options{})
	r.primary.Epoch = 2
	r.commit(replicatest.Put(r.items, item(1, "x")))
	r.watch(&datav1.WatchRequest{}, &bookmark.Bookmark{DatabaseID: shop, Epoch: 1, Version: 2}).
		wantEnd(t, datav1.ErrorReason_ERROR_REASON_BOOKMARK_LOST)
	c := r.watch(&datav1.WatchRequest{}, &bookmark.Bookmark{DatabaseID: shop, Epoch: 1, Version: 1})
	c.next(t, "1/1")
	c.next(t, "2/2")
}

func TestTooManyWatchers(t *testing.T) {
	places, err := NewPlaces(Limits{Total: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newRegion(t, replica.Options{}, Options{Places: places})
	c := r.watch(&datav1.WatchRequest{}, nil)
	c.next(t, "1/1")
	r.watch(&datav1.WatchRequest{}, nil).wantEnd(t, datav1.ErrorReason_ERROR_REASON_OVERLOADED)
	c.cancel()
	if err := <-c.ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	r.watch(&datav1.WatchRequest{}, nil).next(t, "1/1")
}

func TestTooLargeRequest(t *testing.T) {
	r := newRegion(t, replica.Options{}, Options{})
	large := map[string]*datav1.Value{"name": value.ToProto(value.Text(strings.Repeat("x", MaxRequestBytes)))}
	r.watch(&datav1.WatchRequest{Equal: large}, nil).wantEnd(t, datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE)
}

func TestDroppedDatabase(t *testing.T) {
	r := newRegion(t, replica.Options{}, Options{})
	c := r.watch(&datav1.WatchRequest{}, nil)
	c.next(t, "1/1")
	if err := r.store.Drop(shop); err != nil {
		t.Fatal(err)
	}
	c.wantEnd(t, datav1.ErrorReason_ERROR_REASON_WATCH_INTERRUPTED)
}

// BenchmarkFanOut is one commit told to 100 watchers.
func BenchmarkFanOut(b *testing.B) {
	r := newRegion(b, replica.Options{}, Options{})
	d, _ := r.store.Database(shop)
	told := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	ended := make(chan error, 100)
	for range 100 {
		go func() {
			ended <- r.hub.Serve(ctx, &Request{
				WatchRequest: &datav1.WatchRequest{Table: "items"}, Database: d, Binary: true,
				Answer: func(uint32, uint64) *datav1.Answer { return &datav1.Answer{} },
			}, func(m *datav1.WatchResponse) error {
				_, err := proto.Marshal(m)
				told <- struct{}{}
				return err
			})
		}()
	}
	for range 100 {
		<-told
	}
	b.ReportAllocs()
	for b.Loop() {
		r.commit(replicatest.Put(r.items, item(1, "a name of some length")))
		for range 100 {
			<-told
		}
	}
	cancel()
	for range 100 {
		<-ended
	}
}
