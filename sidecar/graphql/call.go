package graphql

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/servicedesc"
)

// callError is what became of a call that failed, as its caller gets to see it.
type callError struct {
	code       connect.Code
	message    string
	reason     string
	metadata   map[string]string
	fields     []fieldProblem
	retryAfter time.Duration
}

type fieldProblem struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// Error implements error.
func (e *callError) Error() string { return e.message }

// notPassed are the headers of a request that say something about itself, and not about what it asks for.
var notPassed = map[string]bool{
	"Accept": true, "Accept-Encoding": true, "Connection": true, "Content-Encoding": true, "Content-Length": true, "Content-Type": true,
	"Cookie": true, "Expect": true, "Keep-Alive": true, "Origin": true, "Proxy-Connection": true, "Range": true, "Referer": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

var notPassedPrefixes = []string{"Access-Control-", "Connect-", "Grpc-", "If-", "Sec-"}

// passedHeader returns the headers of a request that its calls have too.
func passedHeader(h http.Header) http.Header {
	out := make(http.Header, len(h)+4)
next:
	for name, values := range h {
		if notPassed[name] || name == bookmarkHeader || name == keyHeader {
			continue
		}
		for _, p := range notPassedPrefixes {
			if strings.HasPrefix(name, p) {
				continue next
			}
		}
		out[name] = values
	}
	return out
}

var (
	bookmarkHeader = http.CanonicalHeaderKey(rpcheader.Bookmark)
	keyHeader      = http.CanonicalHeaderKey(rpcheader.IdempotencyKey)
)

// innerRequest is a call as the gateway's other callers send it.
func (o *operation) innerRequest(ctx context.Context, m *method, contentType string, body []byte, key string) *http.Request {
	header := o.header.Clone()
	header["Content-Type"] = []string{contentType}
	header["Connect-Protocol-Version"] = []string{"1"}
	if marks := o.session.Bookmarks(); marks != "" {
		header[bookmarkHeader] = []string{marks}
	}
	if key != "" {
		header[keyHeader] = []string{key}
	}
	if ends, ok := ctx.Deadline(); ok {
		header["Connect-Timeout-Ms"] = []string{strconv.FormatInt(max(1, time.Until(ends).Milliseconds()), 10)}
	}
	r := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: m.procedure}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Host: o.request.Host, RemoteAddr: o.request.RemoteAddr,
		TLS: o.request.TLS,
	}
	return r.WithContext(ctx)
}

// call makes a call, with an idempotency key if there is one.
func (o *operation) call(ctx context.Context, m *method, req proto.Message, key string) (proto.Message, error) {
	body, err := proto.Marshal(req)
	if err != nil {
		return nil, &callError{code: connect.CodeInvalidArgument, message: "a text of the request is no UTF-8", reason: "FIELD_INVALID"}
	}
	w := &collected{header: make(http.Header)}
	if !o.serve(w, o.innerRequest(ctx, m, "application/proto", body, key)) {
		return nil, o.aborted(ctx)
	}
	o.learn(w.header)
	switch {
	case w.tooLarge:
		return nil, &callError{
			code: connect.CodeResourceExhausted, message: fmt.Sprintf("the answer of %s is larger than %d bytes", m.procedure[1:], maxCallBytes),
			reason: "RESULT_TOO_LARGE",
		}
	case w.status != 0 && w.status != http.StatusOK:
		return nil, errorOf(w.status, w.body.Bytes()).named(m.input)
	}
	res := newMessage(m.output)
	if err := proto.Unmarshal(w.body.Bytes(), res); err != nil {
		o.handler.logger.WarnContext(ctx, "answer that is no message", slog.String("procedure", m.procedure), slog.Any("error", err))
		message := "internal error"
		if id := requestid.From(ctx).String(); id != "" {
			message += " (request " + id + ")"
		}
		return nil, &callError{code: connect.CodeInternal, message: message}
	}
	return res, nil
}

// serve has the gateway answer a call. It returns false where the handler gave up, as it does when nobody waits any more.
func (o *operation) serve(w http.ResponseWriter, r *http.Request) (done bool) {
	defer func() {
		if p := recover(); p != nil {
			done = false
			if p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it so too
				o.handler.logger.ErrorContext(r.Context(), "panic in a handler",
					slog.String("path", r.URL.Path), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			}
		}
	}()
	o.handler.next.ServeHTTP(w, r)
	return true
}

// aborted is the error of a call that got no answer.
func (o *operation) aborted(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &callError{code: connect.CodeDeadlineExceeded, message: "the operation took too long"}
	}
	if ctx.Err() != nil {
		return &callError{code: connect.CodeCanceled, message: "the operation was given up"}
	}
	return &callError{code: connect.CodeUnavailable, message: "the call was ended before its answer"}
}

// errorOf reads the error of a call: JSON as Connect writes it, or whatever text stands before the calls.
func errorOf(status int, body []byte) *callError {
	var wire struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Details []struct {
			Type  string `json:"type"`
			Value string `json:"value"`
		} `json:"details"`
	}
	e := &callError{code: rpcerr.CodeOfStatus(status)}
	if json.Unmarshal(body, &wire) != nil || wire.Code == "" {
		e.message = cmp.Or(strings.TrimSpace(string(body[:min(len(body), 1024)])), fmt.Sprintf("the answer has the HTTP status %d", status))
		return e
	}
	if e.code.UnmarshalText([]byte(wire.Code)) != nil {
		e.code = rpcerr.CodeOfStatus(status)
	}
	e.message = wire.Message
	for _, d := range wire.Details {
		value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(d.Value, "="))
		if err == nil {
			e.detail(d.Type, value)
		}
	}
	return e
}

func (e *callError) detail(kind string, value []byte) {
	switch kind {
	case "google.rpc.ErrorInfo":
		var d errdetails.ErrorInfo
		if proto.Unmarshal(value, &d) == nil {
			e.reason, e.metadata = d.GetReason(), d.GetMetadata()
		}
	case "google.rpc.BadRequest":
		var d errdetails.BadRequest
		if proto.Unmarshal(value, &d) == nil {
			for _, v := range d.GetFieldViolations() {
				e.fields = append(e.fields, fieldProblem{v.GetField(), v.GetDescription()})
			}
		}
	case "google.rpc.RetryInfo":
		var d errdetails.RetryInfo
		if proto.Unmarshal(value, &d) == nil {
			e.retryAfter = d.GetRetryDelay().AsDuration()
		}
	}
}

// named has the fields' names as callers have them: those of JSON.
func (e *callError) named(input protoreflect.MessageDescriptor) *callError {
	for i, f := range e.fields {
		e.fields[i].Field = servicedesc.JSONPath(input, f.Field)
		if rule, ok := strings.CutPrefix(e.message, f.Field+":"); ok {
			e.message = e.fields[i].Field + ":" + rule
		}
	}
	return e
}

// collected keeps the answer to a unary call.
type collected struct {
	status   int
	header   http.Header
	body     bytes.Buffer
	tooLarge bool
}

// Header implements http.ResponseWriter.
func (c *collected) Header() http.Header { return c.header }

// WriteHeader implements http.ResponseWriter.
func (c *collected) WriteHeader(status int) {
	if c.status == 0 && status >= http.StatusOK {
		c.status = status
	}
}

// errAnswerTooLarge ends a call whose answer nobody will read.
var errAnswerTooLarge = errors.New("answer too large")

// Write implements http.ResponseWriter.
func (c *collected) Write(b []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	if c.body.Len()+len(b) > maxCallBytes {
		c.tooLarge = true
		return 0, errAnswerTooLarge
	}
	return c.body.Write(b)
}

// Flush implements http.Flusher: an answer is read whole.
func (c *collected) Flush() {}

// envelope is a message of a stream as Connect sends it.
func envelope(message []byte) []byte {
	b := make([]byte, 5, 5+len(message))
	binary.BigEndian.PutUint32(b[1:], uint32(len(message)))
	return append(b, message...)
}

// learn takes what an answer says of its freshness.
func (o *operation) learn(h http.Header) {
	if marks := h[bookmarkHeader]; len(marks) > 0 {
		o.session.Add(marks...)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fresh.add(h)
}

// freshness is where the calls of an operation were answered, taken together: the farthest source, the oldest copy.
type freshness struct {
	region, source string
	stalenessMs    int64
	stale          bool
}

// freshnessHeaders are those of an answer that say how fresh it is.
var freshnessHeaders = [...]string{
	http.CanonicalHeaderKey(rpcheader.Region), http.CanonicalHeaderKey(rpcheader.Source), http.CanonicalHeaderKey(rpcheader.StalenessMs),
}

var distance = map[string]int{"MEMORY": 1, "REPLICA": 2, "PRIMARY": 3}

func (f *freshness) add(h http.Header) {
	if region := h.Get(rpcheader.Region); region != "" {
		f.region = region
	}
	if source := h.Get(rpcheader.Source); distance[source] > distance[f.source] {
		f.source = source
	}
	if ms, err := strconv.ParseInt(h.Get(rpcheader.StalenessMs), 10, 64); err == nil {
		f.stalenessMs, f.stale = max(f.stalenessMs, ms), true
	}
}

func (f *freshness) write(h http.Header) {
	if f.region != "" {
		h.Set(rpcheader.Region, f.region)
	}
	if f.source != "" {
		h.Set(rpcheader.Source, f.source)
	}
	if f.stale {
		h.Set(rpcheader.StalenessMs, strconv.FormatInt(f.stalenessMs, 10))
	}
}
