package business

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
)

// rowReader reads rows by column name. The first error sticks.
type rowReader struct {
	columns []*datav1.Column
	row     *datav1.Row
	err     error
}

func (r *rowReader) value(name string, kind value.Kind) value.Value {
	for i, c := range r.columns {
		if c.GetName() != name || i >= len(r.row.GetValues()) {
			continue
		}
		v := value.FromProto(r.row.GetValues()[i])
		if v.Kind() != kind && r.err == nil {
			r.err = fmt.Errorf("column %s is %v, want %v", name, v.Kind(), kind)
		}
		return v
	}
	if r.err == nil {
		r.err = fmt.Errorf("row has no column %s", name)
	}
	return value.Null()
}

// text returns a text that a protobuf string can hold: whoever writes SQL can store what is not valid UTF-8.
func (r *rowReader) text(name string) string {
	return strings.ToValidUTF8(r.value(name, value.KindText).Text(), "\uFFFD")
}

func (r *rowReader) integer(name string) int64 {
	return r.value(name, value.KindInteger).Integer()
}

func (r *rowReader) time(name string) *timestamppb.Timestamp {
	return timestamppb.New(time.Unix(0, r.integer(name)))
}

func userFrom(columns []*datav1.Column, row *datav1.Row) (*businessv1.User, error) {
	r := rowReader{columns: columns, row: row}
	u := &businessv1.User{
		Id: r.text("id"), Email: r.text("email"), Name: r.text("name"),
		CreateTime: r.time("created_at"), UpdateTime: r.time("updated_at"), Version: row.GetVersion(),
	}
	if r.err != nil {
		return nil, fmt.Errorf("read user: %w", r.err)
	}
	return u, nil
}

// orderFrom returns an order without its items.
func orderFrom(columns []*datav1.Column, row *datav1.Row) (*businessv1.Order, error) {
	r := rowReader{columns: columns, row: row}
	o := &businessv1.Order{
		Id: r.text("id"), UserId: r.text("user_id"), TotalCents: r.integer("total_cents"), ShippingCents: r.integer("shipping_cents"),
		CreateTime: r.time("created_at"),
	}
	if r.err != nil {
		return nil, fmt.Errorf("read order: %w", r.err)
	}
	return o, nil
}

func itemFrom(columns []*datav1.Column, row *datav1.Row) (orderID string, item *businessv1.OrderItem, err error) {
	r := rowReader{columns: columns, row: row}
	orderID = r.text("order_id")
	item = &businessv1.OrderItem{
		Sku: r.text("sku"), Quantity: uint32(r.integer("quantity")), PriceCents: r.integer("price_cents"),
	}
	if r.err != nil {
		return "", nil, fmt.Errorf("read order item: %w", r.err)
	}
	return orderID, item, nil
}

func textValue(s string) *datav1.Value {
	return &datav1.Value{Kind: &datav1.Value_Text{Text: s}}
}

func integerValue(i int64) *datav1.Value {
	return &datav1.Value{Kind: &datav1.Value_Integer{Integer: i}}
}

func keyOf(id string) *datav1.Key {
	return &datav1.Key{Values: []*datav1.Value{textValue(id)}}
}

func statement(sql string, parameters ...*datav1.Value) *datav1.Operation {
	return &datav1.Operation{Operation: &datav1.Operation_Statement{
		Statement: &datav1.Statement{Sql: sql, Parameters: parameters},
	}}
}
