package server

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// restBytes is how large a body may be of which the rest is read when its handler has answered without.
	restBytes = 256 << 10
	// restTime is how long that is waited for.
	restTime = time.Second
)

// minBodyRate is how fast a body must come once its first time is over, in bytes a second.
const minBodyRate = 32 << 10

// body is a request's: it ends with a typed error where it is too large, or comes too slowly.
type body struct {
	io.ReadCloser

	gate    *gate
	control *http.ResponseController
	limit   int64 // 0 for none
	begun   time.Time
	n       int64
	extend  int64 // where more time is given
	relaxed bool  // it may take any time
	timed   bool  // a deadline is set

	// Who passes a request on may still read of it when its handler has returned. The connection has no deadlines for it then, and
	// asking for some is a panic with HTTP/2.
	mu    sync.Mutex
	ended bool

	begins atomic.Bool // somebody reads it
	read   atomic.Bool // all of it was
}

func newBody(g *gate, w http.ResponseWriter, r io.ReadCloser, limit int64) *body {
	if limit > 0 {
		r = http.MaxBytesReader(w, r, limit)
	}
	return &body{ReadCloser: r, gate: g, control: http.NewResponseController(w), limit: limit}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.begins.Store(true)
	if !b.relaxed && b.n >= b.extend {
		b.giveTime()
	}
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	if err == nil {
		return n, nil
	}
	b.read.CompareAndSwap(false, err == io.EOF)
	if b.timed && err == io.EOF {
		// Or the wait for the caller's end, which net/http does by reading, would end the request.
		b.setDeadline(time.Time{})
		b.timed = false
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		b.gate.count(limitBodyBytes)
		return n, onWire(tooLarge(b.limit))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		b.gate.count(limitBodyTime)
		return n, onWire(tooSlow(b.n, time.Since(b.begun)))
	}
	return n, err
}

// giveTime lets the next megabyte come at the lowest rate.
func (b *body) giveTime() {
	if b.begun.IsZero() {
		b.begun = time.Now()
	}
	deadline := b.begun.Add(b.gate.bodyTime + time.Duration(b.n)*time.Second/minBodyRate)
	b.timed = b.setDeadline(deadline)
	b.extend = b.n + 1<<20
}

// setDeadline reports whether the request goes on and has a deadline of its own.
func (b *body) setDeadline(at time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.ended && b.control.SetReadDeadline(at) == nil // the connection has gone if this fails
}

// skip reads a short body that nobody has read anything of. A caller with HTTP/2 that has not sent all of it when the answer is there is
// told to send no more, and curl for one takes that for a failure, and the answer for none. HTTP/1 reads on by itself.
func (b *body) skip(length int64) {
	if length <= 0 || length > restBytes || b.begins.Load() || !b.setDeadline(time.Now().Add(restTime)) {
		return
	}
	_, _ = io.Copy(io.Discard, b.ReadCloser) // it has an end, and a deadline
}

// end is called when the request's handler has returned.
func (b *body) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}

// Relaxer is a request's body that can be let take any time. Who wraps one passes that on.
type Relaxer interface{ Relax() }

// Relax implements Relaxer.
func (b *body) Relax() { b.relaxed = true }

// AnyTime lets next's requests and answers take any time: they are streams that live long and look after their time
// themselves.
func AnyTime(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b, ok := r.Body.(*body); ok {
			b.relaxed = true
		}
		if p, ok := w.(*pacedWriter); ok {
			w = p.ResponseWriter
		}
		next.ServeHTTP(w, r)
	})
}

// pacedWriter gives each write of an HTTP/2 stream so much time for the caller to take something in. Of HTTP/1 the connection
// does that.
type pacedWriter struct {
	http.ResponseWriter

	control *http.ResponseController
	stall   time.Duration
}

// Write implements http.ResponseWriter.
func (w *pacedWriter) Write(p []byte) (n int, err error) {
	for {
		if err := w.control.SetWriteDeadline(time.Now().Add(w.stall)); err != nil {
			return n, err
		}
		m, err := w.ResponseWriter.Write(p[n:min(len(p), n+pieceBytes)])
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

// Flush implements http.Flusher.
func (w *pacedWriter) Flush() { _ = w.control.Flush() } // the next write fails too

// Unwrap lets http.ResponseController find the writer.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
