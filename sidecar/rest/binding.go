package rest

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"connectrpc.com/vanguard"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Binding is one way to call a method: what a google.api.http rule, or an additional binding of one, says.
type Binding struct {
	Method   protoreflect.MethodDescriptor
	Verb     string // "GET"
	Template string // "/v1/users/{id}"
	Vars     []string
	Body     string // field of the request, "*" for the whole of it, "" for none
	Response string // field of the answer, "" for the whole of it

	transcoder *vanguard.Transcoder // makes the call
	tag        string               // in the document, where it is not the service's name

	pattern *regexp.Regexp
	bound   *bound // nil where a body cannot say what the path does
	named   bool   // the template ends with :verb, so it is no resource
	paged   bool   // the answer may have a next page
}

// BindingsOf returns the bindings of services' unary methods, in a stable order.
func BindingsOf(services []protoreflect.ServiceDescriptor) ([]*Binding, error) {
	var out []*Binding
	for _, service := range services {
		methods := service.Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
			if rule == nil || m.IsStreamingClient() || m.IsStreamingServer() {
				continue
			}
			for _, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
				if r.GetCustom() != nil {
					continue // another verb: HEAD and OPTIONS are there anyway
				}
				b, err := newBinding(m, r)
				if err != nil {
					return nil, fmt.Errorf("http rule of %s: %w", m.FullName(), err)
				}
				out = append(out, b)
			}
		}
	}
	slices.SortFunc(out, func(a, b *Binding) int {
		return cmp.Or(cmp.Compare(a.Template, b.Template), cmp.Compare(a.Verb, b.Verb))
	})
	return out, nil
}

func newBinding(m protoreflect.MethodDescriptor, rule *annotations.HttpRule) (*Binding, error) {
	b := &Binding{Method: m, Body: rule.GetBody(), Response: rule.GetResponseBody()}
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		b.Verb, b.Template = http.MethodGet, p.Get
	case *annotations.HttpRule_Put:
		b.Verb, b.Template = http.MethodPut, p.Put
	case *annotations.HttpRule_Post:
		b.Verb, b.Template = http.MethodPost, p.Post
	case *annotations.HttpRule_Delete:
		b.Verb, b.Template = http.MethodDelete, p.Delete
	case *annotations.HttpRule_Patch:
		b.Verb, b.Template = http.MethodPatch, p.Patch
	default:
		return nil, fmt.Errorf("%T is not for REST", p)
	}
	var err error
	if b.pattern, b.Vars, err = compile(b.Template); err != nil {
		return nil, err
	}
	b.bound = boundOf(b)
	b.named = strings.Contains(b.Template[strings.LastIndexByte(b.Template, '/'):], ":")
	b.paged = b.Response == "" && m.Output().Fields().ByName("next_page_token") != nil
	return b, nil
}

var variable = regexp.MustCompile(`\{([a-zA-Z0-9_.]+)(?:=([^}]*))?\}|\*\*|\*`)

// head is the first segment of a binding's paths, "" where they may have any.
func (b *Binding) head() string {
	segment, _, _ := strings.Cut(strings.TrimPrefix(b.Template, "/"), "/")
	if at := strings.IndexAny(segment, "{*"); at == 0 {
		return ""
	}
	name, _, _ := strings.Cut(segment, ":")
	return name
}

// literal is how much of its paths a template says itself.
func (b *Binding) literal() int { return len(variable.ReplaceAllString(b.Template, "")) }

// compile turns a path template into what matches its paths.
func compile(template string) (*regexp.Regexp, []string, error) {
	if !strings.HasPrefix(template, "/") {
		return nil, nil, fmt.Errorf("%q does not begin with /", template)
	}
	text, vars := expand(template, false)
	re, err := regexp.Compile("^" + text + "$")
	return re, vars, err
}

// expand turns a template, or a part of one, into a regular expression, with groups for its variables or without. Variables are single
// segments unless they say otherwise.
func expand(template string, groups bool) (text string, vars []string) {
	var pattern strings.Builder
	at := 0
	for _, m := range variable.FindAllStringSubmatchIndex(template, -1) {
		pattern.WriteString(regexp.QuoteMeta(template[at:m[0]]))
		at = m[1]
		group := groups && m[2] >= 0
		if m[2] >= 0 {
			vars = append(vars, template[m[2]:m[3]])
		}
		if group {
			pattern.WriteByte('(')
		}
		switch {
		case m[4] >= 0:
			inner, _ := expand(template[m[4]:m[5]], false)
			pattern.WriteString(inner)
		case template[m[0]:m[1]] == "**":
			pattern.WriteString(`.+`)
		default:
			pattern.WriteString(`[^/:]+`)
		}
		if group {
			pattern.WriteByte(')')
		}
	}
	pattern.WriteString(regexp.QuoteMeta(template[at:]))
	return pattern.String(), vars
}

// find returns what a path is bound to by verb; allowed are the verbs that it has.
func find(bindings []*Binding, verb, path string) (found *Binding, allowed []string) {
	for _, b := range bindings {
		if !b.pattern.MatchString(path) {
			continue
		}
		allowed = append(allowed, b.Verb)
		if b.Verb == verb {
			found = b
		}
	}
	return found, allowed
}

// location returns the template of one resource of the collection that b creates in, and the variable with its name.
func (b *Binding) location(all []*Binding) (template, name string) {
	for _, other := range all {
		rest, ok := strings.CutPrefix(other.Template, b.Template+"/{")
		if name, closed := strings.CutSuffix(rest, "}"); ok && closed && other.Verb == http.MethodGet && !strings.Contains(name, "/") {
			return b.Template + "/", name
		}
	}
	return "", ""
}
