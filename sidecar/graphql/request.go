package graphql

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/parser"
	"github.com/vektah/gqlparser/v2/validator"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// The media types.
const (
	typeJSON     = "application/json"
	typeResponse = "application/graphql-response+json"
	typeEvents   = "text/event-stream"
)

// graphRequest is what is asked for, as GraphQL over HTTP has it.
type graphRequest struct {
	Query         string          `json:"query"`
	OperationName string          `json:"operationName"`
	Variables     json.RawMessage `json:"variables"`
	Extensions    json.RawMessage `json:"extensions"`
}

// httpError refuses a request that is none of GraphQL's.
type httpError struct {
	status int
	text   string
}

// Error implements error.
func (e *httpError) Error() string { return e.text }

// readRequest reads a request.
func readRequest(r *http.Request) (*graphRequest, error) {
	q := &graphRequest{}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if len(r.URL.RawQuery) > maxBodyBytes {
			return nil, &httpError{http.StatusRequestURITooLong, "the query of the URL is too long"}
		}
		values := r.URL.Query()
		q.Query, q.OperationName = values.Get("query"), values.Get("operationName")
		q.Variables, q.Extensions = json.RawMessage(values.Get("variables")), json.RawMessage(values.Get("extensions"))
	case http.MethodPost:
		kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || kind != typeJSON || parameters["charset"] != "" && !strings.EqualFold(parameters["charset"], "utf-8") {
			return nil, &httpError{http.StatusUnsupportedMediaType, "requests are " + typeJSON}
		}
		if e := strings.ToLower(r.Header.Get("Content-Encoding")); e != "" && e != "identity" {
			return nil, &httpError{http.StatusUnsupportedMediaType, "requests are not compressed"}
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBodyBytes+1))
		if err != nil {
			return nil, unread(err)
		}
		if len(body) > maxBodyBytes {
			return nil, &httpError{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", maxBodyBytes)}
		}
		if err := decode(body, q); err != nil {
			return nil, &httpError{http.StatusBadRequest, "the body is no request: want one object of JSON with a query: " + err.Error()}
		}
	default:
		return nil, &httpError{http.StatusMethodNotAllowed, "want POST, or GET for queries"}
	}
	if q.Query == "" && q.isPersisted() {
		return nil, &httpError{http.StatusBadRequest, persistedUnsupported}
	}
	if q.Query == "" {
		return nil, &httpError{http.StatusBadRequest, "query: is required"}
	}
	if len(q.Query) > maxQueryBytes {
		return nil, &httpError{http.StatusRequestEntityTooLarge, fmt.Sprintf("query: is larger than %d bytes", maxQueryBytes)}
	}
	return q, nil
}

// persistedUnsupported is what clients that name queries by their hashes know an answer by after which they send the queries themselves.
const persistedUnsupported = "PersistedQueryNotSupported"

// isPersisted reports whether a request names its query by a hash.
func (q *graphRequest) isPersisted() bool {
	var e struct {
		Persisted json.RawMessage `json:"persistedQuery"`
	}
	return json.Unmarshal(q.Extensions, &e) == nil && e.Persisted != nil
}

// unread says why a body did not arrive.
func unread(err error) error {
	switch rpcerr.ReasonOf(err) {
	case datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE:
		return &httpError{http.StatusRequestEntityTooLarge, "the body is too large"}
	case datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_SLOW:
		return &httpError{http.StatusRequestTimeout, "the body came too slowly"}
	default:
		return &httpError{http.StatusBadRequest, "the body did not arrive"}
	}
}

// decode decodes one value of JSON, numbers as they are written.
func decode(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok { // its text is about the program's types
			if wrong.Field == "" {
				return fmt.Errorf("it is of the type %s", wrong.Value)
			}
			return fmt.Errorf("%s is not for %q", wrong.Value, wrong.Field)
		}
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind it")
	}
	return nil
}

// variables returns the variables of a request.
func (q *graphRequest) variables() (map[string]any, error) {
	if len(bytes.TrimSpace(q.Variables)) == 0 {
		return nil, nil //nolint:nilnil // there are none
	}
	var vars map[string]any
	if err := decode(q.Variables, &vars); err != nil {
		return nil, &httpError{http.StatusBadRequest, "variables: are no object of JSON"}
	}
	return vars, nil
}

// document is a query that was found to be one of a schema. It is immutable.
type document struct {
	query       *ast.QueryDocument
	introspects bool // it asks for the schema

	quick map[*ast.OperationDefinition]*quick // of those that have a short way
}

// parse returns a query's document, or what is wrong with it.
func (s *Schema) parse(text string) (*document, []graphError) {
	query, err := parser.ParseQueryWithTokenLimit(&ast.Source{Input: text}, maxTokens)
	if err != nil {
		if e, ok := errors.AsType[*gqlerror.Error](err); ok {
			return nil, []graphError{{Message: e.Message, Locations: e.Locations, Extensions: graphExtensions(reasonParse)}}
		}
		return nil, []graphError{{Message: "the query is none", Extensions: graphExtensions(reasonParse)}}
	}
	if err := checkShape(query); err != nil {
		return nil, []graphError{{Message: err.Error(), Extensions: extensionsOf(err)}}
	}
	if problems := validator.ValidateWithRules(s.ast, query, nil); len(problems) > 0 {
		var out []graphError
		for _, p := range problems[:min(len(problems), maxErrors)] {
			out = append(out, graphError{Message: p.Message, Locations: p.Locations, Extensions: graphExtensions(reasonValidation)})
		}
		return nil, out
	}
	d := &document{query: query, introspects: asksForSchema(query), quick: make(map[*ast.OperationDefinition]*quick)}
	for _, def := range query.Operations {
		if q := s.quickOf(def); q != nil && !d.introspects {
			d.quick[def] = q
		}
	}
	return d, nil
}

// asksForSchema reports whether a document asks for the schema anywhere: where it may, the validation has seen to.
func asksForSchema(doc *ast.QueryDocument) bool {
	var walk func(ast.SelectionSet) bool
	walk = func(set ast.SelectionSet) bool {
		for _, sel := range set {
			switch sel := sel.(type) {
			case *ast.Field:
				if sel.Name == fieldSchema || sel.Name == fieldType || walk(sel.SelectionSet) {
					return true
				}
			case *ast.InlineFragment:
				if walk(sel.SelectionSet) {
					return true
				}
			}
		}
		return false
	}
	for _, f := range doc.Fragments {
		if walk(f.SelectionSet) {
			return true
		}
	}
	for _, op := range doc.Operations {
		if walk(op.SelectionSet) {
			return true
		}
	}
	return false
}

// operation returns the operation of a document that is meant.
func (d *document) operation(name string) (*ast.OperationDefinition, error) {
	switch {
	case name == "" && len(d.query.Operations) == 1:
		return d.query.Operations[0], nil
	case len(d.query.Operations) == 0:
		return nil, errors.New("query: has no operation")
	case name == "":
		return nil, errors.New("operationName: is required where a document has several operations")
	}
	if op := d.query.Operations.ForName(name); op != nil {
		return op, nil
	}
	return nil, fmt.Errorf("operationName: the document has no operation %q", name)
}

// coerce checks variables against their definitions.
func (s *Schema) coerce(op *ast.OperationDefinition, given map[string]any) (vars map[string]any, err error) {
	vars = make(map[string]any, len(op.VariableDefinitions))
	for _, v := range op.VariableDefinitions {
		value, ok := given[v.Variable]
		if !ok && v.DefaultValue != nil {
			value, ok = literal(v.DefaultValue, nil)
		}
		switch {
		case !ok && v.Type.NonNull, value == nil && v.Type.NonNull:
			return nil, invalid("variables."+v.Variable, "is required: it is of type %s", v.Type)
		case !ok:
			continue
		}
		if err := s.check(v.Type, value, "variables."+v.Variable); err != nil {
			return nil, err
		}
		vars[v.Variable] = value
	}
	return vars, nil
}

// check reports whether a value can be one of a type; what scalars look like is found out where they are used.
func (s *Schema) check(t *ast.Type, value any, path string) error {
	if value == nil {
		if t.NonNull {
			return invalid(path, "is required: it is of type %s", t)
		}
		return nil
	}
	if t.Elem != nil {
		list, ok := value.([]any)
		if !ok {
			return s.check(t.Elem, value, path)
		}
		for i, element := range list {
			if err := s.check(t.Elem, element, fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		return nil
	}
	d := s.ast.Types[t.NamedType]
	_, isObject := value.(map[string]any)
	_, isList := value.([]any)
	switch {
	case d == nil:
		return invalid(path, "is of a type that is not known")
	case d.Kind == ast.Enum:
		var name string
		switch v := value.(type) {
		case string:
			name = v
		case enumLiteral:
			name = string(v)
		}
		if d.EnumValues.ForName(name) == nil {
			return invalid(path, "is no value of %s", d.Name)
		}
		return nil
	case d.Kind == ast.InputObject:
		return s.checkObject(d, value, path)
	case d.Name == jsonValue:
		return nil
	case isObject || isList:
		return invalid(path, "is no %s", d.Name)
	default:
		return checkScalar(d.Name, value, path)
	}
}

func checkScalar(name string, value any, path string) error {
	ok := true
	switch name {
	case "Boolean":
		_, ok = value.(bool)
	case "String":
		_, ok = value.(string)
	case "Int":
		var n json.Number
		if n, ok = value.(json.Number); ok {
			i, err := n.Int64()
			ok = err == nil && isInt(i)
		}
	case "Float":
		_, ok = value.(json.Number)
	}
	if !ok {
		return invalid(path, "is no %s", name)
	}
	return nil
}

func (s *Schema) checkObject(d *ast.Definition, value any, path string) error {
	object, ok := value.(map[string]any)
	if !ok {
		return invalid(path, "is no %s", d.Name)
	}
	known := 0
	for _, f := range d.Fields {
		given, ok := object[f.Name]
		if ok {
			known++
		}
		if err := s.check(f.Type, given, path+"."+f.Name); err != nil {
			return err
		}
	}
	if known < len(object) {
		for name := range object {
			if d.Fields.ForName(name) == nil {
				return invalid(path+"."+name, "is not known")
			}
		}
	}
	return nil
}
