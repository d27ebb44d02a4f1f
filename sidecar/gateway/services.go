package gateway

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/sidecar/forward"
	"github.com/nearside-dev/nearside/sidecar/readpath"
)

// Services answers ServiceRegistryService: the primary does the work, and what has changed is answered when the region has it
// too, if that does not take long.
type Services struct {
	mesh      meshCalls
	client    controlv1connect.ServiceRegistryServiceClient
	endpoints Endpoints
}

// Endpoints knows how a region's gateway finds the endpoints of services.
type Endpoints interface {
	// State is up, suspect, down or ejected, or "" where there is no such endpoint.
	State(service, region, url string) string
}

// meshCalls is what calls that change _mesh pass through.
type meshCalls struct {
	primary *forward.Primary
	path    *readpath.Path
}

var _ controlv1connect.ServiceRegistryServiceHandler = (*Services)(nil)

// NewServices returns a region's ServiceRegistryService. The client makes the calls to the primary at url.
func NewServices(primary *forward.Primary, path *readpath.Path, endpoints Endpoints, client *http.Client, url string) *Services {
	return &Services{
		mesh: meshCalls{primary, path}, endpoints: endpoints,
		client: controlv1connect.NewServiceRegistryServiceClient(client, url, connect.WithAcceptCompression("gzip", nil, nil)),
	}
}

// passMesh passes a call on, and waits for what it has changed.
func passMesh[Req, Res any](
	ctx context.Context, c meshCalls, method string, repeatable bool, req *connect.Request[Req],
	send func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error),
) (*connect.Response[Res], error) {
	mark := ""
	res, err := forward.Pass(ctx, c.primary, method, repeatable, req, send, func(res *connect.Response[Res]) {
		mark = res.Header().Get(rpcheader.Bookmark)
	})
	if err == nil && mark != "" {
		ctx, cancel := context.WithTimeout(ctx, meshPatience)
		defer cancel()
		c.path.WaitMesh(ctx, mark)
		res.Header().Set(rpcheader.Bookmark, mark)
	}
	return res, err
}

// RegisterService implements controlv1connect.ServiceRegistryServiceHandler. To register the same again changes nothing, so that
// the call may be repeated.
func (s *Services) RegisterService(
	ctx context.Context, req *connect.Request[controlv1.RegisterServiceRequest],
) (*connect.Response[controlv1.RegisterServiceResponse], error) {
	return passMesh(ctx, s.mesh, "RegisterService", true, req, s.client.RegisterService)
}

// endpointStates are the states of endpoints, by their words.
var endpointStates = map[string]controlv1.EndpointState{
	"up": controlv1.EndpointState_ENDPOINT_STATE_UP, "suspect": controlv1.EndpointState_ENDPOINT_STATE_SUSPECT,
	"down": controlv1.EndpointState_ENDPOINT_STATE_DOWN, "ejected": controlv1.EndpointState_ENDPOINT_STATE_EJECTED,
}

// ListServices implements controlv1connect.ServiceRegistryServiceHandler. How the endpoints are is this region's to say.
func (s *Services) ListServices(
	ctx context.Context, req *connect.Request[controlv1.ListServicesRequest],
) (*connect.Response[controlv1.ListServicesResponse], error) {
	res, err := passMesh(ctx, s.mesh, "ListServices", true, req, s.client.ListServices)
	if err != nil {
		return nil, err
	}
	for _, service := range res.Msg.GetServices() {
		for _, e := range service.GetEndpoints() {
			e.State = endpointStates[s.endpoints.State(service.GetName(), e.GetRegion(), e.GetUrl())]
		}
	}
	return res, nil
}

// RemoveService implements controlv1connect.ServiceRegistryServiceHandler.
func (s *Services) RemoveService(
	ctx context.Context, req *connect.Request[controlv1.RemoveServiceRequest],
) (*connect.Response[controlv1.RemoveServiceResponse], error) {
	return passMesh(ctx, s.mesh, "RemoveService", false, req, s.client.RemoveService)
}
