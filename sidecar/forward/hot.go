package forward

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/transactwire"
)

// TransactHot is Transact as a hotrpc.WriteMethod: it passes what is not valid, and what goes
// alone.
func (p *Primary) TransactHot(
	ctx context.Context, errs *rpcerr.Interceptor, guard *access.Guard, header http.Header, msg []byte, a *hotrpc.Answer,
) error {
	req := transactwire.Parse(msg)
	if req == nil {
		if req = new(datav1.TransactRequest); proto.Unmarshal(msg, req) != nil {
			return hotrpc.ErrPass
		}
	}
	if errs.Check(req) != nil {
		return hotrpc.ErrPass
	}
	if err := guard.Check(ctx, datav1connect.DataServiceTransactProcedure, req); err != nil {
		return err
	}
	c := p.newKeyedCall("Transact", header, req.GetIdempotencyKey())
	c.named(ctx)
	if !bundleable(c, req, len(msg)) {
		return hotrpc.ErrPass
	}
	res, err := p.transact(ctx, c, req, bytes.Clone(msg))
	if err != nil {
		return err
	}
	if a.Message, err = (proto.MarshalOptions{}).MarshalAppend(a.Message, res); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	answer := res.GetAnswer()
	if answer == nil {
		return nil
	}
	if answer.GetBookmark() != "" {
		a.Bookmark = []string{answer.GetBookmark()}
	}
	a.Region = []string{answer.GetRegion()}
	if answer.GetSource() != datav1.Source_SOURCE_UNSPECIFIED {
		a.Source = []string{rpcheader.SourceName(answer.GetSource())}
	}
	a.StalenessMs = answer.GetStalenessMs()
	return nil
}
