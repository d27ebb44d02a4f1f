package primary_test

import (
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// Each call of a bundle has the outcome that it has alone, under its key in or out of one.
func TestBundle(t *testing.T) {
	f := start(t)
	f.create("shop")
	f.exec("shop", "CREATE TABLE t (id INTEGER PRIMARY KEY, x INTEGER CHECK (x > 0))")
	put := func(database string, id, x int64) *datav1.TransactRequest {
		integer := func(i int64) *datav1.Value { return &datav1.Value{Kind: &datav1.Value_Integer{Integer: i}} }
		return &datav1.TransactRequest{Database: database, Operations: []*datav1.Operation{{Operation: &datav1.Operation_Put{
			Put: &datav1.Put{Table: "t", Values: map[string]*datav1.Value{"id": integer(id), "x": integer(x)}},
		}}}}
	}
	call := func(key string, m *datav1.TransactRequest) *replicationv1.TransactBundleRequest_Call {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return &replicationv1.TransactBundleRequest_Call{Request: b, IdempotencyKey: key, TimeoutMs: 10_000}
	}
	single := func(key string, m *datav1.TransactRequest) (*connect.Response[datav1.TransactResponse], error) {
		req := connect.NewRequest(m)
		if key != "" {
			req.Header().Set(rpcheader.IdempotencyKey, key)
		}
		return f.client.Transact(t.Context(), req)
	}
	if _, err := single("before", put("shop", 1, 1)); err != nil {
		t.Fatal(err)
	}
	calls := []*replicationv1.TransactBundleRequest_Call{
		call("before", put("shop", 1, 1)), call("a", put("shop", 2, 2)), call("b", put("shop", 3, 3)), call("b", put("shop", 3, 3)),
	}
	failing := []*datav1.TransactRequest{put("shop", 4, -4), put("nope", 5, 5), put("", 6, 6), put("_mesh", 7, 7)}
	for _, m := range failing {
		calls = append(calls, call("", m))
	}
	calls = append(calls, call("before", put("shop", 8, 8)), &replicationv1.TransactBundleRequest_Call{Request: []byte{0xff}, TimeoutMs: 1})

	client := replicationv1connect.NewBundleServiceClient(f.http, f.p.URL())
	res, err := client.TransactBundle(t.Context(), connect.NewRequest(&replicationv1.TransactBundleRequest{Calls: calls}))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Msg.Outcomes) != len(calls) {
		t.Fatalf("%d outcomes of %d calls", len(res.Msg.Outcomes), len(calls))
	}
	answer := func(i int) *datav1.TransactResponse {
		m := new(datav1.TransactResponse)
		o := res.Msg.Outcomes[i]
		if err := proto.Unmarshal(o.GetResponse(), m); err != nil || o.GetResponse() == nil {
			t.Fatalf("call %d: %v, %v", i, o, err)
		}
		return m
	}
	if !answer(0).Replayed || answer(1).Replayed || answer(1).Version == 0 || answer(1).Answer.GetBookmark() == "" {
		t.Errorf("answers %v and %v", answer(0), answer(1))
	}
	if answer(2).Replayed == answer(3).Replayed || answer(2).Version != answer(3).Version {
		t.Errorf("one key twice in a bundle: %v and %v", answer(2), answer(3))
	}
	for i, m := range failing {
		_, err := single("", m)
		want, ok := errors.AsType[*connect.Error](err)
		got := res.Msg.Outcomes[4+i].GetError()
		if !ok || got.GetCode() != uint32(want.Code()) || got.GetMessage() != want.Message() || len(got.GetDetails()) != len(want.Details()) {
			t.Errorf("call %d: %v, alone %v", 4+i, got, err)
			continue
		}
		for n, d := range want.Details() {
			wantDetail, err := d.Value()
			if err != nil {
				t.Fatal(err)
			}
			if gotDetail, err := got.GetDetails()[n].UnmarshalNew(); err != nil || !proto.Equal(gotDetail, wantDetail) {
				t.Errorf("call %d: detail %v, %v, alone %v", 4+i, gotDetail, err, wantDetail)
			}
		}
	}
	for i, want := range []string{"another request", "unmarshal"} {
		if got := res.Msg.Outcomes[8+i].GetError(); got.GetCode() != uint32(connect.CodeInvalidArgument) || !strings.Contains(got.GetMessage(), want) {
			t.Errorf("call %d: %v", 8+i, got)
		}
	}
	repeat, err := single("b", put("shop", 3, 3))
	if err != nil || !repeat.Msg.Replayed {
		t.Errorf("repeat alone of one in a bundle: %v, %v", repeat, err)
	}
	if rows := f.exec("shop", "SELECT count(*) FROM t").Msg.Result.Rows; rows[0].Values[0].GetInteger() != 3 {
		t.Errorf("rows %v", rows)
	}
	_, err = client.TransactBundle(t.Context(), connect.NewRequest(&replicationv1.TransactBundleRequest{}))
	if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_FIELD_INVALID {
		t.Errorf("empty bundle: %v", err)
	}
}
