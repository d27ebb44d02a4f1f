package sqlite

import (
	"fmt"
	"math"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// configure sets a boolean sqlite3_db_config option and checks that it took effect.
func (c *Conn) configure(option int32, on bool) error {
	if c.db == 0 {
		return errConnClosed
	}
	var want int32
	if on {
		want = 1
	}
	// The two variadic arguments, int and int*, each take eight bytes.
	list, result := c.mem+memA, c.mem+memC
	store(list, int64(want))
	store(list+8, result)
	if err := c.check(sqlite3.Xsqlite3_db_config(c.tls, c.db, option, list)); err != nil {
		return fmt.Errorf("configure connection (option %d): %w", option, err)
	}
	if got := load[int32](result); got != want {
		return fmt.Errorf("configure connection: option %d stayed %d", option, got)
	}
	return nil
}

// EnableForeignKeys turns the enforcement of foreign keys on or off. Unlike PRAGMA foreign_keys it also works inside a
// transaction, where it should not be used. Statements are compiled anew at their next run.
func (c *Conn) EnableForeignKeys(on bool) error {
	return c.configure(sqlite3.SQLITE_DBCONFIG_ENABLE_FKEY, on)
}

// EnableTriggers turns triggers on or off. Statements are compiled anew at their next run.
func (c *Conn) EnableTriggers(on bool) error {
	return c.configure(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, on)
}

// Defensive turns defensive mode, on since Open, on or off. It must be off for PRAGMA writable_schema to work and for
// writing to shadow tables.
func (c *Conn) Defensive(on bool) error {
	return c.configure(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, on)
}

// CheckpointOnClose says whether closing the last connection checkpoints and deletes the WAL, as it does by default.
func (c *Conn) CheckpointOnClose(on bool) error {
	return c.configure(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !on)
}

// SetBusyTimeout makes a call wait up to d (in whole milliseconds) for a lock before it fails with CodeBusy. Zero, the
// default, means not at all.
func (c *Conn) SetBusyTimeout(d time.Duration) {
	if c.db != 0 {
		sqlite3.Xsqlite3_busy_timeout(c.tls, c.db, int32(min(max(d.Milliseconds(), 0), math.MaxInt32)))
	}
}

// CheckpointMode says how hard WALCheckpoint tries.
type CheckpointMode int32

// The checkpoint modes.
const (
	CheckpointPassive  CheckpointMode = sqlite3.SQLITE_CHECKPOINT_PASSIVE  // as much as possible without waiting
	CheckpointFull     CheckpointMode = sqlite3.SQLITE_CHECKPOINT_FULL     // wait for the writer and for readers of old frames
	CheckpointRestart  CheckpointMode = sqlite3.SQLITE_CHECKPOINT_RESTART  // and let the next writer start the WAL afresh
	CheckpointTruncate CheckpointMode = sqlite3.SQLITE_CHECKPOINT_TRUNCATE // and truncate the WAL
)

// WALCheckpoint checkpoints the main database. It returns the WAL's frames and how many of them are in the database file,
// also with CodeBusy; both are -1 if they are not known, as in a database that is not in WAL mode.
func (c *Conn) WALCheckpoint(mode CheckpointMode) (log, done int, err error) {
	if c.db == 0 {
		return -1, -1, errConnClosed
	}
	rc := sqlite3.Xsqlite3_wal_checkpoint_v2(c.tls, c.db, c.mem+memMain, int32(mode), c.mem+memA, c.mem+memB)
	return int(load[int32](c.mem + memA)), int(load[int32](c.mem + memB)), c.check(rc)
}

// LimitID names a run-time limit.
type LimitID int32

// The run-time limits.
const (
	LimitLength            LimitID = sqlite3.SQLITE_LIMIT_LENGTH     // bytes of a string, blob or row
	LimitSQLLength         LimitID = sqlite3.SQLITE_LIMIT_SQL_LENGTH // bytes of a statement
	LimitColumn            LimitID = sqlite3.SQLITE_LIMIT_COLUMN
	LimitExprDepth         LimitID = sqlite3.SQLITE_LIMIT_EXPR_DEPTH
	LimitCompoundSelect    LimitID = sqlite3.SQLITE_LIMIT_COMPOUND_SELECT
	LimitVDBEOp            LimitID = sqlite3.SQLITE_LIMIT_VDBE_OP // instructions of a compiled statement
	LimitFunctionArg       LimitID = sqlite3.SQLITE_LIMIT_FUNCTION_ARG
	LimitAttached          LimitID = sqlite3.SQLITE_LIMIT_ATTACHED
	LimitLikePatternLength LimitID = sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH
	LimitVariableNumber    LimitID = sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER
	LimitTriggerDepth      LimitID = sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH
	LimitWorkerThreads     LimitID = sqlite3.SQLITE_LIMIT_WORKER_THREADS
)

// Limit sets a limit and returns the previous one. A negative n leaves it as it is; one above SQLite's compiled-in maximum
// gives that maximum. It returns -1 for an unknown limit.
func (c *Conn) Limit(id LimitID, n int) int {
	if c.db == 0 {
		return -1
	}
	return int(sqlite3.Xsqlite3_limit(c.tls, c.db, int32(id), int32(min(max(n, -1), math.MaxInt32))))
}
