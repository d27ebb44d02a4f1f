package graphql

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// heartbeat is how often a subscription shows that it is there where nothing happens.
const heartbeat = 15 * time.Second

// events writes answers as an event stream, each connection of which is one operation (the distinct connections mode of GraphQL
// over SSE).
type events struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	control *http.ResponseController
	began   bool
}

func newEvents(w http.ResponseWriter) *events {
	return &events{w: w, control: http.NewResponseController(w)}
}

// send writes a piece of the stream, and waits until it is on its way.
func (e *events) send(text []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.began {
		e.began = true
		e.w.Header().Set("Content-Type", typeEvents)
		e.w.Header().Set("X-Accel-Buffering", "no") // for proxies that would collect it
		e.w.WriteHeader(http.StatusOK)
	}
	if _, err := e.w.Write(text); err != nil { //nolint:gosec // it is an event stream and says so
		return err
	}
	if f, ok := e.w.(http.Flusher); ok {
		f.Flush()
		return nil
	}
	return e.control.Flush()
}

func (e *events) next(a *answer) error {
	b := append([]byte("event: next\ndata: "), a.body()...) // JSON of ours has no line ends
	return e.send(append(b, "\n\n"...))
}

// finish writes the only, or the last, answer and the end.
func (e *events) finish(a *answer) {
	if e.next(a) == nil {
		e.complete()
	}
}

func (e *events) complete() { _ = e.send([]byte("event: complete\ndata:\n\n")) } // whoever asked has gone

// subscribe answers a subscription.
func (h *Handler) subscribe(w http.ResponseWriter, r *http.Request, o *operation) {
	out := newEvents(w)
	selections := o.collect(o.schema.objects[rootSubscription], o.def.SelectionSet)
	if len(selections) != 1 || selections[0].field == nil {
		out.finish(refusal(http.StatusOK, &httpError{text: "a subscription has one field"}))
		return
	}
	s := selections[0]
	at := (*path)(nil).with(s.key)
	req, err := o.schema.request(s.field, s.fields[0].Arguments, o.vars)
	body, encodeErr := []byte(nil), error(nil)
	if err == nil {
		body, encodeErr = proto.Marshal(req)
	}
	if err = errors.Join(err, encodeErr); err != nil {
		o.fail(s, at, err)
		out.finish(&answer{data: &answerObject{keys: []string{s.key}, values: []any{nil}}, errors: o.errors})
		return
	}
	if out.send([]byte(":\n\n")) != nil { // so that the caller knows that it has begun
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	beats := beat(ctx, cancel, out)
	stream := &streamWriter{operation: o, selection: s, path: at, out: out, header: make(http.Header), under: w, ctx: ctx}
	done := o.serve(stream, o.innerRequest(ctx, s.field.call, "application/connect+proto", envelope(body), ""))
	cancel()
	<-beats
	h.metrics.operations.WithLabelValues("subscription", "answered").Inc()
	if r.Context().Err() != nil {
		return // the gateway stops, or nobody is there: a stream that is cut off is begun again, one that is complete is not
	}
	if e := stream.end(done); e != nil {
		o.fail(s, at, e)
		if out.next(stream.event(nil)) != nil {
			return
		}
	}
	out.complete()
}

// beat shows from time to time that a stream is there, until ctx ends; what it returns is closed then. A caller who has gone ends
// the stream.
func beat(ctx context.Context, cancel context.CancelFunc, out *events) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if out.send([]byte(":\n\n")) != nil {
					cancel()
					return
				}
			}
		}
	}()
	return ended
}

// streamWriter takes the messages of a stream as its handler writes them, and writes an event for each: the handler waits until the
// caller has taken it in.
type streamWriter struct {
	operation *operation
	selection *selection
	path      *path
	out       *events
	header    http.Header
	under     http.ResponseWriter
	ctx       context.Context //nolint:containedctx // Write has none

	status int
	buffer []byte
	ended  bool
	failed error // of the stream
}

// Header implements http.ResponseWriter.
func (w *streamWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *streamWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
}

// Flush implements http.Flusher: what was written is on its way.
func (w *streamWriter) Flush() {}

// Unwrap lets http.ResponseController find the writer, for its deadlines.
func (w *streamWriter) Unwrap() http.ResponseWriter { return w.under }

// The flags of Connect's envelopes.
const (
	flagCompressed = 1
	flagEnd        = 2
)

var errStream = errors.New("the stream is none of Connect's")

// Write implements http.ResponseWriter.
func (w *streamWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if len(w.buffer)+len(b) > maxCallBytes+5 {
		w.failed = &callError{
			code: connect.CodeResourceExhausted, reason: "RESULT_TOO_LARGE", message: fmt.Sprintf("a message is larger than %d bytes", maxCallBytes),
		}
		return 0, w.failed
	}
	w.buffer = append(w.buffer, b...)
	if w.status != http.StatusOK {
		return len(b), nil
	}
	for len(w.buffer) >= 5 && !w.ended {
		size := int64(binary.BigEndian.Uint32(w.buffer[1:5]))
		if size > maxCallBytes {
			w.failed = errStream
			return 0, errStream
		}
		if int64(len(w.buffer)) < 5+size {
			break
		}
		if err := w.message(w.buffer[0], w.buffer[5:5+size]); err != nil {
			return 0, err
		}
		w.buffer = append(w.buffer[:0], w.buffer[5+size:]...)
	}
	return len(b), nil
}

func (w *streamWriter) message(flags byte, body []byte) error {
	switch {
	case flags&flagEnd != 0:
		w.ended = true
		var end struct {
			Error json.RawMessage `json:"error"`
		}
		if json.Unmarshal(body, &end) != nil {
			w.failed = errStream
		} else if len(end.Error) > 0 && string(end.Error) != "null" {
			w.failed = errorOf(http.StatusOK, end.Error).named(w.input())
		}
		return nil
	case flags&flagCompressed != 0:
		w.failed = errStream // nobody asked for it
		return errStream
	}
	msg := newMessage(w.selection.field.call.output)
	if err := proto.Unmarshal(body, msg); err != nil {
		w.failed = errStream
		return errStream
	}
	return w.out.next(w.event(msg))
}

// event is the answer that a message makes; nil is none, with the errors that there are.
func (w *streamWriter) event(msg proto.Message) *answer {
	o := w.operation
	place := &slot{}
	if msg != nil {
		o.errors, o.refused, o.calls, o.bytes = nil, 0, 0, 0
		o.forget()
		place.value, _ = o.messageValue(w.selection, w.selection.field.typeName, msg.ProtoReflect(), w.path)
		ctx, cancel := context.WithTimeout(w.ctx, maxTime)
		defer cancel()
		o.waves(ctx)
	}
	return &answer{data: &answerObject{keys: []string{w.selection.key}, values: []any{place}}, errors: o.errors}
}

// input is what the stream's method takes.
func (w *streamWriter) input() protoreflect.MessageDescriptor { return w.selection.field.call.input }

// end returns what a stream ended with. done says that its handler ended it.
func (w *streamWriter) end(done bool) error {
	w.operation.errors = nil
	switch {
	case w.failed == errStream: //nolint:errorlint // it is that one
		return &callError{code: connect.CodeInternal, message: "internal error"}
	case w.failed != nil:
		return w.failed
	case w.status != 0 && w.status != http.StatusOK:
		return errorOf(w.status, w.buffer).named(w.input())
	case !done || !w.ended:
		return &callError{code: connect.CodeUnavailable, message: "the stream was ended before its end"}
	default:
		return nil
	}
}
