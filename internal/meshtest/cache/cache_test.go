package cache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var regions = []string{"us-east-1", "eu-west-1", "ap-southeast-1"}

func start(t *testing.T) *meshtest.Mesh {
	t.Helper()
	m := meshtest.Start(t, meshtest.Options{Regions: regions})
	m.Create("d")
	m.Exec("", "d", "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, u TEXT NOT NULL UNIQUE)")
	m.Exec("", "d", "INSERT INTO t VALUES (1, 0, 'a'), (2, 0, 'b')")
	m.WaitSync("d")
	return m
}

func key(id int64) *datav1.Key {
	return &datav1.Key{Values: []*datav1.Value{value.ToProto(value.Integer(id))}}
}

func get(m *meshtest.Mesh, region, mark string) (*datav1.GetResponse, error) {
	res, err := m.Client(region).Get(context.Background(), connect.NewRequest(&datav1.GetRequest{
		Database: "d", Table: "t", Key: key(1), Consistency: &datav1.Consistency{Bookmark: mark, MaxWait: durationpb.New(10 * time.Second)},
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// A second read is answered from memory, with what the first one said, and a write is seen by the next read that has its
// bookmark, in every region, with memory full of what was before.
func TestMemoryIsNeverStale(t *testing.T) {
	m := start(t)
	for _, region := range regions {
		m.Eventually("memory answers in "+region, func(context.Context) error {
			res, err := get(m, region, "")
			if err != nil || res.GetRow() == nil {
				t.Fatalf("%v, %v", res, err)
			}
			if a := res.GetAnswer(); a.GetSource() != datav1.Source_SOURCE_MEMORY || a.GetServedByPrimary() || a.GetRegion() != region {
				return fmt.Errorf("answer is %v", a)
			}
			return nil
		})
	}
	for level, want := range map[*datav1.Consistency]datav1.Source{
		{Level: datav1.Consistency_LEVEL_ANY}:                                                    datav1.Source_SOURCE_MEMORY,
		{Level: datav1.Consistency_LEVEL_PRIMARY}:                                                datav1.Source_SOURCE_PRIMARY,
		{Level: datav1.Consistency_LEVEL_MAX_STALENESS, MaxStaleness: durationpb.New(time.Hour)}: datav1.Source_SOURCE_MEMORY,
		{Level: datav1.Consistency_LEVEL_MAX_STALENESS, MaxStaleness: durationpb.New(0)}:         datav1.Source_SOURCE_PRIMARY,
	} {
		res, err := m.Client("eu-west-1").Get(t.Context(), connect.NewRequest(&datav1.GetRequest{
			Database: "d", Table: "t", Key: key(1), Consistency: level,
		}))
		if err != nil || res.Msg.GetAnswer().GetSource() != want {
			t.Errorf("%v: %v, %v, want %v", level, res, err, want)
		}
	}
	fromMemory := 0
	for n := int64(1); n <= 30; n++ {
		region := regions[n%3]
		mark := m.Exec(region, "d", fmt.Sprintf("UPDATE t SET n = %d WHERE id = 1", n)).GetAnswer().GetBookmark()
		var wg sync.WaitGroup
		var mu sync.Mutex
		for _, region := range regions {
			wg.Go(func() {
				for range 4 {
					res, err := get(m, region, mark)
					if err != nil {
						t.Error(err)
						return
					}
					if got := res.GetRow().GetValues()[1].GetInteger(); got != n || res.GetAnswer().GetBookmark() < mark {
						t.Errorf("%s: n is %d after %d was written: %v", region, got, n, res.GetAnswer())
					}
					if res.GetAnswer().GetSource() == datav1.Source_SOURCE_MEMORY {
						mu.Lock()
						fromMemory++
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
	}
	t.Logf("%d of 360 reads from memory", fromMemory)
	if n := m.CompareAll("d"); n != 2 {
		t.Errorf("%d rows", n)
	}
	// Another table under the name.
	mark := m.Exec("us-east-1", "d", "ALTER TABLE t ADD COLUMN note TEXT DEFAULT 'x'").GetAnswer().GetBookmark()
	for _, region := range regions {
		res, err := get(m, region, mark)
		if err != nil || len(res.GetColumns()) != 4 || len(res.GetRow().GetValues()) != 4 {
			t.Errorf("%s: after a schema change: %v, %v", region, res, err)
		}
	}
	mark = m.Exec("us-east-1", "d", "DROP TABLE t").GetAnswer().GetBookmark()
	for _, region := range regions {
		if _, err := get(m, region, mark); rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_TABLE_NOT_FOUND {
			t.Errorf("%s: after the table was dropped: %v", region, err)
		}
	}
}

type values struct {
	t      *testing.T
	client datav1connect.CacheServiceClient
}

func valuesOf(t *testing.T, m *meshtest.Mesh, region string) values {
	return values{t: t, client: datav1connect.NewCacheServiceClient(m.HTTP(), m.URL(region))}
}

func (v values) set(req *datav1.CacheServiceSetRequest) bool {
	v.t.Helper()
	res, err := v.client.Set(v.t.Context(), connect.NewRequest(req))
	if err != nil {
		v.t.Fatal(err)
	}
	return res.Msg.GetKept()
}

func (v values) get(database, key, mark string) string {
	v.t.Helper()
	res, err := v.client.Get(v.t.Context(), connect.NewRequest(&datav1.CacheServiceGetRequest{
		Database: database, Key: key, Consistency: &datav1.Consistency{Bookmark: mark, MaxWait: durationpb.New(10 * time.Second)},
	}))
	if err != nil {
		v.t.Fatal(err)
	}
	if !res.Msg.GetFound() {
		return "none"
	}
	return string(res.Msg.GetValue())
}

func (v values) want(database, key, want string) {
	v.t.Helper()
	if got := v.get(database, key, ""); got != want {
		v.t.Errorf("%s/%s is %q, want %q", database, key, got, want)
	}
}

func (v values) forget(req *datav1.CacheServiceInvalidateRequest) {
	v.t.Helper()
	if _, err := v.client.Invalidate(v.t.Context(), connect.NewRequest(req)); err != nil {
		v.t.Error(err)
	}
}

func TestValues(t *testing.T) {
	m := start(t)
	v, elsewhere := valuesOf(t, m, "eu-west-1"), valuesOf(t, m, "us-east-1")
	set := func(database, key string, change func(*datav1.CacheServiceSetRequest)) {
		t.Helper()
		req := &datav1.CacheServiceSetRequest{Database: database, Key: key, Value: []byte(key + "!")}
		if change != nil {
			change(req)
		}
		if !v.set(req) {
			t.Errorf("%s/%s was not kept", database, key)
		}
	}
	set("", "k", nil)
	set("d", "k", func(r *datav1.CacheServiceSetRequest) { r.Value = []byte("d's") })
	v.want("", "k", "k!")
	v.want("d", "k", "d's")
	v.want("d", "other", "none")
	elsewhere.want("", "k", "none")

	// Tables: whoever has the bookmark of a change does not get what was before it.
	set("d", "sum", func(r *datav1.CacheServiceSetRequest) { r.Tables = []string{"t"} })
	v.want("d", "sum", "sum!")
	before := m.Exec("us-east-1", "d", "SELECT * FROM t").GetAnswer().GetBookmark()
	mark := m.Exec("us-east-1", "d", "UPDATE t SET n = 7 WHERE id = 2").GetAnswer().GetBookmark()
	if got := v.get("d", "sum", mark); got != "none" {
		t.Errorf("a value of a table that has changed is %q", got)
	}
	v.want("d", "k", "d's")
	old := &datav1.CacheServiceSetRequest{Database: "d", Key: "sum", Value: []byte("0"), Tables: []string{"t"}, Bookmark: before}
	if v.set(old) {
		t.Error("a value was kept that was made before a change")
	}
	set("d", "sum", func(r *datav1.CacheServiceSetRequest) { r.Tables, r.Bookmark = []string{"t"}, mark })
	v.want("d", "sum", "sum!")

	// Invalidate.
	set("d", "a", func(r *datav1.CacheServiceSetRequest) { r.Tags = []string{"x", "y"} })
	set("d", "b", func(r *datav1.CacheServiceSetRequest) { r.Tags = []string{"y"} })
	v.forget(&datav1.CacheServiceInvalidateRequest{Database: "d", Target: &datav1.CacheServiceInvalidateRequest_Tag{Tag: "x"}})
	v.want("d", "a", "none")
	v.want("d", "b", "b!")
	v.forget(&datav1.CacheServiceInvalidateRequest{Database: "d", Target: &datav1.CacheServiceInvalidateRequest_Key{Key: "b"}})
	v.want("d", "b", "none")
	v.forget(&datav1.CacheServiceInvalidateRequest{Database: "d", Target: &datav1.CacheServiceInvalidateRequest_Table{Table: "T"}})
	v.want("d", "sum", "none")
	v.want("d", "k", "d's")
	v.forget(&datav1.CacheServiceInvalidateRequest{Database: "d", Target: &datav1.CacheServiceInvalidateRequest_Everything{Everything: true}})
	v.want("d", "k", "none")
	v.want("", "k", "k!")

	// A value that is set again is not the old one, kept or not.
	old.Key, old.Value = "k", []byte("newer")
	set("d", "k", nil)
	if v.set(old) {
		t.Error("kept")
	}
	v.want("d", "k", "none")
}

func TestValuesRefused(t *testing.T) {
	m := start(t)
	client := datav1connect.NewCacheServiceClient(m.HTTP(), m.URL("eu-west-1"))
	const field = datav1.ErrorReason_ERROR_REASON_FIELD_INVALID
	for name, tt := range map[string]struct {
		req  *datav1.CacheServiceSetRequest
		want datav1.ErrorReason
	}{
		"no key":                  {&datav1.CacheServiceSetRequest{}, field},
		"long key":                {&datav1.CacheServiceSetRequest{Key: strings.Repeat("k", 513)}, field},
		"large value":             {&datav1.CacheServiceSetRequest{Key: "k", Value: make([]byte, 1<<20+1)}, field},
		"no time":                 {&datav1.CacheServiceSetRequest{Key: "k", Ttl: durationpb.New(0)}, field},
		"long time":               {&datav1.CacheServiceSetRequest{Key: "k", Ttl: durationpb.New(31 * 24 * time.Hour)}, field},
		"many tags":               {&datav1.CacheServiceSetRequest{Key: "k", Tags: strings.Fields(strings.Repeat("t ", 17))}, field},
		"empty tag":               {&datav1.CacheServiceSetRequest{Key: "k", Tags: []string{""}}, field},
		"tables of no database":   {&datav1.CacheServiceSetRequest{Key: "k", Tables: []string{"t"}}, field},
		"bookmark of no database": {&datav1.CacheServiceSetRequest{Key: "k", Bookmark: "x"}, field},
		"unknown database": {
			&datav1.CacheServiceSetRequest{Database: "nope", Key: "k"}, datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND,
		},
		"unknown table": {
			&datav1.CacheServiceSetRequest{Database: "d", Key: "k", Tables: []string{"nope"}},
			datav1.ErrorReason_ERROR_REASON_TABLE_NOT_FOUND,
		},
		"bookmark": {
			&datav1.CacheServiceSetRequest{Database: "d", Key: "k", Bookmark: "x"}, datav1.ErrorReason_ERROR_REASON_BOOKMARK_MALFORMED,
		},
	} {
		if _, err := client.Set(t.Context(), connect.NewRequest(tt.req)); rpcerr.ReasonOf(err) != tt.want {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	for name, req := range map[string]*datav1.CacheServiceInvalidateRequest{
		"no target": {}, "not everything": {Target: &datav1.CacheServiceInvalidateRequest_Everything{}},
		"table of no database": {Target: &datav1.CacheServiceInvalidateRequest_Table{Table: "t"}},
	} {
		if _, err := client.Invalidate(t.Context(), connect.NewRequest(req)); rpcerr.ReasonOf(err) != field {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCommands(t *testing.T) {
	m := start(t)
	run := func(wantCode int, args ...string) (stdout string) {
		t.Helper()
		var out, errs bytes.Buffer
		code := cli.Main(t.Context(), cli.System{Stdout: &out, Stderr: &errs}, append(args, "--url", m.URL("eu-west-1")))
		if code != wantCode {
			t.Fatalf("%v: exit code %d\n%s%s", args, code, &out, &errs)
		}
		return out.String()
	}
	v := valuesOf(t, m, "eu-west-1")
	v.set(&datav1.CacheServiceSetRequest{Database: "d", Key: "k", Value: make([]byte, 1000), Tags: []string{"x"}})
	v.get("d", "k", "")
	var stats struct {
		Region        string
		LimitBytes    uint64
		DatabaseBytes uint64
		Kinds         []struct {
			Name        string
			Hits, Bytes uint64
		}
	}
	if err := json.Unmarshal([]byte(run(0, "cache", "stats", "--db", "d", "--json")), &stats); err != nil {
		t.Fatal(err)
	}
	if stats.Region != "eu-west-1" || stats.LimitBytes != 8<<20 || stats.DatabaseBytes < 1000 || len(stats.Kinds) != 4 {
		t.Errorf("%+v", stats)
	}
	if k := stats.Kinds[2]; k.Name != "value" || k.Hits == 0 || k.Bytes < 1000 {
		t.Errorf("%+v", k)
	}
	if text := run(0, "cache", "stats", "--db", "d"); !strings.Contains(text, "evictions") || !strings.Contains(text, "8,388,608") {
		t.Errorf("stats:\n%s", text)
	}
	if text := run(0, "cache", "invalidate", "--db", "d", "--tag", "x", "--json"); text != `{"region":"eu-west-1","invalidated":true}`+"\n" {
		t.Errorf("invalidate: %s", text)
	}
	v.want("d", "k", "none")
	run(2, "cache", "invalidate", "--db", "d")
	run(2, "cache", "invalidate", "--key", "a", "--tag", "b")
	run(1, "cache", "invalidate", "--db", "nope", "--all")
	run(0, "cache", "invalidate", "--db", "d", "--all")
	run(0, "cache", "invalidate", "--db", "d", "--table", "t")
	run(0, "cache", "invalidate", "--key", "a")
}
