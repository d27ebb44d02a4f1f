package business

import (
	"context"
	"encoding/json"
	"fmt"

	"connectrpc.com/connect"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// listsOfOrders are the first orders of several users, with their items: a row for each item, and one with NULLs for an order that has
// none. The ids are an array of JSON, so that the statement is the same for any number of them. The inner SELECT reads as many
// entries of orders_by_user as there may be orders, and no more.
const listsOfOrders = `SELECT o.id, o.user_id, o.total_cents, o.shipping_cents, o.created_at, i.order_id, i.sku, i.quantity, i.price_cents
FROM json_each(?1) AS wanted
CROSS JOIN orders AS o ON o.id IN (SELECT id FROM orders WHERE user_id = wanted.value ORDER BY created_at, id LIMIT ?2)
LEFT JOIN order_items AS i ON i.user_id = o.user_id AND i.created_at = o.created_at AND i.order_id = o.id
ORDER BY o.user_id, o.created_at, o.id, i.sku`

// BatchListOrders implements OrderService.
func (s orders) BatchListOrders(
	ctx context.Context, req *connect.Request[businessv1.BatchListOrdersRequest],
) (*connect.Response[businessv1.BatchListOrdersResponse], error) {
	ids, size := req.Msg.GetUserIds(), int(pageSize(req.Msg.GetPageSize()))
	res, err := s.listsByStatement(ctx, ids, size)
	if rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED {
		// Who may read some tables and not all may run no statement, and lists as ListOrders does.
		res, err = s.listsOneByOne(ctx, ids, size)
	}
	if err != nil {
		return nil, s.failed("list orders", err)
	}
	return connect.NewResponse(res), nil
}

// listsByStatement reads all with one statement.
func (s orders) listsByStatement(ctx context.Context, ids []string, size int) (*businessv1.BatchListOrdersResponse, error) {
	wanted, err := json.Marshal(ids)
	if err != nil {
		return nil, fmt.Errorf("encode ids: %w", err)
	}
	rows, err := s.data.Query(ctx, connect.NewRequest(&datav1.QueryRequest{Database: Database, Statement: &datav1.Statement{
		Sql: listsOfOrders, Parameters: []*datav1.Value{textValue(string(wanted)), integerValue(int64(size) + 1)},
	}}))
	if err != nil {
		return nil, err
	}
	res := &businessv1.BatchListOrdersResponse{}
	lists := make(map[string]*businessv1.BatchListOrdersResponse_UserOrders, len(ids))
	for _, id := range ids {
		list := &businessv1.BatchListOrdersResponse_UserOrders{UserId: id}
		lists[id], res.Users = list, append(res.Users, list)
	}
	columns := rows.Msg.GetResult().GetColumns()
	var order *businessv1.Order // of the row before
	for _, row := range rows.Msg.GetResult().GetRows() {
		next, err := orderFrom(columns, row)
		if err != nil {
			return nil, err
		}
		list := lists[next.GetUserId()]
		if list == nil || list.GetMore() {
			continue
		}
		if order.GetId() != next.GetId() {
			if len(list.GetOrders()) == size {
				list.More = true
				continue
			}
			order, list.Orders = next, append(list.Orders, next)
		}
		r := rowReader{columns: columns, row: row}
		if r.isNull("order_id") {
			continue // an order without items
		}
		_, item, err := itemFrom(columns, row)
		if err != nil {
			return nil, err
		}
		order.Items = append(order.Items, item)
	}
	return res, nil
}

// isNull reports whether a column has no value.
func (r *rowReader) isNull(name string) bool {
	for i, c := range r.columns {
		if c.GetName() == name && i < len(r.row.GetValues()) {
			return value.FromProto(r.row.GetValues()[i]).Kind() == value.KindNull
		}
	}
	return true
}

// listsOneByOne reads the lists one after the other.
func (s orders) listsOneByOne(ctx context.Context, ids []string, size int) (*businessv1.BatchListOrdersResponse, error) {
	res := &businessv1.BatchListOrdersResponse{}
	for _, id := range ids {
		page, err := s.list(ctx, id, uint32(size), "") // at most 1,000
		if err != nil {
			return nil, err
		}
		res.Users = append(res.Users, &businessv1.BatchListOrdersResponse_UserOrders{
			UserId: id, Orders: page.GetOrders(), More: page.GetNextPageToken() != "",
		})
	}
	return res, nil
}
