package data

import (
	"strconv"
	"testing"

	"connectrpc.com/connect"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
)

// What a bundle of 32 transactions with keys costs at the primary, with its fsyncs.
func BenchmarkBundle(b *testing.B) {
	tw := newTwin(b, false)
	bundles := NewBundles(tw.service, tw.errs)
	calls := make([]*replicationv1.TransactBundleRequest_Call, 32)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		for i := range calls {
			n++
			calls[i] = &replicationv1.TransactBundleRequest_Call{
				Request: transactionOf(b, put(int64(i), int64(n))), IdempotencyKey: strconv.Itoa(n), TimeoutMs: 30_000,
			}
		}
		res, err := bundles.TransactBundle(b.Context(), connect.NewRequest(&replicationv1.TransactBundleRequest{Calls: calls}))
		if err != nil {
			b.Fatal(err)
		}
		for _, o := range res.Msg.GetOutcomes() {
			if o.GetResponse() == nil {
				b.Fatal(o)
			}
		}
	}
}
