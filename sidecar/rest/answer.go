package rest

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// answer collects the answer to one request, which is then made what REST has.
type answer struct {
	handler *Handler
	table   *table
	binding *Binding // nil where there is none
	request *http.Request
	fields  fieldTree // which of the answer's are asked for; nil is all

	parameters map[string]protoreflect.FieldDescriptor // of the request, by their names in the query

	// invalidField is the parameter that the request is refused for.
	invalidField *ProblemField

	// encodings are those that a refused request could have had.
	encodings string

	status int
	header http.Header
	body   bytes.Buffer
}

var _ http.ResponseWriter = (*answer)(nil)

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.body.Write(b)
}

// Flush implements http.Flusher, which has nothing to do: an answer is sent whole.
func (a *answer) Flush() {}

func (a *answer) allow(verbs []string) {
	for _, v := range verbs {
		a.header.Add("Allow", v)
		if v == http.MethodGet {
			a.header.Add("Allow", http.MethodHead)
		}
	}
	a.header.Set("Allow", strings.Join(append(a.header["Allow"], http.MethodOptions), ", "))
}

// acceptable says which bodies requests with some verbs may have.
func (a *answer) acceptable(verbs ...string) {
	for _, v := range verbs {
		switch v {
		case http.MethodPost:
			a.header.Set("Accept-Post", contentTypeJSON)
		case http.MethodPatch:
			a.header.Set("Accept-Patch", contentTypeJSON+", "+contentTypePatch)
		}
	}
}

// failsBefore refuses a request that is to change something if a condition of it cannot hold. What else it says in If-Match is for the
// method to look at, with what it changes.
func (a *answer) failsBefore() bool {
	b := a.binding
	if b.Verb == http.MethodGet || safe(b) || b.tag != "" {
		return false // others know themselves what they have
	}
	if len(a.request.Header["If-None-Match"]) > 0 {
		a.invalid("If-None-Match", "is for GET and HEAD: nothing is made here under a name that its caller chose")
		return true
	}
	lists := a.request.Header["If-Match"]
	if len(lists) == 0 || b.Method.Input().Fields().ByName("version") != nil || slices.Equal(lists, []string{"*"}) {
		return false
	}
	a.invalidField = nil
	a.refuse(http.StatusPreconditionFailed, "If-Match: this has no strong ETag, so that none can match")
	return true
}

// finish sends the answer.
func (a *answer) finish(w http.ResponseWriter) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	switch {
	case a.status >= http.StatusBadRequest:
		a.problem()
	case a.binding != nil:
		a.succeed()
	}
	a.header.Del("Accept-Encoding") // the transcoder's own business with the calls
	if a.encodings != "" {
		a.header.Set("Accept-Encoding", a.encodings)
	}
	h := w.Header()
	varies := h["Vary"] // what stands before the calls has its own
	for _, v := range append(a.header["Vary"], "Authorization, Nearside-Bookmark") {
		if !slices.Contains(varies, v) {
			varies = append(varies, v)
		}
	}
	maps.Copy(h, a.header)
	h["Vary"] = varies
	a.handler.answers.WithLabelValues(strconv.Itoa(a.status)).Inc()
	if a.status == http.StatusNoContent || a.status == http.StatusNotModified {
		h.Del("Content-Type")
		h.Del("Content-Length")
		w.WriteHeader(a.status)
		return
	}
	h.Set("Content-Length", strconv.Itoa(a.body.Len()))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()) // whoever asked has gone
}

// succeed makes an answer that is no error what REST has.
func (a *answer) succeed() {
	a.compact()
	if a.header.Get("Cache-Control") == "" {
		a.header.Set("Cache-Control", "no-store")
		if a.binding.Verb == http.MethodGet {
			a.header.Set("Cache-Control", "private, no-cache") // it may be kept, and asked for again with its tag
		}
	}
	switch a.binding.Verb {
	case http.MethodGet:
		a.read()
	case http.MethodPost:
		if !a.binding.named && !safe(a.binding) {
			a.status = http.StatusCreated
			a.locate()
		}
	case http.MethodDelete:
		if string(bytes.TrimSpace(a.body.Bytes())) == "{}" {
			a.status = http.StatusNoContent
			a.body.Reset()
		}
	}
	if a.fields != nil && a.status < http.StatusMultipleChoices && a.body.Len() > 0 {
		picked := a.fields.pick(a.body.Bytes())
		a.body = *bytes.NewBuffer(picked)
	}
}

// compact leaves out the spaces that the transcoder's JSON has, which are others in each build of the program: what has the same tag is to
// be the same.
func (a *answer) compact() {
	var tight bytes.Buffer
	tight.Grow(a.body.Len())
	if json.Compact(&tight, a.body.Bytes()) == nil {
		a.body = tight
	}
}

func safe(b *Binding) bool {
	o, ok := b.Method.Options().(*descriptorpb.MethodOptions)
	return ok && o.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

// read gives an answer its tag, and leaves its body out where the caller has it.
func (a *answer) read() {
	if a.binding.paged {
		a.link()
	}
	tag := a.header.Get("Etag")
	if tag == "" {
		tag = `W/"` + strconv.FormatUint(xxh3.Hash(a.body.Bytes()), 36) + `"`
		a.header.Set("Etag", tag)
	}
	switch given := a.request.Header; {
	case len(given.Values("If-Match")) > 0 && !matchesStrongly(given.Values("If-Match"), tag):
		a.refuse(http.StatusPreconditionFailed, "If-Match: it has another ETag")
		a.problem()
	case matches(given.Values("If-None-Match"), tag):
		a.status = http.StatusNotModified
		a.body.Reset()
	}
}

// matchesStrongly compares a tag with those of an If-Match header (RFC 9110, section 13.1.1).
func matchesStrongly(lists []string, tag string) bool {
	for _, list := range lists {
		for t := range strings.SplitSeq(list, ",") {
			if t = strings.TrimSpace(t); t == "*" || t == tag && !strings.HasPrefix(tag, "W/") {
				return true
			}
		}
	}
	return false
}

// matches compares a tag with those of an If-None-Match header, weakly (RFC 9110, section 13.1.2).
func matches(lists []string, tag string) bool {
	tag = strings.TrimPrefix(tag, "W/")
	for _, list := range lists {
		for t := range strings.SplitSeq(list, ",") {
			if t = strings.TrimSpace(t); t == "*" || strings.TrimPrefix(t, "W/") == tag {
				return true
			}
		}
	}
	return false
}

// link says where the next page is (RFC 8288).
func (a *answer) link() {
	var page struct {
		Next string `json:"nextPageToken"`
	}
	if json.Unmarshal(a.body.Bytes(), &page) != nil || page.Next == "" {
		return
	}
	next := *a.request.URL
	query := next.Query()
	query.Del("page_token")
	query.Set("pageToken", page.Next)
	next.RawQuery = query.Encode()
	a.header.Set("Link", "<"+(&url.URL{Path: next.Path, RawPath: next.RawPath, RawQuery: next.RawQuery}).String()+`>; rel="next"`)
}

// locate says where what was created is, if the answer names it.
func (a *answer) locate() {
	where, ok := a.table.locations[a.binding]
	if !ok {
		return
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(a.body.Bytes(), &object) != nil {
		return
	}
	name, template := where[1], where[0]
	raw, found := object[name]
	for _, inner := range object {
		var nested map[string]json.RawMessage
		if found || json.Unmarshal(inner, &nested) != nil {
			continue
		}
		raw, found = nested[name]
	}
	var id string
	if found && json.Unmarshal(raw, &id) == nil && id != "" {
		a.header.Set("Location", template+strings.ReplaceAll(url.PathEscape(id), ":", "%3A"))
	}
}
