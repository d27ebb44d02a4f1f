// Package gateway is what a region's listener answers: DataService, of which keyed reads go down the region's read path,
// watches are its own, and all else goes to the primary, and StatusService.
package gateway

import (
	"context"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/sidecar/forward"
	"github.com/nearside-dev/nearside/sidecar/readpath"
	"github.com/nearside-dev/nearside/sidecar/watch"
)

// Data answers DataService. Methods that are not here are the primary's.
type Data struct {
	*forward.Primary

	path *readpath.Path
	hub  *watch.Hub
}

var _ datav1connect.DataServiceHandler = (*Data)(nil)

// NewData returns a region's DataService.
func NewData(primary *forward.Primary, path *readpath.Path, hub *watch.Hub) *Data {
	return &Data{Primary: primary, path: path, hub: hub}
}

// Get implements datav1connect.DataServiceHandler.
func (d *Data) Get(
	ctx context.Context, req *connect.Request[datav1.GetRequest],
) (*connect.Response[datav1.GetResponse], error) {
	res, err := d.path.Get(ctx, req.Header(), req.Msg)
	if err != nil {
		return nil, err
	}
	return respond(res), nil
}

// BatchGet implements datav1connect.DataServiceHandler.
func (d *Data) BatchGet(
	ctx context.Context, req *connect.Request[datav1.BatchGetRequest],
) (*connect.Response[datav1.BatchGetResponse], error) {
	res, err := d.path.BatchGet(ctx, req.Header(), req.Msg)
	if err != nil {
		return nil, err
	}
	return respond(res), nil
}

// List implements datav1connect.DataServiceHandler.
func (d *Data) List(
	ctx context.Context, req *connect.Request[datav1.ListRequest],
) (*connect.Response[datav1.ListResponse], error) {
	res, err := d.path.List(ctx, req.Header(), req.Msg)
	if err != nil {
		return nil, err
	}
	return respond(res), nil
}

// respond writes the answer's freshness into the headers too.
func respond[T any, P interface {
	*T
	GetAnswer() *datav1.Answer
}](msg P) *connect.Response[T] {
	res := connect.NewResponse((*T)(msg))
	rpcheader.SetAnswer(res.Header(), msg.GetAnswer())
	return res
}
