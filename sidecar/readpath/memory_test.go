package readpath

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

const (
	fromMemory = datav1.Source_SOURCE_MEMORY
	testBytes  = 4 << 20
)

// withoutTimes ignores what an answer says about how it was made: the first one is of the replica, the second of memory.
var withoutTimes = protocmp.IgnoreFields(&datav1.Answer{}, "sql_ms", "rows_read", "source")

func byEmail(email string) *datav1.Key {
	key := keyOf(value.Text(email))
	key.Index = "by_email"
	return key
}

// What memory answers is what the replica answered, and it is answered once.
func TestMemoryAnswers(t *testing.T) {
	r := newRegionWith(t, testBytes)
	for name, key := range map[string]*datav1.Key{
		"row": keyOf(value.Integer(2)), "no row": keyOf(value.Integer(99)), "null": keyOf(value.Null()),
		"unique": byEmail("d@x"), "not unique": byEmail("nobody@x"),
	} {
		req := getUser(0)
		req.Key = key
		first, err := r.path.Get(t.Context(), http.Header{}, req)
		wantSource(t, first.GetAnswer(), err, fromReplica)
		r.cache.Wait()
		second, err := r.path.Get(t.Context(), http.Header{}, req)
		wantSource(t, second.GetAnswer(), err, fromMemory)
		if diff := cmp.Diff(first, second, protocmp.Transform(), withoutTimes); diff != "" {
			t.Errorf("%s (-replica +memory):\n%s", name, diff)
		}
	}
	for name, req := range map[string]*datav1.ListRequest{
		"page": {PageSize: 2}, "backwards": {Reverse: true}, "index": {Index: "by_age"}, "empty": {Prefix: keyOf(value.Integer(9)).Values},
	} {
		req.Database, req.Table = "shop", "users"
		first, err := r.path.List(t.Context(), nil, req)
		wantSource(t, first.GetAnswer(), err, fromReplica)
		r.cache.Wait()
		second, err := r.path.List(t.Context(), nil, req)
		wantSource(t, second.GetAnswer(), err, fromMemory)
		if diff := cmp.Diff(first, second, protocmp.Transform(), withoutTimes); diff != "" {
			t.Errorf("%s (-replica +memory):\n%s", name, diff)
		}
	}
}

// A change is seen at once, by those whom it concerns and by no others.
func TestMemoryForgets(t *testing.T) {
	r := newRegionWith(t, testBytes)
	keys := map[string]*datav1.Key{
		"1": keyOf(value.Integer(1)), "2": keyOf(value.Integer(2)), "99": keyOf(value.Integer(99)),
		"a@x": byEmail("a@x"), "new@x": byEmail("new@x"),
	}
	read := func(key *datav1.Key) *datav1.GetResponse {
		t.Helper()
		req := getUser(0)
		req.Key = key
		res, err := r.path.Get(t.Context(), nil, req)
		if err != nil {
			t.Fatal(err)
		}
		r.cache.Wait()
		return res
	}
	readAll := func(want map[string]datav1.Source) {
		t.Helper()
		got := make(map[string]datav1.Source)
		for name, key := range keys {
			a := read(key).Answer
			got[name] = a.Source
			if a.Bookmark != r.mark(shopID, 1, r.shop.Version()) {
				t.Errorf("%s: bookmark is not of version %d", name, r.shop.Version())
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after version %d (-want +got):\n%s", r.shop.Version(), diff)
		}
	}
	all := func(s datav1.Source) map[string]datav1.Source {
		m := make(map[string]datav1.Source)
		for name := range keys {
			m[name] = s
		}
		return m
	}
	with := func(m map[string]datav1.Source, names ...string) map[string]datav1.Source {
		for _, name := range names {
			m[name] = fromReplica
		}
		return m
	}
	readAll(all(fromReplica))
	readAll(all(fromMemory))

	r.apply(shopID, r.shop.Commit(replicatest.Put(r.users, user(1, "new@x", 1))))
	readAll(with(all(fromMemory), "1", "a@x", "new@x"))
	readAll(all(fromMemory))
	if got := read(keys["new@x"]).GetRow().GetValues()[0].GetInteger(); got != 1 {
		t.Errorf("new@x is user %d", got)
	}
	if row := read(keys["a@x"]).GetRow(); row != nil {
		t.Errorf("a@x is still %v", row)
	}

	r.apply(shopID, r.shop.Commit(replicatest.Delete(r.users, user(2, "", 0))))
	readAll(with(all(fromMemory), "2", "a@x")) // no row has a@x, and any change may bring one
	r.apply(shopID, r.shop.Commit(replicatest.Put(r.users, user(99, "z@x", 1))))
	readAll(with(all(fromMemory), "99", "a@x"))
	r.apply(shopID, r.shop.Commit(replicatest.Schema(replicatest.WithColumn(r.users, "note", value.Text("-")))))
	readAll(all(fromReplica))
	readAll(all(fromMemory))
	if got := len(read(keys["1"]).GetRow().GetValues()); got != 4 {
		t.Errorf("a row has %d columns, want the new one too", got)
	}
}

// A batch is of one version, wherever its rows come from.
func TestMemoryBatch(t *testing.T) {
	r := newRegionWith(t, testBytes)
	read := func(want datav1.Source, rowsRead uint64, keys ...*datav1.Key) *datav1.BatchGetResponse {
		t.Helper()
		req := &datav1.BatchGetRequest{Database: "shop", Table: "users", Keys: keys}
		res, err := r.path.BatchGet(t.Context(), nil, req)
		wantSource(t, res.GetAnswer(), err, want)
		if got := res.GetAnswer().GetRowsRead(); got != rowsRead {
			t.Errorf("%d rows read, want %d", got, rowsRead)
		}
		r.cache.Wait()
		return res
	}
	one, two, none, unique := keyOf(value.Integer(1)), keyOf(value.Integer(2)), keyOf(value.Integer(99)), byEmail("c@x")
	read(fromReplica, 1, one, none)
	read(fromMemory, 0, one, none, one)
	got := read(fromReplica, 2, two, one, unique, none)
	want := []*datav1.BatchGetResponse_Result{{Row: protoUser(2, "b@x", 30)}, {Row: protoUser(1, "a@x", 31)}, {Row: protoUser(3, "c@x", 31)}, {}}
	if diff := cmp.Diff(want, got.GetResults(), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got = read(fromMemory, 0, two, one, unique, none)
	if diff := cmp.Diff(want, got.GetResults(), protocmp.Transform()); diff != "" {
		t.Errorf("from memory (-want +got):\n%s", diff)
	}
	// A mistake is named by its place in the request, though only it was asked below.
	req := &datav1.BatchGetRequest{Database: "shop", Table: "users", Keys: []*datav1.Key{one, two, {}}}
	_, err := r.path.BatchGet(t.Context(), nil, req)
	if e := wantReason(t, err, datav1.ErrorReason_ERROR_REASON_FIELD_INVALID); !strings.Contains(e.Error(), "keys[2].values") {
		t.Errorf("error is %v", e)
	}
}

func BenchmarkGetFromMemory(b *testing.B) {
	r := newRegionWith(b, testBytes)
	req := getUser(3)
	for range 2 {
		if _, err := r.path.Get(b.Context(), nil, req); err != nil {
			b.Fatal(err)
		}
		r.cache.Wait()
	}
	b.ReportAllocs()
	for b.Loop() {
		res, err := r.path.Get(b.Context(), nil, req)
		if err != nil || res.Answer.Source != fromMemory {
			b.Fatal(res, err)
		}
	}
}

// The hit alone, with the moment and the check: what a handler of its own adds to is the answer's bytes.
func BenchmarkLookup(b *testing.B) {
	r := newRegionWith(b, testBytes)
	req := getUser(3)
	if _, err := r.path.Get(b.Context(), nil, req); err != nil {
		b.Fatal(err)
	}
	r.cache.Wait()
	d, _ := r.store.Database(shopID)
	key, err := memory.EncodeKey(req.GetKey())
	if err != nil {
		b.Fatal(err)
	}
	table := []byte("users")
	b.ReportAllocs()
	for b.Loop() {
		m, ok := d.Moment()
		if row, hit := r.cache.Lookup(m.Stamp(), shopID, table, key); !ok || !hit || row.Wire() == nil {
			b.Fatal("no hit")
		}
	}
}

func BenchmarkBatchGetFromMemory(b *testing.B) {
	r := newRegionWith(b, testBytes)
	req := &datav1.BatchGetRequest{Database: "shop", Table: "users"}
	for i := range 100 {
		req.Keys = append(req.Keys, keyOf(value.Integer(int64(1+i%5))))
	}
	for range 2 {
		if _, err := r.path.BatchGet(b.Context(), nil, req); err != nil {
			b.Fatal(err)
		}
		r.cache.Wait()
	}
	b.ReportAllocs()
	for b.Loop() {
		res, err := r.path.BatchGet(b.Context(), nil, req)
		if err != nil || res.Answer.Source != fromMemory {
			b.Fatal(res, err)
		}
	}
	b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "rows/s")
}
