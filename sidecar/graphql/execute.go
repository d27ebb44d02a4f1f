package graphql

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"connectrpc.com/connect"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nearside-dev/nearside/client"
)

// operation is one that is carried out.
type operation struct {
	handler *Handler
	schema  *Schema
	def     *ast.OperationDefinition
	vars    map[string]any
	request *http.Request
	header  http.Header // that calls have
	session *client.Session
	key     string // the caller's idempotency key

	next  []*task // of the next wave
	calls int
	bytes int                   // of the messages that were answered
	memo  map[string]*callEntry // calls that were made, by what they ask for

	groups map[string]*batchGroup // what was looked up together, by what it was looked up with

	errors  []graphError
	refused int // errors that were not told

	mu    sync.Mutex
	fresh freshness
}

// task is a field that a call resolves.
type task struct {
	selection *selection
	path      *path
	into      *slot
	request   proto.Message        // nil with keys
	keys      []protoreflect.Value // of a link that is looked up in a batch, or by several calls
	single    bool                 // keys are looked up one by one, although there is a batch
	key       string               // idempotency key
}

// callEntry is a call that was made, or is to be.
type callEntry struct {
	method  *method
	request proto.Message
	key     string

	answer proto.Message
	err    error
	taken  bool // by its batchGroup
}

// path is where in an answer something is.
type path struct {
	before *path
	key    any // string or int
}

func (p *path) with(key any) *path { return &path{p, key} }

func (p *path) list() []any {
	var out []any
	for ; p != nil; p = p.before {
		out = append(out, p.key)
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// run carries out a query or a mutation and returns its data.
func (o *operation) run(ctx context.Context) *answerObject {
	root := o.schema.objects[rootQuery]
	if o.def.Operation == ast.Mutation {
		root = o.schema.objects[rootMutation]
	}
	selections := o.collect(root, o.def.SelectionSet)
	data := &answerObject{}
	writes := 0
	for _, s := range selections {
		if s.field != nil && s.field.call != nil && !s.field.call.safe {
			writes++
		}
	}
	for _, s := range selections {
		place := &slot{}
		data.keys, data.values = append(data.keys, s.key), append(data.values, place)
		if s.field == nil {
			place.value = o.introspect(root.name, s)
			continue
		}
		o.begin(s, (*path)(nil).with(s.key), place, writes)
		if o.def.Operation == ast.Mutation {
			o.waves(ctx) // one after the other, each with all that it refers to
			o.forget()
		}
	}
	o.waves(ctx)
	return data
}

// forget has what was called be called again.
func (o *operation) forget() {
	clear(o.memo)
	clear(o.groups)
}

// begin makes the task of a root's field.
func (o *operation) begin(s *selection, at *path, into *slot, writes int) {
	if s.field.call == nil {
		return // the field of a schema that has no queries
	}
	req, err := o.schema.request(s.field, s.fields[0].Arguments, o.vars)
	if err != nil {
		o.fail(s, at, err)
		return
	}
	t := &task{selection: s, path: at, into: into, request: req}
	if o.key != "" && !s.field.call.safe {
		t.key = o.key
		if writes > 1 {
			t.key = derivedKey(o.key, s.key)
		}
	}
	o.next = append(o.next, t)
}

// waves makes the calls that are to be made, and those that their answers lead to, until there are none.
func (o *operation) waves(ctx context.Context) {
	for len(o.next) > 0 {
		tasks := o.next
		o.next = nil
		finish := make([]func(), len(tasks))
		var wave []*callEntry
		for i, t := range tasks {
			finish[i] = o.plan(t, &wave)
		}
		o.planBatches(tasks, finish, &wave)
		o.makeCalls(ctx, wave)
		for _, f := range finish {
			f()
		}
	}
}

// plan adds the calls of a task to a wave, and returns what is to be done when they are answered; nothing for one that is part of a
// batch.
func (o *operation) plan(t *task, wave *[]*callEntry) func() {
	f := t.selection.field
	if t.request != nil {
		entry := o.entry(f.call, t.request, t.key, wave)
		return func() { o.resolve(t, entry) }
	}
	if f.link.batch != nil && !t.single {
		return nil
	}
	if f.list && !f.link.many {
		req, err := o.listRequest(t.selection, t.keys[0])
		if err != nil {
			return func() { o.fail(t.selection, t.path, err) }
		}
		entry := o.entry(f.call, req, "", wave)
		return func() { o.resolve(t, entry) }
	}
	entries := make([]*callEntry, len(t.keys))
	for i, key := range t.keys {
		req := newMessage(f.call.input)
		req.ProtoReflect().Set(f.link.param, key)
		entries[i] = o.entry(f.call, req, "", wave)
	}
	return func() { o.resolveKeys(t, entries) }
}

// listRequest is the request that lists what refers to one key.
func (o *operation) listRequest(s *selection, key protoreflect.Value) (proto.Message, error) {
	req, err := o.schema.request(s.field, s.fields[0].Arguments, o.vars)
	if err == nil {
		req.ProtoReflect().Set(s.field.link.param, key)
	}
	return req, err
}

// entry returns the call that asks for something: the one that was made for it, if that has no side effects, or a new one.
func (o *operation) entry(m *method, req proto.Message, key string, wave *[]*callEntry) *callEntry {
	e := &callEntry{method: m, request: req, key: key}
	if m.safe {
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
		if err == nil {
			id := m.procedure + "\x00" + string(text)
			if known := o.memo[id]; known != nil {
				return known
			}
			o.memo[id] = e
		}
	}
	*wave = append(*wave, e)
	return e
}

// makeCalls makes a wave's calls, some at a time, and returns when all are answered.
func (o *operation) makeCalls(ctx context.Context, wave []*callEntry) {
	one := func(e *callEntry) { e.answer, e.err = o.call(ctx, e.method, e.request, e.key) }
	for i := range wave {
		if o.calls++; o.calls > maxCalls {
			for _, late := range wave[i:] {
				late.err = &callError{
					code: connect.CodeResourceExhausted, reason: reasonLimit, message: fmt.Sprintf("the operation needs more than %d calls", maxCalls),
				}
			}
			o.handler.metrics.refused.WithLabelValues("calls").Inc()
			wave = wave[:i]
			break
		}
		o.handler.metrics.calls.Inc()
	}
	if len(wave) == 1 {
		one(wave[0])
	} else {
		var running sync.WaitGroup
		places := make(chan struct{}, maxParallel)
		for _, e := range wave {
			places <- struct{}{}
			running.Go(func() {
				defer func() { <-places }()
				one(e)
			})
		}
		running.Wait()
	}
	for _, e := range wave {
		if e.err != nil {
			continue
		}
		if o.bytes += proto.Size(e.answer); o.bytes > maxAnswerBytes {
			e.answer, e.err = nil, &callError{
				code: connect.CodeResourceExhausted, reason: "RESULT_TOO_LARGE",
				message: fmt.Sprintf("the operation's answers are larger than %d bytes", maxAnswerBytes),
			}
		}
	}
}

// resolve puts what a call answered in its place.
func (o *operation) resolve(t *task, e *callEntry) {
	if e.err != nil {
		o.fail(t.selection, t.path, e.err)
		return
	}
	f := t.selection.field
	m := e.answer.ProtoReflect()
	if r := f.call.result; r != nil {
		t.into.value, _ = o.fieldValue(t.selection, f, r, m, t.path)
		return
	}
	t.into.value, _ = o.messageValue(t.selection, f.typeName, m, t.path)
}

// resolveKeys puts what the calls for the keys of a link answered in its place.
func (o *operation) resolveKeys(t *task, entries []*callEntry) {
	f := t.selection.field
	values := make([]any, len(entries))
	for i, e := range entries {
		at := t.path
		if f.link.many {
			at = at.with(i)
		}
		if e.err != nil {
			o.fail(t.selection, at, e.err)
			continue
		}
		m := e.answer.ProtoReflect()
		if r := own(m, f.call.result); r != nil && m.Has(r) {
			values[i], _ = o.messageValue(t.selection, f.typeName, m.Get(r).Message(), at)
		}
	}
	if f.link.many {
		t.into.value = values
	} else {
		t.into.value = values[0]
	}
}

// object returns the object that a message is, as far as it is asked for. ok is false where a field that is never null failed.
func (o *operation) object(t *object, selections []*selection, m protoreflect.Message, at *path) (_ *answerObject, ok bool) {
	out := &answerObject{keys: make([]string, len(selections)), values: make([]any, len(selections))}
	for i, s := range selections {
		out.keys[i] = s.key
		switch {
		case s.field == nil:
			out.values[i] = t.name // __typename, of which there is no other here
		case s.field.link != nil:
			place := &slot{}
			out.values[i] = place
			o.follow(s, m, at.with(s.key), place)
		default:
			value, ok := o.fieldValue(s, s.field, s.field.proto, m, at.with(s.key))
			if !ok && s.field.required {
				return nil, false
			}
			out.values[i] = value
		}
	}
	return out, true
}

// follow makes the task of a link, if there is something to follow.
func (o *operation) follow(s *selection, m protoreflect.Message, at *path, into *slot) {
	l := s.field.link
	source := own(m, l.source)
	if source == nil || !l.many && !m.Has(source) {
		if l.many {
			into.value = []any{}
		}
		return
	}
	switch {
	case l.many:
		list := m.Get(source).List()
		keys := make([]protoreflect.Value, list.Len())
		for i := range keys {
			keys[i] = list.Get(i)
		}
		if len(keys) == 0 {
			into.value = []any{}
			return
		}
		o.next = append(o.next, &task{selection: s, path: at, into: into, keys: keys})
	case s.field.list: // a list of what refers to m
		t := o.togetherOf(s)
		if t.err != nil {
			o.fail(s, at, t.err)
			return
		}
		o.next = append(o.next, &task{selection: s, path: at, into: into, keys: []protoreflect.Value{m.Get(source)}, single: !t.ok})
	default:
		o.next = append(o.next, &task{selection: s, path: at, into: into, keys: []protoreflect.Value{m.Get(source)}})
	}
}

// fieldValue returns what a field of a message is. ok is false where it is null because something failed.
func (o *operation) fieldValue(s *selection, f *field, d protoreflect.FieldDescriptor, m protoreflect.Message, at *path) (value any, ok bool) {
	d = own(m, d)
	switch {
	case d == nil:
		return nil, !f.required
	case f.entry:
		return o.entries(s, f, m.Get(d).Map(), at)
	case d.IsList():
		list := m.Get(d).List()
		values := make([]any, list.Len())
		for i := range values {
			if values[i], ok = o.element(s, f, d, list.Get(i), at.with(i)); !ok && f.inner {
				return nil, false
			}
		}
		return values, true
	case d.HasPresence() && !m.Has(d):
		if f.required { // of a map's entry
			return o.element(s, f, d, m.Get(d), at)
		}
		return nil, true
	default:
		return o.element(s, f, d, m.Get(d), at)
	}
}

// element is one value of a field.
func (o *operation) element(s *selection, f *field, d protoreflect.FieldDescriptor, v protoreflect.Value, at *path) (any, bool) {
	if d.Message() != nil && o.schema.objects[f.typeName] != nil {
		return o.messageValue(s, f.typeName, v.Message(), at)
	}
	value, err := o.schema.scalarValue(d, f.typeName, v)
	if err != nil {
		o.fail(s, at, &callError{code: connect.CodeOutOfRange, message: err.Error(), reason: reasonValue})
		return nil, false
	}
	return value, true
}

// entries are those of a map, in the order of their keys.
func (o *operation) entries(s *selection, f *field, m protoreflect.Map, at *path) (any, bool) {
	t := o.schema.objects[f.typeName]
	values := make([]any, 0, m.Len())
	for _, k := range sortedKeys(m) {
		entry := &answerObject{}
		for _, inner := range o.innerOf(s, t) {
			var value any
			ok := true
			switch {
			case inner.field == nil:
				value = t.name
			case inner.field.proto.Number() == 1:
				value, ok = o.element(inner, inner.field, inner.field.proto, k.Value(), at.with(len(values)).with(inner.key))
			default:
				value, ok = o.element(inner, inner.field, inner.field.proto, m.Get(k), at.with(len(values)).with(inner.key))
			}
			if !ok && inner.field.required {
				return nil, false
			}
			entry.keys, entry.values = append(entry.keys, inner.key), append(entry.values, value)
		}
		values = append(values, entry)
	}
	return values, true
}

// messageValue is a message as a field of a type has it.
func (o *operation) messageValue(s *selection, typeName string, m protoreflect.Message, at *path) (any, bool) {
	t := o.schema.objects[typeName]
	if t == nil {
		value, err := o.schema.wellKnownValue(m)
		if err != nil {
			o.fail(s, at, &callError{code: connect.CodeOutOfRange, message: err.Error(), reason: reasonValue})
			return nil, false
		}
		return value, true
	}
	out, ok := o.object(t, o.innerOf(s, t), m, at)
	if !ok {
		return nil, false
	}
	return out, true
}

// fail notes an error of a field.
func (o *operation) fail(s *selection, at *path, err error) {
	if len(o.errors) >= maxErrors {
		o.refused++
		return
	}
	e := graphError{Message: err.Error(), Path: at.list(), Extensions: extensionsOf(err)}
	if p := s.fields[0].Position; p != nil {
		e.Locations = []gqlerror.Location{{Line: p.Line, Column: p.Column}}
	}
	o.errors = append(o.errors, e)
}
