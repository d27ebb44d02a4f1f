package readpath

import (
	"context"
	"maps"
	"net/http"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// Primary is what the read path needs of package forward.
type Primary interface {
	Get(context.Context, *connect.Request[datav1.GetRequest]) (*connect.Response[datav1.GetResponse], error)
	BatchGet(context.Context, *connect.Request[datav1.BatchGetRequest]) (*connect.Response[datav1.BatchGetResponse], error)
	List(context.Context, *connect.Request[datav1.ListRequest]) (*connect.Response[datav1.ListResponse], error)
}

// primaryReader is the last layer: it passes reads on unchanged.
type primaryReader struct{ primary Primary }

var _ Reader = (*primaryReader)(nil)

// Get implements Reader.
func (r *primaryReader) Get(ctx context.Context, read *Read, msg *datav1.GetRequest) (*datav1.GetResponse, error) {
	res, err := r.primary.Get(ctx, request(msg, read.Header))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// BatchGet implements Reader.
func (r *primaryReader) BatchGet(
	ctx context.Context, read *Read, msg *datav1.BatchGetRequest,
) (*datav1.BatchGetResponse, error) {
	res, err := r.primary.BatchGet(ctx, request(msg, read.Header))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// List implements Reader.
func (r *primaryReader) List(ctx context.Context, read *Read, msg *datav1.ListRequest) (*datav1.ListResponse, error) {
	res, err := r.primary.List(ctx, request(msg, read.Header))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func request[T any](msg *T, h http.Header) *connect.Request[T] {
	req := connect.NewRequest(msg)
	maps.Copy(req.Header(), h)
	return req
}
