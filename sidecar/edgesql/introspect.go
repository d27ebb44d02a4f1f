package edgesql

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// What tells of the schema is answered in three ways. A PRAGMA runs on the twin. A pragma_ function in a query is a
// virtual table of ours, which runs the PRAGMA there. And sqlite_schema is the connection's own: its rows are written over with
// the primary's once the virtual tables are made, because SQLite does not look at them again.

// schema returns the twin, made when it is first needed.
func (c *conn) schema() (*twin, error) {
	if c.twin == nil && c.twinErr == nil {
		c.twin, c.twinErr = openTwin(c.catalog, c.mustStop)
		if c.twinErr != nil && c.ctx != nil && c.ctx.Err() != nil {
			err := c.twinErr // of this statement alone
			c.twinErr = nil
			return nil, err
		}
	}
	return c.twin, c.twinErr
}

// tellSchema has sqlite_schema and the pragma_ functions answer as the primary's do.
func (c *conn) tellSchema() error {
	if !introspects(c.catalog) {
		return nil
	}
	for name := range toldPragmas {
		if err := c.sql.CreateTableFunction(pragmaPrefix+name, pragmaModule{c, name}); err != nil {
			return err
		}
		c.guard.told[pragmaPrefix+name] = true
	}
	if err := c.sql.Defensive(false); err != nil {
		return err
	}
	if err := c.sql.Exec("PRAGMA writable_schema = ON; BEGIN; DELETE FROM main.sqlite_schema"); err != nil {
		return err
	}
	for _, r := range c.catalog.Schema {
		sql := value.Null() // of an automatic index
		if r.SQL != "" {
			sql = value.Text(r.SQL)
		}
		err := exec(c.sql, "INSERT INTO main.sqlite_schema (rowid, type, name, tbl_name, rootpage, sql) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
			value.Integer(r.Rowid), value.Text(r.Type), value.Text(r.Name), value.Text(r.Table), value.Integer(r.RootPage), sql)
		if err != nil {
			return err
		}
	}
	// Not RESET: that would have the rows read.
	if err := c.sql.Exec("COMMIT; PRAGMA writable_schema = OFF"); err != nil {
		return err
	}
	c.guard.told["sqlite_master"], c.guard.told["sqlite_schema"] = true, true
	return c.sql.Defensive(true)
}

const pragmaPrefix = "pragma_"

// pragmaModule makes the table of one pragma_ function.
type pragmaModule struct {
	conn *conn
	name string
}

// Connect implements sqlite.Module.
func (m pragmaModule) Connect([]string) (sqlite.VirtualTable, sqlite.Declaration, error) {
	n, err := m.conn.schema()
	if err != nil {
		return nil, sqlite.Declaration{}, &UnsupportedError{Reason: ReasonSchema, Detail: m.name, Err: err}
	}
	p := &pragma{pragmaModule: m}
	var columns []string
	err = n.trust(func() error {
		return query(n.sql, func(st *sqlite.Stmt) {
			column := quote(st.Column(0).Text())
			if st.ColumnInt64(1) == 0 {
				p.hidden++
			} else {
				column += " HIDDEN"
			}
			columns = append(columns, column)
		}, "SELECT name, hidden FROM pragma_table_xinfo(?1) ORDER BY cid", value.Text(pragmaPrefix+m.name))
	})
	if err != nil {
		return nil, sqlite.Declaration{}, err
	}
	sql := "CREATE TABLE x (" + strings.Join(columns, ", ") + ")"
	return p, sqlite.Declaration{SQL: sql, IntegerKey: -1, Columns: len(columns), NotInViews: true}, nil
}

// pragma is a pragma_ function. It does what SQLite's own does, to the letter: the plans are its too.
type pragma struct {
	pragmaModule

	hidden int // the first of the columns that are arguments: what the PRAGMA is about, the database's name
}

// pragmaCursor is a run of it.
type pragmaCursor struct {
	*pragma

	arguments [2]value.Value
	rows      [][]value.Value
	at        int
}

// BestIndex implements sqlite.VirtualTable.
func (p *pragma) BestIndex(info *sqlite.IndexInfo) error {
	seen := [2]int{-1, -1}
	for i := range info.Constraints() {
		k := info.Constraint(i)
		if k.Column < p.hidden || k.Operator != sqlite.OpEQ {
			continue
		}
		if !k.Usable {
			return sqlite.ErrNoPlan
		}
		if at := k.Column - p.hidden; at < len(seen) {
			seen[at] = i
		}
	}
	switch {
	case p.takesNothing():
		const guess = 25 // SQLite's, of a table that says nothing
		return info.SetPlan(sqlite.Plan{Cost: 1, Rows: guess})
	case seen[0] < 0:
		const never = 2147483647
		return info.SetPlan(sqlite.Plan{Cost: never, Rows: never})
	}
	info.Use(seen[0], 0, true)
	if seen[1] >= 0 {
		info.Use(seen[1], 1, true)
	}
	const few = 20
	return info.SetPlan(sqlite.Plan{Cost: few, Rows: few})
}

// takesNothing reports whether the function has no arguments.
func (p *pragma) takesNothing() bool {
	switch p.name {
	case "collation_list", "compile_options", "function_list":
		return true
	default:
		return false
	}
}

// Open implements sqlite.VirtualTable.
func (p *pragma) Open() (sqlite.VirtualCursor, error) { return &pragmaCursor{pragma: p}, nil }

// Filter implements sqlite.VirtualCursor.
func (c *pragmaCursor) Filter(_ int, _ string, args sqlite.Args) (bool, error) {
	c.arguments, c.rows, c.at = [2]value.Value{}, nil, 0
	for i := range args.Len() {
		if v := args.Value(i); !v.IsNull() {
			text, _, _ := bytes.Cut(catalog.AffinityText.Apply(v).Bytes(), []byte{0})
			c.arguments[i] = value.TextBytes(bytes.Clone(text))
		}
	}
	sql := "PRAGMA "
	if a := c.arguments[1]; !a.IsNull() {
		sql += literal(a) + "."
	}
	sql += c.name
	if a := c.arguments[0]; !a.IsNull() {
		sql += "=" + literal(a)
	}
	n, err := c.conn.schema()
	if err == nil {
		err = query(n.sql, func(st *sqlite.Stmt) {
			row := make([]value.Value, c.hidden)
			for i := range row {
				row[i] = st.Column(i)
			}
			c.rows = append(c.rows, row)
		}, sql)
	}
	if err != nil {
		return false, &UnsupportedError{Reason: ReasonSchema, Detail: c.name, Err: err}
	}
	return len(c.rows) > 0, nil
}

func literal(v value.Value) string { return "'" + strings.ReplaceAll(v.Text(), "'", "''") + "'" }

// Next implements sqlite.VirtualCursor.
func (c *pragmaCursor) Next() (bool, error) {
	c.at++
	return c.at < len(c.rows), nil
}

// Column implements sqlite.VirtualCursor.
func (c *pragmaCursor) Column(r sqlite.Result, i int) error {
	switch {
	case i < c.hidden:
		return r.Value(c.rows[c.at][i])
	case i < c.hidden+len(c.arguments):
		return r.Value(c.arguments[i-c.hidden])
	default:
		return fmt.Errorf("no column %d", i)
	}
}

// Rowid implements sqlite.VirtualCursor.
func (c *pragmaCursor) Rowid() (int64, error) { return int64(c.at) + 1, nil }

// Close implements sqlite.VirtualCursor.
func (*pragmaCursor) Close() {}

// lookupPragma is lookup of a PRAGMA.
func (c *conn) lookupPragma(text string) (*statement, error) {
	n, err := c.schema()
	if err != nil {
		return nil, &UnsupportedError{Reason: ReasonSchema, Err: err}
	}
	stmt, tail, err := n.pragma(text)
	if err == nil {
		return c.single(stmt, tail, text)
	}
	if u, ok := errors.AsType[*UnsupportedError](err); ok {
		return nil, u
	}
	return nil, &UnsupportedError{Reason: ReasonError, Err: err}
}
