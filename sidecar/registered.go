package sidecar

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/descriptors"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/servicedesc"
	"github.com/nearside-dev/nearside/sidecar/mesh"
)

// registered are the services that others run, as those doors see them that need their descriptors.
type registered struct {
	router *mesh.Router
	logger *slog.Logger
	known  func(http.Header) (bool, error) // nil: everybody is

	mu       sync.Mutex
	mark     any    // of the rows that were looked at last
	version  string // of what they say
	services []described
}

// described is a service with its descriptors.
type described struct {
	descriptor protoreflect.ServiceDescriptor
	comments   map[protoreflect.FullName]string
	public     bool
}

// Version is the same as long as list returns the same. Most commits of _mesh change no service.
func (g *registered) Version() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	list, mark := g.router.Registered(g.mark)
	if mark == g.mark {
		return g.version
	}
	var b strings.Builder
	for _, s := range list {
		fmt.Fprintf(&b, "%s %d %t\n", s.Name, s.Registered, s.Public)
	}
	g.mark = mark
	if b.String() == g.version {
		return g.version
	}
	g.version, g.services = b.String(), nil
	for _, s := range list {
		d, err := servicedesc.Read(s.Set, s.Name)
		if err != nil {
			g.logger.Warn("registered service without descriptors", slog.String("service", s.Name), slog.Any("error", err))
			continue
		}
		g.services = append(g.services, described{d.Descriptor, descriptors.CommentsOf(d.Files), s.Public})
	}
	return g.version
}

// list returns the services, those that were registered first in front.
func (g *registered) list() []described {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.services
}

var _ server.Others = (*registered)(nil)

// Seen implements server.Others: who shows no credential is told of public services alone.
func (g *registered) Seen(h http.Header) []server.Other {
	g.Version() // and with it the list
	known := true
	if g.known != nil {
		ok, err := g.known(h)
		known = ok && err == nil
	}
	var out []server.Other
	for _, s := range g.list() {
		if known || s.public {
			name := string(s.descriptor.FullName())
			out = append(out, server.Other{Descriptor: s.descriptor, Ready: func() bool { return g.router.Ready(name) }})
		}
	}
	return out
}

// known returns what tells whether a request shows a credential, and what is wrong with one that is not good; nil where there are no
// credentials.
func known(verifier *access.Verifier) func(http.Header) (bool, error) {
	if verifier == nil {
		return nil
	}
	return func(h http.Header) (bool, error) {
		_, err := verifier.Request(h)
		if rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED {
			return false, nil // nothing is shown
		}
		return err == nil, err
	}
}
