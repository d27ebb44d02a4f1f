package engine

import (
	"context"
	"errors"
	"strconv"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
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

// statementError is sqlrun.Error, and knows a full disk.
func statementError(err error) error {
	if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code == sqlite.CodeFull &&
		rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		// Sooner than the reserve was looked at; nothing of it is done.
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_DISK_RESERVE, "the primary's disk is full, or a table with AUTOINCREMENT has given its last number: %w", err).
			With("sqlite_code", e.Name()).WithRetryAfter(diskRetryAfter)
	}
	return sqlrun.Error(err)
}

// diskRetryAfter is when to try again what the disk has no room for.
const diskRetryAfter = 10 * time.Second

func interruptedError(ctx context.Context) error { return sqlrun.Interrupted(ctx) }

// IsCorruptFile reports whether an error says that the SQLite file is damaged.
func IsCorruptFile(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return errors.Is(err, ErrCorruptFile) || ok && (e.Code == sqlite.CodeCorrupt || e.Code == sqlite.CodeNotADB)
}

func isInterrupt(err error) bool { return sqlrun.IsInterrupt(err) }

// withOperation names the operation that failed.
func withOperation(err error, operation int) error {
	e, ok := errors.AsType[*rpcerr.Error](err)
	if !ok {
		return err
	}
	return e.Clone().With(metaOperation, strconv.Itoa(operation))
}
