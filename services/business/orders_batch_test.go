package business

import (
	"fmt"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// testOrderLists compares the lists of several users with those of each, in each region; none asks the primary.
func testOrderLists(t *testing.T, m *meshtest.Mesh, mesh []region) {
	ctx := t.Context()
	var ids []string
	for n := range 4 {
		user, _ := createUser(t, mesh[0].users(), fmt.Sprintf("lists%d@example.com", n), "")
		for i := range n {
			items := []*businessv1.OrderItem{item("b", 1, 1), item("a", uint32(i+1), 2)}
			placeOrder(t, mesh[0].orders(), user.GetId(), "", items[:1+i%2]...)
		}
		ids = append(ids, user.GetId())
	}
	m.WaitSync(Database)
	ids = slices.Insert(ids, 1, "nobody", `"; --`)
	for _, r := range mesh {
		for _, size := range []uint32{0, 1, 2, 3, 1000} {
			want := &businessv1.BatchListOrdersResponse{}
			for _, id := range ids {
				page, err := r.orders().ListOrders(ctx, connect.NewRequest(&businessv1.ListOrdersRequest{UserId: id, PageSize: size}))
				if err != nil {
					t.Fatal(err)
				}
				want.Users = append(want.Users, &businessv1.BatchListOrdersResponse_UserOrders{
					UserId: id, Orders: page.Msg.GetOrders(), More: page.Msg.GetNextPageToken() != "",
				})
			}
			got, err := r.orders().BatchListOrders(ctx, connect.NewRequest(&businessv1.BatchListOrdersRequest{UserIds: ids, PageSize: size}))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.Msg, protocmp.Transform()); diff != "" {
				t.Errorf("%s, %d of each (-one by one +together):\n%s", r.name, size, diff)
			}
			if source := got.Header().Get(rpcheader.Source); source == "PRIMARY" {
				t.Errorf("%s: from %s", r.name, source)
			}
			s := orders{&service{data: r.data()}}
			single, err := s.listsOneByOne(ctx, ids, int(pageSize(size)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, single, protocmp.Transform()); diff != "" {
				t.Errorf("%s, %d of each, without a statement:\n%s", r.name, size, diff)
			}
		}
	}
	for _, bad := range []*businessv1.BatchListOrdersRequest{
		{}, {UserIds: []string{""}}, {UserIds: []string{"a", "a"}}, {UserIds: make([]string, 101)}, {UserIds: []string{"a"}, PageSize: 1001},
	} {
		if _, err := mesh[0].orders().BatchListOrders(ctx, connect.NewRequest(bad)); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
