package meshtest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/client"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// items is the table that is written and watched: id → n, kind.
type item struct {
	n    int64
	kind string
}

// ledger knows what the table was at each bookmark.
type ledger struct {
	t      *testing.T
	client datav1connect.DataServiceClient

	mu      sync.Mutex
	present map[int64]item
	states  map[string]map[int64]item
	last    string
}

func newLedger(t *testing.T, c datav1connect.DataServiceClient) *ledger {
	t.Helper()
	if _, err := c.CreateDatabase(t.Context(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: "w"})); err != nil {
		t.Fatal(err)
	}
	l := &ledger{t: t, client: c, present: make(map[int64]item), states: make(map[string]map[int64]item)}
	l.exec("CREATE TABLE items (id INTEGER PRIMARY KEY, n INT, kind TEXT COLLATE NOCASE)", func(map[int64]item) {})
	return l
}

// exec runs a statement at the primary and notes what it makes of the table.
func (l *ledger) exec(sql string, change func(map[int64]item)) {
	l.t.Helper()
	l.mu.Lock() // a watcher may see the commit before its answer is here
	defer l.mu.Unlock()
	res, err := l.client.Execute(l.t.Context(), connect.NewRequest(&datav1.ExecuteRequest{
		Database: "w", Statement: &datav1.Statement{Sql: sql},
	}))
	if err != nil {
		l.t.Fatalf("%s: %v", sql, err)
	}
	change(l.present)
	l.last = res.Msg.GetAnswer().GetBookmark()
	l.states[l.last] = maps.Clone(l.present)
}

// write makes one of many kinds of commits.
func (l *ledger) write(r *rand.Rand) {
	id, n, kind := r.Int64N(20), r.Int64N(100), []string{"a", "A", "b"}[r.IntN(3)]
	switch r.IntN(6) {
	case 0:
		l.exec(fmt.Sprintf("DELETE FROM items WHERE id = %d", id), func(m map[int64]item) { delete(m, id) })
	case 1:
		l.exec(fmt.Sprintf("DELETE FROM items WHERE n < %d", n/4), func(m map[int64]item) {
			maps.DeleteFunc(m, func(_ int64, i item) bool { return i.n < n/4 })
		})
	case 2:
		l.exec(fmt.Sprintf("UPDATE items SET kind = '%s' WHERE id >= %d", kind, id), func(m map[int64]item) {
			for k, i := range m {
				if k >= id {
					m[k] = item{i.n, kind}
				}
			}
		})
	default:
		l.exec(fmt.Sprintf("INSERT OR REPLACE INTO items VALUES (%d, %d, '%s')", id, n, kind), func(m map[int64]item) {
			m[id] = item{n, kind}
		})
	}
}

func (l *ledger) at(bookmark string, wanted func(int64, item) bool) (state map[int64]item, last, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	state, known = l.states[bookmark]
	state = maps.Clone(state)
	maps.DeleteFunc(state, func(id int64, i item) bool { return !wanted(id, i) })
	return state, bookmark == l.last, known
}

// follow watches until the table is at the ledger's last bookmark and done is closed, and compares what the changes add up to
// at each bookmark.
func (l *ledger) follow(
	ctx context.Context, data datav1connect.DataServiceClient, req *datav1.WatchRequest, wanted func(int64, item) bool,
	done <-chan struct{}, begun func(),
) error {
	got := make(map[int64]item)
	last := ""
	for e, err := range client.Watch(ctx, data, req) {
		if err != nil {
			return err
		}
		if last == "" {
			begun()
		}
		if e.Bookmark <= last {
			return fmt.Errorf("bookmark %s after %s", e.Bookmark, last)
		}
		last = e.Bookmark
		for _, c := range e.Changes {
			id := c.GetKey()[0].GetInteger()
			before, had := got[id]
			if c.GetRow() == nil {
				if !had {
					return fmt.Errorf("row %d is gone, which was not there: %v", id, c)
				}
				delete(got, id)
				continue
			}
			v := c.GetRow().GetValues()
			got[id] = item{v[1].GetInteger(), v[2].GetText()}
			if had && before == got[id] && len(e.Changes) == 1 {
				// An UPDATE that changes nothing is a commit all the same, but not one that the ledger makes alone.
				continue
			}
		}
		want, atEnd, known := l.at(e.Bookmark, wanted)
		if !known {
			return fmt.Errorf("unknown bookmark %s", e.Bookmark)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(item{})); diff != "" {
			return fmt.Errorf("at %s (-table +changes):\n%s", e.Bookmark, diff)
		}
		if atEnd {
			select {
			case <-done:
				return nil
			default:
			}
		}
	}
	return errors.New("the watch ended without a reason")
}

var watches = []struct {
	name   string
	req    *datav1.WatchRequest
	wanted func(int64, item) bool
}{
	{"table", &datav1.WatchRequest{}, func(int64, item) bool { return true }},
	{"equal", &datav1.WatchRequest{Equal: map[string]*datav1.Value{"kind": text("a")}}, func(_ int64, i item) bool {
		return strings.EqualFold(i.kind, "a")
	}},
	{"range", &datav1.WatchRequest{
		Start: &datav1.ListRequest_Bound{Values: []*datav1.Value{value.ToProto(value.Integer(5))}},
		End:   &datav1.ListRequest_Bound{Values: []*datav1.Value{value.ToProto(value.Integer(15))}, Exclusive: true},
	}, func(id int64, _ item) bool { return id >= 5 && id < 15 }},
	{"row", &datav1.WatchRequest{Prefix: []*datav1.Value{text("7")}}, func(id int64, _ item) bool { return id == 7 }},
	{"row and equal", &datav1.WatchRequest{
		Prefix: []*datav1.Value{text("7")}, Equal: map[string]*datav1.Value{"n": text("7"), "kind": text("B")},
	}, func(id int64, i item) bool { return id == 7 && i.n == 7 && i.kind == "b" }},
}

func text(s string) *datav1.Value { return value.ToProto(value.Text(s)) }

// followAll watches in all ways at once while write writes, and returns when all have seen its end.
func (l *ledger) followAll(data func() datav1connect.DataServiceClient, write func()) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	done := make(chan struct{})
	var begun, ended sync.WaitGroup
	for _, w := range watches {
		begun.Add(1)
		ended.Go(func() {
			req := &datav1.WatchRequest{
				Database: "w", Table: "items", Prefix: w.req.GetPrefix(), Equal: w.req.GetEqual(), Start: w.req.GetStart(), End: w.req.GetEnd(),
			}
			once := sync.OnceFunc(begun.Done)
			defer once()
			if err := l.follow(ctx, data(), req, w.wanted, done, once); err != nil {
				l.t.Errorf("%s: %v", w.name, err)
			}
		})
	}
	begun.Wait()
	write()
	// A commit that every watch is told of.
	l.exec("DELETE FROM items", func(m map[int64]item) { clear(m) })
	close(done)
	l.exec("INSERT INTO items VALUES (7, 7, 'b'), (8, 1, 'a')", func(m map[int64]item) { m[7], m[8] = item{7, "b"}, item{1, "a"} })
	ended.Wait()
}

// TestWatchAddsUp watches in one region what is written at the primary: at each bookmark the changes add up to the table, also
// when the region is restarted in between.
func TestWatchAddsUp(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	l := newLedger(t, m.Client(""))
	m.WaitSync("w")
	streams := streaming(t)
	r := rand.New(rand.NewPCG(1, 2))
	l.followAll(func() datav1connect.DataServiceClient {
		return datav1connect.NewDataServiceClient(streams, m.URL(west))
	}, func() {
		for i := range 300 {
			if i == 150 {
				m.StopSidecar(west)
			}
			if i == 200 {
				m.StartSidecar(west)
			}
			l.write(r)
		}
	})
}

// TestWatchOverKill kills the region's process, whose copy then lacks what it had not on its disk.
func TestWatchOverKill(t *testing.T) {
	streams := streaming(t)
	ps := meshtest.StartProcesses(t, streams, west)
	l := newLedger(t, datav1connect.NewDataServiceClient(streams, ps.PrimaryURL()))
	meshtest.WaitSync(t, streams, ps.PrimaryURL(), ps.URLs(), "w")
	r := rand.New(rand.NewPCG(3, 4))
	l.followAll(func() datav1connect.DataServiceClient {
		return datav1connect.NewDataServiceClient(streams, ps.URL(west), connect.WithProtoJSON())
	}, func() {
		for i := range 200 {
			l.write(r)
			if i%80 == 60 {
				ps.KillSidecar(west)
				ps.StartSidecar(west)
			}
		}
	})
}

func streaming(t *testing.T) *http.Client {
	t.Helper()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestWatchEnds has the watched table changed in ways that nobody can be told of row by row.
func TestWatchEnds(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	m.Exec("", "d", "CREATE TABLE other (id INTEGER PRIMARY KEY)")
	for _, change := range []string{
		"ALTER TABLE t RENAME TO u", "ALTER TABLE t ADD COLUMN c", "ALTER TABLE t RENAME COLUMN a TO b", "ALTER TABLE t DROP COLUMN a",
		"DROP TABLE t",
	} {
		m.Exec("", "d", "CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
		m.WaitSync("d")
		var last client.Event
		var err error
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		for e, watchErr := range client.Watch(ctx, m.Client(west), &datav1.WatchRequest{Database: "d", Table: "t"}) {
			if err = watchErr; err != nil {
				break
			}
			if last.Bookmark == "" {
				m.Exec("", "d", "CREATE INDEX i ON other (id)") // another table's business
				m.Exec("", "d", "INSERT INTO t VALUES (1, 'x')")
				m.Exec("", "d", change)
			}
			last = e
		}
		cancel()
		wantError(t, err, connect.CodeFailedPrecondition, "SCHEMA_CHANGED")
		if len(last.Changes) != 1 {
			t.Errorf("%s: the last event before is %v", change, last)
		}
		// Nor can it be gone on with.
		m.WaitSync("d")
		for _, schema := range []string{last.Schema, ""} {
			err = firstError(t, m, &datav1.WatchRequest{Database: "d", Table: "t", Bookmark: last.Bookmark, Schema: schema})
			if reason := rpcerr.ReasonOf(err); reason != datav1.ErrorReason_ERROR_REASON_SCHEMA_CHANGED &&
				reason != datav1.ErrorReason_ERROR_REASON_TABLE_NOT_FOUND {
				t.Errorf("%s, then from before: %v", change, err)
			}
		}
		m.Exec("", "d", "DROP INDEX i")
		m.Exec("", "d", "DROP TABLE IF EXISTS t")
		m.Exec("", "d", "DROP TABLE IF EXISTS u")
	}
}

// firstError is how a watch ends that should not begin.
func firstError(t *testing.T, m *meshtest.Mesh, req *datav1.WatchRequest) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for e, err := range client.Watch(ctx, m.Client(west), req) {
		if err == nil {
			return fmt.Errorf("begins with %v", e)
		}
		return err
	}
	return nil
}

func TestWatchRefuses(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	m.Create("e")
	m.Exec("", "d", "CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	m.Exec("", "d", "CREATE TABLE r (a)")
	m.Exec("", "d", "CREATE TABLE v (a, b AS (a + 1))")
	other := m.Exec("", "e", "CREATE TABLE t (a)").GetAnswer().GetBookmark()
	m.WaitSync("d")
	for _, test := range []struct {
		req    *datav1.WatchRequest
		code   connect.Code
		reason string
	}{
		{&datav1.WatchRequest{Database: "none", Table: "t"}, connect.CodeNotFound, "DATABASE_NOT_FOUND"},
		{&datav1.WatchRequest{Database: "d", Table: "none"}, connect.CodeNotFound, "TABLE_NOT_FOUND"},
		{&datav1.WatchRequest{Database: "d", Table: "v"}, connect.CodeUnimplemented, "SCHEMA_UNSUPPORTED"},
		{&datav1.WatchRequest{Database: "d", Table: "t", Equal: map[string]*datav1.Value{"x": text("")}}, connect.CodeInvalidArgument, "COLUMN_NOT_FOUND"},
		{&datav1.WatchRequest{Database: "d", Table: "t", Prefix: []*datav1.Value{text("1"), text("2")}}, connect.CodeInvalidArgument, "FIELD_INVALID"},
		{&datav1.WatchRequest{Database: "d", Table: "r", Prefix: []*datav1.Value{text("x")}}, connect.CodeInvalidArgument, "FIELD_INVALID"},
		{&datav1.WatchRequest{Database: "d", Table: "t", Bookmark: "x"}, connect.CodeInvalidArgument, "BOOKMARK_MALFORMED"},
		{&datav1.WatchRequest{Database: "d", Table: "t", Bookmark: other}, connect.CodeInvalidArgument, "BOOKMARK_WRONG_DATABASE"},
	} {
		wantError(t, firstError(t, m, test.req), test.code, test.reason)
	}
}
