package server

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"

	"github.com/nearside-dev/nearside/internal/requestid"
)

// verdict is what the beginning of a request is.
type verdict uint8

const (
	headOK      verdict = iota
	headPart            // more must come
	headForeign         // net/http's
)

// expressHead is the head of a request. Only what is certain to mean the same to net/http is understood.
type expressHead struct {
	size      int // bytes of the head
	bodyBytes int
	method    string
	path      []byte
	request   *http.Request // with the headers; another one after each change of them
	url       url.URL
	given     requestid.Given // what request's headers say of its name

	lines, known []byte // the present headers as they came, and those that request has
}

const expressVersion = " HTTP/1.1"

// expressMethods are those that are understood.
var expressMethods = [...]string{http.MethodPost, http.MethodGet}

// cutMethod cuts off the method and the space behind it. ok is false where it is another one; "" is one of which more must come.
func cutMethod(buf []byte) (method string, ok bool) {
	for _, m := range expressMethods {
		switch n := min(len(buf), len(m)); {
		case string(buf[:n]) != m[:n]:
		case len(buf) <= len(m):
			return "", true
		default:
			return m, buf[len(m)] == ' '
		}
	}
	return "", false
}

// parse looks at what has come of a request.
func (h *expressHead) parse(buf []byte) verdict {
	h.size, h.bodyBytes = 0, 0
	var ok bool
	if h.method, ok = cutMethod(buf); !ok {
		return headForeign
	}
	end := bytes.Index(buf[:min(len(buf), maxExpressHead)], []byte("\r\n\r\n"))
	if end < 0 {
		if len(buf) >= maxExpressHead {
			return headForeign
		}
		return headPart
	}
	line, rest, _ := bytes.Cut(buf[:end], []byte("\r\n"))
	if h.method == "" {
		return headForeign // no line of a head is as short
	}
	path, ok := bytes.CutSuffix(line[len(h.method)+1:], []byte(expressVersion))
	if !ok || !isPlainPath(path) {
		return headForeign
	}
	h.path, h.lines = path, h.lines[:0]
	host, length := false, -1
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, ok := cutLine(line)
		if !ok {
			return headForeign
		}
		switch {
		case equalFold(name, "host"):
			if host || !isPlainHost(value) {
				return headForeign
			}
			host = true
		case equalFold(name, "content-length"):
			if length >= 0 {
				return headForeign
			}
			if length = number(value); length <= 0 {
				return headForeign
			}
		case equalFold(name, "connection"):
			if !equalFold(value, "keep-alive") {
				return headForeign
			}
		case changesMeaning(name):
			return headForeign
		default:
			h.lines = append(append(h.lines, line...), '\n')
		}
	}
	if !host || length < 0 != (h.method == http.MethodGet) {
		return headForeign
	}
	length = max(length, 0)
	if h.request == nil || !bytes.Equal(h.lines, h.known) {
		h.request = &http.Request{
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: headerOf(h.lines), Body: http.NoBody,
		}
		h.known = append(h.known[:0], h.lines...)
		h.given = requestid.Read(h.request.Header)
	}
	h.request.Method, h.request.ContentLength = h.method, int64(length)
	h.size, h.bodyBytes = end+4, length
	return headOK
}

// headerOf makes headers of lines that cutLine takes.
func headerOf(lines []byte) http.Header {
	header := make(http.Header)
	for line := range bytes.Lines(lines) {
		name, value, _ := cutLine(line[:len(line)-1])
		key := http.CanonicalHeaderKey(string(name))
		header[key] = append(header[key], string(value))
	}
	return header
}

// cutLine splits a header's line.
func cutLine(line []byte) (name, value []byte, ok bool) {
	name, value, ok = bytes.Cut(line, []byte(":"))
	if !ok || len(name) == 0 {
		return nil, nil, false
	}
	for _, b := range name {
		if !isLetterOrDigit(b) && b != '-' {
			return nil, nil, false
		}
	}
	value = bytes.Trim(value, " \t")
	for _, b := range value {
		if b < ' ' || b > '~' {
			return nil, nil, false
		}
	}
	return name, value, true
}

// changesMeaning reports whether a header says something about the connection, or how the request is to be read or answered: a
// page of another origin needs headers in its answer.
func changesMeaning(name []byte) bool {
	switch len(name) {
	case len("te"):
		return equalFold(name, "te")
	case len("expect"):
		return equalFold(name, "expect") || equalFold(name, "origin")
	case len("upgrade"):
		return equalFold(name, "upgrade") || equalFold(name, "trailer")
	case len("keep-alive"):
		return equalFold(name, "keep-alive")
	case len("content-encoding"):
		return equalFold(name, "content-encoding") || equalFold(name, "proxy-connection")
	case len("transfer-encoding"):
		return equalFold(name, "transfer-encoding")
	default:
		return false
	}
}

// equalFold is whether b is the text, which is in lower case, but for the case of its letters.
func equalFold(b []byte, lower string) bool {
	return len(b) == len(lower) && (string(b) == lower || strings.EqualFold(string(b), lower))
}

// isPlainPath reports whether a path is one that nothing has to be done to.
func isPlainPath(path []byte) bool {
	if len(path) < 2 || path[0] != '/' {
		return false
	}
	for _, b := range path {
		if !isLetterOrDigit(b) && b != '/' && b != '.' && b != '_' {
			return false
		}
	}
	return true
}

func isPlainHost(host []byte) bool {
	for _, b := range host {
		if !isLetterOrDigit(b) && strings.IndexByte(".-_:[]", b) < 0 {
			return false
		}
	}
	return len(host) > 0
}

func isLetterOrDigit(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
}

// number returns a number of at most six digits, or -1.
func number(text []byte) int {
	if len(text) == 0 || len(text) > 6 {
		return -1
	}
	n := 0
	for _, b := range text {
		if b < '0' || b > '9' {
			return -1
		}
		n = 10*n + int(b-'0')
	}
	return n
}
