package business

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/nearside-dev/nearside/client"
	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

func sameOrder(t *testing.T, got, want *businessv1.Order) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func placeOrder(t *testing.T, c businessv1connect.OrderServiceClient, user, key string, items ...*businessv1.OrderItem) *businessv1.Order {
	t.Helper()
	req := connect.NewRequest(&businessv1.PlaceOrderRequest{UserId: user, Items: items})
	if key != "" {
		req.Header().Set(rpcheader.IdempotencyKey, key)
	}
	res, err := c.PlaceOrder(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetOrder()
}

func testOrderLife(t *testing.T, mesh []region) {
	session := connect.WithInterceptors(client.NewSession())
	user, _ := createUser(t, mesh[0].users(session), "order@example.com", "")
	here, there := mesh[0].orders(session), mesh[len(mesh)-1].orders(session)

	order := placeOrder(t, here, user.GetId(), "order-1", item("b", 2, 150), item("a", 1, 99))
	want := &businessv1.Order{
		Id: order.GetId(), UserId: user.GetId(), TotalCents: 399, CreateTime: order.GetCreateTime(),
		Items: []*businessv1.OrderItem{item("a", 1, 99), item("b", 2, 150)},
	}
	sameOrder(t, order, want)
	if order.GetId() == "" || order.GetCreateTime() == nil {
		t.Errorf("order is %v", order)
	}
	got, err := there.GetOrder(t.Context(), connect.NewRequest(&businessv1.GetOrderRequest{Id: order.GetId()}))
	if err != nil {
		t.Fatal(err)
	}
	sameOrder(t, got.Msg.GetOrder(), order)
	sameOrder(t, placeOrder(t, there, user.GetId(), "order-1", item("b", 2, 150), item("a", 1, 99)), order)

	_, err = mesh[0].users().DeleteUser(t.Context(), connect.NewRequest(&businessv1.DeleteUserRequest{Id: user.GetId()}))
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_RULE_VIOLATED, "rule", ruleUserHasOrders)
	wantAudit(t, mesh[0], user.GetId(), "create")
}

func testOrderMistakes(t *testing.T, mesh []region) {
	ctx, orders := t.Context(), mesh[0].orders()
	user, _ := createUser(t, mesh[0].users(), "mistakes@example.com", "")
	place := func(user string, items ...*businessv1.OrderItem) error {
		_, err := orders.PlaceOrder(ctx, connect.NewRequest(&businessv1.PlaceOrderRequest{UserId: user, Items: items}))
		return err
	}
	wantReason(t, place("nobody", item("a", 1, 1)), datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND,
		"resource", "user", "id", "nobody")
	wantReason(t, place(user.GetId(), item("a", 2, 500_001)), datav1.ErrorReason_ERROR_REASON_RULE_VIOLATED,
		"rule", ruleOrderTotalLimit)
	wantReason(t, place(user.GetId(), item("a", 1, 1), item("a", 1, 1)), datav1.ErrorReason_ERROR_REASON_RULE_VIOLATED,
		"rule", ruleOrderArticleOnce)
	wantReason(t, place(user.GetId()), datav1.ErrorReason_ERROR_REASON_FIELD_INVALID)
	wantReason(t, place(user.GetId(), item("a", 0, 1)), datav1.ErrorReason_ERROR_REASON_FIELD_INVALID)
	_, err := orders.GetOrder(ctx, connect.NewRequest(&businessv1.GetOrderRequest{Id: "nothing"}))
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, "resource", "order", "id", "nothing")

	res, err := orders.ListOrders(ctx, connect.NewRequest(&businessv1.ListOrdersRequest{UserId: user.GetId()}))
	if err != nil || len(res.Msg.GetOrders()) != 0 {
		t.Errorf("refused orders left %v, %v", res, err)
	}
}

func testListOrders(t *testing.T, mesh []region) {
	session := connect.WithInterceptors(client.NewSession())
	users, orders := mesh[0].users(session), mesh[0].orders(session)
	user, _ := createUser(t, users, "many@example.com", "")
	other, _ := createUser(t, users, "others@example.com", "")
	var want []*businessv1.Order
	for i := range 7 {
		var items []*businessv1.OrderItem
		for j := range i%3 + 1 {
			items = append(items, item(fmt.Sprintf("sku-%d", j), uint32(i+1), int64(j)))
		}
		want = append(want, placeOrder(t, orders, user.GetId(), "", items...))
		placeOrder(t, orders, other.GetId(), "", item("x", 1, 1))
	}
	there := mesh[len(mesh)-1].orders(session)
	got := map[string]*businessv1.Order{}
	var last *businessv1.Order
	token := ""
	for {
		page, err := there.ListOrders(t.Context(), connect.NewRequest(&businessv1.ListOrdersRequest{
			UserId: user.GetId(), PageSize: 3, PageToken: token,
		}))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(page.Msg.GetOrders()); n > 3 {
			t.Fatalf("a page of %d orders", n)
		}
		for _, order := range page.Msg.GetOrders() {
			if last != nil && order.GetCreateTime().AsTime().Before(last.GetCreateTime().AsTime()) {
				t.Errorf("%v comes after %v", order, last)
			}
			last = order
			got[order.GetId()] = order
		}
		if token = page.Msg.GetNextPageToken(); token == "" {
			break
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d orders, want %d", len(got), len(want))
	}
	for _, order := range want {
		sameOrder(t, got[order.GetId()], order)
	}
}

// testAnswersSayWhereTheyAreFrom: reads say region, source and staleness, and several bookmarks pass through.
func testAnswersSayWhereTheyAreFrom(t *testing.T, mesh []region) {
	data := client.New(mesh[0].url)
	defer data.Close()
	if _, err := data.CreateDatabase(t.Context(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: "elsewhere"})); err != nil {
		t.Fatal(err)
	}
	foreign := data.Session().Bookmarks() // of _mesh
	_, header := createUser(t, mesh[0].users(connect.WithInterceptors(data.Session())), "where@example.com", "")
	own := header.Get(rpcheader.Bookmark)
	if foreign == "" || own == foreign || !slices.Contains(strings.Split(own, ","), foreign) {
		t.Errorf("sent %q, got %q back", foreign, own)
	}
	_, err := mesh[0].orders().GetOrder(t.Context(), connect.NewRequest(&businessv1.GetOrderRequest{Id: "nothing"}))
	wire, ok := errors.AsType[*connect.Error](err)
	if !ok {
		t.Fatal(err)
	}
	wantFreshness(t, wire.Meta())
	res, err := mesh[0].users().ListUsers(t.Context(), connect.NewRequest(&businessv1.ListUsersRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	wantFreshness(t, res.Header())
	if proto.Size(res.Msg) == 0 {
		t.Error("no users")
	}
}

func wantFreshness(t *testing.T, h http.Header) {
	t.Helper()
	for _, name := range []string{rpcheader.Bookmark, rpcheader.Region, rpcheader.Source, rpcheader.StalenessMs} {
		if h.Get(name) == "" {
			t.Errorf("the answer has no %s", name)
		}
	}
}
