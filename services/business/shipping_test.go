package business

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest/shipping"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// TestShipping has orders ask a service that is registered with the mesh, from each region.
func TestShipping(t *testing.T) {
	m, mesh := startAll(t)
	user, err := mesh[0].users().CreateUser(t.Context(), connect.NewRequest(&businessv1.CreateUserRequest{Email: "a@example.com", Name: "A"}))
	if err != nil {
		t.Fatal(err)
	}
	m.WaitSync(Database)
	place := func(r region, cents int64, key string) (*businessv1.Order, error) {
		req := connect.NewRequest(&businessv1.PlaceOrderRequest{
			UserId: user.Msg.GetUser().GetId(), Items: []*businessv1.OrderItem{{Sku: "pen", Quantity: 1, PriceCents: cents}},
		})
		if key != "" {
			req.Header().Set(rpcheader.IdempotencyKey, key)
		}
		res, err := r.orders().PlaceOrder(t.Context(), req)
		if err != nil {
			return nil, err
		}
		return res.Msg.GetOrder(), nil
	}
	want := func(o *businessv1.Order, err error, cents int64) {
		t.Helper()
		if err != nil || o.GetShippingCents() != cents {
			t.Errorf("shipping %d, want %d: %v", o.GetShippingCents(), cents, err)
		}
	}
	before, err := place(mesh[1], 100, "key")
	want(before, err, 0) // nobody says what it costs

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	s := shipping.Server()
	handler := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == shipping.Quote {
			calls.Add(1)
		}
		handler.ServeHTTP(w, r)
	})
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	stop := func() {
		_ = s.Close()
		<-served
	}
	registry := controlv1connect.NewServiceRegistryServiceClient(m.HTTP(), m.URL(mesh[0].name))
	_, err = registry.RegisterService(t.Context(), connect.NewRequest(&controlv1.RegisterServiceRequest{
		Descriptors: shipping.Descriptors(), Endpoints: []*controlv1.ServiceEndpoint{{Url: "http://" + ln.Addr().String()}},
	}))
	if err != nil {
		stop()
		t.Fatal(err)
	}
	for _, r := range mesh {
		m.Eventually(r.name+" knows the service", func(context.Context) error {
			o, err := place(r, 100, "")
			if err == nil && o.GetShippingCents() != shipping.Cents {
				err = errors.New("no shipping")
			}
			return err
		})
		dear, err := place(r, shipping.FreeAbove, "")
		want(dear, err, 0)
		got, err := r.orders().GetOrder(t.Context(), connect.NewRequest(&businessv1.GetOrderRequest{Id: before.GetId()}))
		want(got.Msg.GetOrder(), err, 0)
	}
	again, err := place(mesh[1], 100, "key") // what it costs by now does not make it another order
	want(again, err, 0)
	if again.GetId() != before.GetId() || calls.Load() == 0 {
		t.Errorf("order %s became %s, %d calls", before.GetId(), again.GetId(), calls.Load())
	}
	stop()
	_, err = place(mesh[0], 100, "")
	if e, ok := rpcerr.FromError(err); !ok || e.Reason() != datav1.ErrorReason_ERROR_REASON_ENDPOINT_UNAVAILABLE || e.RetryAfter() == 0 {
		t.Errorf("without its endpoint: %v", err)
	}
}
