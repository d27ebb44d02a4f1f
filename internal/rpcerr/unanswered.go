package rpcerr

import (
	"errors"
	"io"
	"syscall"

	"connectrpc.com/connect"
)

// Unanswered returns a failed call's error, as unavailable if the connection broke before the answer was there: Connect calls a
// reset canceled, like what the caller gave up, and an answer that was cut off unknown or internal.
func Unanswered(err error) error {
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok || connect.IsWireError(err) || ce.Code() == connect.CodeUnavailable {
		return err
	}
	for _, broken := range []error{syscall.ECONNRESET, syscall.EPIPE, io.ErrUnexpectedEOF} {
		if errors.Is(err, broken) {
			return connect.NewError(connect.CodeUnavailable, ce.Unwrap())
		}
	}
	return err
}
