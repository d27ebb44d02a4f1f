package server

import (
	"net/http"
	"time"
)

// AllowSilence is for streams that may have nothing to say for long. Without it an HTTP/2 stream ends when nothing was written
// for Config.StallTimeout; with it, as of HTTP/1, only when what was written is not taken in for so long.
func AllowSilence(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 {
			w = &quietWriter{ResponseWriter: w, control: http.NewResponseController(w)}
		}
		next.ServeHTTP(w, r)
	})
}

// quietWriter takes back the deadline of a write that is done.
type quietWriter struct {
	http.ResponseWriter

	control *http.ResponseController
}

// Flush implements http.Flusher.
func (w *quietWriter) Flush() {
	if w.control.Flush() == nil {
		_ = w.control.SetWriteDeadline(time.Time{}) // the stream has ended then
	}
}

// Unwrap lets http.ResponseController find the writer.
func (w *quietWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
