package gateway

import (
	"context"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/sidecar/readpath"
)

// Cache answers CacheService from the region's memory.
type Cache struct{ path *readpath.Path }

var _ datav1connect.CacheServiceHandler = (*Cache)(nil)

// NewCache returns a region's CacheService.
func NewCache(path *readpath.Path) *Cache { return &Cache{path: path} }

// Get implements datav1connect.CacheServiceHandler.
func (c *Cache) Get(
	ctx context.Context, req *connect.Request[datav1.CacheServiceGetRequest],
) (*connect.Response[datav1.CacheServiceGetResponse], error) {
	res, err := c.path.GetValue(ctx, req.Header(), req.Msg)
	if err != nil {
		return nil, err
	}
	return respond(res), nil
}

// Set implements datav1connect.CacheServiceHandler.
func (c *Cache) Set(
	ctx context.Context, req *connect.Request[datav1.CacheServiceSetRequest],
) (*connect.Response[datav1.CacheServiceSetResponse], error) {
	res, err := c.path.SetValue(ctx, req.Header(), req.Msg)
	if err != nil {
		return nil, err
	}
	return respond(res), nil
}

// Invalidate implements datav1connect.CacheServiceHandler.
func (c *Cache) Invalidate(
	ctx context.Context, req *connect.Request[datav1.CacheServiceInvalidateRequest],
) (*connect.Response[datav1.CacheServiceInvalidateResponse], error) {
	res, err := c.path.Invalidate(ctx, req.Header(), req.Msg)
	if err != nil {
		return nil, err
	}
	return respond(res), nil
}

// Stats implements datav1connect.CacheServiceHandler.
func (c *Cache) Stats(
	ctx context.Context, req *connect.Request[datav1.CacheServiceStatsRequest],
) (*connect.Response[datav1.CacheServiceStatsResponse], error) {
	res, err := c.path.MemoryStats(ctx, req.Header(), req.Msg)
	if err != nil {
		return nil, err
	}
	return respond(res), nil
}
