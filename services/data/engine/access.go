package engine

import (
	"errors"
	"fmt"
	"strings"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// access holds the SQL by which the engine itself reads and writes one table, by row identity.
type access struct {
	table      *catalog.Table
	readOne    string // a row by key
	readAll    string
	deleteOne  string
	insertInto string // INSERT INTO with the columns, without the values
	insert     string
	insertCols []int // the columns that insert binds, after the rowid if the table has one
	bindRowid  bool  // insert binds the rowid first

	// The writer's.
	puts  map[string]string // SQL that puts a row, by its columns' names
	plain plainness
}

// plainness is whether a table is plain, or that nobody has asked yet.
type plainness uint8

const (
	plainUnknown plainness = iota
	plainYes
	plainNo
)

// plainSQL finds what makes a table not plain. AUTOINCREMENT changes a table that no hook sees.
const plainSQL = `SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE)
	OR EXISTS (SELECT 1 FROM pragma_foreign_key_list(?1))
	OR EXISTS (SELECT 1 FROM main.sqlite_schema t, pragma_foreign_key_list(t.name) f WHERE t.type = 'table' AND f."table" = ?1 COLLATE NOCASE)`

// isPlain reports whether a change of one row of the table is certainly that and nothing else: no trigger sees it and no foreign
// key. It is asked once for each schema; after an error it answers no.
func (a *access) isPlain(s *session) bool {
	if a.plain == plainUnknown {
		a.plain = plainNo
		err := s.rows(plainSQL, []value.Value{value.Text(a.table.Name)}, func(st *sqlite.Stmt) error {
			if st.ColumnInt64(0) == 0 && !a.table.Autoincrement {
				a.plain = plainYes
			}
			return nil
		})
		if err != nil {
			a.plain = plainNo
		}
	}
	return a.plain == plainYes
}

// newAccess writes the SQL for a table.
func newAccess(t *catalog.Table) (*access, error) {
	a := &access{table: t}
	rowid := ""
	if !t.WithoutRowid {
		if rowid = rowidName(t); rowid == "" {
			return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_SCHEMA_UNSUPPORTED,
				"table %q has columns named rowid, oid and _rowid_: its rows cannot be named", t.Name).
				With("object", t.Name).With("feature", "rowid without a name")
		}
	}
	name := "main." + quote(t.Name)
	selected := make([]string, 0, len(t.Columns)+1)
	selected = append(selected, orNull(rowid))
	var columns []string
	if a.bindRowid = rowid != "" && t.Identity != catalog.IdentityIntegerKey; a.bindRowid {
		columns = append(columns, rowid)
	}
	for i := range t.Columns {
		c := &t.Columns[i]
		if c.Generated == catalog.GeneratedVirtual {
			selected = append(selected, "NULL") // not in a row's bytes: not worth computing
			continue
		}
		selected = append(selected, quote(c.Name))
		if c.Generated == catalog.GeneratedNo {
			columns = append(columns, quote(c.Name))
			a.insertCols = append(a.insertCols, i)
		}
	}
	where := keyCondition(t, rowid)
	a.readAll = "SELECT " + strings.Join(selected, ", ") + " FROM " + name
	a.readOne = a.readAll + " WHERE " + where
	a.deleteOne = "DELETE FROM " + name + " WHERE " + where
	a.insertInto = "INSERT INTO " + name + " (" + strings.Join(columns, ", ") + ")"
	a.insert = a.insertInto + " VALUES (?" + strings.Repeat(", ?", len(columns)-1) + ")"
	return a, nil
}

func orNull(rowid string) string {
	if rowid == "" {
		return "NULL"
	}
	return rowid
}

// keyCondition names a row by its identity; parameter i is key value i.
func keyCondition(t *catalog.Table, rowid string) string {
	if t.Identity != catalog.IdentityDeclared {
		return rowid + " = ?1"
	}
	terms := make([]string, len(t.Key))
	for i, part := range t.Key {
		// The key's collation may be another than the column's.
		terms[i] = fmt.Sprintf("%s = ?%d COLLATE %s", quote(t.Columns[part.Column].Name), i+1, collationName(part.Collation))
	}
	return strings.Join(terms, " AND ")
}

// rowidName returns a name of the rowid that no column hides, or "".
func rowidName(t *catalog.Table) string {
	for _, name := range []string{"rowid", "_rowid_", "oid"} {
		if t.ColumnByName(name) < 0 {
			return name
		}
	}
	if t.IntegerKey >= 0 {
		return quote(t.Columns[t.IntegerKey].Name)
	}
	return ""
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// row reads the row that a statement made of readOne or readAll stands on.
func (a *access) row(st *sqlite.Stmt) rowcodec.Row {
	row := rowcodec.Row{Values: make([]value.Value, len(a.table.Columns))}
	if !a.table.WithoutRowid {
		row.Rowid = st.ColumnInt64(0)
	}
	for i := range row.Values {
		row.Values[i] = st.Column(i + 1)
	}
	return row
}

// keyValues returns what readOne and deleteOne bind for a row.
func (a *access) keyValues(row rowcodec.Row) []value.Value {
	if a.table.Identity != catalog.IdentityDeclared {
		return []value.Value{value.Integer(row.Rowid)}
	}
	vs := make([]value.Value, len(a.table.Key))
	for i, part := range a.table.Key {
		vs[i] = row.Values[part.Column]
	}
	return vs
}

// keyFromBytes returns the same from key bytes. Text comes back folded by the key's collation, which compares equal.
func (a *access) keyFromBytes(key []byte) ([]value.Value, error) {
	var vs []value.Value
	for _, part := range a.table.KeyColumns() {
		v, rest, err := rowcodec.DecodeKeyValue(key, part.Desc)
		if err != nil {
			return nil, err
		}
		vs, key = append(vs, v), rest
	}
	if len(key) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after the key", rowcodec.ErrCorrupt, len(key))
	}
	return vs, nil
}

// read returns the row with a key; ok is false if there is none.
func (a *access) read(s *session, key []value.Value) (row rowcodec.Row, ok bool, err error) {
	err = s.rows(a.readOne, key, func(st *sqlite.Stmt) error {
		row, ok = a.row(st), true
		return nil
	})
	return row, ok, err
}

// write inserts a row exactly as it was.
func (a *access) write(s *session, row rowcodec.Row) (err error) {
	st, err := s.trusted(a.insert)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Reset()) }()
	at := 1
	if a.bindRowid {
		if err := st.BindValue(at, value.Integer(row.Rowid)); err != nil {
			return err
		}
		at++
	}
	for _, i := range a.insertCols {
		if err := st.BindValue(at, row.Values[i]); err != nil {
			return err
		}
		at++
	}
	_, err = st.Step()
	return err
}
