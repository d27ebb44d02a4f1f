package business

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// regions are those of the tests' mesh, the primary's first.
var regions = []string{"us-east-1", "eu-west-1", "ap-southeast-1"}

// region is one region as a caller sees it, without a session unless an interceptor is given.
type region struct {
	name, url string
	http      *http.Client
}

func (r region) users(opts ...connect.ClientOption) businessv1connect.UserServiceClient {
	return businessv1connect.NewUserServiceClient(r.http, r.url, opts...)
}

func (r region) data() datav1connect.DataServiceClient {
	return datav1connect.NewDataServiceClient(r.http, r.url)
}

func (r region) orders(opts ...connect.ClientOption) businessv1connect.OrderServiceClient {
	return businessv1connect.NewOrderServiceClient(r.http, r.url, opts...)
}

// startMesh starts a mesh with the services on each gateway, but without their database.
func startMesh(t *testing.T) (*meshtest.Mesh, []region) {
	t.Helper()
	m := meshtest.Start(t, meshtest.Options{
		Regions: regions, Mount: Mount, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	list := make([]region, len(regions))
	for i, name := range regions {
		list[i] = region{name: name, url: m.URL(name), http: m.HTTP()}
	}
	return m, list
}

// startAll starts a mesh whose services can be used.
func startAll(t *testing.T) (*meshtest.Mesh, []region) {
	t.Helper()
	m, list := startMesh(t)
	for range 2 { // the second time there is nothing to do
		if err := Setup(t.Context(), m.Client("")); err != nil {
			t.Fatal(err)
		}
	}
	m.WaitSync(Database)
	return m, list
}

// wantReason checks an error that came over the wire.
func wantReason(t *testing.T, err error, reason datav1.ErrorReason, metadata ...string) {
	t.Helper()
	e, ok := rpcerr.FromError(err)
	if !ok || e.Reason() != reason {
		t.Errorf("error = %v, want reason %v", err, reason)
		return
	}
	for i := 0; i < len(metadata); i += 2 {
		if got := e.Metadata(metadata[i]); got != metadata[i+1] {
			t.Errorf("%v: metadata %s = %q, want %q", reason, metadata[i], got, metadata[i+1])
		}
	}
}

// TestMesh runs the services in each region of one mesh.
func TestMesh(t *testing.T) {
	m, mesh := startAll(t)
	for _, tc := range []struct {
		name string
		run  func(*testing.T, []region)
	}{
		{"order lists", func(t *testing.T, mesh []region) { testOrderLists(t, m, mesh) }},
		{"user life", testUserLife},
		{"user mistakes", testUserMistakes},
		{"idempotency key", testIdempotencyKey},
		{"forgotten answers", testForgottenAnswers},
		{"list users", testListUsers},
		{"read your writes", testReadYourWrites},
		{"order life", testOrderLife},
		{"order mistakes", testOrderMistakes},
		{"list orders", testListOrders},
		{"answers say where they are from", testAnswersSayWhereTheyAreFrom},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, mesh) })
	}
	m.CompareAll(Database)
}

// TestPrimaryDown: what the regions have can be read without the primary; nothing is half written; it all comes back.
func TestPrimaryDown(t *testing.T) {
	m, mesh := startAll(t)
	user, _ := createUser(t, mesh[0].users(), "down@example.com", "")
	order := placeOrder(t, mesh[0].orders(), user.GetId(), "", item("a", 1, 1))
	m.WaitSync(Database)
	m.StopPrimary()
	for _, r := range mesh {
		got, err := r.users().GetUser(t.Context(), connect.NewRequest(&businessv1.GetUserRequest{Id: user.GetId()}))
		if err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		sameUser(t, got.Msg.GetUser(), user)
		placed, err := r.orders().GetOrder(t.Context(), connect.NewRequest(&businessv1.GetOrderRequest{Id: order.GetId()}))
		if err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		sameOrder(t, placed.Msg.GetOrder(), order)
		if region, source := placed.Header().Get(rpcheader.Region), placed.Header().Get(rpcheader.Source); region != r.name || source == "PRIMARY" {
			t.Errorf("asked %s, answered by %s from %s", r.name, region, source)
		}
		_, err = r.users().CreateUser(t.Context(), connect.NewRequest(&businessv1.CreateUserRequest{Email: "no@example.com", Name: "No"}))
		wantReason(t, err, datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE)
	}
	m.StartPrimary()
	for _, r := range mesh {
		m.Eventually(r.name+" writes again", func(ctx context.Context) error {
			_, err := r.users().UpdateUser(ctx, connect.NewRequest(&businessv1.UpdateUserRequest{Id: user.GetId(), Name: &r.name}))
			return err
		})
	}
	m.CompareAll(Database)
}

func TestWithoutSetup(t *testing.T) {
	_, mesh := startMesh(t)
	_, err := mesh[1].users().GetUser(t.Context(), connect.NewRequest(&businessv1.GetUserRequest{Id: "usr_1"}))
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_NOT_READY)
	_, err = mesh[1].users().CreateUser(t.Context(), connect.NewRequest(&businessv1.CreateUserRequest{Email: "a@example.com", Name: "A"}))
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_NOT_READY)
}

func TestWithoutGateway(t *testing.T) {
	opts, err := server.HandlerOptions(slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	mux := http.NewServeMux()
	if err := Mount(mux, gone.URL, opts...); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(mux)
	defer s.Close()
	defer s.Client().CloseIdleConnections()
	r := region{url: s.URL, http: s.Client()}
	_, err = r.orders().ListOrders(t.Context(), connect.NewRequest(&businessv1.ListOrdersRequest{UserId: "usr_1"}))
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_NOT_READY)
}

func TestMountRefusesBadURLs(t *testing.T) {
	for _, url := range []string{"", "127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://\x7f"} {
		if err := Mount(http.NewServeMux(), url); err == nil {
			t.Errorf("%q was taken for the URL of a gateway", url)
		}
	}
}
