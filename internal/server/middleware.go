package server

import (
	"log/slog"
	"net/http"
	"runtime/debug"

	"github.com/nearside-dev/nearside/internal/requestid"
)

// recoverPanics logs what escaped a handler whole, with the request's id, and cuts the connection, so that nobody takes what was
// written for all of the answer.
func recoverPanics(next http.Handler, logger *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it so too
				logger.ErrorContext(r.Context(), "panic in a handler", slog.String("request_id", w.Header().Get(requestid.Header)),
					slog.String("path", r.URL.Path), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			}
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(w, r)
	})
}
