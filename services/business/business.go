package business

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/client"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// Names are the services that Mount mounts, for health and reflection.
var Names = []string{businessv1connect.UserServiceName, businessv1connect.OrderServiceName}

// Mount adds both services to mux. They reach data through the gateway at gatewayURL, which need not be up yet; the
// connections to it end when it closes them. opts are the listener's; rpcerr's interceptor must be among them, because it
// checks requests and writes errors.
func Mount(mux *http.ServeMux, gatewayURL string, opts ...connect.HandlerOption) error {
	return mount(mux, gatewayURL, nil, opts)
}

func mount(mux *http.ServeMux, gatewayURL string, keeper *Keeper, opts []connect.HandlerOption) error {
	u, err := url.Parse(gatewayURL)
	if err != nil {
		return fmt.Errorf("gateway URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("gateway URL %q: want http://HOST:PORT", gatewayURL)
	}
	// The gateway repeats what is safe to repeat, and the caller may; a third layer would multiply the load of a bad hour.
	calls := httpclient.NewUnary()
	s := &service{
		data: client.New(gatewayURL, client.WithHTTPClient(calls), client.WithoutRetry()), keeper: keeper,
		shipping: newShippingClient(calls, gatewayURL),
	}
	opts = append(slices.Clip(opts), connect.WithInterceptors(client.Propagate()))
	mux.Handle(businessv1connect.NewUserServiceHandler(users{s}, opts...))
	mux.Handle(businessv1connect.NewOrderServiceHandler(orders{s}, opts...))
	return nil
}

// service is what both have in common.
type service struct {
	data     datav1connect.DataServiceClient
	shipping *shippingClient
	keeper   *Keeper // nil where nobody makes the database again
}

// maxKeyBytes is how long an idempotency key may be: as long as the data API takes it.
const maxKeyBytes = 255

// idempotencyKey returns a request's key, or "".
func idempotencyKey(req connect.AnyRequest) (string, error) {
	key := req.Header().Get(rpcheader.IdempotencyKey)
	if len(key) > maxKeyBytes {
		return "", rpcerr.InvalidField(rpcheader.IdempotencyKey, "is longer than %d bytes", maxKeyBytes)
	}
	return key, nil
}

// transact runs operations in one transaction of the database.
func (s *service) transact(ctx context.Context, key string, ops ...*datav1.Operation) (*datav1.TransactResponse, error) {
	res, err := s.data.Transact(ctx, connect.NewRequest(&datav1.TransactRequest{
		Database: Database, Operations: ops, IdempotencyKey: key,
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// defaultPageSize is how many users or orders a page has if the caller does not say.
const defaultPageSize = 50

func pageSize(asked uint32) uint32 {
	if asked == 0 {
		return defaultPageSize
	}
	return asked
}
