package mesh

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/nearside-dev/nearside/internal/fieldrules"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/meshtest/ruled"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/servicedesc"
	"github.com/nearside-dev/nearside/internal/value"
)

// ruledRoute is a method whose requests have rules.
func ruledRoute(t testing.TB, method string) *route {
	t.Helper()
	d, err := servicedesc.Read(ruled.Descriptors(ruled.File()), "")
	if err != nil {
		t.Fatal(err)
	}
	return &route{procedure: servicedesc.Procedure(ruled.Name, method), rules: fieldrules.Of(d).Method(method)}
}

func encoded(t testing.TB, order string) []byte {
	t.Helper()
	b, err := proto.Marshal(ruled.Order(order))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFormOf(t *testing.T) {
	for kind, want := range map[string]form{
		"application/json":                           {codec: "json", compression: "unary"},
		"application/proto":                          {codec: "proto", compression: "unary"},
		"Application/JSON ; charset=utf-8":           {codec: "json", compression: "unary"},
		"application/connect+proto":                  {codec: "proto", compression: "stream", envelopes: true},
		"application/connect+json":                   {codec: "json", compression: "stream", envelopes: true},
		"application/grpc":                           {codec: "proto", compression: "grpc", envelopes: true},
		"application/grpc+json":                      {codec: "json", compression: "grpc", envelopes: true},
		"application/grpc-web":                       {codec: "proto", compression: "grpc", envelopes: true},
		"application/grpc-web+proto":                 {codec: "proto", compression: "grpc", envelopes: true},
		"application/grpc-web-text":                  {},
		"application/grpc+thrift":                    {},
		"application/grpcx":                          {},
		"application/xml":                            {},
		"text/plain":                                 {},
		"":                                           {},
		"application/json; charset=utf-16":           {},
		"application/json; charset=utf-8; charset=x": {},
	} {
		h := httptest.NewRequest(http.MethodPost, "/", nil).Header
		h.Set("Content-Type", kind)
		h.Set("Content-Encoding", "unary")
		h.Set("Connect-Content-Encoding", "stream")
		h.Set("Grpc-Encoding", "grpc")
		got, err := formOf(h)
		if got != want || (err != nil) != (want == form{}) {
			t.Errorf("%q: %+v %v", kind, got, err)
		}
	}
}

// TestUnpack has each compression that is known, one that is a bomb, and what has failed leave nothing behind.
func TestUnpack(t *testing.T) {
	text := bytes.Repeat([]byte("some text "), 1000)
	for _, c := range server.Compressions() {
		pack := func(b []byte) []byte {
			var out bytes.Buffer
			w := c.Compressor()
			w.Reset(&out)
			if _, err := w.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			return out.Bytes()
		}
		for range 3 {
			if got, err := unpack(c.Name, pack(text)); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s: %d bytes, %v", c.Name, len(got), err)
			}
			if _, err := unpack(c.Name, text); connect.CodeOf(err) != connect.CodeInvalidArgument {
				t.Errorf("%s of what is none: %v", c.Name, err)
			}
			if got, err := unpack(c.Name, pack(make([]byte, 64<<20))); connect.CodeOf(err) != connect.CodeResourceExhausted {
				t.Errorf("%s of a bomb: %d bytes, %v", c.Name, len(got), err)
			}
		}
		if got, err := unpack(c.Name, nil); err != nil || len(got) != 0 {
			t.Errorf("%s of nothing: %v", c.Name, err)
		}
	}
	if _, err := unpack("br", text); !errors.Is(err, compressionError("br")) {
		t.Errorf("another: %v", err)
	}
}

// TestEnvelopesPassAsTheyAre has a body of good messages come out as it went in, whatever its pieces, and end before the first bad one.
func TestEnvelopesPassAsTheyAre(t *testing.T) {
	m := ruledRoute(t, "Talk")
	r := &Router{logger: slog.New(slog.DiscardHandler)}
	good := envelope(0, encoded(t, ruled.Good))
	packed := envelope(1, zip(encoded(t, ruled.Good)))
	bad := envelope(0, encoded(t, `id: "x"`))
	for _, parts := range [][][]byte{{good}, {good, packed, good}, {}, {bytes.Repeat(good, 300)}} {
		in := bytes.Join(parts, nil)
		for name, piece := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "with its end": iotest.DataErrReader,
		} {
			for _, end := range [][]byte{nil, bad, good[:3], good[:20]} {
				req := httptest.NewRequest(http.MethodPost, "/", piece(bytes.NewReader(append(bytes.Clone(in), end...))))
				b := r.newCheckedBody(req, m, form{codec: "proto", compression: "gzip", envelopes: true})
				out, err := io.ReadAll(b)
				if !bytes.Equal(out, in) || (err == nil) != (end == nil) || b.refused != (end != nil) {
					t.Fatalf("%s, %d bytes and %d: %d bytes, %v", name, len(in), len(end), len(out), err)
				}
				if _, again := b.Read(make([]byte, 1)); end != nil && !errors.Is(again, err) {
					t.Errorf("read again: %v", again)
				}
			}
		}
	}
	broken := errors.New("the connection broke")
	req := httptest.NewRequest(http.MethodPost, "/", io.MultiReader(bytes.NewReader(good[:20]), iotest.ErrReader(broken)))
	b := r.newCheckedBody(req, m, form{codec: "proto", envelopes: true})
	if _, err := io.ReadAll(b); err != broken || b.refused { //nolint:errorlint // it is to be the same
		t.Errorf("a body that breaks: %v", err)
	}
}

// TestAnEndBetweenTwoMessages has an answer end where a message does.
func TestAnEndBetweenTwoMessages(t *testing.T) {
	answer := bytes.Join([][]byte{envelope(0, []byte("one")), envelope(1, nil), envelope(0, bytes.Repeat([]byte("x"), 300))}, nil)
	ends := map[int]bool{0: true, 8: true, 13: true, len(answer): true}
	for at := range len(answer) + 1 { // where the message comes that is refused
		canceled := 0
		e := &ending{cancel: func() { canceled++ }}
		if out, last := e.pass(answer[:at]); len(out) != at || last {
			t.Fatalf("%d: %d bytes go on, last %t", at, len(out), last)
		}
		e.refuse(connect.NewError(connect.CodeInvalidArgument, nil))
		if (canceled == 1) != ends[at] {
			t.Fatalf("%d: canceled %d times", at, canceled)
		}
		out, last := e.pass(answer[at:])
		if !ends[at+len(out)] || !last || ends[at] != (len(out) == 0) || !e.between() {
			t.Fatalf("%d: %d bytes more go on, last %t", at, len(out), last)
		}
		e.stop()
	}
	e := &ending{cancel: func() {}}
	if e.pass(envelope(flagEnd, []byte("{}"))); !e.at.end {
		t.Error("an answer that has ended by itself is not known")
	}
}

// FuzzCheckedBody has no message reach anybody that was not checked.
func FuzzCheckedBody(f *testing.F) {
	m := ruledRoute(f, "Talk")
	r := &Router{logger: slog.New(slog.DiscardHandler)}
	good := envelope(0, encoded(f, ruled.Good))
	f.Add(append(bytes.Clone(good), envelope(1, zip(encoded(f, ruled.Good)))...), "gzip")
	f.Add(append(bytes.Clone(good), envelope(0, []byte("x"))...), "")
	f.Add(envelope(3, []byte("x")), "br")
	f.Fuzz(func(t *testing.T, body []byte, compression string) {
		fm := form{codec: "proto", compression: compression, envelopes: true}
		b := r.newCheckedBody(httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body)), m, fm)
		out, _ := io.ReadAll(b)
		if !bytes.HasPrefix(body, out) {
			t.Fatal("what comes out did not go in")
		}
		for len(out) > 0 {
			flags, message, rest, ok := cutEnvelope(out)
			if !ok || flags > 1 {
				t.Fatalf("part of an envelope came out: %q", out)
			}
			if flags == 1 {
				var err error
				if message, err = unpack(compression, message); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.rules.Check(t.Context(), "proto", message); err != nil {
				t.Fatalf("a bad one came out: %v", err)
			}
			out = rest
		}
	})
}

// FuzzQuery has no call by GET pass of which another reading would be bad.
func FuzzQuery(f *testing.F) {
	m := ruledRoute(f, "Find")
	f.Add("encoding=proto&base64=1&message=" + base64.RawURLEncoding.EncodeToString(encoded(f, ruled.Good)))
	f.Add("encoding=json&message={}&message=")
	f.Add("encoding=json&compression=gzip&message=")
	f.Fuzz(func(t *testing.T, query string) {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.URL.RawQuery = query
		if m.checkQuery(req) != nil {
			return
		}
		if n := strings.Count(query, "message="); n != 1 {
			t.Errorf("%q passes with %d messages", query, n)
		}
	})
}

// BenchmarkCheckedBody is what a message of a stream costs.
func BenchmarkCheckedBody(b *testing.B) {
	m := ruledRoute(b, "Talk")
	good := envelope(0, encoded(b, ruled.Good))
	req := httptest.NewRequest(http.MethodPost, "/", nil)
	r := &Router{logger: slog.New(slog.DiscardHandler)}
	b.ReportAllocs()
	body := r.newCheckedBody(req, m, form{codec: "proto", envelopes: true})
	in := bytes.NewReader(nil)
	body.ReadCloser = io.NopCloser(in)
	for b.Loop() {
		in.Reset(good)
		if body.next(); body.err != nil {
			b.Fatal(body.err)
		}
	}
}

// rows is a service as a registrar wrote it that did not look at rules, whether it is checked or not.
type rows struct {
	version   uint64
	set       []byte
	unchecked bool
}

func (r *rows) Version() (Version, bool) { return Version{Version: r.version}, true }

func (r *rows) Read(f func(table string, values []value.Value) error) (Version, error) {
	err := f(meshdb.TableServices, []value.Value{
		value.Text(ruled.Name), value.Blob(r.set), value.Text(meshdb.AccessPublic), value.Text(""), value.Integer(0), value.Integer(1),
	})
	if err == nil && r.unchecked {
		err = f(meshdb.TableServiceUnchecked, []value.Value{value.Text(ruled.Name)})
	}
	return Version{Version: r.version}, err
}

// TestRulesThatNobodyLookedAt has methods fail whose rules are none, and no others; and what a registration says of checks hold for it
// alone.
func TestRulesThatNobodyLookedAt(t *testing.T) {
	file := ruled.File()
	file.GetMessageType()[0].GetOptions().ProtoReflect().Clear(validate.E_Message.TypeDescriptor())
	rules := validate.MessageRules_builder{CelExpression: []string{"this.none"}}.Build()
	proto.SetExtension(file.GetMessageType()[0].GetOptions(), validate.E_Message, rules)
	var log bytes.Buffer
	source := &rows{version: 1, set: ruled.Descriptors(file)}
	r, err := New(Options{Region: "eu", Source: source, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(procedure string) int {
		req := httptest.NewRequest(http.MethodPost, procedure, strings.NewReader(`{}`))
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req.WithContext(identity.With(t.Context(), &identity.Principal{})))
		return w.Code
	}
	if status := ask(ruled.Place); status != http.StatusInternalServerError {
		t.Errorf("rules that are none: %d", status)
	}
	const none = http.StatusServiceUnavailable // it got as far as where there is no endpoint
	if status := ask(ruled.Free); status != none {
		t.Errorf("a method without rules: %d", status)
	}
	source.version, source.unchecked = 2, true
	if status := ask(ruled.Place); status != none {
		t.Errorf("nothing is checked: %d", status)
	}
	source.version, source.set, source.unchecked = 3, ruled.Descriptors(ruled.File()), false
	if status := ask(ruled.Place); status != http.StatusBadRequest {
		t.Errorf("other rules: %d", status)
	}
	r.close()
	if !strings.Contains(log.String(), "acme.orders.v1.Order") {
		t.Errorf("the log says %s", log.String())
	}
}
