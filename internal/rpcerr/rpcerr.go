// Package rpcerr is the one table between the errors of the domain and what crosses the wire: Connect codes with
// google.rpc.ErrorInfo, BadRequest and RetryInfo.
//
// Code below the handlers returns *Error (or wraps one) for what a caller should know. Everything else is unknown: it
// reaches the client as "internal" without detail and reaches the log whole.
package rpcerr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// Domain is the ErrorInfo domain of all our reasons.
const Domain = "nearside.dev"

// Reason is why something failed. Its Connect code stands in the table codes.
type Reason = datav1.ErrorReason

// codes is the table. Every reason but UNSPECIFIED has a code; a test goes through the enum.
var codes = map[Reason]connect.Code{
	datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND:      connect.CodeNotFound,
	datav1.ErrorReason_ERROR_REASON_DATABASE_EXISTS:         connect.CodeAlreadyExists,
	datav1.ErrorReason_ERROR_REASON_TABLE_NOT_FOUND:         connect.CodeNotFound,
	datav1.ErrorReason_ERROR_REASON_COLUMN_NOT_FOUND:        connect.CodeInvalidArgument,
	datav1.ErrorReason_ERROR_REASON_INDEX_NOT_FOUND:         connect.CodeInvalidArgument,
	datav1.ErrorReason_ERROR_REASON_FIELD_INVALID:           connect.CodeInvalidArgument,
	datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID:       connect.CodeInvalidArgument,
	datav1.ErrorReason_ERROR_REASON_STATEMENT_WRITES:        connect.CodeInvalidArgument,
	datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED:        connect.CodePermissionDenied,
	datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED:       connect.CodeFailedPrecondition,
	datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED:     connect.CodeFailedPrecondition,
	datav1.ErrorReason_ERROR_REASON_BOOKMARK_MALFORMED:      connect.CodeInvalidArgument,
	datav1.ErrorReason_ERROR_REASON_BOOKMARK_FORGED:         connect.CodePermissionDenied,
	datav1.ErrorReason_ERROR_REASON_BOOKMARK_WRONG_DATABASE: connect.CodeInvalidArgument,
	datav1.ErrorReason_ERROR_REASON_BOOKMARK_LOST:           connect.CodeAborted,
	datav1.ErrorReason_ERROR_REASON_BOOKMARK_AHEAD:          connect.CodeFailedPrecondition,
	datav1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_REUSED:  connect.CodeInvalidArgument,
	datav1.ErrorReason_ERROR_REASON_TRANSACTION_TOO_LARGE:   connect.CodeResourceExhausted,
	datav1.ErrorReason_ERROR_REASON_RESULT_TOO_LARGE:        connect.CodeResourceExhausted,
	datav1.ErrorReason_ERROR_REASON_MIGRATION_CHANGED:       connect.CodeFailedPrecondition,
	datav1.ErrorReason_ERROR_REASON_MIGRATION_OUT_OF_ORDER:  connect.CodeFailedPrecondition,
	datav1.ErrorReason_ERROR_REASON_MIGRATION_FAILED:        connect.CodeInvalidArgument,
	datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE:     connect.CodeUnavailable,
	datav1.ErrorReason_ERROR_REASON_NOT_READY:               connect.CodeUnavailable,
	datav1.ErrorReason_ERROR_REASON_OVERLOADED:              connect.CodeResourceExhausted,
	datav1.ErrorReason_ERROR_REASON_STORE_FAILED:            connect.CodeUnavailable,
	datav1.ErrorReason_ERROR_REASON_DISK_RESERVE:            connect.CodeResourceExhausted,
	datav1.ErrorReason_ERROR_REASON_STATEMENT_INTERRUPTED:   connect.CodeDeadlineExceeded,
	datav1.ErrorReason_ERROR_REASON_PAGE_TOKEN_INVALID:      connect.CodeInvalidArgument,
	datav1.ErrorReason_ERROR_REASON_SCHEMA_UNSUPPORTED:      connect.CodeUnimplemented,
	datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN:         connect.CodeAborted,
	datav1.ErrorReason_ERROR_REASON_RULE_VIOLATED:           connect.CodeFailedPrecondition,
	datav1.ErrorReason_ERROR_REASON_ALREADY_EXISTS:          connect.CodeAlreadyExists,
	datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND:      connect.CodeNotFound,
	datav1.ErrorReason_ERROR_REASON_CORRUPT:                 connect.CodeInternal,
	datav1.ErrorReason_ERROR_REASON_ROW_TOO_LARGE:           connect.CodeResourceExhausted,
	datav1.ErrorReason_ERROR_REASON_MEMORY_LIMIT:            connect.CodeResourceExhausted,
	datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE:       connect.CodeResourceExhausted,
	datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_SLOW:        connect.CodeDeadlineExceeded,
	datav1.ErrorReason_ERROR_REASON_BOOKMARK_TOO_OLD:        connect.CodeOutOfRange,
	datav1.ErrorReason_ERROR_REASON_SCHEMA_CHANGED:          connect.CodeFailedPrecondition,
	datav1.ErrorReason_ERROR_REASON_WATCH_INTERRUPTED:       connect.CodeUnavailable,
	datav1.ErrorReason_ERROR_REASON_STATEMENT_NOT_WATCHABLE: connect.CodeUnimplemented,
	datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED:         connect.CodeUnauthenticated,
	datav1.ErrorReason_ERROR_REASON_TOKEN_EXPIRED:           connect.CodeUnauthenticated,
	datav1.ErrorReason_ERROR_REASON_TOKEN_INVALID:           connect.CodeUnauthenticated,
	datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED:       connect.CodePermissionDenied,
	datav1.ErrorReason_ERROR_REASON_RATE_LIMITED:            connect.CodeResourceExhausted,
	datav1.ErrorReason_ERROR_REASON_ACCOUNT_LOCKED:          connect.CodePermissionDenied,
	datav1.ErrorReason_ERROR_REASON_PLACEMENT_DIFFERS:       connect.CodeFailedPrecondition,
	datav1.ErrorReason_ERROR_REASON_NODE_ONLY:               connect.CodePermissionDenied,
	datav1.ErrorReason_ERROR_REASON_JOIN_TOKEN_INVALID:      connect.CodeUnauthenticated,
	datav1.ErrorReason_ERROR_REASON_ENDPOINT_UNAVAILABLE:    connect.CodeUnavailable,
}

// Field is one broken rule of one request field.
type Field struct {
	Path        string // "statement.sql", "keys[3].values"
	Description string // the rule
}

// Error is a failure that a caller should know. Make one with New and add to it with the With methods before it is shared.
type Error struct {
	reason     Reason
	code       connect.Code // 0: the table's
	message    string
	metadata   map[string]string
	fields     []Field
	retryAfter time.Duration
	cause      error
}

// New returns an error with a reason and a message for people. A %w in the format wraps.
func New(reason Reason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{reason: reason, message: err.Error(), cause: errors.Unwrap(err)}
}

// InvalidField returns FIELD_INVALID for one field. The message names it.
func InvalidField(path, format string, args ...any) *Error {
	rule := fmt.Sprintf(format, args...)
	e := New(datav1.ErrorReason_ERROR_REASON_FIELD_INVALID, "%s: %s", path, rule)
	e.fields = []Field{{Path: path, Description: rule}}
	return e
}

// With adds a metadata pair and returns e.
func (e *Error) With(key, value string) *Error {
	if e.metadata == nil {
		e.metadata = make(map[string]string, 2)
	}
	e.metadata[key] = value
	return e
}

// WithFields adds broken rules and returns e.
func (e *Error) WithFields(fields ...Field) *Error {
	e.fields = append(e.fields, fields...)
	return e
}

// WithCode overrides the table's code, for the few reasons with two, and returns e.
func (e *Error) WithCode(code connect.Code) *Error {
	e.code = code
	return e
}

// WithRetryAfter says when to try again and returns e.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	e.retryAfter = d
	return e
}

// Because wraps a cause that only the log and errors.Is see, and returns e.
func (e *Error) Because(cause error) *Error {
	e.cause = cause
	return e
}

// Clone returns a copy that may be changed.
func (e *Error) Clone() *Error {
	c := *e
	c.metadata = maps.Clone(e.metadata)
	c.fields = append([]Field(nil), e.fields...)
	return &c
}

// Error returns the message.
func (e *Error) Error() string { return e.message }

// Unwrap returns what was wrapped, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Reason returns why.
func (e *Error) Reason() Reason { return e.reason }

// Metadata returns the metadata's value, or "".
func (e *Error) Metadata(key string) string { return e.metadata[key] }

// RetryAfter returns when to try again; 0 if that was not said.
func (e *Error) RetryAfter() time.Duration { return e.retryAfter }

// Code returns the Connect code.
func (e *Error) Code() connect.Code {
	if e.code != 0 {
		return e.code
	}
	if code, ok := codes[e.reason]; ok {
		return code
	}
	return connect.CodeInternal
}

// ReasonOf returns the reason of err, made in this process or met over the wire; UNSPECIFIED if it has none.
func ReasonOf(err error) Reason {
	if e, ok := FromError(err); ok {
		return e.reason
	}
	return datav1.ErrorReason_ERROR_REASON_UNSPECIFIED
}

// FromError finds an *Error in err: one wrapped in this process, or one that came as a *connect.Error with our details.
func FromError(err error) (*Error, bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e, true
	}
	wire, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return nil, false
	}
	return fromWire(wire)
}

func fromWire(wire *connect.Error) (*Error, bool) {
	e := &Error{code: wire.Code(), message: wire.Message()}
	known := false
	for _, detail := range wire.Details() {
		msg, err := detail.Value()
		if err != nil {
			continue // a detail of a type this build does not know
		}
		switch m := msg.(type) {
		case *errdetails.ErrorInfo:
			if m.GetDomain() != Domain {
				continue
			}
			e.reason = Reason(datav1.ErrorReason_value["ERROR_REASON_"+m.GetReason()])
			e.metadata = m.GetMetadata()
			known = true
		case *errdetails.BadRequest:
			for _, v := range m.GetFieldViolations() {
				e.fields = append(e.fields, Field{Path: v.GetField(), Description: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.retryAfter = m.GetRetryDelay().AsDuration()
		}
	}
	return e, known
}

// ToConnect turns any error into what goes over the wire. known is false where the client is told only "internal": the
// caller must log err.
func ToConnect(err error) (wire *connect.Error, known bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.toConnect(), e.Code() != connect.CodeInternal
	}
	if ce, ok := errors.AsType[*connect.Error](err); ok {
		return ce, true
	}
	switch {
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, context.Canceled), true
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded), true
	default:
		return connect.NewError(connect.CodeInternal, errInternal), false
	}
}

var errInternal = errors.New("internal error")

func (e *Error) toConnect() *connect.Error {
	wire := connect.NewError(e.Code(), errors.New(e.message))
	info := &errdetails.ErrorInfo{
		Reason:   strings.TrimPrefix(e.reason.String(), "ERROR_REASON_"),
		Domain:   Domain,
		Metadata: e.metadata,
	}
	if d, err := connect.NewErrorDetail(info); err == nil {
		wire.AddDetail(d)
	}
	if len(e.fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range e.fields {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: f.Path, Description: f.Description})
		}
		if d, err := connect.NewErrorDetail(bad); err == nil {
			wire.AddDetail(d)
		}
	}
	if e.retryAfter > 0 {
		retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(e.retryAfter)}
		if d, err := connect.NewErrorDetail(retry); err == nil {
			wire.AddDetail(d)
		}
	}
	return wire
}
