package access

import (
	"context"
	"net/http"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Auditor is told what was decided about callers, from the middle of their requests: it must not wait, and keep nothing that it
// is given but texts.
type Auditor interface {
	// Refused is told of a request that shows no credential or none that is good, or of a log-in above its limit.
	Refused(r *http.Request, err error)
	// Seen is told of a credential that this node did not know yet, and that is good.
	Seen(r *http.Request, p *identity.Principal)
	// Decided is told what a caller may not do, and what they may where the decision is to be recorded.
	Decided(ctx context.Context, p *identity.Principal, q Question, d Decision)
}

// authenticate returns who sends a request.
func (g *Guard) authenticate(r *http.Request) (*identity.Principal, error) {
	p, first, err := g.verifier.request(r.Header)
	if first && err == nil && g.auditor != nil {
		g.auditor.Seen(r, p)
	}
	return p, err
}

// nobody returns who shows no credential where none is needed, once the rows are known as they are now: with no credential to look up,
// nothing else has looked at them. The error is NOT_READY.
func (g *Guard) nobody() (*identity.Principal, error) {
	if _, err := g.verifier.state(); err != nil {
		return nil, err
	}
	return nobody, nil
}

// refused tells the auditor of a request whose caller is not known, or tries too often to be.
func (g *Guard) refused(r *http.Request, e *rpcerr.Error) {
	if g.auditor == nil {
		return
	}
	switch e.Reason() {
	case datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, datav1.ErrorReason_ERROR_REASON_TOKEN_INVALID,
		datav1.ErrorReason_ERROR_REASON_TOKEN_EXPIRED:
	case datav1.ErrorReason_ERROR_REASON_RATE_LIMITED:
		if !login[r.URL.Path] {
			return
		}
	default:
		return
	}
	g.auditor.Refused(r, e)
}
