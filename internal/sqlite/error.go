package sqlite

import (
	sqlite3 "modernc.org/sqlite/lib"
)

// Error is a failure reported by SQLite, or by this package in SQLite's terms.
type Error struct {
	Code     Code   // the primary code
	Extended Code   // the extended code; equal to Code if there is none
	Message  string // SQLite's own message
	Offset   int    // byte offset of the offending token in the SQL text given, or -1
}

// Error returns SQLite's message followed by the code's symbolic name.
func (e *Error) Error() string { return e.Message + " (" + e.Extended.Name() + ")" }

// Name returns the extended code's symbolic name, such as SQLITE_CONSTRAINT_UNIQUE.
func (e *Error) Name() string { return e.Extended.Name() }

func newError(code Code, message string, offset int) *Error {
	return &Error{Code: code.Primary(), Extended: code, Message: message, Offset: offset}
}

// check returns the error of a result code, nil for success.
func (c *Conn) check(rc int32) error {
	if rc == sqlite3.SQLITE_OK {
		return nil
	}
	return c.failure(rc)
}

// failure describes a result code other than success. The connection's message is used only if it belongs to that code:
// misuse, for one, leaves the message of an earlier call in place.
func (c *Conn) failure(rc int32) *Error {
	last := sqlite3.Xsqlite3_extended_errcode(c.tls, c.db)
	if last != rc && (last&0xff != rc&0xff || rc > 0xff) {
		return newError(Code(rc), string(viewString(sqlite3.Xsqlite3_errstr(c.tls, rc))), -1)
	}
	return newError(Code(last),
		string(viewString(sqlite3.Xsqlite3_errmsg(c.tls, c.db))),
		int(sqlite3.Xsqlite3_error_offset(c.tls, c.db)))
}

var (
	errConnClosed = newError(CodeMisuse, "connection is closed", -1)
	errFinalized  = newError(CodeMisuse, "statement is finalized", -1)
)
