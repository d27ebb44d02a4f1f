package data

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// twin is one of two primaries with the same history: one has the general handler alone, one the hot way before it.
type twin struct {
	url     string
	express string // the same without net/http, while a connection carries nothing else
	handler http.Handler
	service *Service
	errs    *rpcerr.Interceptor
	metrics *prometheus.Registry
	passed  atomic.Int64 // calls of Transact that the general handler answered
}

func newTwin(t testing.TB, hot bool) *twin {
	t.Helper()
	logger, dir := slog.New(slog.DiscardHandler), t.TempDir()
	tw := &twin{metrics: prometheus.NewRegistry()}
	log, err := changelog.Open(filepath.Join(dir, "log"), changelog.Options{FS: vfs.Default, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	databases, err := registry.Open(t.Context(), registry.Config{
		Dir: filepath.Join(dir, "db"), Log: log, Logger: logger, Metrics: engine.NewMetrics(prometheus.NewRegistry()),
	})
	if err != nil {
		t.Fatal(errors.Join(err, log.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(databases.Close(), log.Close()); err != nil {
			t.Error(err)
		}
	})
	bookmarks, err := bookmark.New([]byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	options, err := server.HandlerOptions(logger, tw.metrics)
	if err != nil {
		t.Fatal(err)
	}
	errs, err := rpcerr.NewInterceptor(logger)
	if err != nil {
		t.Fatal(err)
	}
	service, mux := New(databases, log, bookmarks, "home", nil), http.NewServeMux()
	base, general := datav1connect.NewDataServiceHandler(service, options...)
	mux.Handle(base, general)
	if hot {
		counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			tw.passed.Add(1)
			general.ServeHTTP(w, r)
		})
		if err := service.MountHot(mux, make(map[string]access.ShortHandler), counted, errs, tw.metrics); err != nil {
			t.Fatal(err)
		}
	}
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	ln, err := server.Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	express, err := server.Start(ln, mux, server.Config{Name: "t", Express: true, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := express.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	tw.url, tw.express, tw.handler, tw.service, tw.errs = s.URL, "http://"+ln.Addr().String(), mux, service, errs
	ctx := context.Background()
	client := datav1connect.NewDataServiceClient(s.Client(), s.URL)
	if _, err := client.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: "shop"})); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{Database: "shop", Statement: &datav1.Statement{
		Sql: "CREATE TABLE t (id INTEGER PRIMARY KEY, x INTEGER CHECK (x > 0))",
	}})); err != nil {
		t.Fatal(err)
	}
	return tw
}

// write is a request for both.
type write struct {
	name   string
	body   []byte
	method string
	query  string
	header []string
	hot    bool // the general handler is not needed
}

// answer is what a primary said.
type answer struct {
	Status int
	Header http.Header
	Body   any
}

// detail is an error's detail in an answer. Its maps come in any order; what it says stands beside it in JSON.
var detail = regexp.MustCompile(`"value":"[^"]*"`)

func (tw *twin) ask(t *testing.T, c *http.Client, url string, req write) answer {
	t.Helper()
	method := req.method
	if method == "" {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url+datav1connect.DataServiceTransactProcedure+req.query,
		bytes.NewReader(req.body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/proto")
	for i := 0; i < len(req.header); i += 2 {
		r.Header.Set(req.header[i], req.header[i+1])
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	res.Header.Del("Date")
	res.Header.Del("Content-Length")
	res.Header.Del("X-Request-Id") // the express listener is a whole one
	a := answer{Status: res.StatusCode, Header: res.Header, Body: detail.ReplaceAllStringFunc(string(body), func(s string) string {
		return fmt.Sprintf("%d characters", len(s))
	})}
	if res.StatusCode != http.StatusOK {
		return a
	}
	m := new(datav1.TransactResponse)
	switch {
	case res.Header.Get("Content-Encoding") != "":
		return answer{Status: a.Status, Header: a.Header}
	case res.Header.Get("Content-Type") == "application/json":
		err = protojson.Unmarshal(body, m)
	default:
		err = proto.Unmarshal(body, m)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.GetAnswer().SqlMs = 0
	a.Body = m
	return a
}

func integer(i int64) *datav1.Value { return value.ToProto(value.Integer(i)) }

func put(id, x int64) *datav1.Operation {
	return &datav1.Operation{Operation: &datav1.Operation_Put{
		Put: &datav1.Put{Table: "t", Values: map[string]*datav1.Value{"id": integer(id), "x": integer(x)}},
	}}
}

func transactionOf(t testing.TB, ops ...*datav1.Operation) []byte {
	t.Helper()
	return encoded(t, &datav1.TransactRequest{Database: "shop", Operations: ops})
}

func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writes(t *testing.T) []write {
	t.Helper()
	plain := transactionOf(t, put(1, 1))
	key := &datav1.Key{Values: []*datav1.Value{integer(1)}}
	missing := &datav1.Key{Values: []*datav1.Value{integer(99)}}
	update := func(k *datav1.Key) *datav1.Operation {
		return &datav1.Operation{Operation: &datav1.Operation_Update{
			Update: &datav1.Update{Table: "t", Key: k, Set: map[string]*datav1.Value{"x": integer(5)}},
		}}
	}
	remove := &datav1.Operation{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{Table: "t", Key: key}}}
	once := put(7, 7)
	once.GetPut().Precondition = &datav1.Precondition{Condition: &datav1.Precondition_IfAbsent{IfAbsent: true}}
	never := put(7, 7)
	never.GetPut().Precondition = &datav1.Precondition{Condition: &datav1.Precondition_IfAbsent{}}
	sql := &datav1.Operation{Operation: &datav1.Operation_Statement{Statement: &datav1.Statement{
		Sql: "INSERT INTO t VALUES (50, 50) ON CONFLICT DO NOTHING RETURNING *",
	}}}
	many := make([]*datav1.Operation, maxHotOperations+1)
	for i := range many {
		many[i] = put(int64(100+i), 1)
	}
	inMessage := encoded(t, &datav1.TransactRequest{Database: "shop", IdempotencyKey: "m", Operations: []*datav1.Operation{put(3, 3)}})
	all := []write{
		{name: "put", body: plain, hot: true},
		{name: "again", body: plain, hot: true},
		{name: "update", body: transactionOf(t, update(key)), hot: true},
		{name: "update of no row", body: transactionOf(t, update(missing)), hot: true},
		{name: "three", body: transactionOf(t, put(2, 2), update(key), remove), hot: true},
		{name: "as many as may be", body: transactionOf(t, many[:maxHotOperations]...), hot: true,
			header: []string{"Accept-Encoding", "gzip"}},
		{name: "rule broken", body: transactionOf(t, put(4, -4)), hot: true},
		{name: "rule broken by the second", body: transactionOf(t, put(4, 4), put(5, -5)), hot: true},
		{name: "compressed answers welcome, an error", body: transactionOf(t, put(4, -4)), hot: true,
			header: []string{"Accept-Encoding", "gzip"}},
		{name: "precondition", body: transactionOf(t, once), hot: true},
		{name: "precondition failed", body: transactionOf(t, once), hot: true},
		{name: "key", body: plain, header: []string{"Idempotency-Key", "a"}, hot: true},
		{name: "key again", body: plain, header: []string{"Idempotency-Key", "a"}, hot: true},
		{name: "key again, generally", body: plain, header: []string{"Idempotency-Key", "a"}, query: "?x"},
		{name: "key of another", body: transactionOf(t, put(8, 8)), header: []string{"Idempotency-Key", "a"}, hot: true},
		{name: "long key", body: plain, header: []string{"Idempotency-Key", strings.Repeat("k", 256)}, hot: true},
		{name: "key in the message", body: inMessage, hot: true},
		{name: "key in the message and the header", body: inMessage, header: []string{"Idempotency-Key", "m"}, hot: true},
		{name: "another key in the header", body: inMessage, header: []string{"Idempotency-Key", "n"}, hot: true},
		{name: "trace", body: plain, hot: true,
			header: []string{"Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}},
		{name: "bookmark", body: plain, header: []string{"Nearside-Bookmark", "nonsense"}, hot: true},
		{name: "timeout", body: plain, header: []string{"Connect-Timeout-Ms", "60000"}, hot: true},
		{name: "unknown field", body: append(bytes.Clone(plain), 0xfa, 0x07, 1, 'x'), hot: true},
		{name: "unknown database", body: encoded(t, &datav1.TransactRequest{Database: "nope", Operations: []*datav1.Operation{put(1, 1)}}),
			hot: true},
		{name: "the mesh's database", hot: true,
			body: encoded(t, &datav1.TransactRequest{Database: "_mesh", Operations: []*datav1.Operation{put(1, 1)}})},
		{name: "unknown table", hot: true, body: transactionOf(t, &datav1.Operation{Operation: &datav1.Operation_Put{
			Put: &datav1.Put{Table: "nope", Values: map[string]*datav1.Value{"id": integer(1)}},
		}})},

		{name: "invalid precondition", body: transactionOf(t, never)},
		{name: "SQL", body: transactionOf(t, sql)},
		{name: "one too many", body: transactionOf(t, many...)},
		{name: "nothing to do", body: transactionOf(t)},
		{name: "no database", body: encoded(t, &datav1.TransactRequest{Operations: []*datav1.Operation{put(1, 1)}})},
		{name: "operation of no kind", body: transactionOf(t, &datav1.Operation{})},
		{name: "too large for it", body: encoded(t, &datav1.TransactRequest{Database: strings.Repeat("x", 70_000)})},
		{name: "no body"},
		{name: "no time", body: plain, header: []string{"Connect-Timeout-Ms", "0"}},
		{name: "no number for a timeout", body: plain, header: []string{"Connect-Timeout-Ms", "soon"}},
		{name: "wrong version", body: plain, header: []string{"Connect-Protocol-Version", "2"}},
		{name: "unknown compression", body: plain, header: []string{"Content-Encoding", "br"}},
		{name: "text", body: plain, header: []string{"Content-Type", "text/plain"}},
		{name: "PUT", body: plain, method: http.MethodPut},
		{name: "query", body: plain, query: "?x=y"},
	}
	text, err := protojson.Marshal(&datav1.TransactRequest{Database: "shop", Operations: []*datav1.Operation{put(9, 9)}})
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, write{name: "JSON", body: text, header: []string{"Content-Type", "application/json"}})
	for i := 1; i < len(plain); i++ {
		all = append(all, write{name: fmt.Sprintf("cut off at %d", i), body: plain[:i]})
	}
	return all
}

// A caller cannot tell which of the two ways has answered, and what is done is the same, once.
func TestHotTransactIsLikeTheGeneralHandler(t *testing.T) {
	general, hot := newTwin(t, false), newTwin(t, true)
	for _, mode := range []string{"HTTP/1.1", "HTTP/2", "express"} {
		transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
		transport.Protocols.SetHTTP1(mode != "HTTP/2")
		transport.Protocols.SetUnencryptedHTTP2(mode == "HTTP/2")
		c, hotURL := &http.Client{Transport: transport}, hot.url
		if mode == "express" {
			hotURL = hot.express
		}
		for _, req := range writes(t) {
			before := hot.passed.Load()
			want, got := general.ask(t, c, general.url, req), hot.ask(t, c, hotURL, req)
			// The bookmark is in both, so this compares what was done as well.
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("%s, %s (-general +hot):\n%s", mode, req.name, diff)
			}
			if is := hot.passed.Load() == before; is != req.hot && !strings.HasPrefix(req.name, "cut off") {
				t.Errorf("%s, %s: answered the hot way: %v, want %v", mode, req.name, is, req.hot)
			}
			if mode == "express" {
				transport.CloseIdleConnections() // what was passed has its connection be net/http's
			}
		}
		transport.CloseIdleConnections()
	}
	if diff := cmp.Diff(counts(t, general.metrics), counts(t, hot.metrics)); diff != "" {
		t.Errorf("metrics (-general +hot):\n%s", diff)
	}
}

// counts returns how many calls were counted, by procedure and code.
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

// What a transaction costs beside the sockets, with its fsync.
func BenchmarkTransact(b *testing.B) {
	for _, hot := range []bool{false, true} {
		b.Run(fmt.Sprintf("hot=%v", hot), func(b *testing.B) {
			tw := newTwin(b, hot)
			body := transactionOf(b, put(1, 1))
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, datav1connect.DataServiceTransactProcedure, bytes.NewReader(body))
				r.Header.Set("Content-Type", "application/proto")
				w := httptest.NewRecorder()
				if tw.handler.ServeHTTP(w, r); w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
