package forward

import (
	"context"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// QueryStream implements datav1connect.DataServiceHandler. Attempts are made up to the first message; after it the answer has
// begun, and what ends it is its end.
func (p *Primary) QueryStream(
	ctx context.Context, req *connect.Request[datav1.QueryStreamRequest],
	out *connect.ServerStream[datav1.QueryStreamResponse],
) error {
	c := p.newCall("QueryStream", reads, req.Header())
	err := p.streams.admit(p.region, "streams")
	if err == nil {
		err = c.stream(ctx, req.Msg, out)
		p.streams.release()
	}
	p.metrics.outcome(c.method, err)
	return err
}

func (c *call) stream(
	caller context.Context, msg *datav1.QueryStreamRequest, out *connect.ServerStream[datav1.QueryStreamResponse],
) error {
	return relay(caller, c, msg, out, c.primary.client.QueryStream)
}

// send calls a method that answers with a stream.
type send[Req, Res any] func(context.Context, *connect.Request[Req]) (*connect.ServerStreamForClient[Res], error)

// relay passes a stream on.
func relay[Req, Res any, P interface {
	*Res
	answered
}](caller context.Context, c *call, msg *Req, out *connect.ServerStream[Res], send send[Req, Res],
) error {
	c.from(caller)
	var in *connect.ServerStreamForClient[Res]
	var more bool
	end := func() {}
	err := c.attempts(caller, c.primary.limitsOf(caller), nil, func(first context.Context) (err error) {
		in, more, end, err = open(caller, traced(first), c, msg, send)
		return err
	})
	if err != nil {
		return err
	}
	defer func() {
		end() // or Close would read all that is left
		_ = in.Close()
	}()
	for ; more; more = in.Receive() {
		piece := P(in.Msg())
		c.primary.rewrite(piece)
		rpcheader.SetAnswer(out.ResponseHeader(), piece.GetAnswer())
		if err := out.Send(in.Msg()); err != nil {
			return err
		}
	}
	switch err := in.Err(); {
	case err == nil, connect.IsWireError(err):
		return err
	case caller.Err() != nil:
		return caller.Err()
	default:
		return c.primary.unavailable(err)
	}
}

// open begins a stream and waits for its first message; more is false if it has none. The stream lives until end is called or
// the caller goes; first bounds only the wait.
func open[Req, Res any](caller, first context.Context, c *call, msg *Req, send send[Req, Res]) (
	in *connect.ServerStreamForClient[Res], more bool, end func(), err error,
) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(first))
	leaveCaller := context.AfterFunc(caller, cancel)
	leaveFirst := context.AfterFunc(first, cancel)
	end = func() {
		leaveCaller()
		leaveFirst()
		cancel()
	}
	if _, ok := caller.Deadline(); ok {
		deadline, _ := first.Deadline()
		ctx = &announced{Context: ctx, deadline: deadline}
	}
	req := connect.NewRequest(msg)
	copyHeader(req.Header(), c.header)
	if in, err = send(ctx, req); err == nil {
		if more = in.Receive(); !more {
			err = in.Err()
		}
	}
	if err != nil {
		end()
		if in != nil {
			_ = in.Close()
		}
		return nil, false, nil, err
	}
	leaveFirst()
	return in, more, end, nil
}
