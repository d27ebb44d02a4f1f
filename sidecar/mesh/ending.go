package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
)

// endTime is how long the answer to a stream is awaited to come to the end of a message, once one of its caller's was refused.
const endTime = 2 * time.Second

// errRefused ends an answer because a message of its caller's was refused.
var errRefused = errors.New("a message was refused")

// ending ends the answer to a stream of messages, between two of its own, because one of its caller's is not well.
type ending struct {
	cancel func() // ends the call at its endpoint

	mu   sync.Mutex
	at   position
	wire *connect.Error // why; nil is that it goes on
	late *time.Timer
}

// refuse has the answer end. It is called once.
func (e *ending) refuse(wire *connect.Error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wire = wire
	if e.at.between() {
		e.cancel()
		return
	}
	e.late = time.AfterFunc(endTime, e.cancel)
}

// refused returns why the answer ends, or nil.
func (e *ending) refused() *connect.Error {
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wire
}

// pass returns what of a piece of the answer goes on, and whether that is all.
func (e *ending) pass(b []byte) (rest []byte, last bool) {
	if e == nil {
		return b, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for n < len(b) && (e.wire == nil || !e.at.between()) {
		n += e.at.advance(b[n:])
	}
	return b[:n], e.wire != nil && e.at.between()
}

// between reports whether the answer is between two messages, where it can end.
func (e *ending) between() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.at.between()
}

// never says that the answer has no place where it could end.
func (e *ending) never() {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at.left = math.MaxUint32
}

func (e *ending) stop() {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.late != nil {
		e.late.Stop()
	}
}

// The flag of an envelope of Connect that is the last.
const flagEnd = 2

// position is a place in a body of envelopes.
type position struct {
	head [envelopeHead]byte
	n    int    // bytes of head that are there
	left uint32 // of the message
	end  bool   // the last envelope, which is no message, has begun
}

// between reports whether no envelope has begun that has not ended.
func (p *position) between() bool { return p.n == 0 && p.left == 0 }

// advance goes on by at least a byte of b, and not beyond the end of an envelope.
func (p *position) advance(b []byte) int {
	if p.left > 0 {
		n := min(uint64(p.left), uint64(len(b)))
		p.left -= uint32(n) // it is at most that
		return int(n)       // and that of len
	}
	n := copy(p.head[p.n:], b)
	if p.n += n; p.n == envelopeHead {
		p.n, p.left, p.end = 0, be32(p.head[1:]), p.head[0]&(flagTrailers|flagEnd) != 0
	}
	return n
}

func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }

// endAnswer writes the end of an answer that had begun, in the words of its protocol, unless the service was the first to end it.
func (c *passage) endAnswer(w http.ResponseWriter) {
	if c.ending.at.end {
		return
	}
	kept := &keptAnswer{header: make(http.Header), status: http.StatusOK}
	c.router.refuse(kept, c.req, c.ending.refused())
	kind := c.req.Header.Get("Content-Type")
	switch {
	case !strings.HasPrefix(kind, typeGRPC):
		_, _ = w.Write(kept.body) // an envelope; the caller may have gone
	case strings.HasPrefix(kind, typeWeb):
		var lines []byte
		for name, values := range kept.header {
			if lower := strings.ToLower(name); strings.HasPrefix(lower, "grpc-status") || lower == "grpc-message" {
				lines = fmt.Appendf(lines, "%s: %s\r\n", lower, values[0])
			}
		}
		head := binary.BigEndian.AppendUint32([]byte{flagTrailers}, uint32(len(lines))) // of an error of ours
		_, _ = w.Write(slices.Concat(head, lines))
	default:
		for name, values := range kept.header {
			if strings.HasPrefix(name, "Grpc-Status") || name == "Grpc-Message" {
				w.Header()[http.TrailerPrefix+name] = values
			}
		}
	}
}
