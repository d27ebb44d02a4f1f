package business

import (
	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// The rules, as the error metadata "rule" names them.
const (
	ruleOrderTotalLimit  = "order_total_limit"
	ruleOrderArticleOnce = "order_article_once"
	ruleUserHasOrders    = "user_has_orders"
)

// maxOrderCents is the greatest total of an order: 10,000.00.
const maxOrderCents int64 = 1_000_000

func violation(rule, format string, args ...any) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_RULE_VIOLATED, format, args...).With("rule", rule)
}

// orderTotal checks the rules of an order and returns its total. Quantities and prices are not negative; however great they
// are, nothing overflows.
func orderTotal(items []*businessv1.OrderItem) (cents int64, err error) {
	seen := make(map[string]struct{}, len(items))
	for _, item := range items {
		if _, ok := seen[item.GetSku()]; ok {
			return 0, violation(ruleOrderArticleOnce, "article %q is in the order twice", item.GetSku())
		}
		seen[item.GetSku()] = struct{}{}
	}
	for _, item := range items {
		price, quantity := item.GetPriceCents(), int64(item.GetQuantity())
		if price > 0 && quantity > (maxOrderCents-cents)/price {
			return 0, violation(ruleOrderTotalLimit, "the order's total is above %d cents", maxOrderCents)
		}
		cents += price * quantity
	}
	return cents, nil
}
