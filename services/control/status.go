// Package control answers nearside.control.v1 at a primary.
package control

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/internal/status"
	"github.com/nearside-dev/nearside/services/data/registry"
)

// StatusService answers for the mesh as its primary sees it: the regions that _mesh lists, each as it describes itself.
type StatusService struct {
	registry *registry.Registry
	client   *http.Client
}

var _ controlv1connect.StatusServiceHandler = (*StatusService)(nil)

// NewStatusService returns a StatusService that asks regions with client.
func NewStatusService(r *registry.Registry, client *http.Client) *StatusService {
	return &StatusService{registry: r, client: client}
}

// GetStatus implements StatusService. A primary is no region of its own: with local_only the list is empty.
func (s *StatusService) GetStatus(
	ctx context.Context, req *connect.Request[controlv1.GetStatusRequest],
) (*connect.Response[controlv1.GetStatusResponse], error) {
	if req.Msg.GetLocalOnly() {
		return connect.NewResponse(&controlv1.GetStatusResponse{}), nil
	}
	regions, err := s.registry.Regions(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(status.Gather(ctx, s.client, regions, nil, req.Msg)), nil
}
