package business

import (
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// The constraints that SQLite tells apart.
const (
	constraintUnique     = "SQLITE_CONSTRAINT_UNIQUE"
	constraintPrimaryKey = "SQLITE_CONSTRAINT_PRIMARYKEY"
	constraintForeignKey = "SQLITE_CONSTRAINT_FOREIGNKEY"
)

// constraint returns which constraint an inner call's error is about, or "".
func constraint(err error) string {
	e, ok := rpcerr.FromError(err)
	if !ok || e.Reason() != datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED {
		return ""
	}
	return e.Metadata("sqlite_code")
}

// taken reports whether an inner call failed because a row with an equal key or value exists.
func taken(err error) bool {
	c := constraint(err)
	return c == constraintUnique || c == constraintPrimaryKey
}

// absent reports whether an inner call's precondition failed because there is no such row.
func absent(err error) bool {
	e, ok := rpcerr.FromError(err)
	return ok && e.Reason() == datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED && e.Metadata("present_version") == "0"
}

func notFound(resource, id string) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, "no %s has this id", resource).
		With("resource", resource).With("id", id)
}

// failed is what the caller is told of an inner call's failure. Where the database or a table of it is gone, the keeper hears of it.
func (s *service) failed(op string, err error) error {
	err = callerError(op, err)
	if e, ok := errors.AsType[*rpcerr.Error](err); ok && e.Metadata("missing") != "" {
		s.keeper.missing()
	}
	return err
}

func notSetUp() error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY, "database %s is not set up yet", Database).
		With("missing", Database).WithRetryAfter(keepEvery)
}

// callerError is what the caller is told of err. Errors of this service stay as they are. Of an inner call's failure, what
// the caller can act on passes with its reason; what only this service can be blamed for becomes an unknown error.
func callerError(op string, err error) error {
	if _, ok := errors.AsType[*connect.Error](err); !ok {
		if _, ok := errors.AsType[*rpcerr.Error](err); ok {
			return err
		}
		return fmt.Errorf("%s: %w", op, err)
	}
	e, ok := rpcerr.FromError(err)
	if !ok {
		code := connect.CodeOf(err)
		switch code {
		case connect.CodeCanceled, connect.CodeDeadlineExceeded:
			return connect.NewError(code, errors.New(op+" was stopped"))
		case connect.CodeUnavailable:
			return rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY, "the region's gateway does not answer")
		default:
			return fmt.Errorf("%s: %v", op, err) //nolint:errorlint // its code must not reach the caller
		}
	}
	if strings.HasPrefix(e.Error(), "no such table:") { // SQLite says so of statements, and those here are of known tables
		return notSetUp()
	}
	switch e.Reason() {
	case datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND, datav1.ErrorReason_ERROR_REASON_TABLE_NOT_FOUND:
		return notSetUp()
	case datav1.ErrorReason_ERROR_REASON_BOOKMARK_MALFORMED,
		datav1.ErrorReason_ERROR_REASON_BOOKMARK_FORGED,
		datav1.ErrorReason_ERROR_REASON_BOOKMARK_WRONG_DATABASE,
		datav1.ErrorReason_ERROR_REASON_BOOKMARK_LOST,
		datav1.ErrorReason_ERROR_REASON_BOOKMARK_AHEAD,
		datav1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_REUSED,
		datav1.ErrorReason_ERROR_REASON_PAGE_TOKEN_INVALID,
		datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED,
		datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE,
		datav1.ErrorReason_ERROR_REASON_NOT_READY,
		datav1.ErrorReason_ERROR_REASON_OVERLOADED,
		datav1.ErrorReason_ERROR_REASON_STORE_FAILED,
		datav1.ErrorReason_ERROR_REASON_DISK_RESERVE,
		datav1.ErrorReason_ERROR_REASON_STATEMENT_INTERRUPTED,
		datav1.ErrorReason_ERROR_REASON_RESULT_TOO_LARGE,
		datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN,
		// The inner call shows the caller's own credential.
		datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED,
		datav1.ErrorReason_ERROR_REASON_TOKEN_EXPIRED,
		datav1.ErrorReason_ERROR_REASON_TOKEN_INVALID,
		datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED,
		datav1.ErrorReason_ERROR_REASON_RATE_LIMITED:
		return e
	default:
		return fmt.Errorf("%s: %v", op, err) //nolint:errorlint // its code must not reach the caller
	}
}
