package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// rebuild is a table that kept its id and lost columns, while it is made anew by a replay.
type rebuild struct {
	table    uint32
	sequence *int64 // its entry in sqlite_sequence
}

// aside is the name of the table that has the rows meanwhile.
func (r rebuild) aside() string {
	return "main." + quote(fmt.Sprintf("%srows_%d", internalPrefix, r.table))
}

// setRowsAside copies the rows of the tables that lost columns, and drops the tables with their indexes and triggers. ALTER
// TABLE … DROP COLUMN would not do: it looks at the whole schema, which is neither the old nor the next one now, and it cannot
// drop what was a table's last column but for one that was added beside it.
//
// The copies have columns without a type, so each value stays what it is.
func (w *writer) setRowsAside(old, next *catalog.Catalog) (rebuilt []rebuild, err error) {
	for _, t := range old.Tables {
		n := next.TableByID(t.ID)
		if n == nil || !losesBytes(t, n) {
			continue
		}
		r := rebuild{table: t.ID}
		from, to := []string{orNull("")}, []string{"r"}
		if !t.WithoutRowid {
			from[0] = rowidName(t)
		}
		for _, c := range t.Columns {
			if n.ColumnByID(c.ID) >= 0 && c.Generated == catalog.GeneratedNo {
				from, to = append(from, quote(c.Name)), append(to, aside(c.ID))
			}
		}
		if t.Autoincrement {
			if r.sequence, err = w.readSequence(t.Name); err != nil {
				return nil, err
			}
		}
		for _, sql := range []string{
			"CREATE TABLE " + r.aside() + " (" + strings.Join(to, ", ") + ")",
			"INSERT INTO " + r.aside() + " SELECT " + strings.Join(from, ", ") + " FROM main." + quote(t.Name),
			"DROP TABLE main." + quote(t.Name),
		} {
			if err := w.run(sql); err != nil {
				return nil, fmt.Errorf("set rows of table %s aside: %w", t.Name, err)
			}
		}
		rebuilt = append(rebuilt, r)
	}
	return rebuilt, nil
}

// aside is the name that a column has in the copy of its table's rows.
func aside(column uint32) string { return fmt.Sprintf("c%d", column) }

// losesBytes reports whether rows of a table have values of columns that the next one does not have.
func losesBytes(t, next *catalog.Table) bool {
	for _, c := range t.Columns {
		if c.Generated != catalog.GeneratedVirtual && next.ColumnByID(c.ID) < 0 {
			return true
		}
	}
	return false
}

// putRowsBack fills the tables that were made anew.
func (w *writer) putRowsBack(old, next *catalog.Catalog, rebuilt []rebuild) error {
	for _, r := range rebuilt {
		before, t := old.TableByID(r.table), next.TableByID(r.table)
		a, err := newAccess(t)
		if err != nil {
			return err
		}
		var from []string
		var fills []value.Value
		if a.bindRowid {
			from = append(from, "r")
		}
		for _, i := range a.insertCols {
			if c := &t.Columns[i]; before.ColumnByID(c.ID) >= 0 {
				from = append(from, aside(c.ID))
			} else {
				fills = append(fills, c.Fill)
				from = append(from, fmt.Sprintf("?%d", len(fills)))
			}
		}
		if err := w.run(a.insertInto+" SELECT "+strings.Join(from, ", ")+" FROM "+r.aside(), fills...); err != nil {
			return fmt.Errorf("put rows of table %s back: %w", t.Name, err)
		}
		if err := w.run("DROP TABLE " + r.aside()); err != nil {
			return err
		}
		if t.Autoincrement {
			if err := w.writeSequence(t.Name, r.sequence); err != nil {
				return err
			}
		}
	}
	return nil
}

// orderSchema gives the rows of sqlite_schema the order of a catalog's objects, each table with its automatic indexes: the next
// change of the schema reads it from there.
func (w *writer) orderSchema(c *catalog.Catalog) error {
	var ordered []int64 // rowids
	find := func(where string, params ...value.Value) error {
		return w.rows("SELECT rowid FROM main.sqlite_schema WHERE "+where+" ORDER BY rowid", params, func(st *sqlite.Stmt) error {
			ordered = append(ordered, st.ColumnInt64(0))
			return nil
		})
	}
	for _, o := range c.Objects {
		if err := find("type = ?1 AND name = ?2", value.Text(o.Type), value.Text(o.Name)); err != nil {
			return err
		}
		if o.Type == "table" {
			if err := find("type = 'index' AND sql IS NULL AND tbl_name = ?1", value.Text(o.Name)); err != nil {
				return err
			}
		}
	}
	if slices.IsSorted(ordered) {
		return nil
	}
	last := int64(0)
	err := w.rows("SELECT max(rowid) FROM main.sqlite_schema", nil, func(st *sqlite.Stmt) error {
		last = st.ColumnInt64(0)
		return nil
	})
	if err != nil {
		return err
	}
	if err := w.run("PRAGMA writable_schema = ON"); err != nil {
		return err
	}
	for i, rowid := range ordered {
		err := w.run("UPDATE main.sqlite_schema SET rowid = ?2 WHERE rowid = ?1", value.Integer(rowid), value.Integer(last+1+int64(i)))
		if err != nil {
			return err
		}
	}
	return w.endSchemaWriting()
}
