package rest

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nearside-dev/nearside/internal/httpencoding"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/servicedesc"
	"github.com/nearside-dev/nearside/internal/wirejson"
)

// The short way of a GET: the path is matched, the call is asked for at once, and its answer is written as JSON from its bytes. It has
// no errors, and steps aside for all that is not as usual: then the handler answers, and with other words where those are needed.

// expresser answers at once what Next does, and reads.
type expresser struct {
	*Handler

	paths server.Expresser
	reads []*read
	odd   []*Binding // GETs whose paths are not compared by their segments
}

// read is a GET of the mesh's own services.
type read struct {
	handler   *Handler
	binding   *Binding
	procedure string
	segments  []string           // of the path; "" is a variable
	vars      []string           // their names, in the order of the path
	numbers   []protowire.Number // of their fields
	response  protowire.Number   // of the answer's field that is the resource; 0 is all of it
	object    *wirejson.Object   // nil where the general handler answers
	target    server.Express
}

func newExpresser(h *Handler, own []*Binding, paths server.Expresser) expresser {
	e := expresser{Handler: h, paths: paths}
	for _, b := range own {
		if b.Verb != http.MethodGet {
			continue
		}
		r := &read{handler: h, binding: b}
		switch {
		case b.named: // with a ":", which no path has here
		case r.split():
			if !r.plan(paths) {
				r.object = nil
			}
			e.reads = append(e.reads, r)
		default:
			e.odd = append(e.odd, b)
		}
	}
	return e
}

// split takes the template apart. It reports false where that is not one of segments.
func (r *read) split() bool {
	for segment := range strings.SplitSeq(r.binding.Template[1:], "/") {
		name, variable := strings.CutPrefix(segment, "{")
		name, closed := strings.CutSuffix(name, "}")
		if name == "" || strings.ContainsAny(name, "{}*:=") || variable != closed {
			return false
		}
		if variable {
			segment = ""
			r.vars = append(r.vars, name)
		}
		r.segments = append(r.segments, segment)
	}
	return true
}

// plan finds out how the resource is read. It reports false where that is not simple.
func (r *read) plan(paths server.Expresser) bool {
	b := r.binding
	service, ok := b.Method.Parent().(protoreflect.ServiceDescriptor)
	if !ok || b.Body != "" || b.paged {
		return false
	}
	for _, name := range r.vars {
		f := b.Method.Input().Fields().ByName(protoreflect.Name(name))
		if f == nil || f.Kind() != protoreflect.StringKind || f.IsList() || f.ContainingOneof() != nil {
			return false
		}
		r.numbers = append(r.numbers, f.Number())
	}
	message := b.Method.Output()
	if b.Response != "" {
		f := message.Fields().ByName(protoreflect.Name(b.Response))
		if f == nil || f.Message() == nil || f.IsList() || f.IsMap() {
			return false
		}
		r.response, message = f.Number(), f.Message()
	}
	r.procedure = servicedesc.Procedure(string(service.FullName()), string(b.Method.Name()))
	var err error
	if r.object, err = wirejson.Of(message); err != nil {
		return false
	}
	r.target = paths.Express(r.procedure)
	return r.target != nil
}

// Express implements server.Expresser.
func (e expresser) Express(path string) server.Express {
	if !strings.HasPrefix(path, Prefix) {
		return e.paths.Express(path)
	}
	var found *read
	var vars []string
	for _, r := range e.reads {
		if v, ok := r.match(path); ok {
			if found != nil {
				return nil // which one is meant is the table's to say
			}
			found, vars = r, v
		}
	}
	if found == nil || found.object == nil {
		return nil
	}
	for _, b := range e.odd {
		if b.pattern.MatchString(path) {
			return nil
		}
	}
	var request []byte
	for i, v := range vars {
		request = protowire.AppendString(protowire.AppendTag(request, found.numbers[i], protowire.BytesType), v)
	}
	return &reading{found, request}
}

// ServeHTTP implements http.Handler: what came by net/http has the short way too.
func (e expresser) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.ContentLength == 0 && strings.HasPrefix(r.URL.Path, Prefix) && server.IsPlain(r) {
		if short := e.Express(r.URL.Path); short != nil && server.AnswerAtOnce(short, w, r, nil) {
			return
		}
	}
	e.Handler.ServeHTTP(w, r)
}

// match returns the variables of a path.
func (r *read) match(path string) (vars []string, ok bool) {
	rest := path[1:]
	for i, want := range r.segments {
		segment, after, more := strings.Cut(rest, "/")
		if more == (i == len(r.segments)-1) || segment == "" || want != "" && want != segment {
			return nil, false
		}
		if want == "" {
			vars = append(vars, segment)
		}
		rest = after
	}
	return vars, true
}

// reading is a read of one resource.
type reading struct {
	*read

	request []byte
}

// ExpressGet implements server.GetExpress.
func (r *reading) ExpressGet() bool { return true }

var inners = sync.Pool{New: func() any { return new(server.InnerAnswer) }}

// quickHead begins the head of each answer.
const quickHead = "HTTP/1.1 200 OK\r\nX-Content-Type-Options: nosniff\r\nContent-Type: " + contentTypeJSON +
	"\r\nVary: Accept-Encoding\r\nVary: Authorization, Nearside-Bookmark\r\n"

// ServeExpress implements server.Express.
func (r *reading) ServeExpress(ctx context.Context, req *http.Request, _ []byte, a *server.ExpressAnswer) bool {
	h := req.Header
	if req.Method != http.MethodGet || len(r.request) == 0 || h["If-None-Match"] != nil || h["If-Match"] != nil || h["Content-Type"] != nil || !acceptsJSON(h["Accept"]) {
		return false
	}
	inner, _ := inners.Get().(*server.InnerAnswer)
	defer inners.Put(inner)
	call := a.InnerRequest(r.handler, req, r.procedure, len(r.request), innerHeader)
	if !inner.Call(ctx, r.target, call, r.request, a) || inner.Status != http.StatusOK || inner.Line("Etag") == nil {
		return false
	}
	message := inner.Body
	if r.response != 0 {
		var ok bool
		if message, ok = wirejson.Only(message, r.response); !ok {
			return false
		}
	}
	start := len(a.Bytes)
	a.Bytes = append(a.Bytes, quickHead...)
	if inner.Line("Cache-Control") == nil {
		a.Bytes = append(a.Bytes, "Cache-Control: private, no-cache\r\n"...)
	}
	for line := range bytes.Lines(inner.Head) {
		if !ownLine(line) {
			a.Bytes = append(append(a.Bytes, bytes.TrimRight(line, "\r\n")...), "\r\n"...)
		}
	}
	body, ok := r.object.Append(nil, message)
	if !ok || len(body) >= httpencoding.MinBytes && h["Accept-Encoding"] != nil {
		a.Bytes = a.Bytes[:start]
		return false
	}
	a.EndHead(len(body))
	a.Bytes = append(a.Bytes, body...)
	r.handler.succeeded.Inc()
	return true
}

// ownLines are the headers of an answer to a call that are not REST's.
var ownLines = [...]string{"Content-Type:", "Content-Length:", "Accept-Encoding:", "Date:", "Connection:", requestid.Header + ":"}

func ownLine(line []byte) bool {
	for _, name := range ownLines {
		if len(line) >= len(name) && string(line[:len(name)]) == name {
			return true
		}
	}
	return false
}

// innerHeader are the headers of the call that a request is, as the transcoder makes them.
func innerHeader(h http.Header) http.Header {
	out := make(http.Header, len(h)+2)
	for name, values := range h {
		if name != "Accept" && name != "Accept-Encoding" {
			out[name] = values
		}
	}
	out["Content-Type"] = []string{"application/proto"}
	out["Connect-Protocol-Version"] = []string{"1"}
	return out
}
