package sidecar

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/descriptors"
	"github.com/nearside-dev/nearside/sidecar/graphql"
)

// withGraphQL has the gateway answer GraphQL too. As REST it stands before all that looks at procedures: what comes out of it are
// calls like any others.
func (s *Sidecar) withGraphQL(
	next http.Handler, verifier *access.Verifier, others *registered, metrics prometheus.Registerer,
) (http.Handler, error) {
	source := &graphServices{registered: others}
	comments, err := descriptors.Comments()
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Concat(s.config.MountedServices, []string{datav1connect.DataServiceName}) {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			return nil, fmt.Errorf("GraphQL of %s: %w", name, err)
		}
		if service, ok := d.(protoreflect.ServiceDescriptor); ok {
			source.own = append(source.own, graphql.Service{Descriptor: service, Comments: comments})
		}
	}
	handler, err := graphql.New(graphql.Options{
		Source: source, Next: next, Known: known(verifier), Introspection: s.config.GraphQLIntrospection, Logger: s.logger,
		Registerer: metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("GraphQL: %w", err)
	}
	return handler, nil
}

// graphServices are the services of a gateway as package graphql reads them: its own, and those that are registered.
type graphServices struct {
	*registered

	own []graphql.Service
}

var _ graphql.Source = (*graphServices)(nil)

// Services implements graphql.Source.
func (g *graphServices) Services() []graphql.Service {
	out := slices.Clip(g.own)
	for _, s := range g.list() {
		out = append(out, graphql.Service{Descriptor: s.descriptor, Comments: s.comments, Public: s.public})
	}
	return out
}
