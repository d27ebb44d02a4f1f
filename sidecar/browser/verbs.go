package browser

import (
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"

	"connectrpc.com/connect"
)

const (
	// varies says by what of a request the answer to a call by GET may differ.
	varies = "Authorization, Nearside-Bookmark"
	// defaultCaching is of answers that do not say themselves how they may be kept.
	defaultCaching = "private, no-cache"
)

// serveCall adds what HTTP says of each resource to calls that are not POST, of which their handlers know GET at most: HEAD is GET
// without a body, OPTIONS says what there is, and what may be kept of an answer is said.
func serveCall(next http.Handler, w http.ResponseWriter, r *http.Request) {
	v := &verbWriter{ResponseWriter: w, options: r.Method == http.MethodOptions}
	switch r.Method {
	case http.MethodHead:
		r = r.WithContext(r.Context())
		r.Method = http.MethodGet // net/http leaves the body out
		fallthrough
	case http.MethodGet:
		v.get = true
		w.Header().Add("Vary", varies)
		if !readable(r) {
			// Connect's library has no code for it, as if it were the server's fault.
			_ = connect.NewErrorWriter().Write(v, r, connect.NewError(connect.CodeInvalidArgument, errors.New("message: is not base64 for URLs")))
			return
		}
	}
	next.ServeHTTP(v, r)
}

// readable reports whether the message of a call by GET is in base64, if it says so.
func readable(r *http.Request) bool {
	if !strings.Contains(r.URL.RawQuery, "base64=1") {
		return true
	}
	_, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(r.URL.Query().Get("message"), "="))
	return err == nil
}

// verbWriter completes the head of an answer.
type verbWriter struct {
	http.ResponseWriter

	get, options bool
	silent       bool // the body is not for the caller
	began        bool
}

// WriteHeader implements http.ResponseWriter.
func (v *verbWriter) WriteHeader(status int) {
	if status < http.StatusOK || v.began {
		v.ResponseWriter.WriteHeader(status)
		return
	}
	v.began = true
	header := v.Header()
	if status == http.StatusMethodNotAllowed {
		header.Set("Allow", allowed(header.Values("Allow")))
		if v.options {
			status, v.silent = http.StatusNoContent, true
			header.Del("Content-Type")
			header.Del("Content-Length")
		}
	}
	if v.get && header.Get("Cache-Control") == "" {
		header.Set("Cache-Control", defaultCaching)
	}
	v.ResponseWriter.WriteHeader(status)
}

// allowed returns what a handler allows, and what is added here.
func allowed(lists []string) string {
	var verbs []string
	for verb := range strings.SplitSeq(strings.Join(lists, ","), ",") {
		if verb = strings.TrimSpace(verb); verb != "" && verb != http.MethodHead && verb != http.MethodOptions {
			verbs = append(verbs, verb)
		}
	}
	slices.Sort(verbs)
	if slices.Contains(verbs, http.MethodGet) {
		verbs = slices.Insert(verbs, slices.Index(verbs, http.MethodGet)+1, http.MethodHead)
	}
	return strings.Join(append(verbs, http.MethodOptions), ", ")
}

// Write implements http.ResponseWriter.
func (v *verbWriter) Write(b []byte) (int, error) {
	if !v.began {
		v.WriteHeader(http.StatusOK)
	}
	if v.silent {
		return len(b), nil
	}
	return v.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (v *verbWriter) Flush() {
	if !v.began {
		v.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(v.ResponseWriter).Flush() // the next write fails too
}

// Unwrap lets http.ResponseController find the writer.
func (v *verbWriter) Unwrap() http.ResponseWriter { return v.ResponseWriter }
