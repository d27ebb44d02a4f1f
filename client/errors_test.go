package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// overTheWire returns an error as a caller gets it.
func overTheWire(err error) error {
	wire, _ := rpcerr.ToConnect(err)
	return wire
}

func TestErrorOf(t *testing.T) {
	failed := overTheWire(rpcerr.New(datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED, "row is another").
		With("operation", "3").With("present_version", "0"))
	wrapped := fmt.Errorf("save: %w", failed)
	e, ok := ErrorOf(wrapped)
	if !ok || e.Code != connect.CodeFailedPrecondition || e.Reason != ReasonPreconditionFailed || e.Message != "row is another" {
		t.Fatalf("got %+v", e)
	}
	if v, ok := e.PresentVersion(); v != 0 || !ok {
		t.Errorf("present version %d, %v", v, ok)
	}
	if i, ok := e.Operation(); i != 3 || !ok {
		t.Errorf("operation %d, %v", i, ok)
	}
	for target, want := range map[error]bool{
		ErrPreconditionFailed: true, ErrConstraintFailed: false, ErrUnavailable: false, error(&Error{}): false,
		error(&Error{Code: connect.CodeFailedPrecondition}): true, failed: true,
		error(&Error{Code: connect.CodeNotFound, Reason: ReasonPreconditionFailed}): false,
	} {
		if got := errors.Is(e, target); got != want {
			t.Errorf("errors.Is(%v): %v", target, got)
		}
	}
	if connect.CodeOf(e) != connect.CodeFailedPrecondition {
		t.Error("connect does not know its code")
	}
	if again, ok := ErrorOf(fmt.Errorf("x: %w", e)); !ok || again != e {
		t.Error("an *Error is not itself")
	}
	if _, ok := ErrorOf(errors.New("other")); ok {
		t.Error("any error is a failed call")
	}
}

func TestErrorDetails(t *testing.T) {
	e, _ := ErrorOf(overTheWire(rpcerr.InvalidField("statement.sql", "is empty")))
	want := &Error{
		Code: connect.CodeInvalidArgument, Reason: ReasonFieldInvalid, Message: "statement.sql: is empty",
		Fields: []FieldViolation{{Field: "statement.sql", Rule: "is empty"}},
	}
	if diff := cmp.Diff(want, e, cmpopts.IgnoreUnexported(Error{}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	if e.Error() != "invalid_argument: statement.sql: is empty" || e.Momentary() {
		t.Errorf("%v", e)
	}
	full := rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "too much").WithRetryAfter(3 * time.Second)
	if e, _ := ErrorOf(overTheWire(full)); e.RetryAfter != 3*time.Second || !e.Momentary() {
		t.Errorf("%+v", e)
	}
	if e, ok := ErrorOf(connect.NewError(connect.CodeUnavailable, errors.New("gone"))); !ok || !errors.Is(e, ErrUnavailable) || e.Reason != "" {
		t.Errorf("%+v", e)
	}
}

// TestClientErrors: what a client's calls fail with is typed, on streams too.
func TestClientErrors(t *testing.T) {
	lost := rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_LOST, "lost").With("epoch", "3")
	n := &node{answer: []answer{{err: overTheWire(lost)}}}
	c := New("http://mesh", WithHTTPClient(serve(n)))
	_, err := Get[map[string]any](t.Context(), c.Database("d"), "t", 1)
	if e, ok := errors.AsType[*Error](err); !ok || e.Reason != ReasonBookmarkLost || e.Metadata["epoch"] != "3" {
		t.Errorf("unary: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	given := 0
	for _, err := range Rows[int](ctx, c.Database("d"), "SELECT 1") {
		given++
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != connect.CodeCanceled {
			t.Errorf("stream: %v", err)
		}
	}
	if given != 1 {
		t.Errorf("the error was given %d times", given)
	}
}
