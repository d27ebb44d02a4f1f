package primary_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/testing/protocmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/dirlock"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/primary"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	t      *testing.T
	dir    string
	p      *primary.Primary
	http   *http.Client
	client datav1connect.DataServiceClient
}

func start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), http: httpclient.NewUnary()}
	f.open()
	t.Cleanup(func() {
		f.http.CloseIdleConnections()
		if err := f.p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	p, err := primary.Start(context.Background(), primary.Config{
		Dir: f.dir, Listen: freeport.Addr(f.t), Region: "home", Logger: slog.New(slog.DiscardHandler), NoAuth: true,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.use(p)
}

func (f *fixture) use(p *primary.Primary) {
	f.p, f.client = p, datav1connect.NewDataServiceClient(f.http, p.URL())
}

func (f *fixture) create(name string) {
	f.t.Helper()
	_, err := f.client.CreateDatabase(context.Background(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: name}))
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) try(db, sql string) (*connect.Response[datav1.ExecuteResponse], error) {
	return f.client.Execute(context.Background(), connect.NewRequest(&datav1.ExecuteRequest{
		Database: db, Statement: &datav1.Statement{Sql: sql},
	}))
}

func (f *fixture) exec(db, sql string) *connect.Response[datav1.ExecuteResponse] {
	f.t.Helper()
	res, err := f.try(db, sql)
	if err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	return res
}

func wantError(t *testing.T, err error, code connect.Code, reason string) {
	t.Helper()
	if got := connect.CodeOf(err); err == nil || got != code {
		t.Errorf("error %v, want code %v", err, code)
	}
	if got := strings.TrimPrefix(rpcerr.ReasonOf(err).String(), "ERROR_REASON_"); got != reason {
		t.Errorf("error %v has reason %s, want %s", err, got, reason)
	}
}

func TestExecuteAndQuery(t *testing.T) {
	f := start(t)
	f.create("shop")
	f.exec("shop", "CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	res := f.exec("shop", "INSERT INTO t (a) VALUES ('x'), (1.5), (x'00'), (NULL), (9223372036854775807)")
	if res.Msg.GetResult().GetRowsAffected() != 5 || res.Msg.GetResult().GetLastInsertRowid() != 5 ||
		res.Msg.GetAnswer().GetRowsWritten() != 5 {
		t.Errorf("insert: %v", res.Msg)
	}
	if res.Header().Get(rpcheader.Bookmark) != res.Msg.GetAnswer().GetBookmark() || res.Header().Get(rpcheader.Region) != "home" {
		t.Errorf("headers: %v", res.Header())
	}
	got := f.exec("shop", "SELECT a FROM t ORDER BY id")
	want := &datav1.ResultSet{
		Columns: []*datav1.Column{{Name: "a"}},
		Rows: []*datav1.Row{
			{Values: []*datav1.Value{value.ToProto(value.Text("x"))}},
			{Values: []*datav1.Value{value.ToProto(value.Real(1.5))}},
			{Values: []*datav1.Value{value.ToProto(value.Blob([]byte{0}))}},
			{Values: []*datav1.Value{value.ToProto(value.Null())}},
			{Values: []*datav1.Value{value.ToProto(value.Integer(9223372036854775807))}},
		},
	}
	if diff := cmp.Diff(want, got.Msg.GetResult(), protocmp.Transform()); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if a := got.Msg.GetAnswer(); a.GetSource() != datav1.Source_SOURCE_PRIMARY || !a.GetServedByPrimary() || a.GetRowsRead() < 5 {
		t.Errorf("answer: %v", a)
	}
	_, err := f.client.Query(context.Background(), connect.NewRequest(&datav1.QueryRequest{
		Database: "shop", Statement: &datav1.Statement{Sql: "DELETE FROM t"},
	}))
	wantError(t, err, connect.CodeInvalidArgument, "STATEMENT_WRITES")
	_, err = f.try("shop", "SELEC 1")
	wantError(t, err, connect.CodeInvalidArgument, "STATEMENT_INVALID")
	if !strings.Contains(err.Error(), `near "SELEC": syntax error`) {
		t.Errorf("SQLite's own message is missing: %v", err)
	}
	_, err = f.try("nowhere", "SELECT 1")
	wantError(t, err, connect.CodeNotFound, "DATABASE_NOT_FOUND")
	_, err = f.try("_mesh", "DELETE FROM regions")
	wantError(t, err, connect.CodePermissionDenied, "STATEMENT_DENIED")
}

func TestBadFieldsAreNamed(t *testing.T) {
	f := start(t)
	_, err := f.client.Execute(context.Background(), connect.NewRequest(&datav1.ExecuteRequest{Database: "x"}))
	wantError(t, err, connect.CodeInvalidArgument, "FIELD_INVALID")
	wire, _ := errors.AsType[*connect.Error](err)
	named := false
	for _, d := range wire.Details() {
		if m, err := d.Value(); err == nil {
			if bad, ok := m.(*errdetails.BadRequest); ok {
				named = bad.GetFieldViolations()[0].GetField() == "statement"
			}
		}
	}
	if !named {
		t.Errorf("no detail names the field: %v", wire.Details())
	}
	_, err = f.client.CreateDatabase(context.Background(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: "_x"}))
	wantError(t, err, connect.CodeInvalidArgument, "FIELD_INVALID")
}

func TestQueryStreamSendsAll(t *testing.T) {
	f := start(t)
	f.create("big")
	f.exec("big", "CREATE TABLE t (a)")
	f.exec("big", "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n")
	stream, err := f.client.QueryStream(context.Background(), connect.NewRequest(&datav1.QueryStreamRequest{
		Database: "big", Statement: &datav1.Statement{Sql: "SELECT a, 'some text to make it longer' FROM t ORDER BY a"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	next, pieces := int64(1), 0
	var last *datav1.QueryStreamResponse
	for stream.Receive() {
		last = stream.Msg()
		pieces++
		for _, row := range last.GetRows() {
			if got := row.GetValues()[0].GetInteger(); got != next {
				t.Fatalf("row %d follows %d", got, next-1)
			}
			next++
		}
	}
	if err := stream.Err(); err != nil || next != 20001 || pieces < 5 || last.GetAnswer().GetRowsRead() < 20000 {
		t.Errorf("%d rows in %d pieces, last %v, error %v", next-1, pieces, last.GetAnswer(), err)
	}
}

func TestBookmarks(t *testing.T) {
	f := start(t)
	f.create("a")
	f.create("b")
	ofA := f.exec("a", "CREATE TABLE t (x)").Msg.GetAnswer().GetBookmark()
	get := func(db, mark, header string) error {
		req := connect.NewRequest(&datav1.QueryRequest{
			Database: db, Statement: &datav1.Statement{Sql: "SELECT 1"},
			Consistency: &datav1.Consistency{Bookmark: mark},
		})
		if header != "" {
			req.Header().Set(rpcheader.Bookmark, header)
		}
		_, err := f.client.Query(context.Background(), req)
		return err
	}
	if err := get("a", ofA, ""); err != nil {
		t.Error(err)
	}
	if err := get("b", "", ofA); err != nil {
		t.Errorf("a header may hold bookmarks of other databases: %v", err)
	}
	wantError(t, get("b", ofA, ""), connect.CodeInvalidArgument, "BOOKMARK_WRONG_DATABASE")
	wantError(t, get("a", ofA[:len(ofA)-1], ""), connect.CodeInvalidArgument, "BOOKMARK_MALFORMED")
	foreign, err := bookmark.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	forged := foreign.Encode(bookmark.Bookmark{DatabaseID: 100, Epoch: 1, Version: 1})
	wantError(t, get("a", forged, ""), connect.CodePermissionDenied, "BOOKMARK_FORGED")
	wantError(t, get("a", "", forged), connect.CodePermissionDenied, "BOOKMARK_FORGED")
}

func TestMigrate(t *testing.T) {
	f := start(t)
	f.create("m")
	migrate := func(ms ...*datav1.Migration) (*connect.Response[datav1.MigrateResponse], error) {
		return f.client.Migrate(context.Background(), connect.NewRequest(&datav1.MigrateRequest{Database: "m", Migrations: ms}))
	}
	one := &datav1.Migration{Name: "1_users", Sql: "CREATE TABLE users (id INTEGER PRIMARY KEY);\nINSERT INTO users VALUES (1);"}
	two := &datav1.Migration{Name: "2_name", Sql: "ALTER TABLE users ADD COLUMN name TEXT DEFAULT 'n';\n-- done"}
	if res, err := migrate(one); err != nil || len(res.Msg.GetApplied()) != 1 {
		t.Fatalf("%v, %v", res, err)
	}
	if res, err := migrate(one, two); err != nil || len(res.Msg.GetApplied()) != 1 || res.Msg.GetAlreadyApplied() != 1 {
		t.Fatalf("%v, %v", res, err)
	}
	bad := &datav1.Migration{Name: "3_bad", Sql: "CREATE TABLE x (a);\n\nINSERT INTO nowhere VALUES (1);"}
	_, err := migrate(one, two, bad)
	wantError(t, err, connect.CodeInvalidArgument, "MIGRATION_FAILED")
	if e, _ := rpcerr.FromError(err); e.Metadata("line") != "3" || e.Metadata("migration") != "3_bad" {
		t.Errorf("metadata of %v", e)
	}
	if _, err := f.try("m", "SELECT * FROM x"); err == nil {
		t.Error("a failed migration left its table")
	}
	_, err = migrate(&datav1.Migration{Name: "1_users", Sql: "CREATE TABLE other (a)"}, two)
	wantError(t, err, connect.CodeFailedPrecondition, "MIGRATION_CHANGED")
	for _, test := range []struct {
		list []*datav1.Migration
		name string
		says string
	}{
		{[]*datav1.Migration{two, one}, "2_name", "this one applied later"},
		{[]*datav1.Migration{one, {Name: "11_new", Sql: "SELECT 1"}, two}, "11_new", "comes before 2_name in the list: that one was applied, and this one not"},
		{[]*datav1.Migration{two}, "1_users", "1_users was applied and is not in the list"},
		{[]*datav1.Migration{one}, "2_name", "2_name was applied and is not in the list"},
	} {
		_, err = migrate(test.list...)
		wantError(t, err, connect.CodeFailedPrecondition, "MIGRATION_OUT_OF_ORDER")
		if e, _ := rpcerr.FromError(err); e.Metadata("migration") != test.name || !strings.Contains(err.Error(), test.says) {
			t.Errorf("got %v of %s, want %s: %s", err, e.Metadata("migration"), test.name, test.says)
		}
	}
	list, err := f.client.ListMigrations(context.Background(), connect.NewRequest(&datav1.ListMigrationsRequest{Database: "m"}))
	if err != nil || len(list.Msg.GetMigrations()) != 2 || list.Msg.GetMigrations()[1].GetName() != "2_name" {
		t.Errorf("%v, %v", list, err)
	}
	got := f.exec("m", "SELECT name FROM users").Msg.GetResult().GetRows()
	if len(got) != 1 || got[0].GetValues()[0].GetText() != "n" {
		t.Errorf("rows %v", got)
	}
}

// TestKeyedReadsEqualSQL pages through tables by key and index and compares with SQL's order.
func TestKeyedReadsEqualSQL(t *testing.T) {
	f := start(t)
	f.create("k")
	f.exec("k", "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, s TEXT COLLATE NOCASE, UNIQUE (s, id))")
	f.exec("k", "CREATE INDEX by_n ON t (n DESC, s)")
	f.exec("k", `INSERT INTO t WITH RECURSIVE i(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM i WHERE x < 60)
		SELECT 'k' || ((x * 37) % 61), CASE WHEN x % 7 = 0 THEN NULL ELSE x % 5 END, CASE x % 3 WHEN 0 THEN NULL WHEN 1 THEN 'B' ELSE 'b' END FROM i`)
	column := func(rows []*datav1.Row) (ids []string) {
		for _, r := range rows {
			ids = append(ids, r.GetValues()[0].GetText())
		}
		return ids
	}
	for _, tc := range []struct {
		name  string
		req   *datav1.ListRequest
		order string
	}{
		{"key", &datav1.ListRequest{}, "id"},
		{"key reversed", &datav1.ListRequest{Reverse: true}, "id DESC"},
		{"index", &datav1.ListRequest{Index: "by_n"}, "n DESC, s, rowid"},
		{"index reversed", &datav1.ListRequest{Index: "by_n", Reverse: true}, "n, s DESC, rowid DESC"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.req.Database, tc.req.Table, tc.req.PageSize = "k", "t", 7
			var got []string
			for {
				res, err := f.client.List(context.Background(), connect.NewRequest(tc.req))
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, column(res.Msg.GetRows())...)
				if tc.req.PageToken = res.Msg.GetNextPageToken(); tc.req.PageToken == "" {
					break
				}
			}
			want := column(f.exec("k", "SELECT id FROM t ORDER BY "+tc.order).Msg.GetResult().GetRows())
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
		})
	}
	res, err := f.client.BatchGet(context.Background(), connect.NewRequest(&datav1.BatchGetRequest{
		Database: "k", Table: "t", Keys: []*datav1.Key{
			{Values: []*datav1.Value{value.ToProto(value.Text("k3"))}}, {Values: []*datav1.Value{value.ToProto(value.Text("no"))}},
		},
	}))
	if err != nil {
		t.Fatal(err)
	}
	if r := res.Msg.GetResults(); len(r) != 2 || r[0].GetRow().GetValues()[0].GetText() != "k3" || r[1].GetRow() != nil ||
		r[0].GetRow().GetVersion() == 0 {
		t.Errorf("results %v", r)
	}
	_, err = f.client.List(context.Background(), connect.NewRequest(&datav1.ListRequest{Database: "k", Table: "t", PageToken: "x"}))
	wantError(t, err, connect.CodeInvalidArgument, "PAGE_TOKEN_INVALID")
}

func TestDatabasesComeAndGo(t *testing.T) {
	f := start(t)
	f.create("one")
	_, err := f.client.CreateDatabase(context.Background(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: "one"}))
	wantError(t, err, connect.CodeAlreadyExists, "DATABASE_EXISTS")
	f.exec("one", "CREATE TABLE t (a)")
	_, err = f.client.DeleteDatabase(context.Background(), connect.NewRequest(&datav1.DeleteDatabaseRequest{Name: "one"}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.try("one", "SELECT 1")
	wantError(t, err, connect.CodeNotFound, "DATABASE_NOT_FOUND")
	f.create("one")
	if _, err := f.try("one", "SELECT * FROM t"); err == nil {
		t.Error("the new database has the old one's table")
	}
	files, err := filepath.Glob(filepath.Join(f.dir, "db", "*.sqlite"))
	if err != nil || len(files) != 4 { // _mesh, _auth, _audit and the new one
		t.Errorf("files %v, %v", files, err)
	}
}

func TestRestartKeepsEverythingAndKeysArePrivate(t *testing.T) {
	f := start(t)
	f.create("kept")
	mark := f.exec("kept", "CREATE TABLE t (a)").Msg.GetAnswer().GetBookmark()
	ended, end := context.WithCancel(context.Background())
	end() // so that it does not wait for the first one
	if _, err := primary.Start(ended, primary.Config{
		Dir: f.dir, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler), NoAuth: true,
	}); err == nil || !errors.Is(err, dirlock.ErrLocked) {
		t.Errorf("a second primary on the same folder: %v", err)
	}
	if err := f.p.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.open()
	res, err := f.client.Query(context.Background(), connect.NewRequest(&datav1.QueryRequest{
		Database: "kept", Statement: &datav1.Statement{Sql: "SELECT * FROM t"}, Consistency: &datav1.Consistency{Bookmark: mark},
	}))
	if err != nil || res.Msg.GetAnswer().GetBookmark() != mark {
		t.Errorf("%v, %v", res, err)
	}
	info, err := os.Stat(filepath.Join(f.dir, "mesh.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mesh.json: %v, %v", info.Mode(), err)
	}
	ready, err := f.http.Get(f.p.URL() + "/readyz")
	if err != nil || ready.StatusCode != http.StatusOK {
		t.Errorf("readyz: %v, %v", ready, err)
	}
	_, _ = io.Copy(io.Discard, ready.Body)
	_ = ready.Body.Close()
}

// TestIdentityIsNotMadeAnew: a folder with data whose mesh.json is gone is not another mesh's.
func TestIdentityIsNotMadeAnew(t *testing.T) {
	dir := t.TempDir()
	config := primary.Config{Dir: dir, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler), NoAuth: true}
	p, err := primary.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(dir, "mesh.json")
	if err := os.Rename(identity, identity+".aside"); err != nil {
		t.Fatal(err)
	}
	if p, err := primary.Start(t.Context(), config); err == nil {
		_ = p.Close(context.Background())
		t.Fatal("it started as another mesh")
	} else if !strings.Contains(err.Error(), identity) {
		t.Errorf("got %v", err)
	}
	if err := os.Rename(identity+".aside", identity); err != nil {
		t.Fatal(err)
	}
	p, err = primary.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func BenchmarkExecuteOverRPC(b *testing.B) {
	t := &testing.T{}
	f := &fixture{t: t, dir: b.TempDir(), http: httpclient.NewUnary()}
	f.open()
	defer func() { _ = f.p.Close(context.Background()) }()
	defer f.http.CloseIdleConnections()
	f.create("bench")
	f.exec("bench", "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := f.try("bench", fmt.Sprintf("INSERT INTO t (a) VALUES ('%s')", strings.Repeat("x", 150))); err != nil {
				b.Error(err)
			}
		}
	})
}
