package mesh

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
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
		{"a compressed one", false, false, func(a *asked) { a.header = http.Header{"Content-Encoding": {"gzip"}} }, false, false},
		{"with a cookie", false, true, func(a *asked) { a.header = http.Header{"Cookie": {"a=b"}} }, false, false},
		{"with a credential that the service sees", false, true, func(a *asked) {
			a.header, a.principal = http.Header{"Authorization": {"x"}}, nil
		}, false, false},
		{"gRPC", false, false, func(a *asked) { a.kind = "application/grpc" }, false, false},
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

// TestWhatIsKept: which answers are, and what comes back of them.
func TestWhatIsKept(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name   string
		status int
		header http.Header
		body   int
		want   bool
	}{
		{"a success", 200, http.Header{"Content-Type": {"application/proto"}, "X-A": {"1", "2"}, "Date": {"now"}}, 10, true},
		{"an empty one", 200, http.Header{}, 0, true},
		{"an error", 404, http.Header{}, 10, false},
		{"a cookie", 200, http.Header{"Set-Cookie": {"a=b"}}, 10, false},
		{"private", 200, http.Header{"Cache-Control": {"max-age=5, Private"}}, 10, false},
		{"no-store", 200, http.Header{"Cache-Control": {"no-store"}}, 10, false},
		{"trailers", 200, http.Header{http.TrailerPrefix + "A": {"b"}}, 10, false},
		{"large", 200, http.Header{}, maxKeptAnswer + 1, false},
	} {
		w := httptest.NewRecorder()
		w.Header().Set("Access-Control-Allow-Origin", "gateway's own")
		w.Header().Set("Vary", "Origin")
		c := &copying{ResponseWriter: w, before: w.Header().Clone()}
		maps.Copy(c.Header(), tc.header)
		c.Header().Add("Vary", "Accept-Encoding")
		c.WriteHeader(tc.status)
		body := strings.Repeat("b", tc.body)
		_, _ = c.Write([]byte(body))
		kept, ok := c.kept(now)
		if ok != tc.want {
			t.Errorf("%s: kept %v", tc.name, ok)
		}
		if !ok {
			continue
		}
		old, answer := age(kept, now.Add(90*time.Second))
		back := httptest.NewRecorder()
		back.Header().Set("Vary", "Origin")
		writeKept(back, answer, old)
		h := back.Header()
		if back.Body.String() != body || h.Get("Age") != "90" || h.Get("Nearside-Source") != "MEMORY" || h["Date"] != nil ||
			h["Access-Control-Allow-Origin"] != nil || strings.Join(h["Vary"], ",") != "Origin,Accept-Encoding" ||
			strings.Join(h["X-A"], ",") != strings.Join(tc.header["X-A"], ",") {
			t.Errorf("%s: came back as %v, %q", tc.name, h, back.Body)
		}
	}
}
