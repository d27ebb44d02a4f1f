package requestid

import (
	"context"
	"encoding/hex"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

var (
	drawn     = regexp.MustCompile(`^[0-9a-f]{32}$`)
	writtenAs = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]$`)
)

func TestID(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"7f3a", "7f3a"}, {"Root.1-2_3~4:5", "Root.1-2_3~4:5"}, {strings.Repeat("a", MaxBytes), strings.Repeat("a", MaxBytes)},
		{"", ""}, {strings.Repeat("a", MaxBytes+1), ""}, {"a b", ""}, {"a\n", ""}, {"a;b", ""}, {`a"`, ""}, {"ä", ""}, {"a\x00", ""}, {"<b>", ""},
	} {
		id := Of(c.text, "").New()
		if got := id.String(); c.want != "" && got != c.want || c.want == "" && !drawn.MatchString(got) {
			t.Errorf("%q: %q", c.text, got)
		}
		if got := string(id.Append([]byte("x"))); got != "x"+id.String() {
			t.Errorf("%q: appended %q", c.text, got)
		}
	}
	h := http.Header{Header: {"one", "two"}}
	if id := Read(h).New(); !drawn.MatchString(id.String()) {
		t.Errorf("of two lines: %s", id.String())
	}
}

func TestParent(t *testing.T) {
	const trace = "0af7651916cd43dd8448eb211c80319c"
	for _, c := range []struct {
		text, flags string // "" is not to be followed
	}{
		{parent, "01"},
		{"00-" + trace + "-b7ad6b7169203331-00", "00"},
		{"00-" + trace + "-b7ad6b7169203331-ff", "03"}, // what is not known goes no further
		{"cc-" + trace + "-b7ad6b7169203331-01", "01"},
		{"cc-" + trace + "-b7ad6b7169203331-01-what-comes-later", "01"},
		{"", ""},
		{"00-" + trace + "-b7ad6b7169203331-01-more", ""},
		{"cc-" + trace + "-b7ad6b7169203331-01.more", ""},
		{"cc-" + trace + "-b7ad6b7169203331-01-" + strings.Repeat("x", MaxParentBytes), ""},
		{"ff-" + trace + "-b7ad6b7169203331-01", ""},
		{"00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01", ""},
		{"00-" + trace + "-0000000000000000-01", ""},
		{"00-" + strings.ToUpper(trace) + "-b7ad6b7169203331-01", ""},
		{"00-" + trace + "-b7ad6b7169203331-0", ""},
		{"00-" + trace + "-b7ad6b7169203331-0g", ""},
		{"00_" + trace + "-b7ad6b7169203331-01", ""},
		{"0-" + trace + "-b7ad6b7169203331-01x", ""},
	} {
		id := Of("", c.text).New()
		got := id.Parent()
		if !writtenAs.MatchString(got) {
			t.Errorf("%q: wrote %q", c.text, got)
		}
		if strings.Contains(got, "b7ad6b7169203331") {
			t.Errorf("%q: %q has the caller's span as its own", c.text, got)
		}
		switch {
		case c.flags != "" && (id.Trace() != trace || !strings.HasSuffix(got, "-"+c.flags) || !strings.Contains(got, trace)):
			t.Errorf("%q: %q", c.text, got)
		case c.flags == "" && (id.Trace() == trace || id.Trace() != id.String()):
			t.Errorf("%q: %q, the request is %s", c.text, got, id.String())
		}
	}
	if a, b := (Given{}).New(), (Given{}).New(); a.String() == b.String() || a.Parent() == b.Parent() {
		t.Error("two requests of one name")
	}
	if a, b := Of("mine", parent).New(), Of("mine", parent).New(); a.Parent() == b.Parent() {
		t.Error("two requests are one span")
	}
}

func TestSet(t *testing.T) {
	id := Of("mine", parent).New()
	for _, c := range []struct {
		name  string
		id    *ID
		state []string
		want  bool
	}{
		{"the caller's", &id, []string{"a=1", "b=2"}, true},
		{"too long", &id, []string{strings.Repeat("a", MaxStateBytes), "b"}, false},
		{"of no trace", nameOf("mine", "nonsense"), []string{"a=1"}, false},
	} {
		h := http.Header{Header: {"other"}, ParentHeader: {"other"}, StateHeader: c.state}
		c.id.Set(h)
		if (h[StateHeader] != nil) != c.want || h.Get("X-Request-Id") != "mine" || h.Get("Traceparent") != c.id.Parent() {
			t.Errorf("%s: %v", c.name, h)
		}
	}
	// Who names no request changes nothing.
	h := http.Header{ParentHeader: {"other"}}
	var none *ID
	none.Set(h)
	(&ID{}).Set(h)
	if len(h) != 1 || h.Get("Traceparent") != "other" || none.String()+none.Parent()+none.Trace()+string(none.Append(nil)) != "" || (&ID{}).String() != "" {
		t.Errorf("of no request: %v", h)
	}
}

func nameOf(id, parent string) *ID {
	n := Of(id, parent).New()
	return &n
}

func TestContext(t *testing.T) {
	if From(t.Context()) != nil {
		t.Error("there is one already")
	}
	type other struct{}
	id := Of("mine", "").New()
	ctx := With(context.WithValue(t.Context(), other{}, 1), id)
	if got := From(context.WithValue(ctx, other{}, 2)); got.String() != "mine" {
		t.Errorf("got %v", got)
	}
	if ctx.Value(other{}) != 1 {
		t.Error("the context has lost what it had")
	}
}

// A place is the trace and the span of the parent, in bytes.
func TestPlace(t *testing.T) {
	id := Of("mine", parent).New()
	place := id.Place()
	if text := hex.EncodeToString(place); len(place) != placeBytes || text[:32] != id.Trace() || !strings.Contains(id.Parent(), "-"+text[32:]+"-") {
		t.Errorf("%x of %s", place, id.Parent())
	}
	if got := TraceAt(place); got != id.Trace() {
		t.Errorf("the trace is %q", got)
	}
	for _, none := range [][]byte{nil, place[:traceBytes], append(place, 0)} {
		if got := TraceAt(none); got != "" {
			t.Errorf("%x has the trace %q", none, got)
		}
	}
	if got := (*ID)(nil).Place(); got != nil {
		t.Errorf("no request is at %x", got)
	}
}

// What each request on the shortest way costs.
func TestNothingIsAllocated(t *testing.T) {
	b := make([]byte, 0, 256)
	for _, given := range []Given{{}, Of("mine", parent), Of("", parent)} {
		if n := testing.AllocsPerRun(1000, func() {
			id := given.New()
			b = id.AppendParent(id.Append(b[:0]))
		}); n != 0 {
			t.Errorf("%+v: %v allocations", given, n)
		}
	}
}

func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	var given Given
	text := make([]byte, 0, 64)
	for b.Loop() {
		id := given.New()
		text = id.Append(text[:0])
	}
}

// FuzzRead holds that whatever a caller says, what goes on is well formed, is never longer than what is allowed, and read again is
// the same.
func FuzzRead(f *testing.F) {
	f.Add("mine", parent)
	f.Add("", "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more")
	f.Add("a\r\nSet-Cookie: x", "00-00000000000000000000000000000000-b7ad6b7169203331-01")
	f.Fuzz(func(t *testing.T, text, traceparent string) {
		g := Read(http.Header{Header: {text}, ParentHeader: {traceparent}})
		id := g.New()
		name, parent := id.String(), id.Parent()
		if !wellFormed(name) || !writtenAs.MatchString(parent) {
			t.Fatalf("%q, %q: %q, %q", text, traceparent, name, parent)
		}
		if name != text && !drawn.MatchString(name) {
			t.Fatalf("%q became %q", text, name)
		}
		again := Of(name, parent).New()
		if again.String() != name || again.Trace() != id.Trace() || again.Parent()[:35] != parent[:35] || again.Parent()[52:] != parent[52:] {
			t.Fatalf("%q, %q read again: %q, %q", name, parent, again.String(), again.Parent())
		}
		if g.continued && !strings.Contains(traceparent, id.Trace()) {
			t.Fatalf("%q: trace %s", traceparent, id.Trace())
		}
	})
}
