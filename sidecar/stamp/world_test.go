package stamp_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/readpath"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	region = "eu-west-1"
	shopID = uint32(100)
	// pad makes rows so large that the smallest cache cannot hold them all.
	pad = 2000
)

// users is (id INTEGER PRIMARY KEY, email UNIQUE, age), or with one column more where wide.
func users(id uint32, wide bool) *catalog.Table {
	t := replicatest.Table(id, "users", "id", "email", "age")
	t = replicatest.WithIndex(t, id+1, "by_email", true, "email")
	t = replicatest.WithIndex(t, id+2, "by_age", false, "age")
	if wide {
		t = replicatest.WithColumn(t, "note", value.Text("-"))
	}
	return t
}

type user struct {
	email string
	age   int64
}

// state is what the database is at one version. It is immutable.
type state struct {
	wide bool
	rows map[int64]user
}

// text is a row as comparisons have it.
func (s *state) text(id int64) string {
	u, ok := s.rows[id]
	if !ok {
		return "none"
	}
	if s.wide {
		return fmt.Sprintf("%d %s %d -", id, u.email, u.age)
	}
	return fmt.Sprintf("%d %s %d", id, u.email, u.age)
}

func (s *state) byEmail(email string) string {
	for id, u := range s.rows {
		if u.email == email {
			return s.text(id)
		}
	}
	return "none"
}

func (s *state) list(index string) string {
	ids := slices.Sorted(maps.Keys(s.rows))
	if index == "by_age" {
		slices.SortStableFunc(ids, func(a, b int64) int { return cmp.Compare(s.rows[a].age, s.rows[b].age) })
	}
	lines := make([]string, len(ids))
	for i, id := range ids {
		lines[i] = s.text(id)
	}
	return strings.Join(lines, "\n")
}

func rowText(row *datav1.Row) string {
	if row == nil {
		return "none"
	}
	var parts []string
	for _, v := range row.GetValues() {
		switch k := v.GetKind().(type) {
		case *datav1.Value_Integer:
			parts = append(parts, fmt.Sprint(k.Integer))
		default:
			parts = append(parts, strings.TrimRight(v.GetText(), " "))
		}
	}
	return strings.Join(parts, " ")
}

// world is a region's read path over a real store, and the whole history of its one database: what any answer must be follows
// from its bookmark.
type world struct {
	tb    testing.TB
	store *replica.Store
	cache *memory.Cache
	path  *readpath.Path
	codec *bookmark.Codec

	primary *replicatest.Primary
	table   *catalog.Table
	present state

	now, batchesNow atomic.Int64 // answers of hot methods

	mu      sync.Mutex
	history []*state // by version
	records [][]byte
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	logger, secret := slog.New(slog.DiscardHandler), []byte("0123456789abcdef")
	w := &world{tb: tb, primary: replicatest.NewPrimary(), history: []*state{{}}, present: state{rows: map[int64]user{}}}
	var err error
	w.store, err = replica.OpenStore("replica", replica.Options{FS: vfs.NewMem(), Logger: logger})
	must(err)
	w.cache, err = memory.New(memory.Options{Bytes: memory.MinBytes, DatabasePercent: 90, SmallResult: 1 << 20, Stamps: w.store.Stamps()})
	must(err)
	w.codec, err = bookmark.New(secret)
	must(err)
	must(w.store.Adopt(replica.Identity{MeshID: [16]byte{1}, BookmarkKey: secret, PrimaryRegion: "us-east-1"}))
	engine, err := edgesql.New(edgesql.Options{})
	must(err)
	w.path, err = readpath.New(readpath.Options{
		Region: region, Store: w.store, Directory: readpath.NewDirectory(w.store, region), Primary: away{}, Memory: w.cache, SQL: engine, Logger: logger,
	})
	must(err)
	tb.Cleanup(func() {
		w.cache.Close()
		if err := errors.Join(engine.Close(), w.store.Close()); err != nil {
			tb.Error(err)
		}
	})
	must(w.store.ApplyRecords(meshdb.DatabaseID, [][]byte{replicatest.NewPrimary().Commit(
		replicatest.Schema(replicatest.MeshDatabases, replicatest.MeshPlacements),
		replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(shopID, "shop")),
	)}))
	w.schema(10, false)
	return w
}

// note writes down what the next version is, before anybody can see it, and returns its record.
func (w *world) note(record []byte) []byte {
	s := w.present
	s.rows = maps.Clone(s.rows)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history = append(w.history, &s)
	w.records = append(w.records, record)
	return record
}

func (w *world) apply(records ...[]byte) {
	if err := w.store.ApplyRecords(shopID, records); err != nil {
		w.tb.Error(err)
	}
}

// schema commits a table of an id: that of before, with other columns, or another in its place, which is empty.
func (w *world) schema(id uint32, wide bool) {
	if w.table == nil || w.table.ID != id {
		w.present.rows = map[int64]user{}
	}
	w.table, w.present.wide = users(id, wide), wide
	w.apply(w.note(w.primary.Commit(replicatest.Schema(w.table))))
}

func (w *world) row(id int64, u user) rowcodec.Row {
	values := []value.Value{value.Text(u.email + strings.Repeat(" ", pad)), value.Integer(u.age)}
	if w.present.wide {
		values = append(values, value.Text("-"))
	}
	return replicatest.Row(id, values...)
}

// change makes the record of a commit that puts or, where they are nil, deletes users.
func (w *world) change(rows map[int64]*user) []byte {
	var changes []replicatest.Change
	for id, u := range rows {
		if u == nil {
			delete(w.present.rows, id)
			changes = append(changes, replicatest.Delete(w.table, w.row(id, user{})))
			continue
		}
		w.present.rows[id] = *u
		changes = append(changes, replicatest.Put(w.table, w.row(id, *u)))
	}
	return w.note(w.primary.Commit(changes...))
}

// put commits users and applies that.
func (w *world) put(rows map[int64]*user) { w.apply(w.change(rows)) }

// drop deletes the copy and makes it anew from the same records.
func (w *world) drop() {
	if err := w.store.Drop(shopID); err != nil {
		w.tb.Error(err)
	}
	for records := range slices.Chunk(w.records, 16) {
		w.apply(records...)
	}
}

// wrong returns how an answer contradicts what its bookmark says, or the bookmark what was asked for. got are the texts of its
// rows, want makes them of a state.
func (w *world) wrong(a *datav1.Answer, atLeast string, got string, want func(*state) string) error {
	if a.GetSource() == datav1.Source_SOURCE_PRIMARY {
		return nil // which is not here
	}
	at, err := w.codec.Decode(a.GetBookmark())
	if err != nil {
		return err
	}
	if a.GetBookmark() < atLeast {
		return fmt.Errorf("answered from version %d, older than its bookmark", at.Version)
	}
	w.mu.Lock()
	s := w.history[at.Version]
	w.mu.Unlock()
	if text := want(s); text != got {
		return fmt.Errorf("from %v at version %d:\n%s\nwant:\n%s", a.GetSource(), at.Version, got, text)
	}
	return nil
}

func freshness(mark string) *datav1.Consistency {
	return &datav1.Consistency{Bookmark: mark, MaxWait: durationpb.New(0)}
}

func idKey(id int64) *datav1.Key {
	return &datav1.Key{Values: []*datav1.Value{value.ToProto(value.Integer(id))}}
}

func emailKey(email string) *datav1.Key {
	return &datav1.Key{
		Index: "by_email", Values: []*datav1.Value{value.ToProto(value.Text(email + strings.Repeat(" ", pad)))},
	}
}

// get reads a user by id or, if that is 0, by email, and checks the answer.
func (w *world) get(mark string, id int64, email string) (*datav1.Answer, error) {
	key, want := idKey(id), func(s *state) string { return s.text(id) }
	if id == 0 {
		key, want = emailKey(email), func(s *state) string { return s.byEmail(email) }
	}
	res, err := w.path.Get(context.Background(), http.Header{}, &datav1.GetRequest{
		Database: "shop", Table: "users", Key: key, Consistency: freshness(mark),
	})
	if err != nil {
		return nil, err
	}
	return res.GetAnswer(), w.wrong(res.GetAnswer(), mark, rowText(res.GetRow()), want)
}

// batch reads users by their ids and checks that the answer is of one version.
func (w *world) batch(mark string, ids ...int64) (*datav1.Answer, error) {
	req := &datav1.BatchGetRequest{Database: "shop", Table: "users", Consistency: freshness(mark)}
	for _, id := range ids {
		req.Keys = append(req.Keys, idKey(id))
	}
	res, err := w.path.BatchGet(context.Background(), http.Header{}, req)
	if err != nil {
		return nil, err
	}
	return w.checkBatch(res, mark, ids)
}

// list reads all users in the order of an index and checks that the page is of one version.
func (w *world) list(mark, index string) (*datav1.Answer, error) {
	res, err := w.path.List(context.Background(), http.Header{}, &datav1.ListRequest{
		Database: "shop", Table: "users", Index: index, Consistency: freshness(mark),
	})
	if err != nil {
		return nil, err
	}
	var got []string
	for _, row := range res.GetRows() {
		got = append(got, rowText(row))
	}
	return res.GetAnswer(), w.wrong(res.GetAnswer(), mark, strings.Join(got, "\n"), func(s *state) string { return s.list(index) })
}

// away is a primary that nobody can compare with: its answers say nothing.
type away struct{}

var primaryAnswer = &datav1.Answer{Source: datav1.Source_SOURCE_PRIMARY}

func (away) Get(context.Context, *connect.Request[datav1.GetRequest]) (*connect.Response[datav1.GetResponse], error) {
	return connect.NewResponse(&datav1.GetResponse{Answer: primaryAnswer}), nil
}

func (away) BatchGet(
	context.Context, *connect.Request[datav1.BatchGetRequest],
) (*connect.Response[datav1.BatchGetResponse], error) {
	return connect.NewResponse(&datav1.BatchGetResponse{Answer: primaryAnswer}), nil
}

func (away) List(context.Context, *connect.Request[datav1.ListRequest]) (*connect.Response[datav1.ListResponse], error) {
	return connect.NewResponse(&datav1.ListResponse{Answer: primaryAnswer}), nil
}

// settle waits until what was kept is in the cache.
func (w *world) settle() { w.cache.Wait() }

func integer(n int64) *datav1.Value { return value.ToProto(value.Integer(n)) }
func text(s string) *datav1.Value   { return value.ToProto(value.Text(s)) }

func rowKey(t *catalog.Table, id int64) []byte {
	return rowcodec.AppendRowKey(nil, t, replicatest.Row(id, value.Text(""), value.Integer(0)))
}
