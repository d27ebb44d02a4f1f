package access

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// A right that was taken before something was written must be gone before that can be read. A copy applies a record only once its
// _mesh has what the primary's had, so that holds for who asks afterwards. Who asked before, and reads afterwards, was let in by
// rows that are older than what is read: so reads look again once they have been read. Mostly nothing has changed meanwhile, and
// that is all there is to see.

// Current reports whether _mesh is as it was when it was found out who a principal is. It allocates nothing.
func (g *Guard) Current(p *identity.Principal) bool {
	if g == nil {
		return true
	}
	v, ok := g.verifier.source.Version()
	return ok && v.Version == p.MeshVersion && v.Epoch == p.MeshEpoch
}

// after is asked once a call has its answer. view is what its caller saw before.
func (g *Guard) after(ctx context.Context, h http.Header, q Question, view string, res connect.AnyResponse) error {
	p := identity.From(ctx)
	if p.Subject == nil || q.Right != RightRead || g.Current(p) || wrote(res) {
		return nil // what is done is done
	}
	now, err := g.verifier.Request(h)
	switch {
	case rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_TOKEN_EXPIRED:
		return nil // it was good when the call came
	case err != nil:
		return err
	}
	if err := g.decide(identity.With(ctx, now), q); err != nil {
		return err
	}
	if g.viewOf(now, q).Name() != view {
		return errViewChanged
	}
	return nil
}

var errViewChanged = rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY, "what the caller may see has changed meanwhile: ask again").
	WithRetryAfter(time.Millisecond)

// wrote reports whether an answer is of a statement that has written after all.
func wrote(res connect.AnyResponse) bool {
	m, ok := res.Any().(interface{ GetAnswer() *datav1.Answer })
	return ok && m.GetAnswer().GetRowsWritten() > 0
}
