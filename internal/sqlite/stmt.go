package sqlite

import (
	"github.com/nearside-dev/nearside/internal/value"
	sqlite3 "modernc.org/sqlite/lib"
)

// state says where a statement is in its run.
type state uint8

const (
	ready  state = iota // at the start or at a row
	ended               // Step returned false
	failed              // Step returned an error
)

// Stmt is a prepared statement. It belongs to its Conn's goroutine. After Finalize, or after its Conn's Close, its methods
// return zero values and errors.
type Stmt struct {
	c      *Conn
	handle uintptr // sqlite3_stmt*, 0 once finalized
	sql    string

	state state
	err   error // of the failed Step
	rows  int64 // returned since the last RowsRead

	prev, next *Stmt // in Conn.stmts
}

func (s *Stmt) link() {
	if s.next = s.c.stmts; s.next != nil {
		s.next.prev = s
	}
	s.c.stmts = s
}

func (s *Stmt) unlink() {
	if s.next != nil {
		s.next.prev = s.prev
	}
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		s.c.stmts = s.next
	}
	s.prev, s.next = nil, nil
}

// Finalize frees the statement. It returns an error that ending an unfinished run gave; one that Step returned is not
// repeated. Finalizing twice does nothing.
func (s *Stmt) Finalize() error {
	if s.handle == 0 {
		return nil
	}
	s.unlink()
	rc := sqlite3.Xsqlite3_finalize(s.c.tls, s.handle)
	s.handle = 0
	if s.state == failed {
		return nil
	}
	return s.c.check(rc)
}

// runOnce runs the statement to its end and finalizes it.
func (s *Stmt) runOnce() (err error) {
	defer func() {
		if ferr := s.Finalize(); err == nil {
			err = ferr // there is none if Step failed
		}
	}()
	for {
		if row, err := s.Step(); !row {
			return err
		}
	}
}

// Step runs the statement up to its next row and reports whether there is one. At the end it returns false until Reset;
// after an error it returns that error until Reset.
func (s *Stmt) Step() (row bool, err error) {
	if s.handle == 0 {
		return false, errFinalized
	}
	switch s.state {
	case ended:
		return false, nil
	case failed:
		return false, s.err
	case ready:
	}
	rc := sqlite3.Xsqlite3_step(s.c.tls, s.handle)
	if s.c.caught != nil {
		s.state, s.err = failed, newError(CodeAbort, "a callback panicked", -1)
		s.c.rethrow()
	}
	switch rc {
	case sqlite3.SQLITE_ROW:
		s.rows++
		return true, nil
	case sqlite3.SQLITE_DONE:
		s.state = ended
		return false, nil
	default:
		s.state, s.err = failed, s.c.takeTableErr(s.c.failure(rc))
		return false, s.err
	}
}

// Reset ends the run, so that the statement can be bound and stepped again; bindings stay. It returns an error that ending
// an unfinished run gave (a commit may fail here); one that Step returned is not repeated.
func (s *Stmt) Reset() error {
	if s.handle == 0 {
		return errFinalized
	}
	rc := sqlite3.Xsqlite3_reset(s.c.tls, s.handle)
	was := s.state
	s.state, s.err = ready, nil
	if was == failed {
		return nil
	}
	return s.c.check(rc)
}

// BindValue sets parameter i, counted from 1, to a copy of v. It fails with CodeRange if there is no such parameter and with
// CodeMisuse while the statement runs. SQLite keeps the copy until the parameter is bound again, ClearBindings or Finalize.
func (s *Stmt) BindValue(i int, v value.Value) error {
	if s.handle == 0 {
		return errFinalized
	}
	if i < 1 || i > s.ParamCount() {
		return newError(CodeRange, "bind or column index out of range", -1)
	}
	c, n := s.c, int32(i)
	var rc int32
	switch v.Kind() {
	case value.KindInteger:
		rc = sqlite3.Xsqlite3_bind_int64(c.tls, s.handle, n, v.Integer())
	case value.KindReal:
		rc = sqlite3.Xsqlite3_bind_double(c.tls, s.handle, n, v.Real())
	case value.KindText, value.KindBlob:
		p, owned, err := place(c, v.Bytes())
		if err != nil {
			return err
		}
		destroy := transient
		if owned {
			destroy = freeFunc // SQLite takes the block over, also if it fails
		}
		if size := uint64(len(v.Bytes())); v.Kind() == value.KindText {
			rc = sqlite3.Xsqlite3_bind_text64(c.tls, s.handle, n, p, size, destroy, sqlite3.SQLITE_UTF8)
		} else {
			rc = sqlite3.Xsqlite3_bind_blob64(c.tls, s.handle, n, p, size, destroy)
		}
	default:
		rc = sqlite3.Xsqlite3_bind_null(c.tls, s.handle, n)
	}
	return c.check(rc)
}

// ClearBindings sets all parameters to NULL and frees their copies.
func (s *Stmt) ClearBindings() {
	if s.handle != 0 {
		sqlite3.Xsqlite3_clear_bindings(s.c.tls, s.handle)
	}
}

// ParamCount returns the largest parameter number, which is the number of parameters unless ?N left a gap.
func (s *Stmt) ParamCount() int { return int(sqlite3.Xsqlite3_bind_parameter_count(s.c.tls, s.handle)) }

// ParamName returns the name of parameter i, counted from 1, with its prefix (":name", "@name", "$name", "?7"); "" if it has
// none or there is no such parameter.
func (s *Stmt) ParamName(i int) string {
	return string(s.viewParamName(i))
}

func (s *Stmt) viewParamName(i int) []byte {
	if s.handle == 0 || i < 1 || i > s.ParamCount() {
		return nil
	}
	return viewString(sqlite3.Xsqlite3_bind_parameter_name(s.c.tls, s.handle, int32(i)))
}

// ParamIndex returns the number of the parameter of that name, prefix included, or 0.
func (s *Stmt) ParamIndex(name string) int {
	for i := 1; i <= s.ParamCount() && name != ""; i++ {
		if string(s.viewParamName(i)) == name {
			return i
		}
	}
	return 0
}

// SQL returns the statement's text as given to Prepare, from the end of the statement before it.
func (s *Stmt) SQL() string { return s.sql }

// ReadOnly reports whether the statement makes no direct change to the database; see sqlite3_stmt_readonly. BEGIN, COMMIT,
// SAVEPOINT and some PRAGMAs count as read-only; EXPLAIN counts as what it explains.
func (s *Stmt) ReadOnly() bool { return sqlite3.Xsqlite3_stmt_readonly(s.c.tls, s.handle) != 0 }

// IsExplain returns 1 for EXPLAIN, 2 for EXPLAIN QUERY PLAN, and else 0.
func (s *Stmt) IsExplain() int { return int(sqlite3.Xsqlite3_stmt_isexplain(s.c.tls, s.handle)) }

// Busy reports whether the statement has begun and neither ended nor been reset.
func (s *Stmt) Busy() bool { return sqlite3.Xsqlite3_stmt_busy(s.c.tls, s.handle) != 0 }

// StatusOp names a counter of a statement.
type StatusOp int32

// The counters.
const (
	StatusFullScanStep StatusOp = sqlite3.SQLITE_STMTSTATUS_FULLSCAN_STEP // forward steps of full table scans
	StatusSort         StatusOp = sqlite3.SQLITE_STMTSTATUS_SORT          // sorts
	StatusAutoIndex    StatusOp = sqlite3.SQLITE_STMTSTATUS_AUTOINDEX     // rows put into automatic indexes
	StatusVMStep       StatusOp = sqlite3.SQLITE_STMTSTATUS_VM_STEP       // instructions run
	StatusReprepare    StatusOp = sqlite3.SQLITE_STMTSTATUS_REPREPARE     // times compiled anew
	StatusRun          StatusOp = sqlite3.SQLITE_STMTSTATUS_RUN           // runs
	StatusFilterMiss   StatusOp = sqlite3.SQLITE_STMTSTATUS_FILTER_MISS   // join steps that a Bloom filter saved
	StatusFilterHit    StatusOp = sqlite3.SQLITE_STMTSTATUS_FILTER_HIT    // join steps that it did not
	StatusMemUsed      StatusOp = sqlite3.SQLITE_STMTSTATUS_MEMUSED       // bytes of memory, not resettable
)

// StmtStatus returns a counter and, if reset is true, sets it to zero. It is 0 for an unknown counter.
func (s *Stmt) StmtStatus(op StatusOp, reset bool) int {
	if s.handle == 0 || (op < StatusFullScanStep || op > StatusFilterHit) && op != StatusMemUsed {
		return 0
	}
	var flag int32
	if reset {
		flag = 1
	}
	return int(sqlite3.Xsqlite3_stmt_status(s.c.tls, s.handle, int32(op), flag))
}

// RowsRead returns a lower bound of the rows visited since its previous call: SQLite counts the steps of full table scans
// but not of index ranges, so that a query over a range shows at least the rows it returned.
func (s *Stmt) RowsRead() int64 {
	scanned := int64(s.StmtStatus(StatusFullScanStep, true))
	rows := s.rows
	s.rows = 0
	return max(scanned, rows)
}
