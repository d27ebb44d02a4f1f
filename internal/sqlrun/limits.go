package sqlrun

import (
	"errors"
	"strconv"
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
	// MaxPattern bounds patterns of LIKE and GLOB, in bytes. One comparison takes as long as pattern times text, and nothing
	// stops it.
	MaxPattern = 100
	// MaxSteps is how many steps of SQLite's machine a statement that reads may take, give or take ProgressOps: it bounds what a
	// statement costs where the time limits do not, on a fast machine and in a long stream.
	MaxSteps = 20_000_000_000

	// MaxKeptStatement is how much memory a caller's compiled statement may take, in bytes, that a connection keeps for the next who asks
	// for the same; MaxKeptStatements is how much all of them may.
	MaxKeptStatement  = 256 << 10
	MaxKeptStatements = 2 << 20

	// maxInstructions bounds a compiled statement: 5 million take some 120 MB.
	maxInstructions = 5_000_000
)

// Limits on SQLite's memory, of all databases of a process together.
const (
	DefaultMaxMemory = 1 << 30
	// callersShare is the part of it, in hundredths, above which callers' statements are stopped, so that the engine's own go
	// on; the page caches have less than that.
	callersShare = 75
	cachesShare  = 50
)

var limits = map[sqlite.LimitID]int{
	sqlite.LimitLength: MaxRowBytes, sqlite.LimitSQLLength: MaxStatementBytes, sqlite.LimitVariableNumber: MaxParameters,
	sqlite.LimitLikePatternLength: MaxPattern, sqlite.LimitVDBEOp: maxInstructions,
	sqlite.LimitAttached: 0, sqlite.LimitWorkerThreads: 0,
}

// Limit gives a connection the limits of callers' statements.
func Limit(c *sqlite.Conn) {
	for id, n := range limits {
		c.Limit(id, n)
	}
}

// LimitMemory makes the limits of the process's SQLite out of the most that it may have, in bytes.
func LimitMemory(limit int64) error {
	return sqlite.LimitMemory(limit/100*cachesShare, limit)
}

// CallersMemory is the most that SQLite may have while callers' statements run, of a limit given to LimitMemory.
func CallersMemory(limit int64) int64 { return limit / 100 * callersShare }

// NoMemory turns SQLite's want of memory into an error for the caller. Other errors stay what they are.
func NoMemory(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok || e.Code != sqlite.CodeNoMem || rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return err
	}
	return MemoryError().Because(err)
}

// MemoryError is the error of a statement that was stopped for want of memory.
func MemoryError() *rpcerr.Error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_MEMORY_LIMIT,
		"the statement needs more memory than is left for SQLite, nothing was done").WithRetryAfter(memoryRetryAfter)
}

// StepsError is the error of a statement that takes more steps than it may.
func StepsError(limit int64) *rpcerr.Error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_INTERRUPTED,
		"the statement takes more than %d steps, nothing was done", limit).With("limit", strconv.FormatInt(limit, 10))
}

// memoryRetryAfter is when others may have given memory back.
const memoryRetryAfter = time.Second

func rowTooLarge(err error) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_ROW_TOO_LARGE,
		"a row or value is larger than %d bytes: %w", MaxRowBytes, err).With("limit", strconv.Itoa(MaxRowBytes))
}
