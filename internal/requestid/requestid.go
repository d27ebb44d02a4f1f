package requestid

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"

	"github.com/nearside-dev/nearside/internal/rpcheader"
)

const (
	// MaxBytes is how long a caller's id may be: shorter than any caller's credential, so that one in its place is not logged.
	MaxBytes = 64
	// MaxParentBytes is how long a caller's traceparent may be: one of a later version of the standard may have more than 55 bytes.
	MaxParentBytes = 256
	// MaxStateBytes is how long a caller's tracestate may be, all its lines together: longer ones go no further.
	MaxStateBytes = 512

	traceBytes  = 16
	parentBytes = 55 // of version 00, which is the one that is written
	knownFlags  = 3  // sampled, random
)

// Headers in canonical form.
var (
	Header       = http.CanonicalHeaderKey(rpcheader.RequestID)
	ParentHeader = http.CanonicalHeaderKey(rpcheader.TraceParent)
	StateHeader  = http.CanonicalHeaderKey(rpcheader.TraceState)
)

// ID names a request. The zero ID names none, as nil does.
type ID struct {
	text      string // as the caller says it; "" is number
	number    [traceBytes]byte
	trace     [traceBytes]byte
	span      [8]byte
	flags     byte
	continued bool // the trace is the caller's
	drawn     bool
}

// Given is what a caller says of a request. The zero one is nothing.
type Given struct {
	text      string
	trace     [traceBytes]byte
	flags     byte
	continued bool
}

// Read reads what the headers of a request say. It keeps their texts.
func Read(h http.Header) Given {
	return Of(only(h[Header]), only(h[ParentHeader]))
}

// only returns the one line of a header: of several nobody knows which one counts.
func only(lines []string) string {
	if len(lines) != 1 {
		return ""
	}
	return lines[0]
}

// Of is Read of the values of the headers; "" is that there is none.
func Of(id, parent string) Given {
	var g Given
	if wellFormed(id) {
		g.text = id
	}
	g.trace, g.flags, g.continued = parseParent(parent)
	return g
}

// wellFormed reports whether a text can be an id: in a log, a header or a query it is what it is, whoever reads it.
func wellFormed(id string) bool {
	if id == "" || len(id) > MaxBytes {
		return false
	}
	for i := range len(id) {
		switch b := id[i]; {
		case '0' <= b && b <= '9', 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z':
		case b == '-', b == '_', b == '.', b == '~', b == ':':
		default:
			return false
		}
	}
	return true
}

// parseParent reads a traceparent. Of a version that is not known only what version 00 has is read, as the standard says.
func parseParent(text string) (trace [traceBytes]byte, flags byte, ok bool) {
	if len(text) < parentBytes || len(text) > MaxParentBytes || text[2] != '-' || text[35] != '-' || text[52] != '-' {
		return trace, 0, false
	}
	var version, last [1]byte
	var span [8]byte
	var found [traceBytes]byte
	switch {
	case !parseHex(version[:], text[:2]) || !parseHex(found[:], text[3:35]) || !parseHex(span[:], text[36:52]) || !parseHex(last[:], text[53:55]):
		return trace, 0, false
	case version[0] == 0xff, version[0] == 0 && len(text) != parentBytes, len(text) > parentBytes && text[parentBytes] != '-':
		return trace, 0, false
	case found == [traceBytes]byte{}, span == [8]byte{}:
		return trace, 0, false
	}
	return found, last[0] & knownFlags, true
}

// parseHex reads hexadecimal digits in lower case.
func parseHex(to []byte, text string) bool {
	for i := range to {
		high, low := digit(text[2*i]), digit(text[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		to[i] = high<<4 | low
	}
	return true
}

func digit(b byte) byte {
	switch {
	case '0' <= b && b <= '9':
		return b - '0'
	case 'a' <= b && b <= 'f':
		return b - 'a' + 10
	default:
		return 0xff
	}
}

// New returns the name of one request. What its caller does not say is drawn: an id that nobody else has, and, where there is no
// trace, one whose number is the id's. Ids are no secrets, and whoever knows one can do nothing with it. It does not allocate.
func (g Given) New() ID {
	id := ID{text: g.text, trace: g.trace, flags: g.flags, continued: g.continued, drawn: true}
	binary.NativeEndian.PutUint64(id.span[:], max(rand.Uint64(), 1))
	if g.text == "" || !g.continued {
		binary.NativeEndian.PutUint64(id.number[:8], max(rand.Uint64(), 1))
		binary.NativeEndian.PutUint64(id.number[8:], rand.Uint64())
	}
	if !g.continued {
		id.trace = id.number
	}
	return id
}

// Append appends the id.
func (id *ID) Append(b []byte) []byte {
	if id == nil || !id.drawn {
		return b
	}
	if id.text != "" {
		return append(b, id.text...)
	}
	return hex.AppendEncode(b, id.number[:])
}

// String returns the id; "" of the name of no request.
func (id *ID) String() string {
	if id == nil {
		return ""
	}
	if id.text != "" {
		return id.text
	}
	return string(id.Append(make([]byte, 0, 2*traceBytes)))
}

// Trace returns the trace's id, 32 hexadecimal digits; "" of the name of no request.
func (id *ID) Trace() string {
	if id == nil || !id.drawn {
		return ""
	}
	return hex.EncodeToString(id.trace[:])
}

// placeBytes is the length of a place in a trace: the trace's id and the span's.
const placeBytes = traceBytes + 8

// Place returns the request's place in its trace as commit records have it, the bytes of the trace's id and of the span's; nil of the
// name of no request.
func (id *ID) Place() []byte {
	if id == nil || !id.drawn {
		return nil
	}
	return append(append(make([]byte, 0, placeBytes), id.trace[:]...), id.span[:]...)
}

// TraceAt returns the id of the trace of a place, 32 hexadecimal digits; "" of what is none.
func TraceAt(place []byte) string {
	if len(place) != placeBytes {
		return ""
	}
	return hex.EncodeToString(place[:traceBytes])
}

// AppendParent appends the traceparent of calls that are made for the request.
func (id *ID) AppendParent(b []byte) []byte {
	if id == nil || !id.drawn {
		return b
	}
	b = hex.AppendEncode(append(b, "00-"...), id.trace[:])
	b = hex.AppendEncode(append(b, '-'), id.span[:])
	return hex.AppendEncode(append(b, '-'), []byte{id.flags})
}

// Parent returns the traceparent of calls that are made for the request; "" of the name of no request.
func (id *ID) Parent() string {
	if id == nil || !id.drawn {
		return ""
	}
	return string(id.AppendParent(make([]byte, 0, parentBytes)))
}

// Set writes into the headers of a call that is made for the request whose it is, over what is there. A tracestate stays where the
// trace is the caller's and it is not too long. Of the name of no request it does nothing.
func (id *ID) Set(h http.Header) {
	if id == nil || !id.drawn {
		return
	}
	h[Header], h[ParentHeader] = []string{id.String()}, []string{id.Parent()}
	if !id.KeepsState(h[StateHeader]) {
		delete(h, StateHeader)
	}
}

// KeepsState reports whether the lines of a caller's tracestate go on.
func (id *ID) KeepsState(lines []string) bool {
	n := 0
	for _, line := range lines {
		n += len(line)
	}
	return id != nil && id.continued && n <= MaxStateBytes
}

type key struct{}

// named is a context whose request has a name: one allocation for both.
type named struct {
	context.Context //nolint:containedctx // it is a context

	id ID
}

// Value implements context.Context.
func (n *named) Value(k any) any {
	if k == (key{}) {
		return &n.id
	}
	return n.Context.Value(k)
}

// With returns a context of a request of that name.
func With(ctx context.Context, id ID) context.Context { return &named{Context: ctx, id: id} }

// From returns the name of the context's request, or nil. Nobody changes it.
func From(ctx context.Context) *ID {
	id, _ := ctx.Value(key{}).(*ID)
	return id
}
