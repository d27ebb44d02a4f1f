package business

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/nearside-dev/nearside/client"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// ShippingQuote is a method of a service of somebody else's, which may be registered with the mesh: it is sent an order's total, and
// answers what shipping costs, each an int64 in cents with the number 1, which google.protobuf.Int64Value has too. examples/shipping is
// one.
const ShippingQuote = "/acme.shipping.v1.ShippingService/Quote"

// shippingTimeout is how long it may take: the order waits.
const shippingTimeout = 2 * time.Second

type shippingClient = connect.Client[wrapperspb.Int64Value, wrapperspb.Int64Value]

// newShippingClient returns a client that calls the service through a gateway, which finds an endpoint.
func newShippingClient(c *http.Client, gatewayURL string) *shippingClient {
	return connect.NewClient[wrapperspb.Int64Value, wrapperspb.Int64Value](c, gatewayURL+ShippingQuote,
		connect.WithIdempotency(connect.IdempotencyNoSideEffects), connect.WithInterceptors(client.NewSession()))
}

// quote returns what shipping costs: nothing where the mesh has no such service.
func (s *service) quote(ctx context.Context, total int64) (cents int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, shippingTimeout)
	defer cancel()
	res, err := s.shipping.CallUnary(ctx, connect.NewRequest(wrapperspb.Int64(total)))
	switch code := connect.CodeOf(rpcerr.Unanswered(err)); {
	case err == nil:
	case code == connect.CodeUnimplemented:
		return 0, nil
	case code == connect.CodeUnavailable, code == connect.CodeDeadlineExceeded:
		return 0, rpcerr.New(datav1.ErrorReason_ERROR_REASON_ENDPOINT_UNAVAILABLE, "what shipping costs could not be asked: the order was not placed").
			With("service", ShippingQuote).WithRetryAfter(time.Second)
	default:
		return 0, fmt.Errorf("ask what shipping costs: %v", err) //nolint:errorlint // its code must not reach the caller
	}
	if cents = res.Msg.GetValue(); cents < 0 || cents > maxOrderCents {
		return 0, fmt.Errorf("shipping is said to cost %d cents", cents)
	}
	return cents, nil
}
