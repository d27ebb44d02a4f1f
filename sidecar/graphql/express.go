package graphql

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/vektah/gqlparser/v2/ast"
	"google.golang.org/protobuf/proto"

	"github.com/nearside-dev/nearside/client"
	"github.com/nearside-dev/nearside/internal/httpencoding"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/wirejson"
)

// The short way of a query that is one call of the mesh's own services and asks for nothing that its answer refers to: what it asks
// for is planned once for a document, the call is made at once, and what is asked for is written from the bytes of its answer. The
// way has no errors, and steps aside for all that is not as usual: then the handler answers.

type expresser struct {
	*Handler

	paths   server.Expresser
	targets sync.Map // of server.Express, by procedure
}

// Express implements server.Expresser.
func (e *expresser) Express(path string) server.Express {
	if path == Path {
		return (*express)(e)
	}
	return e.paths.Express(path)
}

// maxQuickBytes bounds the requests that are read before it is known whether they have the short way.
const maxQuickBytes = 64 << 10

// ServeHTTP implements http.Handler: what came by net/http has the short way too.
func (e *expresser) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kinds := r.Header["Content-Type"]
	if r.URL.Path != Path || r.Method != http.MethodPost || r.ContentLength <= 0 || r.ContentLength > maxQuickBytes || len(kinds) != 1 ||
		kinds[0] != typeJSON || negotiate(r.Header.Values("Accept")) == typeEvents || !server.IsPlain(r) {
		e.Handler.ServeHTTP(w, r)
		return
	}
	body := make([]byte, r.ContentLength)
	n, err := io.ReadFull(r.Body, body)
	if err == nil && server.AnswerAtOnce((*express)(e), w, r, body) {
		return
	}
	again := *r
	again.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:n]), failing{err}))
	e.Handler.ServeHTTP(w, &again)
}

// failing is what follows of a body that could not be read; nil is its end.
type failing struct{ err error }

// Read implements io.Reader.
func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}

type express expresser

// ownPrefix begins the procedures of the mesh's own services.
const ownPrefix = "/nearside."

// quick is how an operation is answered the short way. It is immutable.
type quick struct {
	field  *field
	args   ast.ArgumentList
	object *wirejson.Object
	before string // JSON before what object writes
	after  string
}

// quickOf returns how an operation is answered the short way; nil where it is not.
func (s *Schema) quickOf(def *ast.OperationDefinition) *quick {
	if def.Operation != ast.Query || len(def.Directives) > 0 || len(def.SelectionSet) != 1 {
		return nil
	}
	sel, ok := def.SelectionSet[0].(*ast.Field)
	if !ok || hasDirectives(def.SelectionSet, 0) {
		return nil
	}
	f := s.objects[rootQuery].fields[sel.Name]
	if f == nil || f.call == nil || !f.call.safe || f.call.stream || !strings.HasPrefix(f.call.procedure, ownPrefix) {
		return nil
	}
	if f.call.page == nil && s.cost(def.SelectionSet, rootQuery, nil) > maxCost { // which is the same for all variables then
		return nil
	}
	key := sel.Alias
	p := &planner{schema: s, objects: make(map[string]*wirejson.Object)}
	q := &quick{field: f, args: sel.Arguments, before: `{"data":`, after: "}"}
	inner := s.objects[f.typeName]
	if inner == nil {
		return nil
	}
	var err error
	if q.object, err = p.object(inner, []ast.SelectionSet{sel.SelectionSet}); err != nil {
		return nil
	}
	if f.call.result == nil {
		q.before, q.after = string(append(wirejson.AppendString([]byte(`{"data":{`), key), ':')), "}}"
		return q
	}
	whole := &wirejson.Object{}
	absent := "null"
	if f.list {
		absent = "[]"
	}
	if whole.Fill([]wirejson.Field{{Key: key, Descriptor: f.call.result, Object: q.object, Absent: absent}}) != nil {
		return nil
	}
	q.object = whole
	return q
}

// hasDirectives reports whether anything of a selection has a directive, which may leave it out.
func hasDirectives(set ast.SelectionSet, depth int) bool {
	if depth > maxIntroDepth+maxDepth {
		return true
	}
	for _, sel := range set {
		switch sel := sel.(type) {
		case *ast.Field:
			if len(sel.Directives) > 0 || hasDirectives(sel.SelectionSet, depth+1) {
				return true
			}
		case *ast.InlineFragment:
			if len(sel.Directives) > 0 || hasDirectives(sel.SelectionSet, depth+1) {
				return true
			}
		case *ast.FragmentSpread:
			if len(sel.Directives) > 0 || sel.Definition == nil || hasDirectives(sel.Definition.SelectionSet, depth+1) {
				return true
			}
		}
	}
	return false
}

// planner makes what writes the objects of an answer.
type planner struct {
	schema  *Schema
	objects map[string]*wirejson.Object
}

// object returns how an object is written of which sets ask for something. The error says that it is not written from the wire.
func (p *planner) object(t *object, sets []ast.SelectionSet) (*wirejson.Object, error) {
	var fields []wirejson.Field
	for _, s := range (&operation{schema: p.schema}).collect(t, sets...) {
		f := s.field
		if f == nil {
			fields = append(fields, wirejson.Field{Key: s.key, Constant: string(wirejson.AppendString(nil, t.name))})
			continue
		}
		if f.link != nil || f.entry || f.proto == nil {
			return nil, wirejson.ErrUnsupported
		}
		next := wirejson.Field{Key: s.key, Descriptor: f.proto}
		if e := p.schema.enums[f.typeName]; e != nil {
			next.Enum = e.names
		}
		if inner := p.schema.objects[f.typeName]; inner != nil {
			sets := make([]ast.SelectionSet, len(s.fields))
			for i, sel := range s.fields {
				sets[i] = sel.SelectionSet
			}
			var err error
			if next.Object, err = p.object(inner, sets); err != nil {
				return nil, err
			}
		}
		next.Text, next.Int = f.typeName != "Int", f.typeName == "Int"
		switch {
		case f.list:
			next.Absent = "[]"
		case f.proto.HasPresence():
			next.Absent = "null"
		default:
			value, err := p.schema.scalarValue(f.proto, f.typeName, f.proto.Default())
			if err != nil {
				return nil, err
			}
			next.Absent = string(appendJSON(nil, value))
		}
		fields = append(fields, next)
	}
	o := &wirejson.Object{}
	return o, o.Fill(fields)
}

var inners = sync.Pool{New: func() any { return new(server.InnerAnswer) }}

// ServeExpress implements server.Express.
func (e *express) ServeExpress(ctx context.Context, r *http.Request, body []byte, a *server.ExpressAnswer) bool {
	if v := r.Header["Content-Type"]; r.Method != http.MethodPost || len(v) != 1 || v[0] != typeJSON {
		return false
	}
	kind := typeResponse
	if accept := r.Header["Accept"]; len(accept) > 0 {
		if kind = negotiate(accept); kind != typeResponse && kind != typeJSON {
			return false
		}
	}
	p := e.preparedFor(r.Header)
	if p == nil {
		return false
	}
	asked, _ := quickRequests.Get().(*quickRequest)
	defer quickRequests.Put(asked)
	if !asked.read(body) {
		return false
	}
	q, msg := p.quick(asked)
	if q == nil {
		return false
	}
	target := e.target(q.field.call.procedure)
	if target == nil {
		return false
	}
	inner, _ := inners.Get().(*server.InnerAnswer)
	defer inners.Put(inner)
	call := a.InnerRequest(e.Handler, r, q.field.call.procedure, len(msg), expressHeader)
	if !inner.Call(ctx, target, call, msg, a) || inner.Status != http.StatusOK {
		return false
	}
	content, ok := q.object.Append([]byte(q.before), inner.Body)
	content = append(content, q.after...)
	if !ok || len(content) >= httpencoding.MinBytes && r.Header["Accept-Encoding"] != nil {
		return false
	}
	b := append(append(append(a.Bytes, quickHead...), kind...), "; charset=utf-8\r\n"...)
	for _, name := range freshnessHeaders {
		if v := inner.Line(name); v != nil {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	if mark := inner.Line(bookmarkHeader); mark != nil {
		if known := r.Header[bookmarkHeader]; len(known) > 0 { // the caller gets back all that it knows
			session := client.NewSession(known...)
			session.Add(string(mark))
			mark = []byte(session.Bookmarks())
		}
		b = append(append(append(append(b, bookmarkHeader...), ": "...), mark...), "\r\n"...)
	}
	a.Bytes = b
	a.EndHead(len(content))
	a.Bytes = append(a.Bytes, content...)
	e.metrics.calls.Inc()
	e.metrics.answered.Inc()
	e.metrics.seconds.Observe(time.Since(a.Began).Seconds())
	return true
}

var quickRequests = sync.Pool{New: func() any { return new(quickRequest) }}

// target returns who answers a procedure at once.
func (e *express) target(procedure string) server.Express {
	if t, ok := e.targets.Load(procedure); ok {
		target, _ := t.(server.Express)
		return target
	}
	target := e.paths.Express(procedure)
	if target != nil {
		e.targets.Store(procedure, target)
	}
	return target
}

// quickHead begins the head of each answer.
const quickHead = "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nVary: Accept-Encoding\r\nVary: Accept, Authorization, Nearside-Bookmark\r\nContent-Type: "

// preparedFor returns what there is for whoever sends a header; nil is for others to say. A credential that is not good is found by the
// call.
func (h *Handler) preparedFor(header http.Header) *prepared {
	if h.known != nil && header["Authorization"] == nil {
		return nil
	}
	return h.latest().all
}

// quick returns how a request is answered the short way, and the message of its call; nil is not.
func (p *prepared) quick(asked *quickRequest) (*quick, []byte) {
	p.mu.RLock()
	d := p.kept[string(asked.query)]
	p.mu.RUnlock()
	if d == nil {
		var problems []graphError
		if d, problems = p.document(string(asked.query)); len(problems) > 0 {
			return nil, nil
		}
	}
	def, err := d.operation(string(asked.operation))
	if err != nil {
		return nil, nil
	}
	q := d.quick[def]
	if q == nil {
		return nil, nil
	}
	vars, err := p.schema.coerce(def, asked.vars)
	if err != nil || q.field.call.page != nil && p.schema.cost(def.SelectionSet, rootQuery, vars) > maxCost {
		return nil, nil
	}
	req, err := p.schema.request(q.field, q.args, vars)
	if err != nil {
		return nil, nil
	}
	msg, err := proto.Marshal(req)
	if err != nil || len(msg) == 0 {
		return nil, nil
	}
	return q, msg
}

// expressHeader are the headers of the call that a request comes to.
func expressHeader(h http.Header) http.Header {
	out := passedHeader(h)
	out["Content-Type"] = []string{"application/proto"}
	out["Connect-Protocol-Version"] = []string{"1"}
	if marks := h[bookmarkHeader]; len(marks) > 0 {
		out[bookmarkHeader] = marks
	}
	return out
}
