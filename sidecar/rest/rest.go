package rest

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"connectrpc.com/vanguard"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/httpencoding"
	"github.com/nearside-dev/nearside/internal/openapi"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
)

const (
	// Prefix is what the paths of all REST calls begin with.
	Prefix = "/v1/"
	// maxBodyBytes bounds a request's or an answer's message, as the calls' own listeners do.
	maxBodyBytes = 72 << 20

	fieldsParameter = "fields"

	contentTypeJSON    = "application/json"
	contentTypeProblem = "application/problem+json"
	contentTypePatch   = "application/merge-patch+json"
)

// Options configures a Handler. Services, Next, Logger and Registerer are required.
type Options struct {
	// Services are the mesh's own; their paths begin with Prefix.
	Services []protoreflect.ServiceDescriptor
	// Others has the registered ones, whose paths are below Prefix or anywhere else where nothing is; default none.
	Others Source
	// Known reports whether a request shows a credential. Default: everybody is known.
	Known func(http.Header) (bool, error)
	// Next answers the calls, and whatever is no REST.
	Next       http.Handler
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Handler answers REST calls and passes on all else. It answers at once what Next does (server.Expresser).
type Handler struct {
	next       http.Handler
	compressed http.Handler
	others     Source
	known      func(http.Header) (bool, error)
	logger     *slog.Logger
	answers    *prometheus.CounterVec
	succeeded  prometheus.Counter // of answers: with the status 200

	building sync.Mutex // held while a table is made
	current  atomic.Pointer[table]
}

// New returns a handler of the REST calls of services.
func New(o Options) (http.Handler, error) {
	bindings, err := BindingsOf(o.Services)
	if err != nil {
		return nil, err
	}
	h := &Handler{
		next: o.Next, others: o.Others, known: o.Known, logger: o.Logger,
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_rest_answers_total", Help: "Answers to REST calls, by status.",
		}, []string{"status"}),
	}
	if err := o.Registerer.Register(h.answers); err != nil {
		return nil, err
	}
	h.succeeded = h.answers.WithLabelValues("200")
	own, err := transcoder(o.Services, o.Next)
	if err != nil {
		return nil, err
	}
	for _, b := range bindings {
		b.transcoder = own
	}
	h.current.Store(newTable("", bindings, nil, o.Next, h.skipped))
	mux := http.NewServeMux()
	mux.Handle("/", http.HandlerFunc(h.serve))
	openapi.Mount(mux, h.documentFor)
	if h.compressed, err = httpencoding.Handler(mux); err != nil {
		return nil, err
	}
	if paths := server.ExpresserOf(o.Next); paths != nil {
		return newExpresser(h, bindings, paths), nil
	}
	return h, nil
}

func transcoder(services []protoreflect.ServiceDescriptor, next http.Handler, more ...vanguard.ServiceOption) (*vanguard.Transcoder, error) {
	options := append([]vanguard.ServiceOption{
		vanguard.WithTargetProtocols(vanguard.ProtocolConnect), vanguard.WithTargetCodecs(vanguard.CodecProto),
		vanguard.WithNoTargetCompression(), vanguard.WithMaxMessageBufferBytes(maxBodyBytes),
	}, more...)
	var all []*vanguard.Service
	for _, s := range services {
		all = append(all, vanguard.NewServiceWithSchema(s, next, options...))
	}
	codec := func(r vanguard.TypeResolver) vanguard.Codec {
		return &vanguard.JSONCodec{
			MarshalOptions: protojson.MarshalOptions{Resolver: r, EmitDefaultValues: true},
			// A field that is not known is an error: whoever misspells one is to hear of it.
			UnmarshalOptions: protojson.UnmarshalOptions{Resolver: r},
		}
	}
	return vanguard.NewTranscoder(all, vanguard.WithCodec(codec))
}

// documentFor returns the OpenAPI document for whoever sends a request: what there is to call is for those who may call.
func (h *Handler) documentFor(r *http.Request) []byte {
	t := h.latest()
	if h.known != nil {
		if known, err := h.known(r.Header); !known || err != nil {
			return t.documents[0]()
		}
	}
	return t.documents[1]()
}

// document is the OpenAPI document of bindings.
func document(bindings []*Binding, comments map[protoreflect.FullName]string) ([]byte, error) {
	operations := make([]openapi.Operation, len(bindings))
	for i, b := range bindings {
		operations[i] = openapi.Operation{
			Method: b.Method, Verb: b.Verb, Template: b.Template, Vars: b.Vars, Body: b.Body, Response: b.Response,
			Creates: b.Verb == http.MethodPost && !b.named && !safe(b), Tag: b.tag,
		}
	}
	return openapi.Document(operations, comments)
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, Prefix) || openapi.Serves(r.URL.Path) || h.serves(r.URL) {
		h.compressed.ServeHTTP(w, r)
		return
	}
	h.next.ServeHTTP(w, r)
}

// serves reports whether a path that does not begin with Prefix is one of a registered service. Calls never are.
func (h *Handler) serves(u *url.URL) bool {
	path := u.Path
	head, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if h.others == nil || reserved[head] || strings.Contains(head, ".") {
		return false
	}
	_, allowed := h.latest().find("", pathOf(u))
	return len(allowed) > 0
}

// serve answers a REST call.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	verb := r.Method
	if verb == http.MethodHead {
		verb = http.MethodGet
	}
	t := h.latest()
	b, allowed := t.find(verb, pathOf(r.URL))
	a := &answer{handler: h, table: t, binding: b, request: r, header: make(http.Header)}
	switch {
	case len(allowed) == 0:
		a.refuse(http.StatusNotFound, "there is no such resource: /openapi.json says what there is")
	case r.Method == http.MethodOptions:
		a.allow(allowed)
		a.acceptable(allowed...)
		a.status = http.StatusNoContent
	case b == nil:
		a.allow(allowed)
		a.refuse(http.StatusMethodNotAllowed, fmt.Sprintf("%s is not for this resource", r.Method))
	case !acceptsJSON(r.Header.Values("Accept")):
		a.refuse(http.StatusNotAcceptable, "answers are application/json")
	case !sendsJSON(r):
		a.header.Set("Accept", contentTypeJSON)
		a.acceptable(verb)
		a.refuse(http.StatusUnsupportedMediaType, "requests are application/json")
	case !sendsEncoded(r.Header.Values("Content-Encoding")):
		a.encodings = server.AcceptEncoding
		a.refuse(http.StatusUnsupportedMediaType, "requests may be compressed with gzip or zstd")
	case a.failsBefore():
	default:
		h.call(a, verb)
	}
	a.finish(w)
}

// call makes the call that a request is bound to.
func (h *Handler) call(a *answer, verb string) {
	query, err := url.ParseQuery(a.request.URL.RawQuery)
	if err != nil {
		a.refuse(http.StatusBadRequest, "the query of the URL is malformed")
		return
	}
	if !utf8.ValidString(a.request.URL.Path) {
		a.refuse(http.StatusBadRequest, "the path of the URL is no UTF-8")
		return
	}
	var name string
	if a.parameters, name, err = a.binding.parameters(query); err != nil {
		a.invalid(name, err.Error())
		return
	}
	if a.binding.Body == "" && hasBody(a.request) {
		a.invalid("body", fmt.Sprintf("%s %s takes none", a.binding.Verb, a.binding.Template))
		return
	}
	if query.Has(fieldsParameter) {
		if a.fields, err = a.binding.parseFields(strings.Split(strings.Join(query[fieldsParameter], ","), ",")); err != nil {
			a.invalid(fieldsParameter, err.Error())
			return
		}
		query.Del(fieldsParameter)
	}
	inner := a.request.Clone(a.request.Context())
	if !a.unpack(inner) {
		return
	}
	inner.Method = verb
	// The transcoder unescapes what it takes out of the path, and expects the path as it was.
	inner.URL.Path, inner.URL.RawPath, inner.URL.RawQuery = pathOf(inner.URL), "", query.Encode()
	if !a.checkBound(inner.URL.Path, &inner.Body) {
		return
	}
	// An answer is compressed on its way out, once it is what it will be.
	inner.Header.Del("Accept-Encoding")
	inner.Header.Del("Accept")
	inner.Header.Del("Content-Type")
	if a.binding.Body != "" {
		inner.Header.Set("Content-Type", contentTypeJSON)
	} else {
		inner.Body, inner.ContentLength = http.NoBody, 0
	}
	a.transcode(inner)
}

// unpack unpacks the body of a request, or refuses it.
func (a *answer) unpack(r *http.Request) bool {
	name := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding")))
	r.Header.Del("Content-Encoding")
	for _, c := range server.Compressions() {
		if c.Name != name {
			continue
		}
		var text bytes.Buffer
		d := c.Decompressor()
		err := d.Reset(r.Body)
		if err == nil {
			_, err = io.Copy(&text, io.LimitReader(d, maxBodyBytes+1))
			_ = d.Close() // it was read
		}
		reason := rpcerr.ReasonOf(err)
		switch {
		case text.Len() > maxBodyBytes, reason == datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE:
			a.refuse(http.StatusRequestEntityTooLarge, "the request is too large")
			return false
		case reason == datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_SLOW:
			a.refuse(http.StatusRequestTimeout, "the request came too slowly")
			return false
		case err != nil:
			a.invalid("body", "is not "+name)
			return false
		}
		r.Body, r.ContentLength = io.NopCloser(&text), int64(text.Len())
	}
	return true
}

func mapKeys(v url.Values) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range v {
			if !yield(k) {
				return
			}
		}
	}
}

// sendsJSON reports whether a request's body, if it has one, is JSON: a merge patch (RFC 7396) of something flat is no different.
func sendsJSON(r *http.Request) bool {
	header := r.Header.Get("Content-Type")
	if r.ContentLength == 0 {
		return true
	}
	kind, parameters, err := mime.ParseMediaType(header)
	if err != nil || parameters["charset"] != "" && !strings.EqualFold(parameters["charset"], "utf-8") {
		return false
	}
	return kind == contentTypeJSON || kind == contentTypePatch && r.Method == http.MethodPatch
}

// sendsEncoded reports whether a request's body is compressed in a way that is known, if it is.
func sendsEncoded(encodings []string) bool {
	switch len(encodings) {
	case 0:
		return true
	case 1:
		e := strings.ToLower(strings.TrimSpace(encodings[0]))
		return e == "" || e == "identity" || e == "gzip" || e == "zstd"
	default:
		return false
	}
}

// acceptsJSON reports whether an Accept header has room for JSON (RFC 9110, section 12.5.1): what says most of it counts.
func acceptsJSON(accept []string) bool {
	if len(accept) == 0 {
		return true
	}
	wanted, said := true, -1
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, parameters, _ := strings.Cut(part, ";")
		says := map[string]int{contentTypeJSON: 2, contentTypeProblem: 2, "application/*": 1, "*/*": 0}
		level, ok := says[strings.ToLower(strings.TrimSpace(kind))]
		switch {
		case ok && level > said:
			wanted, said = !isZero(parameters), level
		case ok && level == said:
			wanted = wanted || !isZero(parameters)
		}
	}
	return wanted && said >= 0 || strings.TrimSpace(strings.Join(accept, "")) == ""
}

// isZero reports whether the parameters of a media range have a quality of nothing.
func isZero(parameters string) bool {
	for p := range strings.SplitSeq(parameters, ";") {
		if text, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(p)), "q="); ok {
			q, err := strconv.ParseFloat(text, 64)
			return err != nil || q <= 0
		}
	}
	return false
}
