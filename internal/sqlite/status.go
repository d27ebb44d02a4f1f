package sqlite

import (
	"unsafe"

	sqlite3 "modernc.org/sqlite/lib"
)

// Autocommit reports whether no transaction is open. It turns true not only after COMMIT and ROLLBACK but also when an
// interrupt, RAISE(ROLLBACK) or a grave error has rolled the transaction back. It is true of a closed connection.
func (c *Conn) Autocommit() bool {
	return c.db == 0 || sqlite3.Xsqlite3_get_autocommit(c.tls, c.db) != 0
}

// Changes returns the rows changed by the last INSERT, UPDATE or DELETE itself, without triggers and cascades.
func (c *Conn) Changes() int64 {
	if c.db == 0 {
		return 0
	}
	return sqlite3.Xsqlite3_changes64(c.tls, c.db)
}

// ForgetChanges has changes() give 0, as on a new connection, and last_insert_rowid() too.
func (c *Conn) ForgetChanges() {
	if c.db != 0 {
		sqlite3.Xsqlite3_set_last_insert_rowid(c.tls, c.db, 0)
		// SQLite has no function for it; the statement that sets it, an UPDATE of no row, costs as much as many another.
		store[int64](c.db+unsafe.Offsetof(sqlite3.Tsqlite3{}.FnChange), 0)
	}
}

// TotalChanges returns the rows changed since Open, triggers and cascades included.
func (c *Conn) TotalChanges() int64 {
	if c.db == 0 {
		return 0
	}
	return sqlite3.Xsqlite3_total_changes64(c.tls, c.db)
}

// LastInsertRowid returns the rowid of the last row inserted into a rowid table, or what SetLastInsertRowid set.
func (c *Conn) LastInsertRowid() int64 {
	if c.db == 0 {
		return 0
	}
	return sqlite3.Xsqlite3_last_insert_rowid(c.tls, c.db)
}

// SetLastInsertRowid sets what last_insert_rowid() gives.
func (c *Conn) SetLastInsertRowid(rowid int64) {
	if c.db != 0 {
		sqlite3.Xsqlite3_set_last_insert_rowid(c.tls, c.db, rowid)
	}
}

// DeferredForeignKeys reports whether foreign-key violations are outstanding that would make COMMIT fail.
func (c *Conn) DeferredForeignKeys() (violated bool, err error) {
	if c.db == 0 {
		return false, errConnClosed
	}
	rc := sqlite3.Xsqlite3_db_status(c.tls, c.db, sqlite3.SQLITE_DBSTATUS_DEFERRED_FKS, c.mem+memA, c.mem+memB, 0)
	if err := c.check(rc); err != nil {
		return false, err
	}
	return load[int32](c.mem+memA) != 0, nil
}
