package server

import (
	"bytes"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/nearside-dev/nearside/internal/requestid"
)

// Short ways stand before net/http. What came by net/http all the same, over HTTP/2 or TLS for one, may have them too.

var atOnce = sync.Pool{New: func() any { return new(InnerAnswer) }}

// IsPlain reports whether a request would be understood without net/http, but for its version of HTTP and its origin, for which others
// add what there is to add.
func IsPlain(r *http.Request) bool {
	if r.URL.RawQuery != "" || r.URL.RawPath != "" || !isPlainPath([]byte(r.URL.Path)) {
		return false
	}
	for name := range r.Header {
		if name != "Origin" && changesMeaning([]byte(name)) {
			return false
		}
	}
	return true
}

// AnswerAtOnce has an Express answer a plain request that came by net/http. It reports false where it was not, or not in one piece: then
// nothing was written, and what e did is done, so that this is for what has no side effects.
func AnswerAtOnce(e Express, w http.ResponseWriter, r *http.Request, body []byte) bool {
	inner, _ := atOnce.Get().(*InnerAnswer)
	defer func() {
		inner.answer.Memo = nil // it is of a connection
		atOnce.Put(inner)
	}()
	asked := ExpressAnswer{Began: time.Now()}
	if id := requestid.From(r.Context()); id != nil {
		asked.Request = *id
	}
	if !inner.Call(r.Context(), e, r, body, &asked) {
		return false
	}
	header := make(http.Header)
	for line := range bytes.Lines(inner.Head) {
		name, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(": "))
		header.Add(string(name), string(value))
	}
	for _, own := range []string{"Date", requestid.Header} { // who serves the request has written them, or will
		header.Del(own)
	}
	h := w.Header()
	header["Vary"] = append(h["Vary"], header["Vary"]...)
	maps.Copy(h, header)
	h.Set("Content-Length", strconv.Itoa(len(inner.Body)))
	w.WriteHeader(inner.Status)
	_, _ = w.Write(inner.Body) // whoever asked has gone
	return true
}
