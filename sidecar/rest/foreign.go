package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// maxErrorBytes is how large an error of a registered service may be.
const maxErrorBytes = 64 << 10

// foreignErrors makes errors of registered services Connect's, which are not: they may be those of what stands before a service, pages of a
// proxy for one.
func foreignErrors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := &foreignError{ResponseWriter: w}
		f.passage, _ = r.Context().Value(passageKey{}).(*passage)
		next.ServeHTTP(f, r)
		f.finish()
	})
}

type foreignError struct {
	http.ResponseWriter

	passage *passage
	status  int // that is no success; 0 is none
	text    []byte
}

// passage is what is known of a call besides its answer.
type passage struct {
	refused bool // the transcoder did not take the answer in, and has said why
}

type passageKey struct{}

// WriteHeader implements http.ResponseWriter.
func (f *foreignError) WriteHeader(status int) {
	if status == http.StatusOK || status < http.StatusOK || f.status != 0 {
		f.ResponseWriter.WriteHeader(status)
		return
	}
	f.status = status
}

// Write implements http.ResponseWriter.
func (f *foreignError) Write(b []byte) (int, error) {
	if f.status == 0 {
		n, err := f.ResponseWriter.Write(b)
		if err != nil && f.passage != nil {
			f.passage.refused = true
		}
		return n, err
	}
	f.text = append(f.text, b[:min(len(b), maxErrorBytes+1-len(f.text))]...)
	return len(b), nil
}

// Flush implements http.Flusher.
func (f *foreignError) Flush() {
	if f.status == 0 {
		_ = http.NewResponseController(f.ResponseWriter).Flush() // the next write fails too
	}
}

// Unwrap lets http.ResponseController find the writer.
func (f *foreignError) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// finish writes the error, if there is one.
func (f *foreignError) finish() {
	if f.status == 0 {
		return
	}
	var said struct {
		Code connect.Code `json:"code"`
	}
	header, status := f.Header(), f.status
	if len(f.text) > maxErrorBytes || json.Unmarshal(f.text, &said) != nil || said.Code == 0 {
		f.text = fmt.Appendf(nil, `{"code":%q,"message":"the service answered with the HTTP status %d"}`, rpcerr.CodeOfStatus(status), status)
		header.Del("Content-Encoding")
		if status < http.StatusBadRequest {
			status = http.StatusInternalServerError // it has no body
		}
	}
	header.Set("Content-Type", contentTypeJSON)
	header.Set("Content-Length", strconv.Itoa(len(f.text)))
	f.ResponseWriter.WriteHeader(status)
	_, _ = f.ResponseWriter.Write(f.text) // whoever asked has gone
}

// cutOff is the error of an answer that was ended before its end.
const cutOff = `{"code":14,"message":"the service ended its answer"}`

// transcode makes the call. A handler that gives an answer up has the connection cut, which is not needed where nothing was sent; the
// transcoder takes what there was of it for all, which it may look like.
func (a *answer) transcode(r *http.Request) {
	p := &passage{}
	defer func() {
		switch e := recover(); {
		case e == nil:
		case e != http.ErrAbortHandler || a.request.Context().Err() != nil: //nolint:errorlint // it is that value
			panic(e)
		case !p.refused || a.status < http.StatusBadRequest:
			a.header = make(http.Header)
			a.refuse(http.StatusServiceUnavailable, cutOff)
		}
	}()
	a.binding.transcoder.ServeHTTP(a, r.WithContext(context.WithValue(r.Context(), passageKey{}, p)))
}
