package sqlite

import (
	"fmt"
	"math"

	"github.com/nearside-dev/nearside/internal/value"
	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// Op is a change to a row.
type Op int32

// The changes.
const (
	OpInsert Op = sqlite3.SQLITE_INSERT
	OpUpdate Op = sqlite3.SQLITE_UPDATE
	OpDelete Op = sqlite3.SQLITE_DELETE
)

// String returns the SQL keyword.
func (o Op) String() string {
	switch o {
	case OpInsert:
		return "INSERT"
	case OpUpdate:
		return "UPDATE"
	case OpDelete:
		return "DELETE"
	default:
		return fmt.Sprintf("Op(%d)", int32(o))
	}
}

// PreUpdate is a change about to be made to a row. It is valid only during the call it is passed to, and used again for the
// next one; the strings may be kept.
type PreUpdate struct {
	Op       Op
	DB       string // "main", "temp" or an attached database
	Table    string
	OldRowid int64 // 0 for an INSERT and in a WITHOUT ROWID table
	NewRowid int64 // 0 for a DELETE and in a WITHOUT ROWID table

	c *Conn // nil outside of the call
}

// SetPreUpdate has f called before each change to a row of a table, whatever makes it: the statement, a trigger, a foreign
// key's action, a conflict resolved by REPLACE (a DELETE, then an INSERT). It is called for rows of a statement that fails
// later, too. It is not called for virtual tables, for SQLite's own tables (sqlite_schema, sqlite_sequence) nor for the rows
// that CREATE TABLE AS, DROP TABLE and ALTER TABLE write or remove.
//
// The first call has all prepared statements compiled anew at their next run: SQLite empties a table without visiting its
// rows in statements compiled without a hook. For the same reason a nil f only has the hook ignored.
func (c *Conn) SetPreUpdate(f func(*PreUpdate)) error {
	if c.db == 0 {
		return errConnClosed
	}
	c.preUpdate = f
	if f == nil || c.hooked {
		return nil
	}
	sqlite3.Xsqlite3_preupdate_hook(c.tls, c.db, preUpdateFunc, c.slot)
	c.hooked = true
	// Changing a setting is the one cheap way to expire prepared statements.
	for _, on := range []bool{true, false} {
		if err := c.configure(sqlite3.SQLITE_DBCONFIG_ENABLE_QPSG, on); err != nil {
			return err
		}
	}
	return nil
}

func onPreUpdate(_ *libc.TLS, slot, _ uintptr, op int32, db, table uintptr, oldRowid, newRowid int64) {
	c := conns.get(slot)
	if c.preUpdate == nil || c.caught != nil {
		return
	}
	u := &c.change
	u.c = c
	u.Op, u.DB, u.Table, u.OldRowid, u.NewRowid = Op(op), c.dbNames.get(db), c.names.get(table), oldRowid, newRowid
	switch u.Op { // SQLite leaves these undefined
	case OpInsert:
		u.OldRowid = 0
	case OpDelete:
		u.NewRowid = 0
	case OpUpdate: // it has both
	}
	defer c.catch()
	c.preUpdate(u)
	u.c = nil
}

// Count returns the number of the table's columns, generated ones included.
func (u *PreUpdate) Count() int {
	if u.c == nil {
		return 0
	}
	return int(sqlite3.Xsqlite3_preupdate_count(u.c.tls, u.c.db))
}

// Depth returns 0 for a change made by the statement itself, 1 for one made by a trigger or foreign-key action of it, and so
// on.
func (u *PreUpdate) Depth() int {
	if u.c == nil {
		return 0
	}
	return int(sqlite3.Xsqlite3_preupdate_depth(u.c.tls, u.c.db))
}

// Old returns a copy of a column of the row as it is, which an INSERT has none of. Columns are counted from 0 in the order of
// the table's declaration, generated ones included; a VIRTUAL one is not stored and gives CodeRange.
func (u *PreUpdate) Old(col int) (value.Value, error) {
	return u.column(col, OpInsert, sqlite3.Xsqlite3_preupdate_old)
}

// New returns a copy of a column, counted as in Old, of the row as it will be, which a DELETE has none of.
func (u *PreUpdate) New(col int) (value.Value, error) {
	return u.column(col, OpDelete, sqlite3.Xsqlite3_preupdate_new)
}

func (u *PreUpdate) column(col int, without Op, get func(*libc.TLS, uintptr, int32, uintptr) int32) (value.Value, error) {
	switch {
	case u.c == nil:
		return value.Null(), newError(CodeMisuse, "pre-update row used after its call", -1)
	case u.Op == without:
		return value.Null(), newError(CodeMisuse, "no such row in "+u.Op.String(), -1)
	case col < 0 || col > math.MaxInt16: // SQLite keeps column numbers in 16 bits
		return value.Null(), noColumn(col)
	}
	c := u.c
	store[uintptr](c.mem+memA, 0)
	rc := get(c.tls, c.db, int32(col), c.mem+memA)
	p := load[uintptr](c.mem + memA)
	switch {
	case rc == sqlite3.SQLITE_RANGE, rc == sqlite3.SQLITE_MISUSE: // it uses both for this
		return value.Null(), noColumn(col)
	case rc != sqlite3.SQLITE_OK:
		return value.Null(), c.failure(rc)
	case p == 0: // it forgets to report one case
		return value.Null(), newError(CodeNoMem, "out of memory", -1)
	}
	return c.value(p)
}

func noColumn(col int) error {
	return newError(CodeRange, fmt.Sprintf("row has no stored column %d", col), -1)
}

// value copies a sqlite3_value.
func (c *Conn) value(p uintptr) (value.Value, error) {
	var bytes uintptr
	kind := sqlite3.Xsqlite3_value_type(c.tls, p)
	switch kind {
	case sqlite3.SQLITE_INTEGER:
		return value.Integer(sqlite3.Xsqlite3_value_int64(c.tls, p)), nil
	case sqlite3.SQLITE_FLOAT:
		return value.Real(sqlite3.Xsqlite3_value_double(c.tls, p)), nil
	case sqlite3.SQLITE_TEXT:
		bytes = sqlite3.Xsqlite3_value_text(c.tls, p)
	case sqlite3.SQLITE_BLOB:
		bytes = sqlite3.Xsqlite3_value_blob(c.tls, p)
	default:
		return value.Null(), nil
	}
	n := int(sqlite3.Xsqlite3_value_bytes(c.tls, p))
	if bytes == 0 && n > 0 {
		return value.Null(), newError(CodeNoMem, "out of memory", -1)
	}
	b := clone(view(bytes, n))
	if kind == sqlite3.SQLITE_TEXT {
		return value.TextBytes(b), nil
	}
	return value.Blob(b), nil
}
