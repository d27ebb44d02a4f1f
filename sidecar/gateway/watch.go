package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/sidecar/watch"
	"github.com/nearside-dev/nearside/sidecar/watchquery"
)

// Watch implements datav1connect.DataServiceHandler. It is the region's own, or for a table that it may not hold another region's:
// the primary is not asked.
func (d *Data) Watch(
	ctx context.Context, req *connect.Request[datav1.WatchRequest], out *connect.ServerStream[datav1.WatchResponse],
) error {
	if regions, here := d.path.Elsewhere(req.Msg.GetDatabase(), req.Msg.GetTable()); !here {
		what := fmt.Sprintf("table %s of database %s", req.Msg.GetTable(), req.Msg.GetDatabase())
		return watchElsewhere(ctx, d, regions, what, req, out, datav1connect.DataServiceClient.Watch)
	}
	located, err := d.path.Locate(ctx, req.Header(), req.Msg.GetDatabase(), req.Msg.GetBookmark())
	if err != nil {
		return err
	}
	var rows *policy.Filter
	if view := d.guard.View(ctx, req.Spec().Procedure, access.RightRead, req.Msg.GetDatabase()); view != nil {
		if rows, err = view.Table(req.Msg.GetTable()); err != nil {
			return err
		}
	}
	headed := false
	err = d.hub.Serve(ctx, &watch.Request{
		Rows: rows, WatchRequest: req.Msg, Database: located.Copy, From: located.Field, AtLeast: located.Header, Answer: located.Answer,
		Client: clientOf(ctx, req.Peer()), Binary: isBinary(req.Header()), Together: func() func() { return server.Together(ctx) },
	}, func(m *datav1.WatchResponse) error {
		if !headed {
			headed = true
			rpcheader.SetAnswer(out.ResponseHeader(), m.GetAnswer())
		}
		return out.Send(m)
	})
	return interrupted(err)
}

// WatchQuery implements datav1connect.DataServiceHandler. It is the region's own, or where it may not hold all of the database
// another region's: the primary is not asked.
func (d *Data) WatchQuery(
	ctx context.Context, req *connect.Request[datav1.WatchQueryRequest], out *connect.ServerStream[datav1.WatchQueryResponse],
) error {
	database := req.Msg.GetDatabase()
	regions, needed := d.path.ElsewhereWhole(database)
	elsewhere := func() error {
		return watchElsewhere(ctx, d, regions, "all of database "+database, req, out, datav1connect.DataServiceClient.WatchQuery)
	}
	if needed {
		return elsewhere()
	}
	located, err := d.path.Locate(ctx, req.Header(), database, req.Msg.GetConsistency().GetBookmark())
	if err != nil {
		return err
	}
	headed := false
	watched := &watchquery.Request{
		WatchQueryRequest: req.Msg, Database: located.Copy, From: located.Field, AtLeast: located.Header, Answer: located.Answer,
		Client: clientOf(ctx, req.Peer()), Binary: isBinary(req.Header()),
	}
	if view := d.guard.View(ctx, req.Spec().Procedure, access.RightRead, database); view != nil {
		watched.View, watched.ViewName = view, view.Name()
	}
	err = d.queries.Serve(ctx, watched, func(m *datav1.WatchQueryResponse) error {
		if !headed {
			headed = true
			rpcheader.SetAnswer(out.ResponseHeader(), m.GetAnswer())
		}
		return out.Send(m)
	})
	if errors.Is(err, watchquery.ErrWithheld) {
		return elsewhere()
	}
	return interrupted(err)
}

// interrupted returns a watch's error for why it ended.
func interrupted(err error) error {
	if errors.Is(err, context.Canceled) {
		// The caller has gone, or the listener is about to close and the caller is to go on elsewhere.
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_WATCH_INTERRUPTED, "the region stops: %w", err)
	}
	return err
}

// clientOf names who watches: the principal, or where nobody has said who calls, the address.
func clientOf(ctx context.Context, peer connect.Peer) string {
	if p := identity.From(ctx); p.Kind != identity.Anonymous {
		return p.String()
	}
	if host, _, err := net.SplitHostPort(peer.Addr); err == nil {
		return host
	}
	return peer.Addr
}

func isBinary(h http.Header) bool { return !strings.Contains(h.Get("Content-Type"), "json") }
