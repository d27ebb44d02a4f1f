package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Reason is why a call failed, as a program reads it: "PRECONDITION_FAILED". docs/errors.md lists them with their metadata.
// A newer server may send one that this build has no constant for.
type Reason string

// The reasons that callers most often tell apart.
const (
	ReasonPreconditionFailed Reason = "PRECONDITION_FAILED"
	ReasonConstraintFailed   Reason = "CONSTRAINT_FAILED"
	ReasonAlreadyExists      Reason = "ALREADY_EXISTS"
	ReasonDatabaseNotFound   Reason = "DATABASE_NOT_FOUND"
	ReasonTableNotFound      Reason = "TABLE_NOT_FOUND"
	ReasonFieldInvalid       Reason = "FIELD_INVALID"
	ReasonStatementInvalid   Reason = "STATEMENT_INVALID"
	ReasonPrimaryUnavailable Reason = "PRIMARY_UNAVAILABLE"
	ReasonOverloaded         Reason = "OVERLOADED"
	ReasonOutcomeUnknown     Reason = "OUTCOME_UNKNOWN"
	ReasonBookmarkLost       Reason = "BOOKMARK_LOST"
)

// Errors to test for with errors.Is.
var (
	// ErrNoRow is what First and Get return where there is no row. Nothing failed: it is not an *Error.
	ErrNoRow = errors.New("no such row")
	// ErrPreconditionFailed is a row that was not as an operation demanded; see Error.PresentVersion.
	ErrPreconditionFailed = &Error{Reason: ReasonPreconditionFailed}
	// ErrConstraintFailed is a row that breaks a constraint of the schema.
	ErrConstraintFailed = &Error{Reason: ReasonConstraintFailed}
	// ErrOutcomeUnknown is a write that may or may not have happened. Repeated with its idempotency key it happens once.
	ErrOutcomeUnknown = &Error{Reason: ReasonOutcomeUnknown}
	// ErrUnavailable is a call that nobody could answer at the moment, whatever the reason.
	ErrUnavailable = &Error{Code: connect.CodeUnavailable}
)

// FieldViolation is one field of a request that breaks its rule.
type FieldViolation struct {
	Field string // "statement.sql"
	Rule  string
}

// Error is a failed call. All calls of a Client fail with one; for other generated clients, use ErrorOf. It is not changed
// once it is made.
type Error struct {
	Code       connect.Code
	Reason     Reason // empty if the server gave none
	Message    string
	Metadata   map[string]string // of the reason; nil if there is none
	Fields     []FieldViolation  // with ReasonFieldInvalid
	RetryAfter time.Duration     // when a repeat may succeed; 0 if that was not said

	cause error // what the generated client returned
}

// ErrorOf finds the failed call in err: an *Error, or what a generated client without this package's interceptors returned.
// ok is false if err is of another kind.
func ErrorOf(err error) (e *Error, ok bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e, true
	}
	err = rpcerr.Unanswered(err)
	if wire, ok := errors.AsType[*connect.Error](err); ok {
		return fromWire(wire, err), true
	}
	return nil, false
}

func fromWire(wire *connect.Error, err error) *Error {
	e := &Error{Code: wire.Code(), Message: wire.Message(), cause: err}
	for _, detail := range wire.Details() {
		msg, err := detail.Value()
		if err != nil {
			continue // a detail of a type that this build does not know
		}
		switch m := msg.(type) {
		case *errdetails.ErrorInfo:
			if m.GetDomain() == rpcerr.Domain {
				e.Reason, e.Metadata = Reason(m.GetReason()), m.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, v := range m.GetFieldViolations() {
				e.Fields = append(e.Fields, FieldViolation{Field: v.GetField(), Rule: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = m.GetRetryDelay().AsDuration()
		}
	}
	return e
}

// Error returns the code, the message and, where they are not in it, the fields.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %s", e.Code, e.Message)
	for _, f := range e.Fields {
		if !strings.Contains(e.Message, f.Field) {
			fmt.Fprintf(&b, "; %s: %s", f.Field, f.Rule)
		}
	}
	return b.String()
}

// Unwrap returns what the generated client returned, a *connect.Error as a rule.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an *Error with the same Code and Reason; what it leaves empty matches everything.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && (t.Code != 0 || t.Reason != "") &&
		(t.Code == 0 || t.Code == e.Code) && (t.Reason == "" || t.Reason == e.Reason)
}

// PresentVersion returns the row's version where a precondition failed (0: there is no such row), and the present version
// where a bookmark was ahead. ok is false for other errors.
func (e *Error) PresentVersion() (version uint64, ok bool) {
	version, err := strconv.ParseUint(e.Metadata["present_version"], 10, 64)
	return version, err == nil
}

// Operation returns the index of the operation of a transaction that failed. ok is false if the error is not one's.
func (e *Error) Operation() (index int, ok bool) {
	index, err := strconv.Atoi(e.Metadata["operation"])
	return index, err == nil && index >= 0
}

// Momentary reports whether the same call, under the same idempotency key, may succeed soon.
func (e *Error) Momentary() bool {
	return e.Code == connect.CodeUnavailable || e.Reason == ReasonOutcomeUnknown || e.Reason == ReasonOverloaded
}

// typed makes the errors of a client's calls *Error. It stands outermost.
type typed struct{}

var _ connect.Interceptor = typed{}

// WrapUnary implements connect.Interceptor.
func (typed) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, req)
		if err != nil {
			return nil, typedError(err)
		}
		return res, nil
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (typed) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		return typedConn{next(ctx, spec)}
	}
}

// WrapStreamingHandler implements connect.Interceptor. It does nothing.
func (typed) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

type typedConn struct{ connect.StreamingClientConn }

// Send implements connect.StreamingClientConn. io.EOF stays as it is: connect looks for it.
func (c typedConn) Send(msg any) error { return typedError(c.StreamingClientConn.Send(msg)) }

// Receive implements connect.StreamingClientConn. io.EOF stays as it is: connect looks for it.
func (c typedConn) Receive(msg any) error { return typedError(c.StreamingClientConn.Receive(msg)) }

// typedError returns err as an *Error if it is a failed call.
func typedError(err error) error {
	if e, ok := ErrorOf(err); ok {
		return e
	}
	return err
}
