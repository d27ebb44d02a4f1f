package server

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
)

// InnerAnswer is the answer to a call that an Express makes of another one, in the same process: a doorway of another kind answers
// what is asked of it with calls like any others. It may be used again, by one call at a time.
type InnerAnswer struct {
	// Status is that of HTTP. Head are the lines of the answer's head, its body follows; both are valid until the next call.
	Status     int
	Head, Body []byte

	answer ExpressAnswer
}

// errInner ends an answer that is sent in pieces: it is too large to be one here.
var errInner = errors.New("the answer is too large")

// refusing is where answers in pieces go.
type refusing struct{}

// Write implements io.Writer.
func (refusing) Write([]byte) (int, error) { return 0, errInner }

// Call has a request answered to answer another one, whose name and beginning it has. It reports false where it was not, or not in one piece: then somebody else has
// to be asked, and what e did is done, so that this is for what has no side effects.
func (i *InnerAnswer) Call(ctx context.Context, e Express, r *http.Request, body []byte, outer *ExpressAnswer) bool {
	i.Status, i.Head, i.Body = 0, nil, nil
	i.answer.Bytes, i.answer.Extra, i.answer.conn, i.answer.closing = i.answer.Bytes[:0], nil, refusing{}, false
	i.answer.Began, i.answer.Request, i.answer.Caller = outer.Began, outer.Request, outer.Caller
	defer func() { outer.Caller, i.answer.Caller = i.answer.Caller, nil }()
	if !e.ServeExpress(ctx, r, body, &i.answer) || i.answer.closing {
		return false
	}
	head, content, ok := bytes.Cut(i.answer.Bytes, []byte("\r\n\r\n"))
	line, lines, _ := bytes.Cut(head, []byte("\r\n"))
	if !ok || len(line) < len("HTTP/1.1 200") {
		return false
	}
	status, err := strconv.Atoi(string(line[len("HTTP/1.1 "):len("HTTP/1.1 200")]))
	if err != nil {
		return false
	}
	if cap(i.answer.Bytes) > maxExpressKept {
		i.answer.Bytes = nil // what it has lives on in content
	}
	i.Status, i.Head, i.Body = status, lines, content
	return true
}

// Line returns the value of a header of the answer, by its canonical name; of several the first, and nil where there is none.
func (i *InnerAnswer) Line(name string) []byte {
	for rest := i.Head; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		if len(line) > len(name)+1 && line[len(name)] == ':' && string(line[:len(name)]) == name {
			return bytes.TrimLeft(line[len(name)+1:], " ")
		}
	}
	return nil
}

// innerMemo is the request of the calls that whoever answers on a connection makes of another: its headers seldom change.
type innerMemo struct {
	owner any
	of    *http.Request
	inner http.Request
	url   url.URL
}

// InnerRequest returns the request of a call that is made to answer r: POST, of a procedure and a length, with the headers that header
// makes of r's, which is called once for an owner as long as a connection's headers stay the same. It is valid until the next call.
func (a *ExpressAnswer) InnerRequest(owner any, r *http.Request, procedure string, length int, header func(http.Header) http.Header) *http.Request {
	m, ok := a.Memo.(*innerMemo)
	if !ok || m.owner != owner || m.of != r {
		m = &innerMemo{owner: owner, of: r}
		m.inner = http.Request{
			Method: http.MethodPost, URL: &m.url, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header(r.Header), Body: http.NoBody,
			RemoteAddr: r.RemoteAddr,
		}
		a.Memo = m
	}
	m.url.Path, m.inner.ContentLength = procedure, int64(length)
	return &m.inner
}
