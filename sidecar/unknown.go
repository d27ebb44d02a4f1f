package sidecar

import (
	"net/http"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/server"
)

// methods are the services of a mux. What is none of their methods somebody else answers, in the words of its protocol, where a service's
// own handler knows HTTP's alone.
type methods struct {
	server.Expresser

	mux, unknown http.Handler
}

func newMethods(mux *http.ServeMux, unknown http.Handler) *methods {
	return &methods{Expresser: server.ExpresserOf(mux), mux: mux, unknown: unknown}
}

// ServeHTTP implements http.Handler.
func (m *methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !access.Known(r.URL.Path) && lacksMethod(r.URL.Path) {
		m.unknown.ServeHTTP(w, r)
		return
	}
	m.mux.ServeHTTP(w, r)
}

// lacksMethod reports whether a path is one of a service of this program, and of no method of it.
func lacksMethod(path string) bool {
	name, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok {
		return false
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return false
	}
	service, ok := d.(protoreflect.ServiceDescriptor)
	return ok && service.Methods().ByName(protoreflect.Name(method)) == nil
}
