package engine

import (
	"context"
	"errors"
	"strconv"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
)

// Errors that callers test for.
var (
	// ErrClosed means that the database was closed.
	ErrClosed = errors.New("database closed")
	// ErrAhead means that the SQLite file has commits that its log lacks. It is corruption: the file is not served.
	ErrAhead = errors.New("database file is ahead of its log")
	// ErrFork means that file and log are of different histories.
	ErrFork = errors.New("database file and log are of different histories")
	// ErrRowsNotLogged means that the file lacks a table whose rows the log does not have: the file was lost, or is an older
	// one. A backup of it is needed.
	ErrRowsNotLogged = errors.New("the log lacks the rows of a table that was replaced")
	// ErrCorruptFile means that the SQLite file contradicts itself.
	ErrCorruptFile = errors.New("corrupt database file")
)

// metaOperation is the error metadata that names the operation of a transaction, counted from 0.
const metaOperation = "operation"

// statementError turns what SQLite said of a caller's statement into an error for the caller. Failures of the store itself
// stay unknown errors.
func statementError(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok || rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return err
	}
	switch e.Code {
	case sqlite.CodeConstraint:
		out := rpcerr.New(datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED, "%w", err).With("sqlite_code", e.Name())
		if x := e.Extended; x == sqlite.CodeConstraintUnique || x == sqlite.CodeConstraintPrimaryKey ||
			x == sqlite.CodeConstraintRowID {
			out = out.WithCode(connect.CodeAlreadyExists)
		}
		return out
	case sqlite.CodeAuth:
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED, "%w", err).With("sqlite_code", e.Name())
	case sqlite.CodeNoMem:
		return noMemory(err)
	case sqlite.CodeTooBig:
		return rowTooLarge(err)
	case sqlite.CodeError, sqlite.CodeMismatch, sqlite.CodeRange, sqlite.CodeMisuse, sqlite.CodeReadOnly,
		sqlite.CodeLocked:
		return statementInvalid(e)
	case sqlite.CodeFull: // sooner than the reserve was looked at; nothing of it is done
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_DISK_RESERVE, "the primary's disk is full: %w", err).
			With("sqlite_code", e.Name()).WithRetryAfter(diskRetryAfter)
	default:
		return err
	}
}

func statementInvalid(e *sqlite.Error) error {
	out := rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID, "%w", e).With("sqlite_code", e.Name())
	if e.Offset >= 0 {
		out = out.With("offset", strconv.Itoa(e.Offset))
	}
	return out
}

// diskRetryAfter is when to try again what the disk has no room for.
const diskRetryAfter = 10 * time.Second

// interruptedError says that a statement was stopped because of its caller's context.
func interruptedError(ctx context.Context) error {
	err := rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_INTERRUPTED,
		"statement stopped, nothing was done: %w", context.Cause(ctx))
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return err.WithCode(connect.CodeCanceled)
	}
	return err
}

// IsCorruptFile reports whether an error says that the SQLite file is damaged.
func IsCorruptFile(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return errors.Is(err, ErrCorruptFile) || ok && (e.Code == sqlite.CodeCorrupt || e.Code == sqlite.CodeNotADB)
}

func isInterrupt(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code == sqlite.CodeInterrupt
}

// withOperation names the operation that failed.
func withOperation(err error, operation int) error {
	e, ok := errors.AsType[*rpcerr.Error](err)
	if !ok {
		return err
	}
	return e.Clone().With(metaOperation, strconv.Itoa(operation))
}
