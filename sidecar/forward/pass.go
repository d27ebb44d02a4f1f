package forward

import (
	"context"

	"connectrpc.com/connect"
)

// Pass passes a call of another service than DataService to the primary, which answers with it what it would answer the caller.
// Only one that repeatable says may be repeated is. Where header is not nil, it gets the answer's.
func Pass[Req, Res any](
	ctx context.Context, p *Primary, method string, repeatable bool, req *connect.Request[Req],
	send func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), header func(*connect.Response[Res]),
) (*connect.Response[Res], error) {
	e := writes
	if repeatable {
		e = reads
	}
	return unary(ctx, p.newCall(method, e, req.Header()), req.Msg, func(
		ctx context.Context, req *connect.Request[Req],
	) (*connect.Response[Res], error) {
		res, err := send(ctx, req)
		if err == nil && header != nil {
			header(res)
		}
		return res, err
	})
}
