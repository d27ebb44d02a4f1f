package mesh

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// What is kept of an answer: when it was made, its trailers with their length before them, the lines of its head, an empty line, and
// its body as it came.
const keptHead = 8 + 4

// keptReply is an answer that is kept, taken apart.
type keptReply struct {
	trailers, head []byte // lines
	body           []byte
}

// readKept returns how old what is kept is, and what it says.
func readKept(b []byte, now time.Time) (time.Duration, keptReply) {
	old := now.Sub(time.Unix(0, int64(binary.BigEndian.Uint64(b)))) // as it was written
	size := binary.BigEndian.Uint32(b[8:keptHead])
	k := keptReply{trailers: b[keptHead : keptHead+size]}
	b = b[keptHead+size:]
	if bytes.HasPrefix(b, []byte("\r\n")) {
		k.body = b[2:]
		return old, k
	}
	lines, body, _ := bytes.Cut(b, []byte("\r\n\r\n"))
	k.head, k.body = append(slices.Clip(lines), "\r\n"...), body
	return old, k
}

// write writes an answer that is so old.
func (k keptReply) write(w http.ResponseWriter, old time.Duration) {
	header := w.Header()
	said := headerLines(appendOwnLines(slices.Clip(k.head), old))
	for name, values := range said {
		if name == "Vary" || header[name] == nil { // what the gateway says stays
			header[name] = append(header[name], values...)
		}
	}
	if len(k.trailers) == 0 {
		header["Content-Length"] = []string{strconv.Itoa(len(k.body))}
	}
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(k.body) // as the service wrote it; whoever asked may have gone
	for name, values := range headerLines(k.trailers) {
		header[http.TrailerPrefix+name] = values
	}
}

func headerLines(lines []byte) http.Header {
	out := make(http.Header)
	for line := range bytes.SplitSeq(bytes.TrimSuffix(lines, []byte("\r\n")), []byte("\r\n")) {
		if name, v, ok := strings.Cut(string(line), ": "); ok {
			out[name] = append(out[name], v)
		}
	}
	return out
}

// appendOwnLines appends the headers of an answer from memory that say so.
func appendOwnLines(b []byte, old time.Duration) []byte {
	b = append(append(b, http.CanonicalHeaderKey(rpcheader.Source)...), ": MEMORY\r\nAge: "...)
	return append(strconv.AppendInt(b, int64(max(old, 0)/time.Second), 10), "\r\n"...)
}

// copying passes an answer on and copies it as long as it may be kept.
type copying struct {
	http.ResponseWriter

	framing framing     // of the request
	public  bool        // whoever asks is given it
	before  http.Header // what the gateway had said of the answer
	head    http.Header // as it was written: whoever takes it may make it something else
	status  int
	body    []byte
	large   bool
}

// WriteHeader implements http.ResponseWriter.
func (c *copying) WriteHeader(status int) {
	c.status, c.head = status, c.Header().Clone()
	c.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (c *copying) Write(b []byte) (int, error) {
	if c.large = c.large || len(c.body)+len(b) > maxKeptAnswer; !c.large {
		c.body = append(c.body, b...)
	}
	return c.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController find the writer.
func (c *copying) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// notKept are the headers of an answer that are of one call.
var notKept = map[string]bool{
	"Date": true, "Content-Length": true, "Age": true, "Trailer": true, http.CanonicalHeaderKey(rpcheader.Source): true,
	requestid.Header: true,
}

// statusHeader is where gRPC says whether a call succeeded.
const statusHeader = "Grpc-Status"

// kept returns what is to be kept of an answer that is whole; ok is false where it is none to keep.
func (c *copying) kept(now time.Time) (out []byte, ok bool) {
	if c.status != http.StatusOK || c.large {
		return nil, false
	}
	var head, trailers []byte
	status := ""
	for name, values := range c.Header() {
		if trailer, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			if trailers = appendLines(trailers, trailer, values); trailer == statusHeader && len(values) == 1 {
				status = values[0]
			}
		}
	}
	for name, values := range c.head {
		switch {
		case strings.HasPrefix(name, http.TrailerPrefix):
			continue
		case name == "Set-Cookie", name == statusHeader: // the latter is the answer of gRPC that has an error and nothing else
			return nil, false
		case name == "Cache-Control" && forbids(values):
			return nil, false
		case name == "Vary":
			if values = values[min(len(c.before[name]), len(values)):]; c.varies(values) {
				return nil, false
			}
		case notKept[name], c.before[name] != nil:
			continue
		}
		head = appendLines(head, name, values)
	}
	if !c.succeeded(status, len(trailers) > 0) {
		return nil, false
	}
	out = binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano())) // readKept makes it what it was
	out = binary.BigEndian.AppendUint32(out, uint32(len(trailers)))  // of headers, which are bounded
	out = append(append(append(append(out, trailers...), head...), "\r\n"...), c.body...)
	return out, len(out) <= maxKeptAnswer
}

func appendLines(b []byte, name string, values []string) []byte {
	for _, v := range values {
		b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
	}
	return b
}

// counted are the headers of a request by which an answer may vary that is kept: they are of its key, or of nothing that passes back.
var counted = map[string]bool{"accept-encoding": true, "grpc-accept-encoding": true, "content-type": true, "origin": true, "cookie": true}

// varies reports whether an answer depends on more of its request than its key has.
func (c *copying) varies(lines []string) bool {
	for name := range strings.SplitSeq(strings.ToLower(strings.Join(lines, ",")), ",") {
		name = strings.TrimSpace(name)
		if name != "" && !counted[name] && (c.public || name != "authorization") {
			return true
		}
	}
	return false
}

// succeeded reports whether the answer is one message and says, in the words of its protocol, that this is all: status is that of
// the trailers.
func (c *copying) succeeded(status string, trailers bool) bool {
	if c.framing == framingConnect {
		return !trailers // they are headers
	}
	if f, _ := framingOf(one(c.head, "Content-Type")); f != c.framing {
		return false
	}
	body := c.body
	if c.framing == framingText {
		var ok bool
		if body, ok = decodeText(body); !ok {
			return false
		}
	}
	flags, _, rest, ok := cutEnvelope(body)
	if !ok || flags&^flagCompressed != 0 {
		return false
	}
	if c.framing == framingGRPC {
		return len(rest) == 0 && status == "0"
	}
	flags, said, rest, ok := cutEnvelope(rest)
	if ok && flags == flagTrailers|flagCompressed {
		flags = flagTrailers
		said, ok = inflate(one(c.head, "Grpc-Encoding"), said)
	}
	return ok && flags == flagTrailers && len(rest) == 0 && !trailers && webStatus(said) == "0"
}

// webStatus returns the status in the trailers of gRPC-Web, which are lines as of a head.
func webStatus(lines []byte) string {
	status := ""
	for line := range bytes.Lines(lines) {
		name, v, ok := bytes.Cut(line, []byte(":"))
		if ok && strings.EqualFold(string(name), statusHeader) {
			if status != "" {
				return "" // which one would count?
			}
			status = string(bytes.TrimSpace(v))
		}
	}
	return status
}

func forbids(values []string) bool {
	text := strings.ToLower(strings.Join(values, ","))
	return strings.Contains(text, "no-store") || strings.Contains(text, "private")
}
