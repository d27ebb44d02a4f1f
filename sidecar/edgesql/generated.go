package edgesql

import (
	"errors"
	"strings"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// evaluator computes the virtual generated columns of a table: a row is put into the twin's table of the same
// declaration, which is empty otherwise, and read again. So the values are SQLite's, with the column's affinity.
type evaluator struct {
	table            *catalog.Table
	clear, put, read *sqlite.Stmt
	given, virtual   []int // columns
}

// evaluator returns that of a table.
func (n *twin) evaluator(t *catalog.Table) (*evaluator, error) {
	if e := n.evaluators[t.ID]; e != nil {
		return e, nil
	}
	e := &evaluator{table: t}
	var given, places, virtual []string
	for i := range t.Columns {
		name := quote(t.Columns[i].Name)
		switch t.Columns[i].Generated {
		case catalog.GeneratedVirtual:
			e.virtual, virtual = append(e.virtual, i), append(virtual, name)
		case catalog.GeneratedNo:
			e.given, given, places = append(e.given, i), append(given, name), append(places, "?")
		case catalog.GeneratedStored: // SQLite computes it too, and nobody asks
		}
	}
	put := "INSERT INTO main." + quote(t.Name) + " (" + strings.Join(given, ", ") + ") VALUES (" + strings.Join(places, ", ") + ")"
	err := n.trust(func() error {
		if n.sql.Autocommit() { // nothing is ever committed
			if err := n.sql.Exec("BEGIN"); err != nil {
				return err
			}
		}
		for _, s := range []struct {
			to  **sqlite.Stmt
			sql string
		}{
			{&e.clear, "DELETE FROM main." + quote(t.Name)}, {&e.put, put},
			{&e.read, "SELECT " + strings.Join(virtual, ", ") + " FROM main." + quote(t.Name)},
		} {
			var err error
			if *s.to, _, err = n.sql.Prepare(s.sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err // what was compiled goes with the connection
	}
	n.evaluators[t.ID] = e
	return e, nil
}

// evaluate sets the virtual columns of a row.
func (n *twin) evaluate(t *catalog.Table, row *rowcodec.Row) error {
	e, err := n.evaluator(t)
	if err != nil {
		return err
	}
	return n.trust(func() error { return e.run(row) })
}

func (e *evaluator) run(row *rowcodec.Row) (err error) {
	if _, err := e.clear.Step(); err != nil {
		return errors.Join(err, e.clear.Reset())
	}
	if err := e.clear.Reset(); err != nil {
		return err
	}
	for at, i := range e.given {
		v := row.Values[i]
		if i == e.table.IntegerKey {
			v = value.Integer(row.Rowid)
		}
		if err := e.put.BindValue(at+1, v); err != nil {
			return err
		}
	}
	if _, err := e.put.Step(); err != nil {
		return errors.Join(err, e.put.Reset())
	}
	if err := e.put.Reset(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.read.Reset()) }()
	found, err := e.read.Step()
	if err != nil {
		return err
	}
	if !found {
		return errNoRow
	}
	for at, i := range e.virtual {
		row.Values[i] = e.read.Column(at)
	}
	return nil
}

var errNoRow = errors.New("the row that was put is not there")

// generated computes the virtual columns of the present row, which is decoded.
func (c *cursor) generate() error {
	if c.generated {
		return nil
	}
	n, err := c.conn.schema()
	if err == nil {
		err = n.evaluate(c.Table, &c.row)
	}
	if err != nil {
		return &UnsupportedError{Reason: ReasonGenerated, Detail: c.Name, Err: err}
	}
	c.generated = true
	return nil
}
