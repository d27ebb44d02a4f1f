package sqlite

import (
	"fmt"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// ColumnMetadata is what the schema says of a column and no PRAGMA tells.
type ColumnMetadata struct {
	Collation     string // "BINARY" where none is declared
	Autoincrement bool
}

// ColumnMetadata describes a column of a table of the main database.
func (c *Conn) ColumnMetadata(table, column string) (ColumnMetadata, error) {
	if c.db == 0 {
		return ColumnMetadata{}, errConnClosed
	}
	t, err := libc.CString(table)
	if err != nil {
		return ColumnMetadata{}, newError(CodeNoMem, "out of memory", -1)
	}
	defer libc.Xfree(c.tls, t)
	n, err := libc.CString(column)
	if err != nil {
		return ColumnMetadata{}, newError(CodeNoMem, "out of memory", -1)
	}
	defer libc.Xfree(c.tls, n)
	out := allocate(c.tls, 16)
	if out == 0 {
		return ColumnMetadata{}, newError(CodeNoMem, "out of memory", -1)
	}
	defer sqlite3.Xsqlite3_free(c.tls, out)
	store[uintptr](out, 0)
	store[int32](out+8, 0)
	rc := sqlite3.Xsqlite3_table_column_metadata(c.tls, c.db, c.mem+memMain, t, n, 0, out, 0, 0, out+8)
	if rc != sqlite3.SQLITE_OK {
		return ColumnMetadata{}, c.failure(rc)
	}
	m := ColumnMetadata{Autoincrement: load[int32](out+8) != 0}
	if p := load[uintptr](out); p != 0 {
		m.Collation = libc.GoString(p)
	}
	return m, nil
}

// Retype writes over the declared type of a column of the main database, in this connection only and as long as it does not read
// the schema again. The new type must be as long as the old one. It is for virtual tables, whose types SQLite looks into.
func (c *Conn) Retype(table, column, declared string) error {
	if c.db == 0 {
		return errConnClosed
	}
	t, err := libc.CString(table)
	if err != nil {
		return newError(CodeNoMem, "out of memory", -1)
	}
	defer libc.Xfree(c.tls, t)
	n, err := libc.CString(column)
	if err != nil {
		return newError(CodeNoMem, "out of memory", -1)
	}
	defer libc.Xfree(c.tls, n)
	store[uintptr](c.mem+memA, 0)
	rc := sqlite3.Xsqlite3_table_column_metadata(c.tls, c.db, c.mem+memMain, t, n, c.mem+memA, 0, 0, 0, 0)
	if rc != sqlite3.SQLITE_OK {
		return c.failure(rc)
	}
	p := load[uintptr](c.mem + memA)
	if p == 0 || len(libc.GoString(p)) != len(declared) {
		return fmt.Errorf("type %q of column %s.%s does not take the place of the one declared", declared, table, column)
	}
	copy(view(p, len(declared)), declared) // SQLite's own copy, behind the column's name
	return nil
}
