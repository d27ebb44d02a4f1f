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
	if req.Body != nil && (strings.HasPrefix(kind, "application/connect+") || strings.HasPrefix(kind, "application/grpc")) {
		req = req.Clone(req.Context()) // which is not ours to change
		req.Body = &envelopeReader{ReadCloser: req.Body}
	}
	return e.Transport.RoundTrip(req)
}

const envelopePrefix = 5 // flags, and the length of what follows

// envelopeReader reads messages with what is before them. It waits for a message's first bytes only, and then for as much of
// it as fits: who writes one part writes the other.
type envelopeReader struct {
	io.ReadCloser

	rest uint64 // of the message that was begun
}

// Read implements io.Reader.
func (r *envelopeReader) Read(b []byte) (n int, err error) {
	if r.rest == 0 {
		if len(b) < envelopePrefix {
			return 0, io.ErrShortBuffer
		}
		n, err = io.ReadFull(r.ReadCloser, b[:envelopePrefix])
		if err != nil {
			return n, err
		}
		r.rest = uint64(binary.BigEndian.Uint32(b[1:]))
	}
	m, err := io.ReadFull(r.ReadCloser, b[n:n+int(min(r.rest, uint64(len(b)-n)))])
	r.rest -= uint64(m)
	if r.rest > 0 && errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n + m, err
}
