package business

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

const (
	tableOrders       = "orders"
	tableOrderItems   = "order_items"
	indexOrdersByUser = "orders_by_user"
)

const (
	insertOrder = `INSERT INTO orders (id, user_id, total_cents, shipping_cents, created_at)
SELECT ?1, ?2, ?3, ?4, CAST(round(unixepoch('subsec') * 1000) AS INTEGER) * 1000000
RETURNING id, user_id, total_cents, shipping_cents, created_at`
	insertItem = `INSERT INTO order_items (user_id, created_at, order_id, sku, quantity, price_cents)
SELECT user_id, created_at, id, ?2, ?3, ?4 FROM orders WHERE id = ?1`
)

// itemPageSize is how many items are read at a time.
const itemPageSize = 10_000

type orders struct{ *service }

var _ businessv1connect.OrderServiceHandler = orders{}

// PlaceOrder implements OrderService.
func (s orders) PlaceOrder(ctx context.Context, req *connect.Request[businessv1.PlaceOrderRequest]) (*connect.Response[businessv1.PlaceOrderResponse], error) {
	key, err := idempotencyKey(req)
	if err != nil {
		return nil, err
	}
	id, err := newID(orderPrefix, key, req.Msg)
	if err != nil {
		return nil, err
	}
	total, err := orderTotal(req.Msg.GetItems())
	if err != nil {
		return nil, err
	}
	shipping, err := s.quote(ctx, total)
	if err != nil {
		return nil, err
	}
	// In the order in which they are read back.
	items := slices.Clone(req.Msg.GetItems())
	slices.SortFunc(items, func(a, b *businessv1.OrderItem) int { return strings.Compare(a.GetSku(), b.GetSku()) })
	ops := []*datav1.Operation{
		statement(insertOrder, textValue(id), textValue(req.Msg.GetUserId()), integerValue(total), integerValue(shipping)),
	}
	for _, item := range items {
		ops = append(ops, statement(insertItem,
			textValue(id), textValue(item.GetSku()), integerValue(int64(item.GetQuantity())), integerValue(item.GetPriceCents())))
	}
	order, err := s.writeOrder(ctx, key, id, items, ops)
	switch {
	case constraint(err) == constraintForeignKey:
		return nil, notFound("user", req.Msg.GetUserId())
	case err != nil:
		return nil, s.failed("place order", err)
	}
	return connect.NewResponse(&businessv1.PlaceOrderResponse{Order: order}), nil
}

// writeOrder runs a transaction whose first operation returns the order with this id.
func (s orders) writeOrder(ctx context.Context, key, id string, items []*businessv1.OrderItem, ops []*datav1.Operation) (*businessv1.Order, error) {
	done, err := s.transact(ctx, key, ops...)
	if rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_REUSED {
		// Or it is the same request, and shipping costs something else by now: then the order is there.
		if order, absent := s.existing(ctx, id, &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY}); absent == nil {
			return order, nil
		}
	}
	if taken(err) {
		// Only an id can be taken, and only one that is the hash of a key: the order was placed under it, and the data API
		// has forgotten the key since.
		return s.existing(ctx, id, &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY})
	}
	if err != nil {
		return nil, err
	}
	if results := done.GetResults(); len(results) == len(ops) && len(results[0].GetRows()) == 1 {
		order, err := orderFrom(results[0].GetColumns(), results[0].GetRows()[0])
		if err != nil {
			return nil, err
		}
		order.Items = items
		return order, nil
	}
	// A repeat of which only "done" is remembered.
	return s.existing(ctx, id, nil)
}

// GetOrder implements OrderService.
func (s orders) GetOrder(ctx context.Context, req *connect.Request[businessv1.GetOrderRequest]) (*connect.Response[businessv1.GetOrderResponse], error) {
	order, err := s.existing(ctx, req.Msg.GetId(), nil)
	if err != nil {
		return nil, s.failed("get order", err)
	}
	return connect.NewResponse(&businessv1.GetOrderResponse{Order: order}), nil
}

// existing returns the order with this id and its items. With no consistency it is as fresh as the session's bookmark.
func (s orders) existing(ctx context.Context, id string, c *datav1.Consistency) (*businessv1.Order, error) {
	res, err := s.data.Get(ctx, connect.NewRequest(&datav1.GetRequest{
		Database: Database, Table: tableOrders, Key: keyOf(id), Consistency: c,
	}))
	if err != nil {
		return nil, err
	}
	if res.Msg.GetRow() == nil {
		return nil, notFound("order", id)
	}
	order, err := orderFrom(res.Msg.GetColumns(), res.Msg.GetRow())
	if err != nil {
		return nil, err
	}
	return order, s.addItems(ctx, []*businessv1.Order{order})
}

// ListOrders implements OrderService.
func (s orders) ListOrders(ctx context.Context, req *connect.Request[businessv1.ListOrdersRequest]) (*connect.Response[businessv1.ListOrdersResponse], error) {
	res, err := s.list(ctx, req.Msg.GetUserId(), pageSize(req.Msg.GetPageSize()), req.Msg.GetPageToken())
	if err != nil {
		return nil, s.failed("list orders", err)
	}
	return connect.NewResponse(res), nil
}

// list returns a page of a user's orders.
func (s orders) list(ctx context.Context, user string, size uint32, token string) (*businessv1.ListOrdersResponse, error) {
	page, err := s.data.List(ctx, connect.NewRequest(&datav1.ListRequest{
		Database: Database, Table: tableOrders, Index: indexOrdersByUser,
		Prefix:   []*datav1.Value{textValue(user)},
		PageSize: size, PageToken: token,
	}))
	if err != nil {
		return nil, err
	}
	res := &businessv1.ListOrdersResponse{NextPageToken: page.Msg.GetNextPageToken()}
	for _, row := range page.Msg.GetRows() {
		order, err := orderFrom(page.Msg.GetColumns(), row)
		if err != nil {
			return nil, err
		}
		res.Orders = append(res.Orders, order)
	}
	return res, s.addItems(ctx, res.Orders)
}

// addItems reads the items of one user's orders, which are a run in the order of orders_by_user.
//
// An order is written together with its items and never changed, and the session carries the bookmark of the read that
// found the orders: so this read sees all their items, and none that belong to another version of them.
func (s orders) addItems(ctx context.Context, list []*businessv1.Order) error {
	if len(list) == 0 {
		return nil
	}
	byID := make(map[string]*businessv1.Order, len(list))
	for _, order := range list {
		byID[order.GetId()] = order
	}
	req := &datav1.ListRequest{
		Database: Database, Table: tableOrderItems,
		Prefix: []*datav1.Value{textValue(list[0].GetUserId())},
		Start:  boundAt(list[0]), End: boundAt(list[len(list)-1]),
		PageSize: itemPageSize,
	}
	for {
		page, err := s.data.List(ctx, connect.NewRequest(req))
		if err != nil {
			return err
		}
		for _, row := range page.Msg.GetRows() {
			id, item, err := itemFrom(page.Msg.GetColumns(), row)
			if err != nil {
				return err
			}
			// One that is not there was placed since, by a clock that had gone back.
			if order, ok := byID[id]; ok {
				order.Items = append(order.Items, item)
			}
		}
		if req.PageToken = page.Msg.GetNextPageToken(); req.PageToken == "" {
			return nil
		}
	}
}

func boundAt(order *businessv1.Order) *datav1.ListRequest_Bound {
	t := order.GetCreateTime()
	return &datav1.ListRequest_Bound{Values: []*datav1.Value{
		integerValue(t.GetSeconds()*1e9 + int64(t.GetNanos())), textValue(order.GetId()),
	}}
}
