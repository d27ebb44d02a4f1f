package business

import (
	"math"
	"testing"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

func item(sku string, quantity uint32, price int64) *businessv1.OrderItem {
	return &businessv1.OrderItem{Sku: sku, Quantity: quantity, PriceCents: price}
}

func TestOrderTotal(t *testing.T) {
	for _, tc := range []struct {
		name  string
		items []*businessv1.OrderItem
		want  int64
		rule  string
	}{
		{"free", []*businessv1.OrderItem{item("a", 3, 0)}, 0, ""},
		{"sum", []*businessv1.OrderItem{item("a", 3, 250), item("b", 1, 999)}, 1749, ""},
		{"exactly the limit", []*businessv1.OrderItem{item("a", 1, 999_999), item("b", 1, 1)}, maxOrderCents, ""},
		{"exactly the limit, then free", []*businessv1.OrderItem{item("a", 10_000, 100), item("b", 10_000, 0)}, maxOrderCents, ""},
		{"one above", []*businessv1.OrderItem{item("a", 1, 999_999), item("b", 2, 1)}, 0, ruleOrderTotalLimit},
		{"one item above", []*businessv1.OrderItem{item("a", 1, maxOrderCents+1)}, 0, ruleOrderTotalLimit},
		{"product beyond int64", []*businessv1.OrderItem{item("a", math.MaxUint32, math.MaxInt64)}, 0, ruleOrderTotalLimit},
		{"sum beyond int64", []*businessv1.OrderItem{item("a", 1, maxOrderCents), item("b", 1, math.MaxInt64)}, 0, ruleOrderTotalLimit},
		{"an article twice", []*businessv1.OrderItem{item("a", 1, 1), item("b", 1, 1), item("a", 1, 1)}, 0, ruleOrderArticleOnce},
		{"case matters", []*businessv1.OrderItem{item("a", 1, 1), item("A", 1, 1)}, 2, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := orderTotal(tc.items)
			if tc.rule == "" {
				if err != nil || got != tc.want {
					t.Errorf("total = %d, %v, want %d", got, err, tc.want)
				}
				return
			}
			e, ok := rpcerr.FromError(err)
			if !ok || e.Reason() != datav1.ErrorReason_ERROR_REASON_RULE_VIOLATED || e.Metadata("rule") != tc.rule {
				t.Errorf("error = %v, want rule %s", err, tc.rule)
			}
		})
	}
}
