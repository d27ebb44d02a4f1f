package server

import (
	"context"
	"net/http"
)

type togetherKey struct{}

// togetherWriter is of a stream whose handler may have several messages sent together. One goroutine writes a stream.
type togetherWriter struct {
	http.ResponseWriter

	control *http.ResponseController
	held    bool
	dirty   bool // a flush was left out
}

// Flush implements http.Flusher.
func (w *togetherWriter) Flush() {
	if w.held {
		w.dirty = true
		return
	}
	_ = w.control.Flush() // the next write fails too
}

// Unwrap lets http.ResponseController find the writer.
func (w *togetherWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// AllowTogether lets next's handlers call Together: a stream's messages are else sent one by one, each with a system call.
func AllowTogether(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t := &togetherWriter{ResponseWriter: w, control: http.NewResponseController(w)}
		next.ServeHTTP(t, r.WithContext(context.WithValue(r.Context(), togetherKey{}, t)))
	})
}

// Together has the messages that a stream's handler sends from now on wait for each other, as far as there is room for them, until
// it calls send. In a context that is none of AllowTogether's it does nothing.
func Together(ctx context.Context) (send func()) {
	w, ok := ctx.Value(togetherKey{}).(*togetherWriter)
	if !ok {
		return func() {}
	}
	w.held = true
	return func() {
		w.held = false
		if w.dirty {
			w.dirty = false
			w.Flush()
		}
	}
}
