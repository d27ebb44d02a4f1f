package gateway

import (
	"context"
	"errors"
	"strings"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/sidecar/watch"
)

// Watch implements datav1connect.DataServiceHandler. It is the region's own: the primary is not asked.
func (d *Data) Watch(
	ctx context.Context, req *connect.Request[datav1.WatchRequest], out *connect.ServerStream[datav1.WatchResponse],
) error {
	located, err := d.path.Locate(ctx, req.Header(), req.Msg.GetDatabase(), req.Msg.GetBookmark())
	if err != nil {
		return err
	}
	headed := false
	err = d.hub.Serve(ctx, &watch.Request{
		WatchRequest: req.Msg, Database: located.Copy, From: located.Field, AtLeast: located.Header, Answer: located.Answer,
		Binary: !strings.Contains(req.Header().Get("Content-Type"), "json"),
	}, func(m *datav1.WatchResponse) error {
		if !headed {
			headed = true
			rpcheader.SetAnswer(out.ResponseHeader(), m.GetAnswer())
		}
		return out.Send(m)
	})
	if errors.Is(err, context.Canceled) {
		// The caller has gone, or the listener is about to close and the caller is to go on elsewhere.
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_WATCH_INTERRUPTED, "the region stops: %w", err)
	}
	return err
}
