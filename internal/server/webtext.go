package server

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"connectrpc.com/connect"
)

// gRPC-Web has a second form for clients that can neither send nor read bytes: what is in the bodies is base64. It is taken off a
// request before anything looks at it, and put on its answer, so that to all else there is one gRPC-Web.
const (
	webType  = "application/grpc-web"
	textType = "application/grpc-web-text"

	textBytes = 3 << 10 // that are encoded at a time; a multiple of 3
)

// isWebText reports whether a request is gRPC-Web in base64.
func isWebText(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), textType)
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// untext returns a request of base64 as one of bytes, and what writes its answer, which is to be finished.
func untext(w http.ResponseWriter, r *http.Request) (*textWriter, *http.Request) {
	r = r.WithContext(r.Context())
	r.Header = r.Header.Clone()
	r.Header.Set("Content-Type", webType+strings.TrimPrefix(r.Header.Get("Content-Type"), textType))
	r.Header.Del("Content-Length")
	r.Header.Del("Accept") // the form is that of the request
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		r.Body, r.ContentLength = &textReader{ReadCloser: r.Body}, -1
	}
	return &textWriter{ResponseWriter: w, control: http.NewResponseController(w)}, r
}

var errNotText = connect.NewError(connect.CodeInvalidArgument, errors.New("the body is not base64"))

// textReader reads what a body of base64 has in it. There may be padding wherever its sender had no more to say for a while.
type textReader struct {
	io.ReadCloser

	text  [4 * textBytes / 3]byte
	n     int // bytes of text that are no whole group yet
	bytes [textBytes]byte
	out   []byte // of bytes, what was not read
	err   error
}

// Read implements io.Reader.
func (t *textReader) Read(p []byte) (int, error) {
	for len(t.out) == 0 {
		if t.err != nil {
			return 0, t.err
		}
		n, err := t.ReadCloser.Read(t.text[t.n:])
		n += t.n
		whole := n - n%4
		out, ok := decodeText(t.bytes[:0], t.text[:whole])
		t.out, t.n = out, copy(t.text[:], t.text[whole:n])
		switch {
		case !ok, err == io.EOF && t.n > 0:
			t.err = fmt.Errorf("read request: %w", errNotText)
		case err != nil:
			t.err = err
		}
	}
	n := copy(p, t.out)
	t.out = t.out[n:]
	return n, nil
}

// decodeText appends to out, which has room, what whole groups of base64 stand for.
func decodeText(out, text []byte) ([]byte, bool) {
	if bytes.ContainsAny(text, "\r\n") {
		return out, false // the package would pass over them
	}
	for len(text) > 0 {
		end := len(text)
		if pad := bytes.IndexByte(text, '='); pad >= 0 {
			end = pad - pad%4 + 4
		}
		n, err := base64.StdEncoding.Decode(out[len(out):cap(out)], text[:end])
		if err != nil {
			return out, false
		}
		out, text = out[:len(out)+n], text[end:]
	}
	return out, true
}

// textWriter writes an answer of gRPC-Web as base64, and any other one as it is.
type textWriter struct {
	http.ResponseWriter

	control *http.ResponseController
	began   bool
	text    bool
	rest    [3]byte // of which n are no whole group yet
	n       int
}

// WriteHeader implements http.ResponseWriter.
func (t *textWriter) WriteHeader(status int) {
	if status >= http.StatusOK && !t.began {
		t.began = true
		h := t.Header()
		if kind, ok := strings.CutPrefix(h.Get("Content-Type"), webType); ok {
			h.Set("Content-Type", textType+kind)
			h.Del("Content-Length")
			t.text = true
		}
	}
	t.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (t *textWriter) Write(p []byte) (int, error) {
	if !t.began {
		t.WriteHeader(http.StatusOK)
	}
	if !t.text {
		return t.ResponseWriter.Write(p)
	}
	written := 0
	if t.n > 0 {
		written = copy(t.rest[t.n:], p)
		if t.n += written; t.n < len(t.rest) {
			return written, nil
		}
		t.n = 0
		if err := t.encode(t.rest[:]); err != nil {
			return 0, err
		}
	}
	for left := p[written:]; len(left) > 0; left = p[written:] {
		whole := min(len(left)-len(left)%3, textBytes)
		if whole == 0 {
			t.n = copy(t.rest[:], left)
			break
		}
		if err := t.encode(left[:whole]); err != nil {
			return written, err
		}
		written += whole
	}
	return len(p), nil
}

func (t *textWriter) encode(p []byte) error {
	var text [4 * textBytes / 3]byte
	base64.StdEncoding.Encode(text[:], p)
	_, err := t.ResponseWriter.Write(text[:base64.StdEncoding.EncodedLen(len(p))])
	return err
}

// finish writes what is no whole group, with padding.
func (t *textWriter) finish() error {
	n := t.n
	t.n = 0
	if n == 0 {
		return nil
	}
	return t.encode(t.rest[:n])
}

// FlushError is what http.ResponseController looks for. What was written can be decoded then.
func (t *textWriter) FlushError() error {
	if !t.began {
		t.WriteHeader(http.StatusOK)
	}
	if err := t.finish(); err != nil {
		return err
	}
	return t.control.Flush()
}

// Flush implements http.Flusher.
func (t *textWriter) Flush() { _ = t.FlushError() } // the next write fails too

// Unwrap lets http.ResponseController find the writer.
func (t *textWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }
