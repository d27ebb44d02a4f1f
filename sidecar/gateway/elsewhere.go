package gateway

import (
	"context"
	"fmt"
	"maps"
	"net/http"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/sidecar/watch"
)

// passedElsewhere are the headers of a caller that another region gets to see.
var passedElsewhere = []string{"Authorization", rpcheader.Bookmark, rpcheader.TraceParent, rpcheader.TraceState}

// watchElsewhere has a region that may hold what is watched watch it for the caller. What comes passes through and is not kept. A
// region that was asked by another one does not ask a third: their copies of _mesh differ for a moment. open is the client's call,
// and what names what is watched.
func watchElsewhere[Req, Res any, P interface {
	*Res
	GetAnswer() *datav1.Answer
}](
	ctx context.Context, d *Data, regions []meshdb.Region, what string, req *connect.Request[Req], out *connect.ServerStream[Res],
	open func(datav1connect.DataServiceClient, context.Context, *connect.Request[Req]) (*connect.ServerStreamForClient[Res], error),
) error {
	failed := rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY,
		"this region may not hold %s, and no region that may can be asked", what)
	if req.Header().Get(rpcheader.AskedFor) != "" {
		return failed
	}
	for _, r := range regions {
		ask := connect.NewRequest(req.Msg)
		for _, name := range passedElsewhere {
			if values := req.Header().Values(name); len(values) > 0 {
				ask.Header()[http.CanonicalHeaderKey(name)] = values
			}
		}
		requestid.From(ctx).Set(ask.Header())
		if address := identity.AddressOf(ctx); address.IsValid() {
			ask.Header().Set(rpcheader.Origin, address.String())
		}
		ask.Header().Set(rpcheader.AskedFor, r.Name)
		begun, err := passWatch[Req, Res, P](ctx, datav1connect.NewDataServiceClient(d.streams, r.URL), ask, out, open)
		if err = rpcerr.Unanswered(err); begun && ctx.Err() == nil && err != nil && !connect.IsWireError(err) {
			return watch.Interrupted(fmt.Errorf("region %s: %w", r.Name, err))
		}
		if begun || err == nil || ctx.Err() != nil || connect.CodeOf(err) != connect.CodeUnavailable {
			return err
		}
		failed = failed.Because(err)
	}
	return failed
}

// passWatch passes a region's answers on to the caller, and reports whether there were any.
func passWatch[Req, Res any, P interface {
	*Res
	GetAnswer() *datav1.Answer
}](
	ctx context.Context, region datav1connect.DataServiceClient, ask *connect.Request[Req], out *connect.ServerStream[Res],
	open func(datav1connect.DataServiceClient, context.Context, *connect.Request[Req]) (*connect.ServerStreamForClient[Res], error),
) (begun bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, err := open(region, ctx, ask)
	if err != nil {
		return false, err
	}
	defer func() { _ = in.Close() }() // what it could say, Err has said
	for in.Receive() {
		if !begun {
			begun = true
			set := make(http.Header)
			rpcheader.SetAnswer(set, P(in.Msg()).GetAnswer())
			maps.Copy(out.ResponseHeader(), set)
		}
		if err := out.Send(in.Msg()); err != nil {
			return begun, err
		}
	}
	return begun, in.Err()
}
