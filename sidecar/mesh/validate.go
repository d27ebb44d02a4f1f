package mesh

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/internal/fieldrules"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
)

// form is how the messages of a request stand in its body.
type form struct {
	codec       string // proto or json
	compression string // of the messages; "" and identity are none
	envelopes   bool   // each has one
}

var errUnsupported = errors.New("the content type is not one of Connect, gRPC or gRPC-Web with protobuf or JSON")

// formOf reads the form of a POST. What has none that is known cannot be checked.
func formOf(h http.Header) (form, error) {
	if len(h["Content-Type"]) != 1 {
		return form{}, errUnsupported
	}
	kind, parameters, err := mime.ParseMediaType(h["Content-Type"][0])
	if charset := parameters["charset"]; err != nil || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return form{}, errUnsupported
	}
	var f form
	name := "Content-Encoding"
	if rest, ok := strings.CutPrefix(kind, "application/connect+"); ok {
		f.codec, f.envelopes, name = rest, true, "Connect-Content-Encoding"
	} else {
		framing, codec := framingOf(kind)
		f.codec, f.envelopes = codec, framing != framingConnect
		if f.envelopes {
			name = "Grpc-Encoding"
		}
		if framing == framingText { // the listener has taken the base64 off
			return form{}, errUnsupported
		}
	}
	if f.codec != "proto" && f.codec != "json" {
		return form{}, errUnsupported
	}
	f.compression = strings.Join(h[name], ",")
	return f, nil
}

// validate checks what a call begins with, before anybody is asked whether it may be made: the message, but for streams of messages, which
// are checked as they come. What was read of the body can be read again.
func (r *Router) validate(req *http.Request, m *route) error {
	if req.Method == http.MethodGet {
		return m.checkQuery(req)
	}
	f, err := formOf(req.Header)
	if err != nil {
		return err
	}
	if f.envelopes {
		b := r.newCheckedBody(req, m, f)
		req.Body = b
		return b.first()
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, fieldrules.MaxBytes+1))
	if err != nil {
		return err
	}
	if len(body) > fieldrules.MaxBytes {
		return fieldrules.TooLarge(m.rules.Input())
	}
	req.Body = again{bytes.NewReader(body), req.Body}
	message, err := unpack(f.compression, body)
	if err != nil {
		return err
	}
	return m.rules.Check(req.Context(), f.codec, message)
}

// checkQuery checks a call by GET.
func (m *route) checkQuery(req *http.Request) error {
	query, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the query is malformed"))
	}
	if name := repeated(query); name != "" {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the query has %s more than once", name))
	}
	codec, message := query.Get("encoding"), []byte(query.Get("message"))
	if codec != "proto" && codec != "json" {
		return errUnsupported
	}
	if query.Get("base64") == "1" {
		if message, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(query.Get("message"), "=")); err != nil {
			return connect.NewError(connect.CodeInvalidArgument, errors.New("the query's message is not base64"))
		}
	}
	if message, err = unpack(query.Get("compression"), message); err != nil {
		return err
	}
	return m.rules.Check(req.Context(), codec, message)
}

// repeated returns a parameter of a call by GET that there is more than once, "" where there is none: which one would count?
func repeated(query url.Values) string {
	for _, name := range []string{"message", "encoding", "base64", "compression"} {
		if len(query[name]) > 1 {
			return name
		}
	}
	return ""
}

// checkShort reports whether the message of a small unary call is well. Who answers at length says what is wrong with others.
func (m *route) checkShort(ctx context.Context, h http.Header, kind string, body []byte) bool {
	if len(h["Content-Type"]) != 1 || len(h["Content-Encoding"]) > 0 {
		return false
	}
	return m.rules.Check(ctx, strings.TrimPrefix(kind, "application/"), body) == nil
}

// unpacking has the decompressors that are known, by name.
var unpacking = func() map[string]*sync.Pool {
	pools := make(map[string]*sync.Pool)
	for _, c := range server.Compressions() {
		pools[c.Name] = &sync.Pool{New: func() any { return c.Decompressor() }}
	}
	return pools
}()

// compressionError is the error of a message that cannot be looked at.
type compressionError string

// Error implements error.
func (u compressionError) Error() string { return fmt.Sprintf("unknown compression %q", string(u)) }

// unpack returns what was compressed, up to one byte more than may be checked.
func unpack(compression string, b []byte) ([]byte, error) {
	if compression == "" || compression == "identity" {
		return b, nil
	}
	pool := unpacking[compression]
	if pool == nil {
		return nil, compressionError(compression)
	}
	if len(b) == 0 {
		return b, nil // so Connect's libraries send an empty message
	}
	d := pool.Get().(connect.Decompressor)
	err := d.Reset(bytes.NewReader(b))
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(d, fieldrules.MaxBytes+1))
	}
	if err == nil {
		_ = d.Close() // all that matters was read
		pool.Put(d)   // one that has failed is not used again
		return b, nil
	}
	if _, ok := errors.AsType[*connect.Error](err); ok {
		return nil, err
	}
	return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the message is not %s: %w", compression, err))
}

// checkedBody is a body of envelopes, each of which goes on once its message was checked.
type checkedBody struct {
	io.ReadCloser

	router  *Router
	request *http.Request
	route   *route
	form    form
	buffer  bytes.Buffer // an envelope, or what was not read of it
	err     error        // behind it
	refused bool         // err is of what came, as its caller is told, and not that nothing more comes
}

func (r *Router) newCheckedBody(req *http.Request, m *route, f form) *checkedBody {
	return &checkedBody{ReadCloser: req.Body, router: r, request: req, route: m, form: f}
}

// first checks the first message. That there is none is for the service to say.
func (b *checkedBody) first() error {
	b.next()
	if errors.Is(b.err, io.EOF) {
		return nil
	}
	return b.err
}

// Relax implements server.Relaxer.
func (b *checkedBody) Relax() {
	if r, ok := b.ReadCloser.(server.Relaxer); ok {
		r.Relax()
	}
}

// Read implements io.Reader.
func (b *checkedBody) Read(p []byte) (int, error) {
	for b.buffer.Len() == 0 && b.err == nil {
		b.next()
	}
	if b.buffer.Len() == 0 {
		return 0, b.err
	}
	return b.buffer.Read(p)
}

// next reads an envelope and checks its message; none of one that is not well is kept.
func (b *checkedBody) next() {
	if b.buffer.Cap() > copyBytes {
		b.buffer = bytes.Buffer{} // most streams have small messages
	}
	b.buffer.Reset()
	if b.err = b.envelope(); b.err != nil {
		b.buffer.Reset()
	}
}

func (b *checkedBody) envelope() error {
	if err := b.read(envelopeHead); err != nil {
		return err
	}
	size := int64(be32(b.buffer.Bytes()[1:]))
	if size > fieldrules.MaxBytes {
		return b.refuse(fieldrules.TooLarge(b.route.rules.Input()))
	}
	if err := b.read(size); err != nil {
		if errors.Is(err, io.EOF) {
			err = b.refuse(errCutOff)
		}
		return err
	}
	return b.refuse(b.message())
}

// refuse notes that an error, if it is one, is of what came.
func (b *checkedBody) refuse(err error) error {
	if err == nil {
		return nil
	}
	b.refused = true
	return b.router.told(b.request, b.route, err)
}

// message checks the message of an envelope.
func (b *checkedBody) message() error {
	flags, message := b.buffer.Bytes()[0], b.buffer.Bytes()[envelopeHead:]
	switch {
	case flags&^flagCompressed != 0:
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("an envelope of the request has the flags %#x", flags))
	case flags == 0:
	case b.form.compression == "" || b.form.compression == "identity":
		return connect.NewError(connect.CodeInternal, errors.New("a message is compressed, and nothing says how"))
	default:
		var err error
		if message, err = unpack(b.form.compression, message); err != nil {
			return err
		}
	}
	return b.route.rules.Check(b.request.Context(), b.form.codec, message)
}

var errCutOff = connect.NewError(connect.CodeInvalidArgument, errors.New("the request ends within a message"))

// read reads n bytes more. io.EOF is that there are none.
func (b *checkedBody) read(n int64) error {
	got, err := io.CopyN(&b.buffer, b.ReadCloser, n)
	if errors.Is(err, io.EOF) && got > 0 {
		return b.refuse(errCutOff)
	}
	return err
}

// told is what a caller is told of a call that was not passed on because of an error. One of ours is logged.
func (r *Router) told(req *http.Request, m *route, err error) error {
	if wire, ok := errors.AsType[*connect.Error](err); ok {
		return wire
	}
	switch err := err.(type) { //nolint:errorlint // they are as they were made
	case compressionError:
		return connect.NewError(connect.CodeUnimplemented, err)
	default:
	}
	if errors.Is(err, errUnsupported) {
		return err
	}
	wire, known := rpcerr.ToConnect(err)
	if !known {
		r.logger.ErrorContext(req.Context(), "a request could not be checked", "procedure", m.procedure, "error", err)
	}
	return wire
}
