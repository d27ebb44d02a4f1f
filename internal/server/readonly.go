package server

import "net/http"

const readMethods = "GET, HEAD, OPTIONS"

// ReadOnly answers what next does to GET and HEAD, and says to all else that it is not for it.
func ReadOnly(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			next(w, r)
		case http.MethodOptions:
			w.Header().Set("Allow", readMethods)
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("Allow", readMethods)
			http.Error(w, "this can be read, and nothing else", http.StatusMethodNotAllowed)
		}
	})
}
