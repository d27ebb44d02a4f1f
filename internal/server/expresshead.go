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

	// What was understood last. Where the same comes again, but for the length of the body, it means the same.
	line               []byte // of the request, with its end: the method and the path are of this
	fields             []byte // what is behind it, with the empty line: request is of this
	lengthAt, lengthTo int    // where in fields the value of Content-Length is; both 0 where there is none
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
	begin := buf[:min(len(buf), maxExpressHead)]
	if len(h.line) == 0 || !bytes.HasPrefix(begin, h.line) {
		if v := h.parseLine(begin); v != headOK {
			return v
		}
	}
	size, length, ok := h.again(begin[len(h.line):])
	if !ok {
		var v verdict
		if size, length, v = h.parseFields(begin); v != headOK {
			return v
		}
	}
	h.request.Method, h.request.ContentLength = h.method, int64(length)
	h.size, h.bodyBytes = len(h.line)+size, length
	return headOK
}

// parseLine reads the line of the request.
func (h *expressHead) parseLine(begin []byte) verdict {
	method, ok := cutMethod(begin)
	if !ok {
		return headForeign
	}
	end := bytes.Index(begin, lineEnd)
	if end < 0 || method == "" {
		return missing(begin)
	}
	path, ok := bytes.CutSuffix(begin[len(method)+1:end], []byte(expressVersion))
	if !ok || !isPlainPath(path) {
		return headForeign
	}
	h.line, h.method = append(h.line[:0], begin[:end+len(lineEnd)]...), method
	h.path = h.line[len(method)+1:][:len(path)]
	return headOK
}

// missing is the verdict on a beginning in which the end of something is not.
func missing(begin []byte) verdict {
	if len(begin) >= maxExpressHead {
		return headForeign
	}
	return headPart
}

var (
	lineEnd = []byte("\r\n")
	headEnd = []byte("\r\n\r\n")
)

// again reports whether what is behind the request's line is what it was the last time, but for the length of the body. size is
// that of what is behind the line.
func (h *expressHead) again(rest []byte) (size, length int, ok bool) {
	sized := h.lengthTo > 0
	if h.request == nil || sized != (h.method == http.MethodPost) || !bytes.HasPrefix(rest, h.fields[:h.lengthAt]) {
		return 0, 0, false
	}
	digits := 0
	if sized {
		for digits < len(rest)-h.lengthAt && isDigit(rest[h.lengthAt+digits]) {
			digits++
		}
		if length = number(rest[h.lengthAt : h.lengthAt+digits]); length <= 0 {
			return 0, 0, false
		}
	}
	if !bytes.HasPrefix(rest[h.lengthAt+digits:], h.fields[h.lengthTo:]) {
		return 0, 0, false
	}
	return len(h.fields) - (h.lengthTo - h.lengthAt) + digits, length, true
}

// parseFields reads what is behind the request's line. size is that of what is behind the line.
func (h *expressHead) parseFields(begin []byte) (size, length int, v verdict) {
	rest := begin[len(h.line):]
	if bytes.HasPrefix(rest, lineEnd) {
		return 0, 0, headForeign // no header at all
	}
	end := bytes.Index(rest, headEnd)
	if end < 0 {
		return 0, 0, missing(begin)
	}
	header, host := make(http.Header), false
	length, lengthAt, lengthTo := -1, 0, 0
	for at := 0; at < end; {
		line, _, _ := bytes.Cut(rest[at:end], lineEnd)
		name, value, ok := cutLine(line)
		if !ok {
			return 0, 0, headForeign
		}
		switch {
		case equalFold(name, "host"):
			if host || !isPlainHost(value) {
				return 0, 0, headForeign
			}
			host = true
		case equalFold(name, "content-length"):
			if length >= 0 {
				return 0, 0, headForeign
			}
			if length = number(value); length <= 0 {
				return 0, 0, headForeign
			}
			lengthAt = at + len(name) + bytes.Index(line[len(name):], value)
			lengthTo = lengthAt + len(value)
		case equalFold(name, "connection"):
			if !equalFold(value, "keep-alive") {
				return 0, 0, headForeign
			}
		case changesMeaning(name):
			return 0, 0, headForeign
		default:
			key := http.CanonicalHeaderKey(string(name))
			header[key] = append(header[key], string(value))
		}
		at += len(line) + len(lineEnd)
	}
	if !host || length < 0 != (h.method == http.MethodGet) {
		return 0, 0, headForeign
	}
	size = end + len(headEnd)
	h.fields, h.lengthAt, h.lengthTo = append(h.fields[:0], rest[:size]...), lengthAt, lengthTo
	h.request = &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Body: http.NoBody}
	h.given = requestid.Read(header)
	return size, max(length, 0), headOK
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

func isLetterOrDigit(b byte) bool { return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || isDigit(b) }

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// number returns a number of at most six digits, or -1.
func number(text []byte) int {
	if len(text) == 0 || len(text) > 6 {
		return -1
	}
	n := 0
	for _, b := range text {
		if !isDigit(b) {
			return -1
		}
		n = 10*n + int(b-'0')
	}
	return n
}
