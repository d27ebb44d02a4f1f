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
	"google.golang.org/protobuf/types/descriptorpb"
)

// answer collects the answer to one request, which is then made what REST has.
type answer struct {
	handler *Handler
	table   *table
	binding *Binding // nil where there is none
	request *http.Request
	fields  fieldTree // which of the answer's are asked for; nil is all

	// invalidField is the parameter that the request is refused for.
	invalidField *ProblemField

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
	h := w.Header()
	varies := slices.Concat(h["Vary"], a.header["Vary"]) // what stands before the calls has its own
	maps.Copy(h, a.header)
	if len(varies) > 0 {
		h["Vary"] = varies
	}
	h.Add("Vary", "Authorization, Nearside-Bookmark")
	a.handler.answers.WithLabelValues(strconv.Itoa(a.status)).Inc()
	if a.status == http.StatusNoContent || a.status == http.StatusNotModified {
		h.Del("Content-Type")
		h.Del("Content-Length")
		w.WriteHeader(a.status)
		return
	}
	h.Set("Content-Length", strconv.Itoa(a.body.Len()))
	w.WriteHeader(a.status)
	if a.request.Method != http.MethodHead {
		_, _ = w.Write(a.body.Bytes()) // whoever asked has gone
	}
}

// succeed makes an answer that is no error what REST has.
func (a *answer) succeed() {
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
	if matches(a.request.Header.Values("If-None-Match"), tag) {
		a.status = http.StatusNotModified
		a.body.Reset()
	}
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
	a.header.Set("Link", "<"+(&url.URL{Path: next.Path, RawQuery: next.RawQuery}).String()+`>; rel="next"`)
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
		a.header.Set("Location", template+url.PathEscape(id))
	}
}
