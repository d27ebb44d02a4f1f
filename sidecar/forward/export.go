package forward

import (
	"context"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// Export implements datav1connect.DataServiceHandler, as QueryStream does.
func (p *Primary) Export(
	ctx context.Context, req *connect.Request[datav1.ExportRequest], out *connect.ServerStream[datav1.ExportResponse],
) error {
	c := p.newCall("Export", reads, req.Header())
	err := p.streams.admit(p.region, "streams")
	if err == nil {
		err = relay(ctx, c, req.Msg, out, p.client.Export)
		p.streams.release()
	}
	p.metrics.outcome(c.method, err)
	return err
}
