package rest

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/vanguard"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nearside-dev/nearside/internal/descriptors"
)

// Service is a registered service.
type Service struct {
	Descriptor protoreflect.ServiceDescriptor
	// Comments are those of the service's protos, by full name.
	Comments map[protoreflect.FullName]string
	// Public says that everybody may call it: it is in the document of those who show no credential.
	Public bool
}

// Source has the registered services.
type Source interface {
	// Version is the same as long as Services returns the same. It is called for each request that may be for one of them.
	Version() string
	// Services are those that there are, those that were registered first in front.
	Services() []Service
}

// maxBindings bounds how many ways to call registered services there are: services beyond have none.
const maxBindings = 10_000

// table is all that can be called over REST at one version of the registered services. It is immutable.
type table struct {
	version   string
	own       []*Binding            // of the mesh's own services
	others    map[string][]*Binding // of registered ones, by the first segment of their paths
	locations map[*Binding][2]string

	documents [2]func() []byte // for those who are not known, and for those who are
}

// reserved are the first segments of paths that are the gateway's own; a template has to have one.
var reserved = map[string]bool{
	"": true, ".well-known": true, "debug": true, "demo": true, "docs": true, "graphiql": true, "graphql": true, "healthz": true,
	"metrics": true, "openapi.json": true, "readyz": true,
}

// newTable returns the table of services. What a registered service has no way for is told to skipped.
func newTable(version string, own []*Binding, others []Service, next http.Handler, skipped func(service string, err error)) *table {
	t := &table{version: version, own: own, others: make(map[string][]*Binding), locations: make(map[*Binding][2]string)}
	seen := make(map[string]bool)
	added := make([][]*Binding, len(others))
	count := 0
	for i, s := range others {
		name := string(s.Descriptor.FullName())
		bindings, err := BindingsOf([]protoreflect.ServiceDescriptor{s.Descriptor})
		var made *vanguard.Transcoder
		if err == nil && count+len(bindings) > maxBindings {
			err = fmt.Errorf("there are %d ways to call services already", count)
		}
		if err == nil && len(bindings) > 0 {
			// Calls are POST: not each service takes them as GET.
			made, err = transcoder([]protoreflect.ServiceDescriptor{s.Descriptor}, foreignErrors(next), vanguard.WithMaxGetURLBytes(1))
		}
		if err != nil {
			skipped(name, err)
			continue
		}
		for _, b := range bindings {
			key := b.Verb + " " + b.pattern.String()
			switch head := b.head(); {
			case reserved[head] || strings.Contains(head, "."):
				skipped(name, fmt.Errorf("%s is the gateway's own", b.Template))
				continue
			case seen[key]:
				skipped(name, fmt.Errorf("%s %s is another service's", b.Verb, b.Template))
				continue
			}
			seen[key] = true
			b.transcoder, b.tag = made, name
			t.others[b.head()] = append(t.others[b.head()], b)
			added[i] = append(added[i], b)
			count++
		}
	}
	for _, list := range t.others {
		// Where two templates match a path, the one that says more of it itself is meant.
		slices.SortStableFunc(list, func(a, b *Binding) int { return cmp.Compare(b.literal(), a.literal()) })
	}
	t.locate(own)
	for _, bindings := range added {
		t.locate(bindings)
	}
	for i := range t.documents {
		t.documents[i] = sync.OnceValue(func() []byte { return t.document(i == 1, others, added, skipped) })
	}
	return t
}

func (t *table) locate(bindings []*Binding) {
	for _, b := range bindings {
		if template, name := b.location(bindings); template != "" && b.Verb == http.MethodPost {
			t.locations[b] = [2]string{template, name}
		}
	}
}

// document is the OpenAPI document of what a caller may know of.
func (t *table) document(known bool, others []Service, added [][]*Binding, skipped func(string, error)) []byte {
	comments, err := descriptors.Comments()
	if err != nil {
		comments = nil // the document is as true without
	}
	comments = maps.Clone(comments)
	all := slices.Clip(t.own)
	for i, s := range others {
		if known || s.Public {
			all = append(all, added[i]...)
			maps.Copy(comments, s.Comments)
		}
	}
	text, err := document(all, comments)
	if err != nil {
		skipped("OpenAPI document", err)
		return []byte("{}")
	}
	return text
}

// find returns what a path is bound to by verb; allowed are the verbs that it has. A path of the mesh's own services is theirs alone.
func (t *table) find(verb, path string) (found *Binding, allowed []string) {
	if found, allowed = find(t.own, verb, path); len(allowed) > 0 || len(t.others) == 0 {
		return found, allowed
	}
	head, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	for _, b := range t.others[head] {
		if !b.pattern.MatchString(path) {
			continue
		}
		if !slices.Contains(allowed, b.Verb) {
			allowed = append(allowed, b.Verb)
		}
		if b.Verb == verb && found == nil {
			found = b
		}
	}
	slices.Sort(allowed)
	return found, allowed
}

// latest returns the table as the services are now.
func (h *Handler) latest() *table {
	t := h.current.Load()
	if h.others == nil {
		return t
	}
	version := h.others.Version()
	if t.version == version {
		return t
	}
	h.building.Lock()
	defer h.building.Unlock()
	if t = h.current.Load(); t.version == version {
		return t
	}
	t = newTable(version, t.own, h.others.Services(), h.next, h.skipped)
	h.current.Store(t)
	return t
}

func (h *Handler) skipped(service string, err error) {
	h.logger.Warn("not for REST", slog.String("service", service), slog.Any("error", err))
}
