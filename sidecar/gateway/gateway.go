// Package gateway is what a region's listener answers: DataService, of which reads go down the region's read path, watches
// are its own or another region's, and all else goes to the primary, and StatusService.
package gateway

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/sidecar/forward"
	"github.com/nearside-dev/nearside/sidecar/readpath"
	"github.com/nearside-dev/nearside/sidecar/watch"
	"github.com/nearside-dev/nearside/sidecar/watchquery"
)

// Data answers DataService. Methods that are not here are the primary's.
type Data struct {
	*forward.Primary

	path    *readpath.Path
	hub     *watch.Hub
	queries *watchquery.Hub
	streams *http.Client // to other regions
	guard   *access.Guard
}

var _ datav1connect.DataServiceHandler = (*Data)(nil)

// NewData returns a region's DataService. It watches with streams, in other regions, what this one may not hold.
func NewData(
	primary *forward.Primary, path *readpath.Path, hub *watch.Hub, queries *watchquery.Hub, streams *http.Client, guard *access.Guard,
) *Data {
	return &Data{Primary: primary, path: path, hub: hub, queries: queries, streams: streams, guard: guard}
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

// Query implements datav1connect.DataServiceHandler.
func (d *Data) Query(
	ctx context.Context, req *connect.Request[datav1.QueryRequest],
) (*connect.Response[datav1.QueryResponse], error) {
	res, err := d.path.Query(ctx, req.Header(), req.Msg)
	switch {
	case err != nil:
		return nil, err
	case res == nil:
		return d.Primary.Query(ctx, req)
	}
	return respond(res), nil
}

// QueryStream implements datav1connect.DataServiceHandler.
func (d *Data) QueryStream(
	ctx context.Context, req *connect.Request[datav1.QueryStreamRequest], out *connect.ServerStream[datav1.QueryStreamResponse],
) error {
	if done, err := d.path.QueryStream(ctx, req.Header(), req.Msg, out); done || err != nil {
		return err
	}
	return d.Primary.QueryStream(ctx, req, out)
}

// Execute implements datav1connect.DataServiceHandler.
func (d *Data) Execute(
	ctx context.Context, req *connect.Request[datav1.ExecuteRequest],
) (*connect.Response[datav1.ExecuteResponse], error) {
	res, err := d.path.Execute(ctx, req.Header(), req.Msg)
	switch {
	case err != nil:
		return nil, err
	case res == nil:
		return d.Primary.Execute(ctx, req)
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
