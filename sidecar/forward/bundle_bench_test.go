package forward

import (
	"context"
	"net/http"
	"runtime"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
)

// prompt is a primary that answers each call of a bundle at once with the same bytes.
type prompt struct{ answer []byte }

func (p prompt) TransactBundle(
	_ context.Context, req *connect.Request[replicationv1.TransactBundleRequest],
) (*connect.Response[replicationv1.TransactBundleResponse], error) {
	runtime.Gosched() // more callers come meanwhile
	res := &replicationv1.TransactBundleResponse{}
	for range req.Msg.GetCalls() {
		res.Outcomes = append(res.Outcomes, &replicationv1.TransactBundleResponse_Outcome{
			Outcome: &replicationv1.TransactBundleResponse_Outcome_Response{Response: p.answer},
		})
	}
	return connect.NewResponse(res), nil
}

// What a write costs on its way through a bundle, without what the bundle costs on the wire: a caller alone, and 64 at a time.
func BenchmarkBundled(b *testing.B) {
	answer, err := proto.Marshal(&datav1.TransactResponse{
		Version: 1000, Answer: &datav1.Answer{Region: "us-east-1", Bookmark: "bookmark", Source: datav1.Source_SOURCE_PRIMARY},
	})
	if err != nil {
		b.Fatal(err)
	}
	p, err := New(Options{Region: "eu-west-1", URL: "http://127.0.0.1:1", HTTPClient: http.DefaultClient})
	if err != nil {
		b.Fatal(err)
	}
	p.bundles.client = prompt{answer}
	request := put(1)
	encoded, err := proto.Marshal(request)
	if err != nil {
		b.Fatal(err)
	}
	call := func(b *testing.B) {
		c := p.newKeyedCall("Transact", http.Header{}, "")
		if msg, err := p.transact(b.Context(), c, request, encoded); err != nil || msg.GetVersion() != 1000 {
			b.Error(msg, err)
		}
	}
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			call(b)
		}
	})
	b.Run("64", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(64)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				call(b)
			}
		})
	})
}
