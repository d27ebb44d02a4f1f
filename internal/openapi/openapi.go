// Package openapi makes an OpenAPI 3.1 document of services that google.api.http rules open to REST, and serves it with a page to
// read it by.
//
// A message's schema is that of its JSON form (https://protobuf.dev/programming-guides/json/) with the rules of protovalidate that
// JSON Schema can say.
package openapi

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Version is the API's own, which stands in its paths.
const Version = "v1"

// Operation is one way to call a method.
type Operation struct {
	Method   protoreflect.MethodDescriptor
	Verb     string   // "GET"
	Template string   // "/v1/users/{id}"
	Vars     []string // of the template, as fields of the request
	Body     string   // field of the request, "*" for what is left of it, "" for none
	Response string   // field of the answer, "" for the whole of it
	Creates  bool     // answers 201
	Tag      string   // of the service; default its name
}

// tag is what an operation is listed under.
func (op *Operation) tag() string { return first(op.Tag, string(op.Method.Parent().Name())) }

type object map[string]any

// Document returns the document, JSON with the same bytes for the same operations. comments are by full name.
func Document(operations []Operation, comments map[protoreflect.FullName]string) ([]byte, error) {
	d := &document{
		comments: comments, schemas: make(object), paths: make(object), ids: make(map[string]int),
		names: map[string]fingerprint{problemName: {}}, files: make(map[protoreflect.FileDescriptor]fingerprint),
	}
	tags := make(map[string]string)
	for _, op := range operations {
		d.add(op)
		tags[op.tag()] = comments[op.Method.Parent().FullName()]
	}
	var tagList []object
	for _, name := range sortedKeys(tags) {
		tagList = append(tagList, described(object{"name": name}, tags[name]))
	}
	d.schemas[problemName] = problemSchema()
	return json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Nearside", "version": Version,
			"description": "Reads are answered in the region; the header nearside-bookmark of an answer, sent with the next call, " +
				"makes that call see what this one saw or did.",
		},
		"servers":  []object{{"url": "/"}},
		"security": []object{{"bearer": []string{}}},
		"tags":     tagList,
		"paths":    d.paths,
		"components": object{
			"schemas":         d.schemas,
			"securitySchemes": object{"bearer": object{"type": "http", "scheme": "bearer"}},
			"responses": object{"Problem": object{
				"description": "What went wrong (RFC 9457).",
				"content":     object{"application/problem+json": object{"schema": ref(problemName)}},
			}},
		},
	}, "", "  ")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func ref(name string) object { return object{"$ref": "#/components/schemas/" + name} }

// described adds a description where there is one.
func described(o object, text string) object {
	if text != "" {
		o["description"] = text
	}
	return o
}

type document struct {
	comments map[protoreflect.FullName]string
	schemas  object
	paths    object
	ids      map[string]int // how many operations would have each

	names map[string]fingerprint // of schemas: the files that they are of
	files map[protoreflect.FileDescriptor]fingerprint
}

// add adds an operation to its path.
func (d *document) add(op Operation) {
	path, vars := op.path()
	item, ok := d.paths[path].(object)
	if !ok {
		item = make(object)
		d.paths[path] = item
	}
	id := strings.ReplaceAll(op.tag(), ".", "_") + "_" + string(op.Method.Name())
	if d.ids[id]++; d.ids[id] > 1 { // the method has several paths
		id += "_" + strconv.Itoa(d.ids[id])
	}
	o := object{
		"operationId": id,
		"summary":     words(string(op.Method.Name())),
		"tags":        []string{op.tag()},
		"responses":   d.responses(op),
	}
	described(o, d.comments[op.Method.FullName()])
	if p := d.parameters(op, vars); len(p) > 0 {
		o["parameters"] = p
	}
	if op.Body != "" {
		o["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": d.body(op)}}}
	}
	item[strings.ToLower(op.Verb)] = o
}

// pathVar is a variable of a path.
type pathVar struct {
	name, field string
	of          string // of what it is a part; "" is of nothing
}

var (
	templateVar = regexp.MustCompile(`\{([^{}=]+)(?:=([^{}]*))?\}`)
	wildcard    = regexp.MustCompile(`\*\*?`)
)

// path is the operation's as OpenAPI has it. It knows no variables of several segments: of {name=shelves/*/books/*} each wildcard is one.
func (op *Operation) path() (path string, vars []pathVar) {
	path = templateVar.ReplaceAllStringFunc(op.Template, func(text string) string {
		m := templateVar.FindStringSubmatch(text)
		name, pattern := m[1], m[2]
		if pattern == "" || wildcard.FindString(pattern) == pattern {
			vars = append(vars, pathVar{name: name, field: name})
			return "{" + name + "}"
		}
		n := 0
		return wildcard.ReplaceAllStringFunc(pattern, func(string) string {
			n++
			part := name + "_" + strconv.Itoa(n)
			vars = append(vars, pathVar{name: part, field: name, of: pattern})
			return "{" + part + "}"
		})
	})
	return path, vars
}

// words is a method's name as a sentence begins: "Batch get users".
func words(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && unicode.IsUpper(r) {
			b.WriteByte(' ')
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// responses are what an operation answers.
func (d *document) responses(op Operation) object {
	status, output := "200", op.Method.Output()
	if op.Creates {
		status = "201"
	}
	var schema object
	switch {
	case op.Response != "":
		field := output.Fields().ByName(protoreflect.Name(op.Response))
		schema = d.field(field)
	case op.Verb == http.MethodDelete && output.Fields().Len() == 0:
		return object{"204": object{"description": "It is done."}, "default": object{"$ref": "#/components/responses/Problem"}}
	default:
		schema = d.message(output)
	}
	answer := object{
		"description": first(d.comments[output.FullName()], "The answer."),
		"content":     object{"application/json": object{"schema": schema}},
		"headers": object{"nearside-bookmark": object{
			"description": "What the call saw or did, for the calls after it.", "schema": object{"type": "string"},
		}},
	}
	out := object{status: answer, "default": object{"$ref": "#/components/responses/Problem"}}
	if op.Verb == http.MethodGet {
		out["304"] = object{"description": "The caller has it: If-None-Match names its ETag."}
	}
	return out
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// body is the schema of a request's body: the whole request but what is in the path, or one field.
func (d *document) body(op Operation) object {
	input := op.Method.Input()
	if op.Body != "*" {
		return d.field(input.Fields().ByName(protoreflect.Name(op.Body)))
	}
	if len(op.Vars) == 0 {
		return d.message(input)
	}
	return d.objectOf(input, op.Vars)
}

// parameters are those of the path, of the query, and the headers that matter.
func (d *document) parameters(op Operation, vars []pathVar) []object {
	var out []object
	input := op.Method.Input()
	for _, v := range vars {
		field := input.Fields().ByName(protoreflect.Name(v.field))
		p := d.parameter(v.name, "path", field)
		if v.of != "" {
			p["schema"], p["description"] = object{"type": "string"}, "A part of "+v.field+", which is "+v.of+"."
		}
		out = append(out, p)
	}
	if op.Body != "*" {
		fields := input.Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			if string(f.Name()) != op.Body && !slices.Contains(op.Vars, string(f.Name())) {
				out = append(out, d.query(f, "", 0)...)
			}
		}
	}
	out = append(out, object{
		"name": "fields", "in": "query", "schema": object{"type": "string"},
		"description": "The fields of the answer that are wanted, separated by commas; those of parts have their path, a.b.",
	})
	header := func(name, text string) {
		out = append(out, object{"name": name, "in": "header", "schema": object{"type": "string"}, "description": text})
	}
	header("nearside-bookmark", "Bookmarks of answers before, which this one is to have seen.")
	switch op.Verb {
	case http.MethodGet:
		header("If-None-Match", "The ETag of an answer that the caller has.")
	case http.MethodPost:
		header("idempotency-key", "The caller's name for this call: a repeat with the same one does nothing again.")
	case http.MethodPut, http.MethodPatch, http.MethodDelete:
		header("If-Match", "The ETag of what the caller means to change; where it has changed, that is PRECONDITION_FAILED.")
		header("idempotency-key", "The caller's name for this call: a repeat with the same one does nothing again.")
	}
	return out
}

func (d *document) parameter(name, in string, field protoreflect.FieldDescriptor) object {
	p := object{"name": name, "in": in, "schema": object{"type": "string"}}
	if in == "path" {
		p["required"] = true
	}
	if field == nil {
		return p
	}
	schema := d.field(field)
	p["schema"] = schema
	if text, ok := schema["description"].(string); ok {
		delete(schema, "description")
		p["description"] = text
	}
	return p
}

// maxDepth bounds how deep the fields of messages are parameters of the query.
const maxDepth = 3

func (d *document) query(f protoreflect.FieldDescriptor, prefix string, depth int) []object {
	name := prefix + f.JSONName()
	message := f.Message()
	if message == nil || wellKnown(message) != nil && !f.IsList() {
		return []object{d.parameter(name, "query", f)}
	}
	if f.IsMap() || f.IsList() || depth == maxDepth {
		return nil
	}
	var out []object
	fields := message.Fields()
	for i := range fields.Len() {
		out = append(out, d.query(fields.Get(i), name+".", depth+1)...)
	}
	return out
}
