package engine

import (
	"errors"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
)

// Limits of a statement.
const (
	// MaxStatementBytes is how long a statement's text may be.
	MaxStatementBytes = 1 << 20
	// MaxParameters is how many parameters a statement may have.
	MaxParameters = 32766
	// MaxRowBytes is how large a row may be, a value, and anything that a statement makes on its way.
	MaxRowBytes = 8 << 20

	// maxCatalogBytes is how large a schema may be when it is stored: as a row of its own, and some room.
	maxCatalogBytes = MaxRowBytes / 2
	// maxPattern bounds patterns of LIKE and GLOB. One comparison takes as long as pattern times text, and nothing stops it.
	maxPattern = 100
	// maxInstructions bounds a compiled statement: 5 million take some 120 MB.
	maxInstructions = 5_000_000
)

// Defaults of the limits on SQLite's memory, of all databases of a process together.
const (
	DefaultMaxMemory = 1 << 30
	// callersShare is the part of it, in hundredths, above which callers' statements are stopped, so that the engine's own go
	// on; the page caches have less than that.
	callersShare = 75
	cachesShare  = 50
)

var limits = map[sqlite.LimitID]int{
	sqlite.LimitLength: MaxRowBytes, sqlite.LimitSQLLength: MaxStatementBytes, sqlite.LimitVariableNumber: MaxParameters,
	sqlite.LimitLikePatternLength: maxPattern, sqlite.LimitVDBEOp: maxInstructions,
	sqlite.LimitAttached: 0, sqlite.LimitWorkerThreads: 0,
}

// LimitMemory makes the limits of the process's SQLite out of the most that it may have, in bytes.
func LimitMemory(limit int64) error {
	return sqlite.LimitMemory(limit/100*cachesShare, limit)
}

// callersMemory is the most that SQLite may have while callers' statements run.
func callersMemory(limit int64) int64 { return limit / 100 * callersShare }

// noMemory turns SQLite's want of memory into an error for the caller. Other errors stay what they are.
func noMemory(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok || e.Code != sqlite.CodeNoMem || rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return err
	}
	return memoryError().Because(err)
}

func memoryError() *rpcerr.Error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_MEMORY_LIMIT,
		"the statement needs more memory than is left for SQLite, nothing was done").WithRetryAfter(memoryRetryAfter)
}

// memoryRetryAfter is when others may have given memory back.
const memoryRetryAfter = time.Second

func rowTooLarge(err error) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_ROW_TOO_LARGE,
		"a row or value is larger than %d bytes: %w", MaxRowBytes, err).With("limit", itoa(MaxRowBytes))
}
