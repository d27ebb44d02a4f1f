package graphql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vektah/gqlparser/v2/ast"

	"github.com/nearside-dev/nearside/client"
	"github.com/nearside-dev/nearside/internal/httpencoding"
	"github.com/nearside-dev/nearside/internal/server"
)

// The paths that are answered here.
const (
	Path     = "/graphql"
	PathPage = "/graphiql"
)

// Introspection is who may ask for the schema.
type Introspection string

// The policies. The zero value is that of those who are known.
const (
	IntrospectionKnown     Introspection = "authenticated"
	IntrospectionEverybody Introspection = "everybody"
	IntrospectionNobody    Introspection = "nobody"
)

// Source has the services.
type Source interface {
	// Version is the same as long as Services returns the same. It is called for each request.
	Version() string
	// Services are those whose methods are in the schema, those that come first where two want a name in front.
	Services() []Service
}

// Options configures a Handler. Source, Next, Logger and Registerer are required.
type Options struct {
	Source Source
	// Next answers the calls, and whatever is no GraphQL.
	Next http.Handler
	// Known reports whether a request shows a credential, and what is wrong with one that is not good. Default: everybody is known.
	Known         func(http.Header) (bool, error)
	Introspection Introspection
	Logger        *slog.Logger
	Registerer    prometheus.Registerer
}

// Handler answers GraphQL and passes on all else.
type Handler struct {
	source        Source
	next          http.Handler
	known         func(http.Header) (bool, error)
	introspection Introspection
	logger        *slog.Logger
	metrics       *metrics
	compressed    http.Handler
	page          http.Handler
	events        http.Handler

	building sync.Mutex
	current  atomic.Pointer[schemas]
}

// schemas are those of one version of the services.
type schemas struct {
	version string
	all     *prepared
	public  *prepared // of those who show no credential; nil where there is nothing for them
}

// New returns a handler. It answers at once what Next does (server.Expresser).
func New(o Options) (http.Handler, error) {
	h := &Handler{source: o.Source, next: o.Next, known: o.Known, introspection: o.Introspection, logger: o.Logger}
	var err error
	if h.metrics, err = newMetrics(o.Registerer); err != nil {
		return nil, err
	}
	if h.compressed, err = httpencoding.Handler(http.HandlerFunc(h.serve)); err != nil {
		return nil, err
	}
	if h.page, err = httpencoding.Handler(http.HandlerFunc(servePage)); err != nil {
		return nil, err
	}
	h.events = server.EndOnDrain(server.AllowSilence(http.HandlerFunc(h.serve)))
	if paths := server.ExpresserOf(o.Next); paths != nil {
		return &expresser{Handler: h, paths: paths}, nil
	}
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == Path && negotiate(r.Header.Values("Accept")) == typeEvents:
		h.events.ServeHTTP(w, r)
	case r.URL.Path == Path:
		h.compressed.ServeHTTP(w, r)
	case servesPage(r.URL.Path):
		h.page.ServeHTTP(w, r)
	default:
		h.next.ServeHTTP(w, r)
	}
}

// negotiate returns the media type of an answer, "" where none that there is would be taken.
func negotiate(accept []string) string {
	best, bestQ := "", 0.0
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, parameters, _ := strings.Cut(part, ";")
		kind = strings.ToLower(strings.TrimSpace(kind))
		switch kind {
		case typeResponse, typeJSON, typeEvents:
		case "*/*", "application/*", "":
			kind = typeResponse
		default:
			continue
		}
		if q := quality(parameters); q > bestQ {
			best, bestQ = kind, q
		}
	}
	return best
}

func quality(parameters string) float64 {
	for p := range strings.SplitSeq(parameters, ";") {
		if text, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(p)), "q="); ok {
			q, err := strconv.ParseFloat(text, 64)
			if err != nil || q < 0 || q > 1 {
				return 0
			}
			return q
		}
	}
	return 1
}

// answer is what is answered to a request that was not carried out, or to one that was.
type answer struct {
	status int
	data   *answerObject // nil: there is no data in the answer
	errors []graphError
	header http.Header
}

func refusal(status int, err error) *answer {
	return &answer{status: status, errors: []graphError{{Message: err.Error(), Extensions: extensionsOf(err)}}}
}

// serve answers a request.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Add("Vary", "Accept, Authorization, Nearside-Bookmark")
	kind := negotiate(r.Header.Values("Accept"))
	switch {
	case r.Method == http.MethodOptions:
		header.Set("Allow", "GET, HEAD, POST, OPTIONS")
		header.Set("Accept-Post", typeJSON)
		w.WriteHeader(http.StatusNoContent)
		return
	case r.Method == http.MethodGet && r.URL.RawQuery == "" && strings.Contains(r.Header.Get("Accept"), "text/html"):
		http.Redirect(w, r, PathPage, http.StatusFound)
		return
	case kind == "":
		h.write(w, typeResponse, refusal(http.StatusNotAcceptable, &httpError{text: "answers are " + typeResponse + ", " + typeJSON + " or " + typeEvents}))
		return
	}
	o, a := h.prepare(r, kind)
	operation := "none"
	switch {
	case a != nil:
	case o.def.Operation == ast.Subscription:
		h.metrics.subscriptions.Inc()
		defer h.metrics.subscriptions.Dec()
		h.subscribe(w, r, o)
		return
	default:
		operation = string(o.def.Operation)
		ctx, cancel := context.WithTimeout(r.Context(), maxTime)
		defer cancel()
		a = o.answer(o.run(ctx))
	}
	h.metrics.operations.WithLabelValues(operation, outcomeOf(a)).Inc()
	h.metrics.seconds.Observe(time.Since(began).Seconds())
	if kind == typeEvents && a.status != http.StatusUnauthorized {
		newEvents(w).finish(a)
		return
	}
	h.write(w, kind, a)
}

func outcomeOf(a *answer) string {
	switch {
	case a.data == nil:
		return "refused"
	case len(a.errors) == 0:
		return "answered"
	default:
		return "partial"
	}
}

// prepare returns the operation of a request, or what is answered where there is none.
func (h *Handler) prepare(r *http.Request, kind string) (*operation, *answer) {
	known, err := true, error(nil)
	if h.known != nil {
		known, err = h.known(r.Header)
	}
	schemas := h.latest()
	p := schemas.all
	if !known {
		p = schemas.public
	}
	if err != nil || p == nil {
		return nil, unauthenticated(err)
	}
	q, err := readRequest(r)
	if err != nil {
		status := http.StatusBadRequest
		if e, ok := errors.AsType[*httpError](err); ok {
			status = e.status
		}
		a := refusal(status, err)
		switch status {
		case http.StatusMethodNotAllowed:
			a.header = http.Header{"Allow": {"GET, HEAD, POST, OPTIONS"}}
		case http.StatusUnsupportedMediaType:
			a.header = http.Header{"Accept": {typeJSON}, "Accept-Post": {typeJSON}}
			if r.Header.Get("Content-Encoding") != "" {
				a.header = http.Header{"Accept-Encoding": {"identity"}}
			}
		}
		return nil, a
	}
	refuse := http.StatusBadRequest
	if kind == typeJSON {
		refuse = http.StatusOK // so that those get to see why who take every other status for a broken server
	}
	d, problems := p.document(q.Query)
	told := h.introspection == IntrospectionEverybody || known && h.introspection != IntrospectionNobody
	if len(problems) > 0 {
		h.countLimit(problems[0])
		if !told {
			withoutHints(problems)
		}
		return nil, &answer{status: refuse, errors: problems}
	}
	def, err := d.operation(q.OperationName)
	if err != nil {
		return nil, refusal(refuse, err)
	}
	if a := h.checkMethod(r, p.schema, def, kind); a != nil {
		return nil, a
	}
	if d.introspects && !told {
		return nil, refusal(refuse, &callError{
			code: connect.CodePermissionDenied, reason: reasonIntrospection, message: "the schema is not told here",
		})
	}
	given, err := q.variables()
	if err != nil {
		return nil, refusal(http.StatusBadRequest, err)
	}
	vars, err := p.schema.coerce(def, given)
	if err != nil {
		return nil, refusal(refuse, err)
	}
	root := map[ast.Operation]string{ast.Query: rootQuery, ast.Mutation: rootMutation, ast.Subscription: rootSubscription}[def.Operation]
	if cost := p.schema.cost(def.SelectionSet, root, vars); cost > maxCost {
		h.metrics.refused.WithLabelValues("cost").Inc()
		return nil, refusal(refuse, &limitError{"cost", fmt.Sprintf(
			"the operation may cost %d: at most %d may be; ask for smaller pages or fewer fields", cost, maxCost)})
	}
	return &operation{
		handler: h, schema: p.schema, def: def, vars: vars, request: r, header: passedHeader(r.Header),
		session: client.NewSession(r.Header[bookmarkHeader]...), key: r.Header.Get(keyHeader), memo: make(map[string]*callEntry),
		groups: make(map[string]*batchGroup),
	}, nil
}

// withoutHints leaves out what the validation guesses that was meant: names of the schema.
func withoutHints(problems []graphError) {
	for i := range problems {
		problems[i].Message, _, _ = strings.Cut(problems[i].Message, " Did you mean")
	}
}

func (h *Handler) countLimit(e graphError) {
	if m, ok := e.Extensions["metadata"].(map[string]string); ok && e.Extensions["reason"] == reasonLimit {
		h.metrics.refused.WithLabelValues(m["limit"]).Inc()
	}
}

func unauthenticated(err error) *answer {
	e := &callError{code: connect.CodeUnauthenticated, reason: "UNAUTHENTICATED", message: "no credential: send the header Authorization: Bearer …"}
	if err != nil {
		e.message, e.reason = "the credential is not valid", "TOKEN_INVALID"
	}
	return refusal(http.StatusUnauthorized, e)
}

// checkMethod refuses an operation that is not for the request's method, or whose answer is not for its media type.
func (h *Handler) checkMethod(r *http.Request, s *Schema, def *ast.OperationDefinition, kind string) *answer {
	get := r.Method != http.MethodPost
	if def.Operation == ast.Subscription {
		if kind != typeEvents {
			return refusal(http.StatusNotAcceptable, &httpError{text: "a subscription is answered with Accept: " + typeEvents})
		}
		if f, ok := def.SelectionSet[0].(*ast.Field); ok && get {
			if field := s.objects[rootSubscription].fields[f.Name]; field != nil {
				get = !field.call.safe
			}
		}
	}
	if get && def.Operation != ast.Query {
		a := refusal(http.StatusMethodNotAllowed, &httpError{text: "want POST: GET is for what changes nothing"})
		a.header = http.Header{"Allow": {"POST"}}
		return a
	}
	return nil
}

// answer is what an operation answered.
func (o *operation) answer(data *answerObject) *answer {
	a := &answer{status: http.StatusOK, data: data, errors: o.errors, header: make(http.Header)}
	if o.refused > 0 {
		a.errors = append(a.errors, graphError{Message: fmt.Sprintf("and %d more errors", o.refused), Extensions: map[string]any{"reason": reasonLimit}})
	}
	if marks := o.session.Bookmarks(); marks != "" {
		a.header.Set(bookmarkHeader, marks)
	}
	o.fresh.write(a.header)
	if len(a.errors) > 0 && nothing(data) && all(a.errors, connect.CodeUnauthenticated) {
		a.status = http.StatusUnauthorized
	}
	return a
}

func nothing(data *answerObject) bool {
	for _, v := range data.values {
		if s, ok := v.(*slot); !ok || s.value != nil {
			return false
		}
	}
	return true
}

func all(list []graphError, code connect.Code) bool {
	for _, e := range list {
		if e.Extensions["code"] != code.String() {
			return false
		}
	}
	return true
}

// body is an answer as it is sent.
func (a *answer) body() []byte {
	b := []byte{'{'}
	if len(a.errors) > 0 {
		if text, err := json.Marshal(a.errors); err == nil { // always
			b = append(append(b, `"errors":`...), text...)
		}
	}
	if a.data != nil {
		if len(a.errors) > 0 {
			b = append(b, ',')
		}
		b = appendJSON(append(b, `"data":`...), a.data)
	}
	return append(b, '}')
}

func (h *Handler) write(w http.ResponseWriter, kind string, a *answer) {
	header := w.Header()
	maps.Copy(header, a.header)
	if kind == typeEvents {
		kind = typeResponse
	}
	header.Set("Content-Type", kind+"; charset=utf-8")
	if a.status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", `Bearer realm="nearside"`)
	}
	body := a.body()
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(body) //nolint:gosec // it is JSON and says so; an error says that whoever asked has gone
}
