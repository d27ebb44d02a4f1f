package httpclient

import (
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
)

// envelopes sends each message of a stream in one piece. Connect hands its clients' transport the five bytes before a message
// and the message one after the other, and HTTP/2 sends what it gets at once: two frames, two system calls, and at the other
// end two wake-ups, for a message of a few bytes.
type envelopes struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (e envelopes) RoundTrip(req *http.Request) (*http.Response, error) {
	kind := req.Header.Get("Content-Type")
	if req.Body != nil && req.ContentLength < 0 && (strings.HasPrefix(kind, "application/connect+") || strings.HasPrefix(kind, "application/grpc")) {
		req = req.Clone(req.Context()) // which is not ours to change
		req.Body = &envelopeReader{ReadCloser: req.Body}
	}
	res, err := e.Transport.RoundTrip(req)
	if err == nil {
		watched(req.Context(), res)
	}
	return res, err
}

const envelopePrefix = 5 // flags, and the length of what follows

// envelopeReader reads messages with what is before them. It waits for a message's first bytes only, and then for as much of
// it as fits: who writes one part writes the other.
type envelopeReader struct {
	io.ReadCloser

	prefix [envelopePrefix]byte
	begun  []byte // what is not read yet of prefix
	rest   uint64 // and of the message after it
}

// Read implements io.Reader.
func (r *envelopeReader) Read(b []byte) (int, error) {
	if len(r.begun) == 0 && r.rest == 0 {
		if _, err := io.ReadFull(r.ReadCloser, r.prefix[:]); err != nil {
			return 0, err
		}
		r.begun, r.rest = r.prefix[:], uint64(binary.BigEndian.Uint32(r.prefix[1:]))
	}
	n := copy(b, r.begun)
	r.begun = r.begun[n:]
	m, err := io.ReadFull(r.ReadCloser, b[n:n+int(min(r.rest, uint64(len(b)-n)))])
	r.rest -= uint64(m)
	if r.rest > 0 && errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n + m, err
}
