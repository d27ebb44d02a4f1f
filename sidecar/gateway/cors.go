package gateway

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/sidecar/forward"
	"github.com/nearside-dev/nearside/sidecar/readpath"
)

// Cors answers CorsService as Services does ServiceRegistryService. All its calls may be repeated.
type Cors struct {
	mesh   meshCalls
	client controlv1connect.CorsServiceClient
}

var _ controlv1connect.CorsServiceHandler = (*Cors)(nil)

// NewCors returns a region's CorsService. The client makes the calls to the primary at url.
func NewCors(primary *forward.Primary, path *readpath.Path, client *http.Client, url string) *Cors {
	return &Cors{
		mesh:   meshCalls{primary, path},
		client: controlv1connect.NewCorsServiceClient(client, url, connect.WithAcceptCompression("gzip", nil, nil)),
	}
}

// GetCorsPolicy implements controlv1connect.CorsServiceHandler.
func (c *Cors) GetCorsPolicy(
	ctx context.Context, req *connect.Request[controlv1.GetCorsPolicyRequest],
) (*connect.Response[controlv1.GetCorsPolicyResponse], error) {
	return passMesh(ctx, c.mesh, "GetCorsPolicy", true, req, c.client.GetCorsPolicy)
}

// SetCorsPolicy implements controlv1connect.CorsServiceHandler.
func (c *Cors) SetCorsPolicy(
	ctx context.Context, req *connect.Request[controlv1.SetCorsPolicyRequest],
) (*connect.Response[controlv1.SetCorsPolicyResponse], error) {
	return passMesh(ctx, c.mesh, "SetCorsPolicy", true, req, c.client.SetCorsPolicy)
}

// ClearCorsPolicy implements controlv1connect.CorsServiceHandler.
func (c *Cors) ClearCorsPolicy(
	ctx context.Context, req *connect.Request[controlv1.ClearCorsPolicyRequest],
) (*connect.Response[controlv1.ClearCorsPolicyResponse], error) {
	return passMesh(ctx, c.mesh, "ClearCorsPolicy", true, req, c.client.ClearCorsPolicy)
}
