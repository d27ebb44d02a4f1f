package forward

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

var (
	canonicalRegion = http.CanonicalHeaderKey(rpcheader.Region)
	canonicalSource = http.CanonicalHeaderKey(rpcheader.Source)
)

// TransactHot is Transact as a hotrpc.WriteMethod: it passes what is not valid, and what goes
// alone.
func (p *Primary) TransactHot(
	ctx context.Context, errs *rpcerr.Interceptor, header http.Header, msg []byte, a *hotrpc.Answer,
) error {
	req := new(datav1.TransactRequest)
	if proto.Unmarshal(msg, req) != nil || errs.Check(req) != nil {
		return hotrpc.ErrPass
	}
	c := p.newKeyedCall("Transact", header, req.GetIdempotencyKey())
	if !bundleable(c, req) {
		return hotrpc.ErrPass
	}
	res, err := p.transact(ctx, c, req, bytes.Clone(msg))
	if err != nil {
		return err
	}
	if a.Message, err = (proto.MarshalOptions{}).MarshalAppend(a.Message, res.Msg); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	h := res.Header()
	a.Bookmark, a.Region, a.Source = h[canonicalBookmark], h[canonicalRegion], h[canonicalSource]
	a.StalenessMs = res.Msg.GetAnswer().GetStalenessMs()
	return nil
}
