package gateway

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/readpath"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const shopID = uint32(100)

var secret = []byte("0123456789abcdef")

// noPrimary is a primary that cannot be reached.
type noPrimary struct{}

var errNoPrimary = rpcerr.New(datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE, "no primary").WithRetryAfter(time.Second)

func (noPrimary) Get(context.Context, *connect.Request[datav1.GetRequest]) (*connect.Response[datav1.GetResponse], error) {
	return nil, errNoPrimary
}

func (noPrimary) BatchGet(
	context.Context, *connect.Request[datav1.BatchGetRequest],
) (*connect.Response[datav1.BatchGetResponse], error) {
	return nil, errNoPrimary
}

func (noPrimary) List(context.Context, *connect.Request[datav1.ListRequest]) (*connect.Response[datav1.ListResponse], error) {
	return nil, errNoPrimary
}

// twins are two servers of the same region: one with the general handler alone, one with the hot methods before it.
type twins struct {
	general, hot string
	express      string // hot, without net/http while a connection carries nothing else
	metrics      [2]*prometheus.Registry
	memories     [2]*memory.Cache
	passed       atomic.Int64 // calls that the hot one's general handler answered
}

func newTwins(t testing.TB, memoryBytes int64) *twins {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	store, err := replica.OpenStore("replica", replica.Options{FS: vfs.NewMem(), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := store.Adopt(replica.Identity{MeshID: [16]byte{1}, BookmarkKey: secret, PrimaryRegion: "us-east-1"}); err != nil {
		t.Fatal(err)
	}
	users := replicatest.WithIndex(replicatest.Table(10, "users", "id", "email", "bio"), 20, "by_email", true, "email")
	words := replicatest.Table(11, "words", "id", "word")
	apply := func(database uint32, record []byte) {
		if err := store.ApplyRecords(database, [][]byte{record}); err != nil {
			t.Fatal(err)
		}
	}
	apply(meshdb.DatabaseID, replicatest.NewPrimary().Commit(
		replicatest.Schema(replicatest.MeshDatabases, replicatest.MeshPlacements),
		replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(shopID, "shop"))))
	apply(shopID, replicatest.NewPrimary().Commit(replicatest.Schema(users, words), replicatest.Put(users,
		replicatest.Row(1, value.Text("a@x"), value.Null()),
		replicatest.Row(2, value.Text("b@x"), value.Text(strings.Repeat("long ", 1000))),
		replicatest.Row(3, value.Blob([]byte{0, 255}), value.Real(-1.5)),
		replicatest.Row(-4, value.TextBytes([]byte{'x', 0xff}), value.Integer(0)),
	)))
	engine, err := edgesql.New(edgesql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	tw := &twins{}
	for i, url := range []*string{&tw.general, &tw.hot} {
		if memoryBytes > 0 {
			cache, err := memory.New(memory.Options{Bytes: memoryBytes, DatabasePercent: 100, SmallResult: 1 << 20, Stamps: store.Stamps()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cache.Close)
			tw.memories[i] = cache
		}
		path, err := readpath.New(readpath.Options{
			Region: "eu-west-1", Store: store, Directory: readpath.NewDirectory(store, "eu-west-1"), Primary: noPrimary{},
			Memory: tw.memories[i], Logger: logger, SQL: engine,
		})
		if err != nil {
			t.Fatal(err)
		}
		registry := prometheus.NewRegistry()
		tw.metrics[i] = registry
		options, err := server.HandlerOptions(logger, registry)
		if err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		base, general := datav1connect.NewDataServiceHandler(&Data{path: path}, options...)
		mux.Handle(base, general)
		if url == &tw.hot {
			counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				tw.passed.Add(1)
				general.ServeHTTP(w, r)
			})
			if err := MountHot(mux, make(map[string]access.ShortHandler), counted, path, logger, registry); err != nil {
				t.Fatal(err)
			}
		}
		s := httptest.NewUnstartedServer(mux)
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetHTTP1(true)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
		t.Cleanup(s.Close)
		*url = s.URL
		if url == &tw.hot {
			tw.express = startExpress(t, mux)
		}
	}
	return tw
}

// details are an error's, encoded.
var details = regexp.MustCompile(`"value":"[^"]*",`)

// startExpress serves a mux as a gateway's listener does.
func startExpress(t testing.TB, mux *http.ServeMux) (url string) {
	t.Helper()
	ln, err := server.Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.Start(ln, mux, server.Config{Name: "t", Express: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String()
}

// answer is what a server said.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
}

func ask(t *testing.T, c *http.Client, base string, req request) answer {
	t.Helper()
	method := req.method
	if method == "" {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(t.Context(), method, base+req.procedure+req.query, bytes.NewReader(req.body))
	if err != nil {
		t.Fatal(err)
	}
	if req.chunked {
		r.ContentLength, r.Body = -1, io.NopCloser(bytes.NewReader(req.body))
	}
	r.Header.Set("Content-Type", "application/proto")
	r.Header.Set("Accept-Encoding", "identity")
	maps.Copy(r.Header, req.header)
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	// When it was said, and how it was framed: a hot answer always says how long it is.
	res.Header.Del("Date")
	res.Header.Del("Content-Length")
	res.Header.Del("X-Request-Id") // the express listener is a whole one
	return answer{Status: res.StatusCode, Header: res.Header, Body: body}
}

// masked returns the body without what differs from one call to the next.
func (a answer) masked(t *testing.T, procedure string) any {
	t.Helper()
	if a.Status != http.StatusOK || a.Header.Get("Content-Type") != "application/proto" || a.Header.Get("Content-Encoding") != "" {
		if strings.Contains(a.Header.Get("Content-Type"), "json") && a.Status == http.StatusOK {
			return "JSON"
		}
		if a.Header.Get("Content-Encoding") != "" {
			return "compressed"
		}
		return details.ReplaceAllString(string(a.Body), "") // with a map in them; "debug" has it in order
	}
	var m interface {
		proto.Message
		GetAnswer() *datav1.Answer
	} = &datav1.GetResponse{}
	switch procedure {
	case batchGet:
		m = &datav1.BatchGetResponse{}
	case list:
		m = &datav1.ListResponse{}
	case query:
		m = &datav1.QueryResponse{}
	}
	if err := proto.Unmarshal(a.Body, m); err != nil {
		t.Fatal(err)
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		t.Error("unknown fields in an answer")
	}
	m.GetAnswer().SqlMs = 0
	return m
}

const (
	get      = datav1connect.DataServiceGetProcedure
	batchGet = datav1connect.DataServiceBatchGetProcedure
	list     = datav1connect.DataServiceListProcedure
	query    = datav1connect.DataServiceQueryProcedure
)

// request is what both servers are asked.
type request struct {
	name      string
	method    string
	procedure string
	query     string
	header    http.Header
	body      []byte
	chunked   bool
	hot       bool // the general handler is not needed
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func key(values ...value.Value) *datav1.Key { return &datav1.Key{Values: value.ToProtos(values)} }

func user(k *datav1.Key, c *datav1.Consistency) *datav1.GetRequest {
	return &datav1.GetRequest{Database: "shop", Table: "users", Key: k, Consistency: c}
}

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func requests(t *testing.T) []request {
	t.Helper()
	codec, err := bookmark.New(secret)
	if err != nil {
		t.Fatal(err)
	}
	mark := func(database uint32, version uint64) string {
		return codec.Encode(bookmark.Bookmark{DatabaseID: database, Epoch: 1, Version: version})
	}
	one := key(value.Integer(1))
	plain := encode(t, user(one, nil))
	byEmail := key(value.Text("a@x"))
	byEmail.Index = "by_email"
	all := []request{
		{name: "row", body: plain, hot: true},
		{name: "long row", body: encode(t, user(key(value.Integer(2)), nil)), hot: true},
		{name: "row of a blob and a real", body: encode(t, user(key(value.Integer(3)), nil)), hot: true},
		{name: "row of a text that is no UTF-8", body: encode(t, user(key(value.Integer(-4)), nil)), hot: true},
		{name: "no row", body: encode(t, user(key(value.Integer(99)), nil)), hot: true},
		{name: "text for an integer", body: encode(t, user(key(value.Text("1")), nil)), hot: true},
		{name: "real for an integer", body: encode(t, user(key(value.Real(1)), nil)), hot: true},
		{name: "blob for an integer", body: encode(t, user(key(value.Blob([]byte("1"))), nil)), hot: true},
		{name: "empty consistency", body: encode(t, user(one, &datav1.Consistency{})), hot: true},
		{name: "bookmark reached", body: encode(t, user(one, &datav1.Consistency{Bookmark: mark(shopID, 1)})), hot: true},
		{name: "bookmark ahead, any", hot: true, body: encode(t, user(one, &datav1.Consistency{
			Level: datav1.Consistency_LEVEL_ANY, Bookmark: mark(shopID, 9),
		}))},
		{name: "session", body: plain, header: header("Nearside-Bookmark", mark(shopID, 1)+", "+mark(7, 7)), hot: true},
		{name: "session of another database, at least", hot: true, header: header("Nearside-Bookmark", mark(7, 7)),
			body: encode(t, user(one, &datav1.Consistency{Level: datav1.Consistency_LEVEL_AT_LEAST}))},
		{name: "timeout", body: plain, header: header("Connect-Timeout-Ms", "60000", "Connect-Protocol-Version", "1"), hot: true},
		{name: "compressed answers welcome, short answer", body: plain, header: header("Accept-Encoding", "gzip"), hot: true},
		{name: "batch", procedure: batchGet, hot: true, body: encode(t, &datav1.BatchGetRequest{
			Database: "shop", Table: "users", Keys: []*datav1.Key{one, key(value.Integer(99)), key(value.Integer(2)), one},
		})},

		{name: "compressed answers welcome, long answer", body: encode(t, user(key(value.Integer(2)), nil)), header: header("Accept-Encoding", "gzip")},
		{name: "batch, compressed answers welcome", procedure: batchGet, header: header("Accept-Encoding", "br, gzip"),
			body: encode(t, &datav1.BatchGetRequest{Database: "shop", Table: "users", Keys: []*datav1.Key{one}})},
		{name: "no keys", procedure: batchGet, body: encode(t, &datav1.BatchGetRequest{Database: "shop", Table: "users"})},
		{name: "batch by index", procedure: batchGet, body: encode(t, &datav1.BatchGetRequest{
			Database: "shop", Table: "users", Keys: []*datav1.Key{one, byEmail},
		})},
		{name: "by index", body: encode(t, user(byEmail, nil))},
		{name: "unknown index", body: encode(t, user(&datav1.Key{Values: one.Values, Index: "nope"}, nil))},
		{name: "NULL", body: encode(t, user(key(value.Null()), nil))},
		{name: "no value", body: encode(t, user(&datav1.Key{}, nil))},
		{name: "two values", body: encode(t, user(key(value.Integer(1), value.Integer(2)), nil))},
		{name: "table in capitals", body: encode(t, &datav1.GetRequest{Database: "shop", Table: "USERS", Key: one})},
		{name: "unknown table", body: encode(t, &datav1.GetRequest{Database: "shop", Table: "nope", Key: one})},
		{name: "unknown database", body: encode(t, &datav1.GetRequest{Database: "nope", Table: "users", Key: one})},
		{name: "no database", body: encode(t, &datav1.GetRequest{Table: "users", Key: one})},
		{name: "database too long", body: encode(t, &datav1.GetRequest{Database: strings.Repeat("x", 64), Table: "users", Key: one})},
		{name: "no key", body: encode(t, &datav1.GetRequest{Database: "shop", Table: "users"})},
		{name: "bookmark not reached", body: encode(t, user(one, &datav1.Consistency{Bookmark: mark(shopID, 9), MaxWait: durationpb.New(0)}))},
		{name: "bookmark of another database", body: encode(t, user(one, &datav1.Consistency{Bookmark: mark(7, 1)}))},
		{name: "malformed bookmark", body: encode(t, user(one, &datav1.Consistency{Bookmark: "x"}))},
		{name: "forged bookmark", header: header("Nearside-Bookmark", strings.Repeat("0", 39)+"1"), body: plain},
		{name: "malformed session", header: header("Nearside-Bookmark", "a,,b"), body: plain},
		{name: "session that knows the mesh", header: header("Nearside-Bookmark", mark(meshdb.DatabaseID, 1)), body: plain},
		{name: "at least nothing", body: encode(t, user(one, &datav1.Consistency{Level: datav1.Consistency_LEVEL_AT_LEAST}))},
		{name: "staleness", body: encode(t, user(one, &datav1.Consistency{
			Level: datav1.Consistency_LEVEL_MAX_STALENESS, MaxStaleness: durationpb.New(time.Hour),
		}))},
		{name: "primary", body: encode(t, user(one, &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY}))},
		{name: "undefined level", body: encode(t, user(one, &datav1.Consistency{Level: 77}))},
		{name: "unknown field", body: append(bytes.Clone(plain), 0x7a, 1, 'x')},
		{name: "table twice", body: append(bytes.Clone(plain), 0x12, 4, 'n', 'o', 'p', 'e')},
		{name: "name that is no UTF-8", body: append([]byte{0x0a, 1, 0xff}, plain...)},
		{name: "no body"},
		{name: "unknown length", body: plain, chunked: true},
		{name: "long body", body: append(bytes.Clone(plain), encode(t, &datav1.GetRequest{Table: strings.Repeat("x", 70_000)})...)},
		{name: "wrong version", body: plain, header: header("Connect-Protocol-Version", "2")},
		{name: "no number for a timeout", body: plain, header: header("Connect-Timeout-Ms", "soon")},
		{name: "negative timeout", body: plain, header: header("Connect-Timeout-Ms", "-1")},
		{name: "long timeout", body: plain, header: header("Connect-Timeout-Ms", "12345678901")},
		{name: "no time", body: plain, header: header("Connect-Timeout-Ms", "0")},
		{name: "text", body: plain, header: header("Content-Type", "text/plain")},
		{name: "content type in capitals", body: plain, header: header("Content-Type", "Application/Proto")},
		{name: "content type with a parameter", body: plain, header: header("Content-Type", "application/proto; charset=utf-8")},
		{name: "unknown compression", body: plain, header: header("Content-Encoding", "br")},
		{name: "no compression after all", body: plain, header: header("Content-Encoding", "gzip")},
		{name: "PUT", method: http.MethodPut, body: plain},
		{name: "query", query: "?x=y", body: plain},
		{name: "other procedure", procedure: list,
			body: encode(t, &datav1.ListRequest{Database: "shop", Table: "users"})},
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write(plain) // to memory
	_ = w.Close()
	all = append(all, request{name: "compressed", body: zipped.Bytes(), header: header("Content-Encoding", "gzip")})
	text, err := protojson.Marshal(user(one, nil))
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, request{name: "JSON", body: text, header: header("Content-Type", "application/json")})
	for i := range plain {
		all = append(all, request{name: "cut off", body: plain[:i]})
	}
	all = append(all, queries(t, mark)...)
	for i := range all {
		if all[i].procedure == "" {
			all[i].procedure = get
		}
	}
	return all
}

// A caller cannot tell which of the two handlers has answered.
func TestHotMethodsAreLikeTheGeneralHandler(t *testing.T) {
	t.Run("replica", func(t *testing.T) { compareTwins(t, newTwins(t, 0)) })
	t.Run("memory", func(t *testing.T) { compareTwins(t, newTwins(t, memory.MinBytes)) })
}

func compareTwins(t *testing.T, tw *twins) {
	t.Helper()
	sources := make(map[string]bool)
	for _, mode := range []string{"HTTP/1.1", "HTTP/2", "HTTP/2", "express"} {
		transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
		transport.Protocols.SetHTTP1(mode != "HTTP/2")
		transport.Protocols.SetUnencryptedHTTP2(mode == "HTTP/2")
		c, hotURL := &http.Client{Transport: transport}, tw.hot
		if mode == "express" {
			hotURL = tw.express
		}
		for _, req := range requests(t) {
			before := tw.passed.Load()
			if mode == "express" {
				transport.CloseIdleConnections() // what was passed has its connection be net/http's
			}
			want, got := ask(t, c, tw.general, req), ask(t, c, hotURL, req)
			if want.Status != got.Status {
				t.Errorf("%s, %s: status %d, the general handler says %d", mode, req.name, got.Status, want.Status)
			}
			if diff := cmp.Diff(want.Header, got.Header); diff != "" {
				t.Errorf("%s, %s: headers (-general +hot):\n%s", mode, req.name, diff)
			}
			if diff := cmp.Diff(want.masked(t, req.procedure), got.masked(t, req.procedure), protocmp.Transform()); diff != "" {
				t.Errorf("%s, %s: body (-general +hot):\n%s", mode, req.name, diff)
			}
			for _, m := range tw.memories {
				if m != nil {
					m.Wait()
				}
			}
			sources[got.Header.Get("Nearside-Source")] = true
			if tw.memories[1] != nil && !req.hot {
				continue // it may be in memory by now
			}
			if hot := tw.passed.Load() == before; hot != req.hot && req.procedure != list {
				t.Errorf("%s, %s: answered by the hot method: %v, want %v", mode, req.name, hot, req.hot)
			}
		}
		transport.CloseIdleConnections()
	}
	if !sources["REPLICA"] || sources["MEMORY"] != (tw.memories[1] != nil) {
		t.Errorf("answered from %v", sources)
	}
	if diff := cmp.Diff(counts(t, tw.metrics[0]), counts(t, tw.metrics[1])); diff != "" {
		t.Errorf("metrics (-general +hot):\n%s", diff)
	}
}

// counts returns how many calls were counted, by procedure and code, and how many are being answered.
func counts(t *testing.T, r *prometheus.Registry) map[string]uint64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]uint64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			all[name] = m.GetHistogram().GetSampleCount() + uint64(m.GetGauge().GetValue())
		}
	}
	return all
}
