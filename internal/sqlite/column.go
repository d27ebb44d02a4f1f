package sqlite

import (
	"github.com/nearside-dev/nearside/internal/value"
	sqlite3 "modernc.org/sqlite/lib"
)

// The methods below read the row that Step arrived at, by column number counted from 0. A column out of range, or read when
// Step did not return true, is NULL.

// ColumnCount returns the number of result columns, 0 for a statement that returns no rows.
func (s *Stmt) ColumnCount() int { return int(sqlite3.Xsqlite3_column_count(s.c.tls, s.handle)) }

// ColumnName returns the name of result column i. It is only sure to mean something if the query names it with AS.
func (s *Stmt) ColumnName(i int) string {
	if s.handle == 0 {
		return ""
	}
	return string(viewString(sqlite3.Xsqlite3_column_name(s.c.tls, s.handle, int32(i))))
}

// ColumnDeclType returns the declared type of the table column that result column i is, "" if it is none or has none.
func (s *Stmt) ColumnDeclType(i int) string {
	if s.handle == 0 {
		return ""
	}
	return string(viewString(sqlite3.Xsqlite3_column_decltype(s.c.tls, s.handle, int32(i))))
}

// ColumnKind returns the storage class of column i.
func (s *Stmt) ColumnKind(i int) value.Kind {
	if s.handle == 0 {
		return value.KindNull
	}
	switch sqlite3.Xsqlite3_column_type(s.c.tls, s.handle, int32(i)) {
	case sqlite3.SQLITE_INTEGER:
		return value.KindInteger
	case sqlite3.SQLITE_FLOAT:
		return value.KindReal
	case sqlite3.SQLITE_TEXT:
		return value.KindText
	case sqlite3.SQLITE_BLOB:
		return value.KindBlob
	default:
		return value.KindNull
	}
}

// ColumnInt64 returns column i, converted to an integer by SQLite's rules if it is none.
func (s *Stmt) ColumnInt64(i int) int64 {
	if s.handle == 0 {
		return 0
	}
	return sqlite3.Xsqlite3_column_int64(s.c.tls, s.handle, int32(i))
}

// Column returns a copy of column i. If memory runs out it returns NULL, and the next Step returns the error.
func (s *Stmt) Column(i int) value.Value {
	switch kind := s.ColumnKind(i); kind {
	case value.KindInteger:
		return value.Integer(sqlite3.Xsqlite3_column_int64(s.c.tls, s.handle, int32(i)))
	case value.KindReal:
		return value.Real(sqlite3.Xsqlite3_column_double(s.c.tls, s.handle, int32(i)))
	case value.KindText, value.KindBlob:
		b, ok := s.viewColumn(i, kind)
		if !ok {
			return value.Null()
		}
		b = clone(b)
		if kind == value.KindText {
			return value.TextBytes(b)
		}
		return value.Blob(b)
	default:
		return value.Null()
	}
}

// AppendColumnBytes appends the bytes of column i, a TEXT or BLOB, to dst. It appends nothing for other kinds. If memory runs
// out it appends nothing, and the next Step returns the error.
func (s *Stmt) AppendColumnBytes(dst []byte, i int) []byte {
	kind := s.ColumnKind(i)
	if kind != value.KindText && kind != value.KindBlob {
		return dst
	}
	b, _ := s.viewColumn(i, kind)
	return append(dst, b...)
}

// viewColumn returns the bytes of a TEXT or BLOB column, valid until the next call on the statement.
func (s *Stmt) viewColumn(i int, kind value.Kind) ([]byte, bool) {
	var p uintptr
	if kind == value.KindText {
		p = sqlite3.Xsqlite3_column_text(s.c.tls, s.handle, int32(i)) // before the length: it may convert
	} else {
		p = sqlite3.Xsqlite3_column_blob(s.c.tls, s.handle, int32(i))
	}
	n := int(sqlite3.Xsqlite3_column_bytes(s.c.tls, s.handle, int32(i)))
	if p == 0 && (n > 0 || kind == value.KindText) {
		s.state, s.err = failed, newError(CodeNoMem, "out of memory", -1)
		return nil, false
	}
	return view(p, n), true
}
