package data

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/transactwire"
)

// bundlePatience is how long a bundle waits for the slowest of its calls.
const bundlePatience = time.Second

// Bundles answers BundleService: calls of Transact that a sidecar sends together. Each is validated, run and answered as if it
// had come alone.
type Bundles struct {
	service *Service
	errs    *rpcerr.Interceptor
}

var _ replicationv1connect.BundleServiceHandler = (*Bundles)(nil)

// NewBundles returns the BundleService of a Service.
func NewBundles(s *Service, errs *rpcerr.Interceptor) *Bundles {
	return &Bundles{service: s, errs: errs}
}

// TransactBundle implements replicationv1connect.BundleServiceHandler.
func (b *Bundles) TransactBundle(
	ctx context.Context, req *connect.Request[replicationv1.TransactBundleRequest],
) (*connect.Response[replicationv1.TransactBundleResponse], error) {
	ctx, cancel := context.WithTimeout(ctx, bundlePatience)
	defer cancel()
	calls := req.Msg.GetCalls()
	outcomes := make([]*replicationv1.TransactBundleResponse_Outcome, len(calls))
	var all sync.WaitGroup
	for i, call := range calls {
		all.Go(func() { outcomes[i] = b.outcome(ctx, call) })
	}
	all.Wait()
	return connect.NewResponse(&replicationv1.TransactBundleResponse{Outcomes: outcomes}), nil
}

// outcome runs one call until the bundle's patience ends.
func (b *Bundles) outcome(
	bundle context.Context, call *replicationv1.TransactBundleRequest_Call,
) *replicationv1.TransactBundleResponse_Outcome {
	at, _ := netip.AddrFromSlice(call.GetCallerAddress())                                                              // the zero one of nothing
	ctx := requestid.With(identity.Behind(bundle, at), requestid.Of(call.GetRequestId(), call.GetTraceParent()).New()) // the call's own name
	if timeout := time.Duration(call.GetTimeoutMs()) * time.Millisecond; timeout < bundlePatience {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	encoded, err := b.transact(ctx, call)
	if err == nil {
		return &replicationv1.TransactBundleResponse_Outcome{
			Outcome: &replicationv1.TransactBundleResponse_Outcome_Response{Response: encoded},
		}
	}
	if bundle.Err() != nil {
		// Whatever the error, nothing was done; if it is the call's own, it has it alone too.
		return &replicationv1.TransactBundleResponse_Outcome{Outcome: &replicationv1.TransactBundleResponse_Outcome_Later{Later: true}}
	}
	wire := b.errs.Wire(ctx, replicationv1connect.BundleServiceTransactBundleProcedure, err)
	out := &replicationv1.TransactBundleResponse_Error{Code: uint32(wire.Code()), Message: wire.Message()}
	for _, d := range wire.Details() {
		out.Details = append(out.Details, &anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type(), Value: d.Bytes()})
	}
	return &replicationv1.TransactBundleResponse_Outcome{Outcome: &replicationv1.TransactBundleResponse_Outcome_Error{Error: out}}
}

func (b *Bundles) transact(ctx context.Context, call *replicationv1.TransactBundleRequest_Call) (encoded []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if ctx, err = b.service.guard.Credential(ctx, call.GetAuthorization()); err != nil {
		return nil, err
	}
	msg, puts := transactwire.Parse(call.GetRequest()), true
	if msg == nil {
		msg, puts = new(datav1.TransactRequest), false
		if err := proto.Unmarshal(call.GetRequest(), msg); err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("unmarshal message: %w", err))
		}
	}
	if err := b.errs.Check(msg); err != nil {
		return nil, err
	}
	header := make(http.Header, 1)
	if key := call.GetIdempotencyKey(); key != "" {
		header[canonicalKey] = []string{key}
	}
	if err := b.service.guard.Check(ctx, datav1connect.DataServiceTransactProcedure, msg); err != nil {
		return nil, err
	}
	res, err := b.service.transact(ctx, header, msg, puts)
	if err != nil {
		return nil, err
	}
	if encoded, err = proto.Marshal(res); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return encoded, nil
}
