package edgesql

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// module makes the virtual tables of a connection.
type module struct{ conn *conn }

// Connect implements sqlite.Module. The argument is the table's place in the catalog.
func (m module) Connect(args []string) (sqlite.VirtualTable, sqlite.Declaration, error) {
	if len(args) != 1 {
		return nil, sqlite.Declaration{}, fmt.Errorf("%d arguments", len(args))
	}
	i, err := strconv.Atoi(args[0])
	if err != nil || i < 0 || i >= len(m.conn.tables) {
		return nil, sqlite.Declaration{}, fmt.Errorf("no table %q", args[0])
	}
	t := m.conn.tables[i]
	return t, sqlite.Declaration{SQL: t.sql, IntegerKey: t.IntegerKey, Columns: len(t.Columns)}, nil
}

// table is one table of a connection.
type table struct {
	*catalog.Table

	conn    *conn
	sql     string
	virtual uint64  // the columns that a replica has no values of, as in plan.used
	problem error   // why it cannot be declared
	paths   []path  // ways to read it; the first is by its rows
	plans   []*plan // by number
	known   map[string]int
	view    view
}

// path is an order in which the table can be read: of its rows, or of an index.
type path struct {
	number int            // in table.paths
	index  *catalog.Index // nil for the rows
	parts  []catalog.KeyPart
	unique int   // rows that agree in that many parts, and have no NULL there, are one row
	held   []int // column → its place in parts where its value can be read from there, or -1
	rowid  int   // place of the rowid in parts, or -1
}

func newTable(c *conn, t *catalog.Table, sql string) *table {
	out := &table{Table: t, conn: c, sql: sql, known: make(map[string]int)}
	out.problem = checkDeclarable(t)
	out.paths = append(out.paths, newPath(t, nil))
	for i := range t.Indexes {
		out.paths = append(out.paths, newPath(t, &t.Indexes[i]))
		out.paths[i+1].number = i + 1
	}
	for i := range t.Columns {
		if t.Columns[i].Generated == catalog.GeneratedVirtual {
			out.virtual |= columnBit(i)
		}
	}
	return out
}

var errNotDeclarable = errors.New("cannot be declared as a virtual table")

func checkDeclarable(t *catalog.Table) error {
	for i := range t.Columns {
		if c := &t.Columns[i]; c.Hidden {
			return fmt.Errorf("column %s.%s is hidden: %w", t.Name, c.Name, errNotDeclarable)
		}
	}
	return nil
}

func newPath(t *catalog.Table, ix *catalog.Index) path {
	p := path{index: ix, rowid: -1}
	key := t.KeyColumns()
	if ix != nil {
		p.parts = append(p.parts, ix.Parts...)
		if ix.Unique {
			p.unique = len(ix.Parts)
		}
	} else {
		p.unique = len(key)
	}
	p.parts = append(p.parts, key...)
	p.held = make([]int, len(t.Columns))
	for i := range p.held {
		p.held[i] = -1
	}
	for i, part := range p.parts {
		column := plainColumn(t, part.Column)
		switch {
		case column < 0:
			p.rowid = i
		case p.held[column] < 0 && holdsValue(t, part):
			p.held[column] = i
		}
	}
	return p
}

// plainColumn returns a column's place, -1 for the rowid and for a column that is another name of it.
func plainColumn(t *catalog.Table, column int) int {
	if column == t.IntegerKey {
		return -1
	}
	return column
}

// holdsValue reports whether a column's value can be read from a key, most of the time: not where a collation folds text.
func holdsValue(t *catalog.Table, part catalog.KeyPart) bool {
	if part.Collation == catalog.CollationBinary {
		return true
	}
	switch t.Columns[part.Column].Affinity {
	case catalog.AffinityInteger, catalog.AffinityNumeric, catalog.AffinityReal:
		return true
	default:
		return false
	}
}

// rowCount returns how many rows a table has, for planning only.
func rowCount(snap *replica.Snapshot, t *catalog.Table) float64 {
	const unknown = 1000
	if snap == nil {
		return unknown
	}
	n, err := snap.RowCount(t)
	if err != nil {
		return unknown // reading it will say what is wrong
	}
	return float64(max(n, 1))
}

// Open implements sqlite.VirtualTable.
func (t *table) Open() (sqlite.VirtualCursor, error) { return &cursor{table: t}, nil }

func collationName(c catalog.Collation) string {
	switch c {
	case catalog.CollationNoCase:
		return "NOCASE"
	case catalog.CollationRTrim:
		return "RTRIM"
	default:
		return "BINARY"
	}
}
