package forward

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// bundler is a primary that takes bundles as tests want, and answers single transactions with version 1000.
type bundler struct {
	datav1connect.UnimplementedDataServiceHandler
	replicationv1connect.UnimplementedBundleServiceHandler

	bundle func(context.Context, []*replicationv1.TransactBundleRequest_Call) ([]*replicationv1.TransactBundleResponse_Outcome, error)

	mu    sync.Mutex
	sizes []int    // of bundles
	keys  []string // of bundled calls
	alone []string // keys of single ones
}

func (b *bundler) Transact(
	_ context.Context, req *connect.Request[datav1.TransactRequest],
) (*connect.Response[datav1.TransactResponse], error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.alone = append(b.alone, req.Header().Get(rpcheader.IdempotencyKey))
	return connect.NewResponse(&datav1.TransactResponse{Version: 1000, Answer: &datav1.Answer{
		Bookmark: "b", Source: datav1.Source_SOURCE_PRIMARY,
	}}), nil
}

func (b *bundler) TransactBundle(
	ctx context.Context, req *connect.Request[replicationv1.TransactBundleRequest],
) (*connect.Response[replicationv1.TransactBundleResponse], error) {
	b.mu.Lock()
	b.sizes = append(b.sizes, len(req.Msg.Calls))
	for _, c := range req.Msg.Calls {
		b.keys = append(b.keys, c.IdempotencyKey)
	}
	b.mu.Unlock()
	outcomes, err := b.bundle(ctx, req.Msg.Calls)
	return connect.NewResponse(&replicationv1.TransactBundleResponse{Outcomes: outcomes}), err
}

func (b *bundler) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(b))
	mux.Handle(replicationv1connect.NewBundleServiceHandler(b))
	return mux
}

// put is a short transaction whose table says which one it is.
func put(i int) *datav1.TransactRequest {
	return &datav1.TransactRequest{Database: "d", Operations: []*datav1.Operation{
		{Operation: &datav1.Operation_Put{Put: &datav1.Put{Table: "t" + strconv.Itoa(i)}}},
	}}
}

// answerAll answers each call with the number in its table as version.
func answerAll(
	_ context.Context, calls []*replicationv1.TransactBundleRequest_Call,
) (outcomes []*replicationv1.TransactBundleResponse_Outcome, err error) {
	for _, c := range calls {
		var req datav1.TransactRequest
		if err := proto.Unmarshal(c.Request, &req); err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(req.Operations[0].GetPut().GetTable()[1:])
		if err != nil {
			return nil, err
		}
		encoded, err := proto.Marshal(&datav1.TransactResponse{Version: uint64(n), Answer: &datav1.Answer{
			Region: "us-east-1", Bookmark: "b", Source: datav1.Source_SOURCE_PRIMARY,
		}})
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, &replicationv1.TransactBundleResponse_Outcome{
			Outcome: &replicationv1.TransactBundleResponse_Outcome_Response{Response: encoded},
		})
	}
	return outcomes, nil
}

// Transactions that come while two bundles are on their way go together, and each gets its own answer.
func TestBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := &bundler{}
		p.bundle = func(
			ctx context.Context, calls []*replicationv1.TransactBundleRequest_Call,
		) ([]*replicationv1.TransactBundleResponse_Outcome, error) {
			<-release
			return answerAll(ctx, calls)
		}
		r := newRegion(t, p.handler(), Options{})
		var all sync.WaitGroup
		for i := range 10 {
			if i <= maxBundlesInFlight {
				synctest.Wait() // until the one before is on its way
			}
			all.Go(func() {
				req := connect.NewRequest(put(i))
				req.Header().Set(rpcheader.Bookmark, "of a session")
				res, err := r.client.Transact(t.Context(), req)
				if err != nil {
					t.Error(err)
					return
				}
				a := res.Msg.Answer
				if res.Msg.Version != uint64(i) || a.Region != "eu-west-1" || !a.ServedByPrimary || res.Header().Get(rpcheader.Bookmark) != "b" {
					t.Errorf("transaction %d: %v", i, res.Msg)
				}
			})
		}
		synctest.Wait()
		close(release)
		all.Wait()
		slices.Sort(p.sizes)
		if diff := cmp.Diff([]int{1, 1, 8}, p.sizes); diff != "" {
			t.Errorf("sizes of bundles (-want +got):\n%s", diff)
		}
		slices.Sort(p.keys)
		if len(slices.Compact(p.keys)) != 10 || len(p.alone) != 0 {
			t.Errorf("keys %v, alone %v", p.keys, p.alone)
		}
		synctest.Wait()
		if r.bundles.mu.Lock(); len(r.bundles.databases) != 0 {
			t.Error("queues are left")
		}
		r.bundles.mu.Unlock()
	})
}

// Few calls wait for a large bundle rather than to go beside it, and go when it is back.
func TestFewBesideALargeBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := make(chan chan struct{}, 16) // of each bundle, to be closed for its answer
		p := &bundler{}
		p.bundle = func(
			ctx context.Context, calls []*replicationv1.TransactBundleRequest_Call,
		) ([]*replicationv1.TransactBundleResponse_Outcome, error) {
			release := make(chan struct{})
			begun <- release
			<-release
			return answerAll(ctx, calls)
		}
		r := newRegion(t, p.handler(), Options{})
		var all sync.WaitGroup
		call := func(n int) {
			for range n {
				all.Go(func() {
					if _, err := r.Transact(t.Context(), connect.NewRequest(put(1))); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		want := func(sizes ...int) {
			t.Helper()
			if diff := cmp.Diff(sizes, p.sizes); diff != "" {
				t.Errorf("sizes of bundles (-want +got):\n%s", diff)
			}
		}
		answer := func() {
			close(<-begun)
			synctest.Wait()
		}
		call(1)
		call(1)
		call(3 * bundleShare)
		answer()
		answer()
		want(1, 1, 3*bundleShare)
		call(2)
		want(1, 1, 3*bundleShare) // too few
		call(1)
		want(1, 1, 3*bundleShare, 3)
		call(1) // no third one
		answer()
		want(1, 1, 3*bundleShare, 3, 1)
		answer()
		answer()
		all.Wait()
		synctest.Wait()
		if r.bundles.mu.Lock(); len(r.bundles.databases) != 0 {
			t.Error("queues are left")
		}
		r.bundles.mu.Unlock()
	})
}

// What is wrong with a bundle, or takes too long for one, is done alone under the same key.
func TestOutOfBundle(t *testing.T) {
	tests := []struct {
		name    string
		bundle  func() ([]*replicationv1.TransactBundleResponse_Outcome, error)
		bundles int // of two transactions, one after the other
	}{
		{"later", func() ([]*replicationv1.TransactBundleResponse_Outcome, error) {
			return []*replicationv1.TransactBundleResponse_Outcome{
				{Outcome: &replicationv1.TransactBundleResponse_Outcome_Later{Later: true}},
			}, nil
		}, 2},
		{"no outcome", func() ([]*replicationv1.TransactBundleResponse_Outcome, error) {
			return []*replicationv1.TransactBundleResponse_Outcome{{}}, nil
		}, 2},
		{"nonsense", func() ([]*replicationv1.TransactBundleResponse_Outcome, error) {
			return []*replicationv1.TransactBundleResponse_Outcome{
				{Outcome: &replicationv1.TransactBundleResponse_Outcome_Response{Response: []byte{0xff}}},
			}, nil
		}, 2},
		{"too few", func() ([]*replicationv1.TransactBundleResponse_Outcome, error) { return nil, nil }, 2},
		{"refused", func() ([]*replicationv1.TransactBundleResponse_Outcome, error) {
			return nil, connect.NewError(connect.CodeInvalidArgument, errTest)
		}, 2},
		{"older primary", func() ([]*replicationv1.TransactBundleResponse_Outcome, error) {
			return nil, connect.NewError(connect.CodeUnimplemented, errTest)
		}, 1},
		{"connection cut after the work", func() ([]*replicationv1.TransactBundleResponse_Outcome, error) {
			hangUp()
			return nil, nil
		}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &bundler{}
				p.bundle = func(
					context.Context, []*replicationv1.TransactBundleRequest_Call,
				) ([]*replicationv1.TransactBundleResponse_Outcome, error) {
					return tt.bundle()
				}
				r := newRegion(t, p.handler(), Options{})
				for i := range 2 {
					res, err := r.client.Transact(t.Context(), connect.NewRequest(put(i)))
					if err != nil || res.Msg.Version != 1000 {
						t.Fatalf("%v, %v", res, err)
					}
				}
				if len(p.keys) != tt.bundles {
					t.Errorf("%d bundles", len(p.keys))
				}
				if diff := cmp.Diff(p.keys, p.alone[:len(p.keys)]); diff != "" {
					t.Errorf("keys (-in the bundle +alone):\n%s", diff)
				}
			})
		})
	}
}

func TestBundledErrorsPassUnchanged(t *testing.T) {
	sent, _ := rpcerr.ToConnect(rpcerr.New(datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED, "row is at version 41").
		With("present_version", "41"))
	p := &bundler{bundle: func(
		context.Context, []*replicationv1.TransactBundleRequest_Call,
	) ([]*replicationv1.TransactBundleResponse_Outcome, error) {
		out := &replicationv1.TransactBundleResponse_Error{Code: uint32(sent.Code()), Message: sent.Message()}
		for _, d := range sent.Details() {
			out.Details = append(out.Details, &anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type(), Value: d.Bytes()})
		}
		return []*replicationv1.TransactBundleResponse_Outcome{
			{Outcome: &replicationv1.TransactBundleResponse_Outcome_Error{Error: out}},
		}, nil
	}}
	r := newRegion(t, p.handler(), Options{})
	_, err := r.client.Transact(t.Context(), connect.NewRequest(put(1)))
	got := wantReason(t, err, datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED)
	if got.Code() != sent.Code() || got.Error() != sent.Message() || got.Metadata("present_version") != "41" {
		t.Errorf("got %v %q %q", got.Code(), got, got.Metadata("present_version"))
	}
	if len(p.alone) != 0 {
		t.Error("a transaction that failed was made again")
	}
}

func TestNotBundled(t *testing.T) {
	p := &bundler{bundle: answerAll}
	r := newRegion(t, p.handler(), Options{})
	sql := &datav1.TransactRequest{Database: "d", Operations: []*datav1.Operation{
		{Operation: &datav1.Operation_Statement{Statement: statement()}},
	}}
	large := put(1)
	large.Operations[0].GetPut().Values = map[string]*datav1.Value{
		"x": {Kind: &datav1.Value_Text{Text: strings.Repeat("x", maxBundledBytes)}},
	}
	long := put(1)
	for range maxBundledOperation {
		long.Operations = append(long.Operations, put(1).Operations...)
	}
	for _, req := range []*connect.Request[datav1.TransactRequest]{
		connect.NewRequest(sql), connect.NewRequest(large), connect.NewRequest(long),
	} {
		if _, err := r.client.Transact(t.Context(), req); err != nil {
			t.Error(err)
		}
	}
	authorized := connect.NewRequest(put(1))
	authorized.Header().Set("Authorization", strings.Repeat("x", maxAuthorizationBytes+1))
	if _, err := r.client.Transact(t.Context(), authorized); err != nil {
		t.Error(err)
	}
	if len(p.keys) != 0 || len(p.alone) != 4 {
		t.Errorf("%d in bundles, %d alone", len(p.keys), len(p.alone))
	}
}

// A caller who gives up before its transaction is sent is told so, and it is not sent; one who gives up afterwards is told that
// nobody knows.
func TestGivingUpOnABundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := &bundler{}
		p.bundle = func(
			ctx context.Context, calls []*replicationv1.TransactBundleRequest_Call,
		) ([]*replicationv1.TransactBundleResponse_Outcome, error) {
			<-release
			return answerAll(ctx, calls)
		}
		r := newRegion(t, p.handler(), Options{})
		call := func(limit time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := r.Transact(ctx, connect.NewRequest(put(1)))
			return err
		}
		errs := make([]error, maxBundlesInFlight+1)
		var all sync.WaitGroup
		for i := range maxBundlesInFlight {
			all.Go(func() { errs[i] = call(200 * time.Millisecond) })
			synctest.Wait()
		}
		all.Go(func() { errs[maxBundlesInFlight] = call(100 * time.Millisecond) })
		all.Wait()
		close(release)
		synctest.Wait()
		for _, err := range errs[:maxBundlesInFlight] {
			wantReason(t, err, outcomeUnknown)
		}
		if last := errs[maxBundlesInFlight]; !errors.Is(last, context.DeadlineExceeded) {
			t.Errorf("one that was not sent: %v", last)
		}
		if len(p.keys) != maxBundlesInFlight || len(p.alone) != 0 {
			t.Errorf("%d in bundles, %d alone", len(p.keys), len(p.alone))
		}
	})
}

// A bundle ends when the last of its callers has gone, and not before.
func TestBundleOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, ended := make(chan struct{}), make(chan struct{})
		p := &bundler{bundle: func(
			ctx context.Context, calls []*replicationv1.TransactBundleRequest_Call,
		) ([]*replicationv1.TransactBundleResponse_Outcome, error) {
			if len(calls) == 1 {
				<-release
				return answerAll(ctx, calls)
			}
			<-ctx.Done()
			close(ended)
			return nil, ctx.Err()
		}}
		r := newRegion(t, p.handler(), Options{})
		var all sync.WaitGroup
		call := func() context.CancelFunc {
			ctx, cancel := context.WithCancel(t.Context())
			all.Go(func() {
				if _, err := r.Transact(ctx, connect.NewRequest(put(1))); err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("error %v", err)
				}
			})
			synctest.Wait()
			return cancel
		}
		for range maxBundlesInFlight {
			defer call()()
		}
		one, other := call(), call()
		close(release)
		synctest.Wait()
		one()
		synctest.Wait()
		select {
		case <-ended:
			t.Error("the bundle ended with its first caller")
		default:
		}
		other()
		begun := time.Now()
		<-ended
		if took := time.Since(begun); took != 0 {
			t.Errorf("the bundle went on for %v", took)
		}
		all.Wait()
	})
}

// Where the primary is not heard, those who wait behind a bundle do not wait for it once more.
func TestBundlesOfASilentPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		defer close(ended)
		p := &bundler{bundle: func(
			context.Context, []*replicationv1.TransactBundleRequest_Call,
		) ([]*replicationv1.TransactBundleResponse_Outcome, error) {
			<-ended // deaf
			return nil, errTest
		}}
		r := newRegion(t, p.handler(), Options{Connected: func() bool { return false }})
		begun := time.Now()
		var all sync.WaitGroup
		for i := range maxBundlesInFlight + 1 {
			want := outcomeUnknown
			if i == maxBundlesInFlight {
				want = unavailable
			}
			all.Go(func() {
				_, err := r.Transact(t.Context(), connect.NewRequest(put(i)))
				wantReason(t, err, want)
			})
			synctest.Wait()
		}
		all.Wait()
		if took := time.Since(begun); took > silenceLimit+2*silenceInterval {
			t.Errorf("took %v", took)
		}
		if len(p.keys) != maxBundlesInFlight {
			t.Errorf("%d calls were sent", len(p.keys))
		}
	})
}
