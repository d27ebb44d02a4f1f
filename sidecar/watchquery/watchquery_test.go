package watchquery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const shop = 100

// region is a copy of one database with the tables items and other, and a hub over it.
type region struct {
	tb           testing.TB
	store        *replica.Store
	primary      *replicatest.Primary
	hub          *Hub
	runs         atomic.Int64 // of statements
	items, other *catalog.Table
	clean        func()
}

// counting counts the statements that an engine runs.
type counting struct {
	*edgesql.Engine

	runs *atomic.Int64
}

func (c counting) Query(
	ctx context.Context, database uint32, snap *replica.Snapshot, st *datav1.Statement, sink sqlrun.Sink,
) (edgesql.Stats, error) {
	c.runs.Add(1)
	return c.Engine.Query(ctx, database, snap, st, sink)
}

func newRegion(tb testing.TB, o Options) *region {
	tb.Helper()
	s, err := replica.OpenStore("replica", replica.Options{FS: vfs.NewMem()})
	if err != nil {
		tb.Fatal(err)
	}
	engine, err := edgesql.New(edgesql.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	r := &region{
		tb: tb, store: s, primary: replicatest.NewPrimary(), items: replicatest.Table(10, "items", "id", "name"),
		other: replicatest.Table(20, "other", "id", "name"),
	}
	o.SQL = counting{engine, &r.runs}
	if r.hub, err = New(o); err != nil {
		tb.Fatal(err)
	}
	r.commit(replicatest.Schema(r.items, r.other))
	r.clean = func() {
		r.hub.Close()
		if err := errors.Join(engine.Close(), s.Close()); err != nil {
			tb.Error(err)
		}
		if r.hub.bytes != 0 {
			tb.Errorf("answers take %d bytes at the end", r.hub.bytes)
		}
	}
	return r
}

// bubble runs a test in a region in a time of its own.
func bubble(t *testing.T, o Options, f func(t *testing.T, r *region)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, o)
		defer r.clean()
		f(t, r)
	})
}

func (r *region) commit(changes ...replicatest.Change) {
	r.tb.Helper()
	if err := r.store.ApplyRecords(shop, [][]byte{r.primary.Commit(changes...)}); err != nil {
		r.tb.Fatal(err)
	}
}

func (r *region) put(id int64, name string) {
	r.tb.Helper()
	r.commit(replicatest.Put(r.items, replicatest.Row(id, value.Text(name))))
}

// call is a watch that runs.
type call struct {
	messages chan string // bookmark: rows
	ended    chan error
	cancel   context.CancelFunc
}

const all = "SELECT id, name FROM items ORDER BY id"

func (r *region) watch(sql string, from *bookmark.Bookmark, parameters ...*datav1.Value) *call {
	return r.watchAs("c", true, sql, from, parameters...)
}

func (r *region) watchAs(client string, binary bool, sql string, from *bookmark.Bookmark, parameters ...*datav1.Value) *call {
	r.tb.Helper()
	d, ok := r.store.Database(shop)
	if !ok {
		r.tb.Fatal("no copy")
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &call{messages: make(chan string), ended: make(chan error, 1), cancel: cancel}
	req := &datav1.WatchQueryRequest{Statement: &datav1.Statement{Sql: sql, Parameters: parameters}}
	go func() {
		c.ended <- r.hub.Serve(ctx, &Request{
			WatchQueryRequest: req, Database: d, From: from, Client: client, Binary: binary,
			Answer: func(epoch uint32, version uint64) *datav1.Answer {
				return &datav1.Answer{Bookmark: fmt.Sprintf("%d/%d", epoch, version)}
			},
		}, func(m *datav1.WatchQueryResponse) error {
			b, err := proto.Marshal(m) // as over the wire
			if err != nil {
				return err
			}
			out := &datav1.WatchQueryResponse{}
			if err := proto.Unmarshal(b, out); err != nil {
				return err
			}
			select {
			case c.messages <- out.GetAnswer().GetBookmark() + ":" + text(out.GetResult()):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return c
}

func text(set *datav1.ResultSet) string {
	var b strings.Builder
	for _, row := range set.GetRows() {
		b.WriteByte(' ')
		for i, v := range row.GetValues() {
			if i > 0 {
				b.WriteByte('=')
			}
			switch k := v.GetKind().(type) {
			case *datav1.Value_Integer:
				fmt.Fprint(&b, k.Integer)
			default:
				b.WriteString(v.GetText())
			}
		}
	}
	return b.String()
}

func (c *call) want(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-c.messages:
		if got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	case err := <-c.ended:
		t.Fatalf("ended before %q: %v", want, err)
	}
}

// wantNothing checks that nothing is told for a while.
func (c *call) wantNothing(t *testing.T) {
	t.Helper()
	select {
	case got := <-c.messages:
		t.Errorf("told %q, want nothing", got)
	case err := <-c.ended:
		t.Errorf("ended: %v", err)
	case <-time.After(time.Minute):
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

// end ends a watch and waits for it.
func (c *call) end(t *testing.T) {
	t.Helper()
	c.cancel()
	if err := <-c.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// TestPushes is told an answer when it is another one, and not when only a commit has touched the table.
func TestPushes(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *region) {
		c := r.watch(all, nil)
		defer c.end(t)
		c.want(t, "1/1:")
		r.put(1, "a")
		c.want(t, "1/2: 1=a")
		r.commit(replicatest.Put(r.other, replicatest.Row(1, value.Text("x"))))
		c.wantNothing(t) // nothing that it reads
		ran := r.runs.Load()
		if ran != 2 {
			t.Errorf("%d runs, want 2", ran)
		}
		r.put(1, "a")
		c.wantNothing(t) // the same answer
		if n := r.runs.Load(); n != ran+1 {
			t.Errorf("%d runs after a commit that changed nothing, want 1", n-ran)
		}
		r.commit(replicatest.Delete(r.items, replicatest.Row(1, value.Text(""))))
		c.want(t, "1/5:")
	})
}

// TestCoalesces commits much more often than a statement may run.
func TestCoalesces(t *testing.T) {
	bubble(t, Options{Interval: 20 * time.Millisecond}, func(t *testing.T, r *region) {
		c := r.watch("SELECT count(*) FROM items WHERE id >= 0", nil)
		defer c.end(t)
		c.want(t, "1/1: 0")
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range int64(1000) {
				time.Sleep(time.Millisecond)
				r.put(i, "x")
			}
		}()
		last, told := "", 0
		for last != "1/1001: 1000" {
			last = <-c.messages
			told++
		}
		<-done
		if n := r.runs.Load(); n < 45 || n > 55 || told > int(n) {
			t.Errorf("%d runs and %d answers in a second, want about 50", n, told)
		}
	})
}

// TestSlowWatcher stands still while another one is told everything, and then is told the newest.
func TestSlowWatcher(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *region) {
		slow, fast := r.watch(all, nil), r.watchAs("f", false, all+"; -- the same", nil)
		defer slow.end(t)
		defer fast.end(t)
		slow.want(t, "1/1:")
		fast.want(t, "1/1:")
		for i := range 20 {
			r.put(1, fmt.Sprint(i))
			fast.want(t, fmt.Sprintf("1/%d: 1=%d", i+2, i))
		}
		if n := r.runs.Load(); n != 21 {
			t.Errorf("%d runs for both, want 21", n)
		}
		slow.want(t, "1/2: 1=0") // was on its way
		slow.want(t, "1/21: 1=19")
		slow.wantNothing(t)
	})
}

// TestSharedStatement runs a statement once for many, and again for other parameters.
func TestSharedStatement(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *region) {
		r.put(1, "a")
		one := value.ToProto(value.Integer(1))
		var calls []*call
		for range 10 {
			calls = append(calls, r.watch("SELECT name FROM items WHERE id = ?", nil, one))
		}
		for _, c := range calls {
			c.want(t, "1/2: a")
		}
		if n := r.runs.Load(); n != 1 {
			t.Errorf("%d runs, want 1", n)
		}
		// It holds still: the next one is answered at the version that the copy has now.
		r.commit(replicatest.Put(r.other, replicatest.Row(1, value.Text("x"))))
		late := r.watch("SELECT name FROM items WHERE id = ?", nil, one)
		late.want(t, "1/3: a")
		two := r.watch("SELECT name FROM items WHERE id = ?", nil, value.ToProto(value.Integer(2)))
		two.want(t, "1/3:")
		if n := r.runs.Load(); n != 2 {
			t.Errorf("%d runs, want 2", n)
		}
		for _, c := range append(calls, late, two) {
			c.end(t)
		}
		synctest.Wait()
		if r.hub.queries() != 0 || r.hub.bytes != 0 {
			t.Errorf("%d queries and %d bytes are left", r.hub.queries(), r.hub.bytes)
		}
	})
}

// TestBookmark begins at least as fresh as a bookmark.
func TestBookmark(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *region) {
		first := r.watch(all, nil)
		defer first.end(t)
		first.want(t, "1/1:")
		c := r.watch(all, &bookmark.Bookmark{DatabaseID: shop, Epoch: 1, Version: 3})
		defer c.end(t)
		c.wantNothing(t)
		r.put(1, "a")
		first.want(t, "1/2: 1=a")
		c.wantNothing(t)
		r.put(2, "b")
		c.want(t, "1/3: 1=a 2=b")
		r.primary.Epoch = 2
		r.put(3, "c")
		lost := r.watch(all, &bookmark.Bookmark{DatabaseID: shop, Epoch: 1, Version: 4})
		lost.wantEnd(t, datav1.ErrorReason_ERROR_REASON_BOOKMARK_LOST)
		c.want(t, "2/4: 1=a 2=b 3=c")
		first.want(t, "1/3: 1=a 2=b")
		first.want(t, "2/4: 1=a 2=b 3=c")
	})
}

func TestSchemaChanges(t *testing.T) {
	wide := replicatest.WithColumn(replicatest.Table(10, "items", "id", "name"), "note", value.Text("-"))
	for name, test := range map[string]struct {
		sql    string
		schema func(r *region) replicatest.Change
		ends   bool
	}{
		"column":                {all, func(r *region) replicatest.Change { return replicatest.Schema(wide, r.other) }, true},
		"columns of the answer": {"SELECT * FROM items", func(r *region) replicatest.Change { return replicatest.Schema(wide, r.other) }, true},
		"dropped":               {all, func(r *region) replicatest.Change { return replicatest.Schema(r.other) }, true},
		"made anew": {all, func(r *region) replicatest.Change {
			return replicatest.Schema(replicatest.Table(30, "items", "id", "name"), r.other)
		}, true},
		"another table": {all, func(r *region) replicatest.Change { return replicatest.Schema(r.items) }, false},
		"an index": {all, func(r *region) replicatest.Change {
			return replicatest.Schema(replicatest.WithIndex(r.items, 11, "by_name", false, "name"), r.other)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, r *region) {
				r.put(1, "a")
				c := r.watch(test.sql, nil)
				c.want(t, "1/2: 1=a")
				r.commit(test.schema(r))
				if test.ends {
					c.wantEnd(t, datav1.ErrorReason_ERROR_REASON_SCHEMA_CHANGED)
					c.cancel()
					return
				}
				c.wantNothing(t)
				r.put(2, "b")
				c.want(t, "1/4: 1=a 2=b")
				c.end(t)
			})
		})
	}
}

// BenchmarkFanOut is one commit whose answer is told to 100 watchers.
func BenchmarkFanOut(b *testing.B) {
	r := newRegion(b, Options{Interval: MinInterval})
	defer r.clean()
	d, _ := r.store.Database(shop)
	told := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 100)
	for range 100 {
		go func() {
			ended <- r.hub.Serve(ctx, &Request{
				WatchQueryRequest: &datav1.WatchQueryRequest{Statement: &datav1.Statement{Sql: all}}, Database: d, Binary: true,
				Answer: func(uint32, uint64) *datav1.Answer { return &datav1.Answer{} },
			}, func(m *datav1.WatchQueryResponse) error {
				_, err := proto.Marshal(m)
				told <- struct{}{}
				return err
			})
		}()
	}
	wait := func() {
		for range 100 {
			<-told
		}
	}
	wait()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		r.put(1, fmt.Sprint(i))
		wait()
	}
	cancel()
	for range 100 {
		<-ended
	}
}
