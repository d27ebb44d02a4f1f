package sidecar

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/sidecar/rest"
)

// withREST has the gateway answer REST calls of its services too. It stands before all that looks at procedures: what comes out
// of it are calls like any others.
func (s *Sidecar) withREST(
	next http.Handler, verifier *access.Verifier, others *registered, metrics prometheus.Registerer,
) (http.Handler, error) {
	names := append([]string{datav1connect.DataServiceName}, s.config.MountedServices...)
	if verifier != nil {
		names = append(names, authv1connect.AuthServiceName, authv1connect.AccountServiceName)
	}
	slices.Sort(names)
	var services []protoreflect.ServiceDescriptor
	for _, name := range slices.Compact(names) {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			return nil, fmt.Errorf("REST of %s: %w", name, err)
		}
		if service, ok := d.(protoreflect.ServiceDescriptor); ok {
			services = append(services, service)
		}
	}
	handler, err := rest.New(rest.Options{
		Services: services, Others: restServices{others}, Known: known(verifier), Next: next, Logger: s.logger, Registerer: metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("REST: %w", err)
	}
	return handler, nil
}

// restServices are the registered services as package rest reads them.
type restServices struct{ *registered }

var _ rest.Source = restServices{}

// Services implements rest.Source.
func (r restServices) Services() []rest.Service {
	var out []rest.Service
	for _, s := range r.list() {
		out = append(out, rest.Service{Descriptor: s.descriptor, Comments: s.comments, Public: s.public})
	}
	return out
}
