package importer

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// How long to wait before a batch is tried again; doubled each time.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
)

// transact runs one transaction. It repeats what the mesh could not do, or did without saying so, for as long as
// retryFor: the idempotency key makes that safe. This is the one place above the sidecar that retries, because nobody
// wants to watch a long import for the second in which a primary restarts.
func transact(
	ctx context.Context, client Transactor, request *datav1.TransactRequest, retryFor time.Duration,
) (*datav1.TransactResponse, error) {
	deadline := time.Now().Add(retryFor)
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		response, err := client.Transact(ctx, connect.NewRequest(request))
		if err == nil {
			return response.Msg, nil
		}
		wait := pause
		if e, ok := rpcerr.FromError(err); ok {
			wait = max(wait, e.RetryAfter())
		}
		if !transient(err) || time.Now().Add(wait).After(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (waiting to try again after: %w)", ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

// transient reports whether the same request may succeed later.
func transient(err error) bool {
	switch rpcerr.ReasonOf(err) {
	case datav1.ErrorReason_ERROR_REASON_OVERLOADED, datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN:
		return true
	default:
		return connect.CodeOf(rpcerr.Unanswered(err)) == connect.CodeUnavailable
	}
}

// failure returns err as a *StatementError if the primary said which operation it was.
func (r *run) failure(err error) error {
	statements := r.batch.statements
	first, last := statements[0], statements[len(statements)-1]
	if e, ok := rpcerr.FromError(err); ok {
		i, atoiErr := strconv.Atoi(e.Metadata("operation"))
		if atoiErr == nil && i >= 0 && i < len(r.batch.origins) {
			s := statements[r.batch.origins[i]]
			return &StatementError{Name: r.opts.Name, Line: s.Line, Statement: s.Text, Err: err}
		}
	}
	if len(statements) == 1 {
		return &StatementError{Name: r.opts.Name, Line: first.Line, Statement: first.Text, Err: err}
	}
	return fmt.Errorf("%s: lines %d to %d: %w", r.opts.Name, first.Line, last.EndLine, err)
}

const maxExcerpt = 80

// abridge returns the statement's beginning on one line.
func abridge(statement string) string {
	if len(statement) > 8*maxExcerpt { // enough, whatever the space in it
		statement = statement[:8*maxExcerpt]
	}
	line := strings.Join(strings.Fields(strings.ToValidUTF8(statement, "�")), " ")
	if runes := []rune(line); len(runes) > maxExcerpt {
		return string(runes[:maxExcerpt]) + "…"
	}
	return line
}
