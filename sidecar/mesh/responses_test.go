package mesh

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/servicedesc"
)

// asked is a request as a caller makes it.
type asked struct {
	method, kind, query string
	body                []byte
	header              http.Header
	principal           *identity.Principal
}

func (a asked) key(r *Router, m *route) (key [32]byte, ok bool) {
	req := httptest.NewRequest(a.method, "/acme.S/Get?"+a.query, bytes.NewReader(a.body))
	maps.Copy(req.Header, a.header)
	if a.kind != "" {
		req.Header.Set("Content-Type", a.kind)
	}
	if a.principal == nil {
		a.principal = &identity.Principal{}
	}
	q, ok := r.ask(req, a.principal, m, a.body)
	return q.key, ok
}

// TestKeys: which requests share an answer, and which have none that is kept.
func TestKeys(t *testing.T) {
	input := (&fieldmaskpb.FieldMask{}).ProtoReflect().Descriptor() // a message with a list
	path, err := servicedesc.PathOf(input, "paths")
	if err != nil {
		t.Fatal(err)
	}
	encode := func(paths ...string) []byte {
		b, err := proto.Marshal(&fieldmaskpb.FieldMask{Paths: paths})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	unknown := append(encode("a"), 0x12, 1, 'x') // a field that the message does not know
	ann, bob := &identity.Principal{Kind: identity.User, ID: "u_1"}, &identity.Principal{Kind: identity.User, ID: "u_2"}
	richer := &identity.Principal{Kind: identity.User, ID: "u_1", Roles: []string{"admin"}}
	base := asked{method: "POST", kind: "application/proto", body: encode("a"), principal: ann}
	r := &Router{}
	for _, tc := range []struct {
		name        string
		fields      bool
		public      bool
		change      func(*asked)
		same, asked bool
	}{
		{"the same", false, false, func(*asked) {}, true, true},
		{"another message", false, false, func(a *asked) { a.body = encode("b") }, false, true},
		{"another caller", false, false, func(a *asked) { a.principal = bob }, false, true},
		{"the caller with another role", false, false, func(a *asked) { a.principal = richer }, false, true},
		{"another caller of a public one", false, true, func(a *asked) { a.principal = bob }, true, true},
		{"a field that does not count", true, false, func(a *asked) { a.body = unknown }, true, true},
		{"a field that counts", true, false, func(a *asked) { a.body = encode("a", "b") }, false, true},
		{"all counts", false, false, func(a *asked) { a.body = unknown }, false, true},
		{"no message", true, false, func(a *asked) { a.body = []byte{0xff} }, false, false},
		{"JSON", false, false, func(a *asked) { a.kind = "application/json" }, false, true},
		{"GET", false, false, func(a *asked) {
			*a = asked{method: "GET", query: "encoding=proto&message=" + url.QueryEscape(string(encode("a"))), principal: ann}
		}, true, true},
		{"GET in base64", false, false, func(a *asked) {
			*a = asked{method: "GET", query: "base64=1&encoding=proto&message=CgFh", principal: ann}
		}, true, true},
		{"GET of no base64", false, false, func(a *asked) { *a = asked{method: "GET", query: "base64=1&encoding=proto&message=%20"} }, false, false},
		{"GET compressed", false, false, func(a *asked) { *a = asked{method: "GET", query: "compression=gzip&encoding=proto"} }, false, false},
		{"who takes it compressed", false, false, func(a *asked) { a.header = http.Header{"Accept-Encoding": {"gzip"}} }, false, true},
		{"in gzip", false, false, func(a *asked) { a.body, a.header = zip(a.body), http.Header{"Content-Encoding": {"gzip"}} }, true, true},
		{"in no gzip", false, false, func(a *asked) { a.header = http.Header{"Content-Encoding": {"gzip"}} }, false, false},
		{"in an encoding that is not known", false, false, func(a *asked) { a.header = http.Header{"Content-Encoding": {"br"}} }, false, false},
		{"with a cookie", false, true, func(a *asked) { a.header = http.Header{"Cookie": {"a=b"}} }, false, false},
		{"with a credential that the service sees", false, true, func(a *asked) {
			a.header, a.principal = http.Header{"Authorization": {"x"}}, nil
		}, false, false},
		{"with a credential, where nobody is known", false, false, func(a *asked) {
			a.header, a.principal = http.Header{"Authorization": {"x"}}, nil
		}, false, false},
		{"GET of two messages", false, false, func(a *asked) {
			*a = asked{method: "GET", query: "base64=1&encoding=proto&message=CgFh&message=CgFi", principal: ann}
		}, false, false},
		{"GET that can be read in two ways", false, false, func(a *asked) {
			*a = asked{method: "GET", query: "base64=1&encoding=proto&message=CgFh&x=1;message=CgFi", principal: ann}
		}, false, false},
		{"gRPC without an envelope", false, false, func(a *asked) { a.kind = "application/grpc" }, false, false},
		{"gRPC", false, false, func(a *asked) { a.kind, a.body = "application/grpc", envelope(0, a.body) }, false, true},
		{"gRPC-Web", false, false, func(a *asked) { a.kind, a.body = "application/grpc-web+proto", envelope(0, a.body) }, false, true},
		{"gRPC-Web in base64", false, false, func(a *asked) { a.kind, a.body = "application/grpc-web-text", text(envelope(0, a.body)) }, false, true},
		{"gRPC-Web in no base64", false, false, func(a *asked) { a.kind, a.body = "application/grpc-web-text", envelope(0, a.body) }, false, false},
		{"gRPC, compressed, nobody says how", false, false, func(a *asked) { a.kind, a.body = "application/grpc", envelope(1, a.body) }, false, false},
		{"gRPC, in gzip", false, false, func(a *asked) {
			a.kind, a.body, a.header = "application/grpc", envelope(1, zip(a.body)), http.Header{"Grpc-Encoding": {"gzip"}}
		}, false, true},
		{"gRPC, in no gzip", false, false, func(a *asked) {
			a.kind, a.body, a.header = "application/grpc", envelope(1, a.body), http.Header{"Grpc-Encoding": {"gzip"}}
		}, false, false},
		{"gRPC, in gzip that is a bomb", false, false, func(a *asked) {
			a.kind, a.body, a.header = "application/grpc", envelope(1, zip(make([]byte, 1<<20))), http.Header{"Grpc-Encoding": {"gzip"}}
		}, false, false},
		{"gRPC, two messages", false, false, func(a *asked) {
			a.kind, a.body = "application/grpc", append(envelope(0, a.body), envelope(0, a.body)...)
		}, false, false},
		{"gRPC, cut off", false, false, func(a *asked) { a.kind, a.body = "application/grpc", envelope(0, a.body)[:5] }, false, false},
		{"gRPC of another codec", false, false, func(a *asked) { a.kind, a.body = "application/grpc+thrift", envelope(0, a.body) }, false, false},
		{"no protocol", false, false, func(a *asked) { a.kind = "application/grpcx" }, false, false},
		{"a stream of Connect's", false, false, func(a *asked) { a.kind = "application/connect+proto" }, false, false},
		{"large", false, false, func(a *asked) { a.body = make([]byte, maxKeptMessage+1) }, false, false},
	} {
		u := &rule{ttl: time.Second, public: tc.public}
		if tc.fields {
			u.message, u.input = dynamicpb.NewMessage(input), []servicedesc.Path{path}
		}
		m := &route{procedure: "/acme.S/Get", rule: u}
		other := base
		tc.change(&other)
		first, ok := base.key(r, m)
		if !ok {
			t.Fatal("the base is not asked")
		}
		key, ok := other.key(r, m)
		if ok != tc.asked || ok && (key == first) != tc.same {
			t.Errorf("%s: asked %v, same key %v", tc.name, ok, key == first)
		}
	}
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

// envelope puts a message into one.
func envelope(flags byte, message []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(message)))
	return append(b, message...)
}

// text is what gRPC-Web sends where only text may be sent: each piece with its own padding.
func text(pieces ...[]byte) []byte {
	var out []byte
	for _, p := range pieces {
		out = base64.StdEncoding.AppendEncode(out, p)
	}
	return out
}

// TestKeysOfProtocols: each protocol, codec and set of encodings that are taken has answers of its own, whatever of the message counts.
func TestKeysOfProtocols(t *testing.T) {
	message := []byte("\x0a\x01a")
	r, m := &Router{}, &route{procedure: "/acme.S/Get", rule: &rule{ttl: time.Second}}
	seen := make(map[[32]byte]string)
	for _, kind := range []string{
		"application/proto", "application/json", typeGRPC, typeGRPC + "+json", typeWeb, typeWeb + "+json", typeText, typeText + "+json",
	} {
		for _, encoding := range []string{"", "gzip", "gzip, zstd"} {
			a := asked{method: "POST", kind: kind, body: envelope(0, message), header: http.Header{"Grpc-Accept-Encoding": {encoding}}}
			switch {
			case strings.HasPrefix(kind, typeText):
				a.body = text(a.body)
			case !strings.HasPrefix(kind, typeGRPC):
				a.body, a.header = message, http.Header{"Accept-Encoding": {encoding}}
			}
			key, ok := a.key(r, m)
			name := kind + " " + encoding
			if !ok || seen[key] != "" {
				t.Errorf("%s: asked %v, same as %q", name, ok, seen[key])
			}
			seen[key] = name
			for _, same := range []string{typeGRPC, typeWeb, typeText} { // the codec may be left out
				if kind == same {
					a.kind += "+proto"
					if again, ok := a.key(r, m); !ok || again != key {
						t.Errorf("%s is not %s", a.kind, kind)
					}
				}
			}
		}
	}
}

// TestWhatIsKept: which answers are, and what comes back of them.
func TestWhatIsKept(t *testing.T) {
	now := time.Now()
	good := envelope(0, []byte("message"))
	trailers := envelope(flagTrailers, []byte("grpc-status: 0\r\necho-trailer: yes\r\n"))
	failed := envelope(flagTrailers, []byte("Grpc-Status: 5\r\n"))
	grpc := func(kind string, more ...string) http.Header {
		h := http.Header{"Content-Type": {kind}, "X-A": {"1", "2"}}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = []string{more[i+1]}
		}
		return h
	}
	status, trailer := http.TrailerPrefix+statusHeader, http.TrailerPrefix+"Echo-Trailer"
	for _, tc := range []struct {
		name    string
		framing framing
		status  int
		header  http.Header
		body    []byte
		want    bool
	}{
		{"a success", framingConnect, 200, http.Header{"Content-Type": {"application/proto"}, "X-A": {"1", "2"}, "Date": {"now"}}, good, true},
		{"an empty one", framingConnect, 200, http.Header{}, nil, true},
		{"an error", framingConnect, 404, http.Header{}, good, false},
		{"a cookie", framingConnect, 200, http.Header{"Set-Cookie": {"a=b"}}, good, false},
		{"private", framingConnect, 200, http.Header{"Cache-Control": {"max-age=5, Private"}}, good, false},
		{"no-store", framingConnect, 200, http.Header{"Cache-Control": {"no-store"}}, good, false},
		{"for some", framingConnect, 200, http.Header{"Vary": {"Origin", "accept-encoding, X-Tenant"}}, good, false},
		{"for one", framingConnect, 200, http.Header{"Vary": {"Origin", "*"}}, good, false},
		{"for a caller", framingConnect, 200, http.Header{"Vary": {"Origin", "Authorization"}}, good, false},
		{"trailers", framingConnect, 200, http.Header{http.TrailerPrefix + "A": {"b"}}, good, false},
		{"large", framingConnect, 200, http.Header{}, make([]byte, maxKeptAnswer+1), false},
		{"gRPC", framingGRPC, 200, grpc(typeGRPC+"+proto", status, "0", trailer, "yes"), good, true},
		{"gRPC, compressed", framingGRPC, 200, grpc(typeGRPC, status, "0", "Grpc-Encoding", "gzip"), envelope(1, []byte("zip")), true},
		{"gRPC, an error", framingGRPC, 200, grpc(typeGRPC, status, "5"), good, false},
		{"gRPC, an error and nothing else", framingGRPC, 200, grpc(typeGRPC, statusHeader, "5"), nil, false},
		{"gRPC, success and nothing else", framingGRPC, 200, grpc(typeGRPC, statusHeader, "0"), nil, false},
		{"gRPC, no status", framingGRPC, 200, grpc(typeGRPC, trailer, "yes"), good, false},
		{"gRPC, no message", framingGRPC, 200, grpc(typeGRPC, status, "0"), nil, false},
		{"gRPC, two messages", framingGRPC, 200, grpc(typeGRPC, status, "0"), append(envelope(0, nil), good...), false},
		{"gRPC, cut off", framingGRPC, 200, grpc(typeGRPC, status, "0"), good[:len(good)-1], false},
		{"gRPC, something else", framingGRPC, 200, grpc("text/html", status, "0"), good, false},
		{"gRPC that Web answers", framingGRPC, 200, grpc(typeWeb, status, "0"), good, false},
		{"gRPC, a cookie", framingGRPC, 200, grpc(typeGRPC, status, "0", "Set-Cookie", "a=b"), good, false},
		{"gRPC-Web", framingWeb, 200, grpc(typeWeb + "+proto"), append(slices.Clip(good), trailers...), true},
		{"gRPC-Web, in gzip", framingWeb, 200, grpc(typeWeb, "Grpc-Encoding", "gzip"),
			append(envelope(1, zip([]byte("m"))), envelope(flagTrailers|1, zip(trailers[5:]))...), true},
		{"gRPC-Web, an error in gzip", framingWeb, 200, grpc(typeWeb, "Grpc-Encoding", "gzip"),
			append(envelope(1, zip([]byte("m"))), envelope(flagTrailers|1, zip(failed[5:]))...), false},
		{"gRPC-Web, an error", framingWeb, 200, grpc(typeWeb), append(slices.Clip(good), failed...), false},
		{"gRPC-Web, no message", framingWeb, 200, grpc(typeWeb), trailers, false},
		{"gRPC-Web, no trailers", framingWeb, 200, grpc(typeWeb), good, false},
		{"gRPC-Web, more behind them", framingWeb, 200, grpc(typeWeb), append(append(slices.Clip(good), trailers...), good...), false},
		{"gRPC-Web that gRPC answers", framingWeb, 200, grpc(typeGRPC, status, "0"), good, false},
		{"gRPC-Web in base64", framingText, 200, grpc(typeText), text(good, trailers), true},
		{"gRPC-Web in base64 of one piece", framingText, 200, grpc(typeText), text(append(slices.Clip(good), trailers...)), true},
		{"gRPC-Web in no base64", framingText, 200, grpc(typeText), append(slices.Clip(good), trailers...), false},
	} {
		w := httptest.NewRecorder()
		w.Header().Set("Access-Control-Allow-Origin", "gateway's own")
		w.Header().Set("Vary", "Origin")
		c := &copying{ResponseWriter: w, framing: tc.framing, public: true, before: w.Header().Clone()}
		maps.Copy(c.Header(), tc.header)
		c.Header().Add("Vary", "Accept-Encoding")
		c.WriteHeader(tc.status)
		_, _ = c.Write(tc.body)
		kept, ok := c.kept(now)
		if ok != tc.want {
			t.Errorf("%s: kept %v", tc.name, ok)
		}
		if !ok {
			continue
		}
		old, answer := readKept(kept, now.Add(90*time.Second))
		back := httptest.NewRecorder()
		back.Header().Set("Vary", "Origin")
		answer.write(back, old)
		h := back.Header()
		if back.Body.String() != string(tc.body) || h.Get("Age") != "90" || h.Get("Nearside-Source") != "MEMORY" || h["Date"] != nil ||
			h["Access-Control-Allow-Origin"] != nil || strings.Join(h["Vary"], ",") != "Origin,Accept-Encoding" ||
			strings.Join(h["X-A"], ",") != strings.Join(tc.header["X-A"], ",") || h.Get("Content-Type") != tc.header.Get("Content-Type") ||
			h.Get(status) != one(tc.header, status) || h.Get(trailer) != one(tc.header, trailer) ||
			(h["Content-Length"] == nil) != (tc.framing == framingGRPC) {
			t.Errorf("%s: came back as %v, %q", tc.name, h, back.Body)
		}
	}
}

// FuzzKept: whatever a caller sends and a service answers, nothing panics, and what is kept comes back as it was.
func FuzzKept(f *testing.F) {
	f.Add(typeGRPC, envelope(0, []byte("a")), envelope(0, []byte("b")), "0")
	f.Add(typeWeb, envelope(0, nil), append(envelope(0, nil), envelope(flagTrailers, []byte("grpc-status:0"))...), "")
	f.Add(typeText, text(envelope(0, nil)), text(envelope(0, nil), envelope(flagTrailers, []byte("grpc-status:0"))), "")
	f.Add("application/json", []byte("{}"), []byte(`{"a":1}`), "")
	f.Fuzz(func(t *testing.T, kind string, body, answer []byte, status string) {
		r, m := &Router{}, &route{procedure: "/acme.S/Get", rule: &rule{ttl: time.Second}}
		req := &http.Request{Method: http.MethodPost, URL: &url.URL{Path: m.procedure}, Header: http.Header{"Content-Type": {kind}}}
		q, ok := r.ask(req, &identity.Principal{}, m, body)
		if !ok {
			return
		}
		w := httptest.NewRecorder()
		c := &copying{ResponseWriter: w, framing: q.framing, before: http.Header{}}
		c.Header()["Content-Type"] = []string{kind}
		c.WriteHeader(http.StatusOK)
		_, _ = c.Write(answer)
		if isValue([]byte(status)) && status != "" {
			c.Header()[http.TrailerPrefix+statusHeader] = []string{status}
		}
		kept, ok := c.kept(time.Now())
		if !ok {
			return
		}
		old, back := readKept(kept, time.Now())
		again := httptest.NewRecorder()
		back.write(again, old)
		if !bytes.Equal(again.Body.Bytes(), answer) || again.Header().Get(http.TrailerPrefix+statusHeader) != strings.TrimSpace(status) && q.framing == framingGRPC {
			t.Errorf("%v %q", again.Header(), again.Body)
		}
	})
}
