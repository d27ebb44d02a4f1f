package memory

import (
	"fmt"
	"hash/maphash"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(tb testing.TB, bytes int64, percent int) *Cache {
	tb.Helper()
	c, err := New(Options{Bytes: bytes, DatabasePercent: percent, Stamps: stamp.NewTable()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

func now(c *Cache) stamp.Reading { return stamp.Reading{At: c.stamps.Last(), Until: c.stamps.Last()} }

var columns = []*datav1.Column{{Name: "id", DeclaredType: "INTEGER"}, {Name: "name"}}

func row(id int64, name string) *datav1.Row {
	return &datav1.Row{Version: 3, Values: value.ToProtos([]value.Value{value.Integer(id), value.Text(name)})}
}

// keepRow keeps a row of database db under a key that is its id's text.
func keepRow(c *Cache, db uint32, id int64, r *datav1.Row) (Row, bool) {
	key := fmt.Append(nil, id)
	return c.KeepRow(now(c), c.stamps.Row(db, 1, key), db, "t", key, columns, r)
}

func find(c *Cache, db uint32, id int64) (Row, bool) {
	return c.Lookup(c.stamps.Last(), db, []byte("t"), fmt.Append(nil, id))
}

// What is appended is the answer that would have been encoded.
func TestWireForms(t *testing.T) {
	c := open(t, MinBytes, 100)
	for id, r := range []*datav1.Row{row(0, "a"), nil, {}} {
		keepRow(c, 1, int64(id), r)
		c.Wait()
		kept, ok := find(c, 1, int64(id))
		if !ok {
			t.Fatalf("row %d is not there", id)
		}
		answer := &datav1.Answer{Region: "r", Bookmark: "b"}
		b, err := proto.MarshalOptions{}.MarshalAppend(kept.AppendGetResponse([]byte{}), &datav1.GetResponse{Answer: answer})
		if err != nil {
			t.Fatal(err)
		}
		var got datav1.GetResponse
		if err := proto.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		want := &datav1.GetResponse{Columns: columns, Row: r, Answer: answer}
		if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
			t.Errorf("row %d (-want +got):\n%s", id, diff)
		}
		if decoded, err := kept.Decode(); err != nil || !proto.Equal(decoded, r) || (decoded == nil) != (r == nil) {
			t.Errorf("row %d decodes to %v, %v", id, decoded, err)
		}
	}
	list := &datav1.ListResponse{Columns: columns, Rows: []*datav1.Row{row(1, "a"), row(2, "b")}, NextPageToken: "next"}
	page, err := EncodePage(&datav1.ListRequest{Database: "d", Table: "t", PageSize: 2, Consistency: &datav1.Consistency{Bookmark: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	c.KeepPage(now(c), c.stamps.Whole(1, 1), 1, page, list)
	c.Wait()
	kept, ok := c.LookupPage(c.stamps.Last(), 1, page)
	if !ok {
		t.Fatal("the page is not there")
	}
	var got datav1.ListResponse
	if err := proto.Unmarshal(kept.AppendListResponse(nil), &got); err != nil {
		t.Fatal(err)
	}
	decoded, err := kept.Decode()
	if diff := cmp.Diff(list, &got, protocmp.Transform()); diff != "" || err != nil || !proto.Equal(decoded, list) {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// Ristretto finds by hash; an entry under another key's hash is a miss.
func TestWholeKeyIsCompared(t *testing.T) {
	c := open(t, MinBytes, 100)
	r, _ := keepRow(c, 1, 1, row(1, "a"))
	c.Wait()
	for _, other := range []string{RowKey(1, "t", []byte("2")), RowKey(2, "t", []byte("1")), RowKey(1, "u", []byte("1"))} {
		c.entries.Set(maphash.String(c.seed, other), r.entry, 1)
		r.usage.bytes.Add(r.cost) // it leaves twice
		c.counts[KindRow].bytes.Add(r.cost)
	}
	c.Wait()
	before := c.Stats(KindRow)
	for _, tt := range []struct {
		db    uint32
		table string
		key   string
	}{{1, "t", "2"}, {2, "t", "1"}, {1, "u", "1"}} {
		if _, ok := c.Lookup(c.stamps.Last(), tt.db, []byte(tt.table), []byte(tt.key)); ok {
			t.Errorf("%v: found another key's row", tt)
		}
	}
	if after := c.Stats(KindRow); after.Misses != before.Misses+3 {
		t.Errorf("%d misses, want 3", after.Misses-before.Misses)
	}
}

// The bytes that are counted are about those that the process takes.
func TestCost(t *testing.T) {
	for _, size := range []int{20, 200, 2000} {
		c := open(t, 256<<20, 100)
		n := 8_000_000 / (size + 500)
		name := strings.Repeat("x", size)
		before := heap()
		for id := range n {
			keepRow(c, 1, int64(id), row(int64(id), name))
			if id%10_000 == 0 {
				c.Wait() // else its queue is full and rows are dropped
			}
		}
		c.Wait()
		took, counted := heap()-before, c.Stats(KindRow).Bytes
		if c.DatabaseBytes(1) != counted || c.Stats(KindRow).Refused != 0 {
			t.Errorf("the database takes %d of %d bytes, %d rows refused", c.DatabaseBytes(1), counted, c.Stats(KindRow).Refused)
		}
		ratio := float64(took) / float64(counted)
		t.Logf("rows of %d bytes: %d bytes each, counted as %d: %.2f", size, took/int64(n), counted/int64(n), ratio)
		if ratio < 0.6 || ratio > 1.25 {
			t.Errorf("%d bytes are counted as %d", took, counted)
		}
		runtime.KeepAlive(c)
		c.Close()
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A cache that is full stays within its limit, and a database within its share; what is newest in a database has room.
func TestLimits(t *testing.T) {
	c := open(t, MinBytes, 50)
	name := strings.Repeat("x", 1000)
	for id := range int64(2000) {
		keepRow(c, 1, id, row(id, name))
		if id%100 == 0 {
			c.Wait()
		}
	}
	c.Wait()
	if got := c.DatabaseBytes(1); got > MinBytes/2+2000 || got < MinBytes/4 {
		t.Errorf("one database takes %d of %d bytes", got, int64(MinBytes))
	}
	if _, ok := find(c, 1, 1999); !ok {
		t.Error("the newest row is not there")
	}
	for id := range int64(4000) {
		keepRow(c, uint32(2+id%7), id, row(id, name))
		if id%100 == 0 {
			c.Wait()
		}
	}
	c.Wait()
	s := c.Stats(KindRow)
	if s.Bytes > MinBytes || s.Bytes < MinBytes/2 || s.Evictions == 0 {
		t.Errorf("takes %d of %d bytes after %d evictions", s.Bytes, int64(MinBytes), s.Evictions)
	}
	total := int64(0)
	for db := range uint32(10) {
		total += c.DatabaseBytes(db)
	}
	if total != s.Bytes {
		t.Errorf("the databases take %d bytes, all rows %d", total, s.Bytes)
	}
	keepRow(c, 1, 9999, row(1, strings.Repeat("x", MaxEntryBytes)))
	if got := c.Stats(KindRow); got.Refused != s.Refused+1 {
		t.Error("a row that is too large was not refused")
	}
}

// What has no room in a database's share, or is kept under too large a key, pushes nothing out.
func TestTooLargePushesNothingOut(t *testing.T) {
	c := open(t, MinBytes, 10)
	keepRow(c, 1, 1, row(1, "x"))
	c.Wait()
	keepRow(c, 1, 2, row(2, strings.Repeat("x", MinBytes/4)))
	c.Wait()
	if _, ok := find(c, 1, 1); !ok {
		t.Error("a row that is larger than the share pushed another one out")
	}
	large := open(t, 4*MinBytes, 100)
	keepRow(large, 1, 1, row(1, "x"))
	large.Wait()
	key := AppendResultKey(nil, 1, 7, "", strings.Repeat("x", 2*MaxEntryBytes), nil)
	large.KeepResult(now(large), 1, NewResult{Key: key, Wire: []byte{1}})
	large.Wait()
	if got := large.DatabaseBytes(1); got > MaxEntryBytes {
		t.Errorf("the database takes %d bytes", got)
	}
}

// A large result is kept only if it took time to make, one that is too old is not found, and one depends on all its tables.
func TestResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Options{Bytes: MinBytes, DatabasePercent: 100, Stamps: stamp.NewTable()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		key := func(name string) []byte { return AppendResultKey(nil, 1, 7, "", name, nil) }
		keep := func(name string, size int, work time.Duration, tables ...uint32) {
			c.KeepResult(now(c), 1, NewResult{Key: key(name), Tables: tables, Wire: make([]byte, size), Work: work})
			c.Wait()
		}
		found := func(name string, age time.Duration) bool {
			_, ok := c.LookupResult(c.stamps.Last(), key(name), age)
			return ok
		}
		keep("small", smallResultBytes, 0, 1)
		keep("fast", smallResultBytes+1, 10*time.Microsecond, 1)
		keep("slow", 100*resultBytesPerMicrosecond, 100*time.Microsecond, 1, 2)
		keep("none", 10, 0)
		if !found("small", -1) || found("fast", -1) || !found("slow", -1) || !found("none", -1) || c.Stats(KindResult).Refused != 1 {
			t.Errorf("kept the wrong ones: %+v", c.Stats(KindResult))
		}
		for _, other := range [][]byte{
			AppendResultKey(nil, 2, 7, "", "small", nil), AppendResultKey(nil, 1, 8, "", "small", nil),
			AppendResultKey(nil, 1, 7, "view", "small", nil), AppendResultKey(nil, 1, 7, "", "small", []byte{18, 2, 16, 1}),
		} {
			if _, ok := c.LookupResult(c.stamps.Last(), other, -1); ok {
				t.Errorf("%q has another's result", other)
			}
		}
		time.Sleep(time.Minute) // of the bubble
		if found("small", time.Minute) || !found("small", time.Minute+1) {
			t.Error("the age does not count")
		}
		c.ForgetTable(1, 2)
		if !found("small", -1) || found("slow", -1) {
			t.Error("the second table does not count")
		}
		c.ForgetDatabase(1)
		if found("small", -1) || found("none", -1) {
			t.Error("the database does not count")
		}
	})
}

// What is kept again has one place among its database's entries, however often.
func TestOnePlace(t *testing.T) {
	c := open(t, MinBytes, 50)
	for range 100 {
		keepRow(c, 1, 1, row(1, "a"))
		c.Wait()
	}
	if got := len(c.usage(1).order); got != 1 || c.DatabaseBytes(1) != c.Stats(KindRow).Bytes {
		t.Errorf("one row has %d places", got)
	}
}

func TestValuesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Options{Bytes: MinBytes, DatabasePercent: 100, Stamps: stamp.NewTable()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		set := func(key string, ttl time.Duration) {
			t.Helper()
			if !c.SetValue(now(c), NoDatabase, NewValue{Key: key, Bytes: []byte("v"), TTL: ttl}) {
				t.Fatalf("%s is not kept", key)
			}
		}
		set("short", time.Minute)
		set("long", time.Hour)
		set("ever", 0)
		found := func() (keys []string) {
			for _, key := range []string{"short", "long", "ever"} {
				if _, ok := c.Value(c.stamps.Last(), NoDatabase, key); ok {
					keys = append(keys, key)
				}
			}
			return keys
		}
		if v, _ := c.Value(c.stamps.Last(), NoDatabase, "short"); time.Until(v.Expires) != time.Minute || string(v.Bytes) != "v" {
			t.Errorf("value %q until %v", v.Bytes, v.Expires)
		}
		time.Sleep(time.Minute + 1) // of the bubble
		if diff := cmp.Diff([]string{"long", "ever"}, found()); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := c.Stats(KindValue); s.Evictions != 2 {
			t.Errorf("%d evictions of values that expired, want 2: their memory is taken still", s.Evictions)
		}
	})
}

func TestNothingIsKept(t *testing.T) {
	var c *Cache
	if _, ok := c.Lookup(1, 1, []byte("t"), []byte("k")); ok || c.Stats(KindRow) != (Stats{}) || c.DatabaseBytes(1) != 0 {
		t.Error("a nil cache has something")
	}
	if _, ok := c.KeepRow(stamp.Reading{At: 1, Until: 1}, 0, 1, "t", nil, columns, nil); ok {
		t.Error("a nil cache kept something")
	}
	c.ForgetValue(1, "k")
	c.ForgetTable(1, 1)
	c.ForgetDatabase(1)
	c.Close()

	c = open(t, MinBytes, 100)
	if _, ok := c.KeepRow(stamp.Reading{}, 0, 1, "t", nil, columns, nil); ok {
		t.Error("kept without knowing when it was read")
	}
	for _, o := range []Options{{}, {Bytes: MinBytes}, {Bytes: MinBytes, DatabasePercent: 101}, {Bytes: MinBytes - 1, DatabasePercent: 1}} {
		if c, err := New(o); err == nil {
			c.Close()
			t.Errorf("made of %+v", o)
		}
	}
}

func TestMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	c, err := New(Options{Bytes: MinBytes, DatabasePercent: 100, Stamps: stamp.NewTable(), Registerer: r})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	keepRow(c, 1, 1, row(1, "a"))
	c.Wait()
	find(c, 1, 1)
	find(c, 1, 2)
	c.ForgetDatabase(1)
	find(c, 1, 1)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"nearside_memory_lookups_total row hit": 1, "nearside_memory_lookups_total row miss": 1,
		"nearside_memory_lookups_total row old": 1, "nearside_memory_lookups_total page hit": 0,
		"nearside_memory_refused_total value": 0, "nearside_memory_evictions_total row": 0,
		"nearside_memory_bytes row": float64(c.Stats(KindRow).Bytes),
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, want %v", name, v, want)
		}
	}
	if _, err := New(Options{Bytes: MinBytes, DatabasePercent: 100, Stamps: stamp.NewTable(), Registerer: r}); err == nil {
		t.Error("two caches have the same metrics")
	}
}

func BenchmarkHit(b *testing.B) {
	c := open(b, 64<<20, 100)
	const n = 10_000
	keys := make([][]byte, n)
	for id := range n {
		keys[id] = fmt.Append(nil, id)
		keepRow(c, 1, int64(id), row(int64(id), "somebody@example.com"))
	}
	c.Wait()
	table, at := []byte("t"), c.stamps.Last()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := c.Lookup(at, 1, table, keys[i%n]); !ok {
			b.Fatal("no hit")
		}
		i++
	}
}

// A hit allocates nothing.
func TestHitAllocates(t *testing.T) {
	c := open(t, MinBytes, 100)
	keepRow(c, 1, 7, row(7, "a"))
	c.Wait()
	table, key, at := []byte("t"), []byte("7"), c.stamps.Last()
	// Ristretto takes a new buffer for every 64th look-up, which rounds down to nothing.
	if n := testing.AllocsPerRun(1000, func() { c.Lookup(at, 1, table, key) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
