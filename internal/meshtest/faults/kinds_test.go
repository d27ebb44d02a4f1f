package faults_test

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/value"
)

// writeKind is a kind of call that writes. Names are of letters, digits and '_'.
type writeKind struct {
	name string
	// keyed is whether an idempotency key makes it repeatable; the others are by their nature, but for plain creation.
	keyed bool
	// prepare is called before a write of that name, if it is set.
	prepare func(t *testing.T, primary datav1connect.DataServiceClient, name string)
	write   func(ctx context.Context, client datav1connect.DataServiceClient, key, name string) error
	// repeat makes a write whose outcome is not known certain.
	repeat func(ctx context.Context, client datav1connect.DataServiceClient, key, name string) error
	// times returns how many times a write of that name was done.
	times func(t *testing.T, primary datav1connect.DataServiceClient, name string) int64
}

func keyedRequest[T any](msg *T, key string) *connect.Request[T] {
	req := connect.NewRequest(msg)
	if key != "" {
		req.Header().Set(rpcheader.IdempotencyKey, key)
	}
	return req
}

func execute(ctx context.Context, client datav1connect.DataServiceClient, key, name string) error {
	_, err := client.Execute(ctx, keyedRequest(&datav1.ExecuteRequest{
		Database: db, Statement: &datav1.Statement{
			Sql: "INSERT INTO w (v) VALUES (?1)", Parameters: []*datav1.Value{value.ToProto(value.Text(name))},
		},
	}, key))
	return err
}

// transact writes the name and updates it, which a second run would not find as it was.
func transact(ctx context.Context, client datav1connect.DataServiceClient, key, name string) error {
	text := []*datav1.Value{value.ToProto(value.Text(name))}
	_, err := client.Transact(ctx, keyedRequest(&datav1.TransactRequest{
		Database: db, Operations: []*datav1.Operation{
			{Operation: &datav1.Operation_Statement{Statement: &datav1.Statement{
				Sql: "INSERT INTO w (v) VALUES (?1)", Parameters: text,
			}}},
			{Operation: &datav1.Operation_Statement{Statement: &datav1.Statement{
				Sql: "UPDATE w SET v = v WHERE v = ?1", Parameters: text,
			}}},
		},
	}, key))
	return err
}

func batchInsert(ctx context.Context, client datav1connect.DataServiceClient, key, name string) error {
	_, err := client.BatchInsert(ctx, keyedRequest(&datav1.BatchInsertRequest{
		Database: db, Table: "w", Columns: []string{"v"},
		Rows: []*datav1.Row{{Values: []*datav1.Value{value.ToProto(value.Text(name))}}},
	}, key))
	return err
}

func create(ctx context.Context, client datav1connect.DataServiceClient, name string, ifNotExists bool) error {
	_, err := client.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{
		Name: name, Regions: []string{east}, IfNotExists: ifNotExists,
	}))
	return err
}

func migrate(ctx context.Context, client datav1connect.DataServiceClient, _, name string) error {
	_, err := client.Migrate(ctx, connect.NewRequest(&datav1.MigrateRequest{
		Database: name, Migrations: []*datav1.Migration{
			{Name: "1", Sql: "CREATE TABLE m (id INTEGER PRIMARY KEY)"}, {Name: "2", Sql: "INSERT INTO m DEFAULT VALUES"},
		},
	}))
	return err
}

func count(t *testing.T, client datav1connect.DataServiceClient, database, sql, name string) (int64, error) {
	t.Helper()
	req := &datav1.QueryRequest{Database: database, Statement: &datav1.Statement{Sql: sql}}
	if name != "" {
		req.Statement.Parameters = []*datav1.Value{value.ToProto(value.Text(name))}
	}
	res, err := client.Query(t.Context(), connect.NewRequest(req))
	if err != nil {
		return 0, err
	}
	return res.Msg.GetResult().GetRows()[0].GetValues()[0].GetInteger(), nil
}

func rowsOfName(t *testing.T, primary datav1connect.DataServiceClient, name string) int64 {
	t.Helper()
	n, err := count(t, primary, db, "SELECT count(*) FROM w WHERE v = ?1", name)
	if err != nil {
		t.Error(err)
	}
	return n
}

var writeKinds = []writeKind{
	{name: "Execute", keyed: true, write: execute, repeat: execute, times: rowsOfName},
	{name: "Transact", keyed: true, write: transact, repeat: transact, times: rowsOfName},
	{name: "BatchInsert", keyed: true, write: batchInsert, repeat: batchInsert, times: rowsOfName},
	{
		name: "CreateDatabase",
		write: func(ctx context.Context, client datav1connect.DataServiceClient, _, name string) error {
			return create(ctx, client, name, false)
		},
		repeat: func(ctx context.Context, client datav1connect.DataServiceClient, _, name string) error {
			return create(ctx, client, name, true)
		},
		times: func(t *testing.T, primary datav1connect.DataServiceClient, name string) int64 {
			t.Helper()
			_, err := primary.GetDatabase(t.Context(), connect.NewRequest(&datav1.GetDatabaseRequest{Name: name}))
			switch {
			case err == nil:
				return 1
			case rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND:
				t.Error(err)
			}
			return 0
		},
	},
	{
		name: "Migrate", write: migrate, repeat: migrate,
		prepare: func(t *testing.T, primary datav1connect.DataServiceClient, name string) {
			t.Helper()
			if err := create(t.Context(), primary, name, false); err != nil {
				t.Fatal(err)
			}
		},
		times: func(t *testing.T, primary datav1connect.DataServiceClient, name string) int64 {
			t.Helper()
			n, err := count(t, primary, name, "SELECT count(*) FROM m", "")
			if err != nil && rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID { // no such table
				t.Error(err)
			}
			return n
		},
	},
}

// faultyWriter makes writes of one kind through one region whose link is bad at given bytes.
type faultyWriter struct {
	t      *testing.T
	m      *meshtest.Mesh
	kind   writeKind
	way    string
	region string
	link   *faultproxy.Proxy
	key    bool // the caller gives the idempotency key, not the region

	unknown, refused int
}

// fault makes a link bad after n bytes in a direction. The channel is closed when it is.
type fault func(link *faultproxy.Proxy, side faultproxy.Side, n int64) <-chan struct{}

func cutOnce(link *faultproxy.Proxy, side faultproxy.Side, n int64) <-chan struct{} {
	return link.CutAfter(faultproxy.HTTP1, side, n)
}

func cutForGood(link *faultproxy.Proxy, side faultproxy.Side, n int64) <-chan struct{} {
	return link.CutAllAfter(faultproxy.HTTP1, side, n)
}

func lose(link *faultproxy.Proxy, side faultproxy.Side, n int64) <-chan struct{} {
	return link.LoseAfter(faultproxy.HTTP1, side, n)
}

// write makes a write and reports whether the fault met it: false means that it has not that many bytes. However it ends, it
// is done once when its answer or its repeat says that it is done, and not at all when its answer says so.
func (w *faultyWriter) write(name string, patience time.Duration, f fault, side faultproxy.Side, n int64) bool {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	client, primary := w.m.Client(w.region), w.m.Client("")
	if w.kind.prepare != nil {
		w.kind.prepare(w.t, primary, name)
	}
	w.calm()
	key := ""
	if w.key {
		key = name
	}
	bad := f(w.link, side, n)
	err := w.kind.write(ctx, client, key, name)
	w.link.Heal()
	select {
	case <-bad:
	default:
		if err == nil {
			return false
		}
		if !mayRepeat(err) { // as on a machine that stands still
			w.t.Errorf("%s: nothing happened to the link, and %v", name, err)
		}
		return true
	}
	want := int64(1)
	again := key
	switch reason := rpcerr.ReasonOf(err); {
	case err == nil:
	case reason == datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE:
		w.refused++
		want = 0
	case reason == datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN:
		w.unknown++
		e, _ := rpcerr.FromError(err)
		again = e.Metadata("idempotency_key")
		if w.kind.keyed && (again == "" || w.key && again != key) {
			w.t.Errorf("%s: the key to repeat it under is %q", name, again)
		}
	case connect.CodeOf(err) == connect.CodeDeadlineExceeded && (w.key || !w.kind.keyed):
		w.unknown++ // the caller's own clock was faster than the region's answer
	default:
		w.t.Errorf("%s: %v", name, err)
	}
	if err != nil && want > 0 {
		meshtest.Eventually(w.t, name+" is repeated", func(ctx context.Context) error {
			err := w.kind.repeat(ctx, client, again, name)
			if err != nil && !mayRepeat(err) {
				w.t.Errorf("%s: %v", name, err)
			}
			return err
		})
	}
	if got := w.kind.times(w.t, primary, name); got != want {
		w.t.Errorf("%s: done %d times, want %d; the answer was %v", name, got, want, err)
	}
	return true
}

// calm makes calls succeed until the breaker thinks well of the link again.
func (w *faultyWriter) calm() {
	req := &datav1.ExecuteRequest{Database: db, Statement: &datav1.Statement{Sql: "SELECT 1"}}
	for range 3 {
		meshtest.Eventually(w.t, "calls pass", func(ctx context.Context) error {
			_, err := w.m.Client(w.region).Execute(ctx, connect.NewRequest(req))
			return err
		})
	}
}

// startFaulty starts a mesh with a region of its own, and a bad link, for each kind of write and way.
func startFaulty(t *testing.T, ways ...string) map[string]*faultyWriter {
	t.Helper()
	var regions []string
	writers := make(map[string]*faultyWriter)
	for _, kind := range writeKinds {
		for i, way := range ways {
			region := kind.name + "_" + way
			regions = append(regions, region)
			writers[region] = &faultyWriter{t: t, kind: kind, way: way, region: region, key: i%2 == 0}
		}
	}
	links := make(map[string]*faultproxy.Proxy)
	m := meshtest.Start(t, meshtest.Options{
		Regions: append([]string{east}, regions...),
		Through: func(region, primaryAddr string) string {
			if region == east {
				return primaryAddr
			}
			if links[region] == nil {
				links[region] = faultproxy.Start(t, primaryAddr)
			}
			return links[region].Addr()
		},
	})
	// The other regions have no copies: they pass on all the same, and the test is about that.
	if err := create(t.Context(), m.Client(""), db, false); err != nil {
		t.Fatal(err)
	}
	m.Exec("", db, createTable)
	m.Exec("", db, "CREATE INDEX by_v ON w (v)")
	for region, w := range writers {
		w.m, w.link = m, links[region]
	}
	return writers
}
