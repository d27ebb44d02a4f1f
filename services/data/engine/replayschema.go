package engine

import (
	"fmt"
	"slices"
	"strings"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// replaySchema takes the file from the present catalog to the next without running the statements that made it: they may
// have been anything, with random() in them. What is gone or changed is dropped, what is new is created from its text, and
// tables that kept their id and changed their text (renamed, or with columns renamed or added) have the text itself changed,
// as ALTER TABLE does. Those that lost columns are made anew, with the rows that they have.
func (w *writer) replaySchema(next *catalog.Catalog) error {
	old := w.catalog
	want := make(map[catalog.Object]bool, len(next.Objects))
	for _, o := range next.Objects {
		want[o] = true
	}
	for _, o := range old.Objects {
		if o.Type != "table" && !want[o] {
			if err := w.run("DROP " + strings.ToUpper(o.Type) + " IF EXISTS main." + quote(o.Name)); err != nil {
				return err
			}
		}
	}
	for _, t := range old.Tables {
		if next.TableByID(t.ID) == nil {
			if err := w.run("DROP TABLE main." + quote(t.Name)); err != nil {
				return err
			}
		}
	}
	rebuilt, err := w.setRowsAside(old, next)
	if err != nil {
		return err
	}
	if err := w.rewriteTables(old, next, rebuilt); err != nil {
		return err
	}
	present, err := w.presentObjects()
	if err != nil {
		return err
	}
	for _, o := range next.Objects {
		if !present[o.Type+" "+o.Name] {
			if err := w.run(o.SQL); err != nil {
				return fmt.Errorf("create %s %s: %w", o.Type, o.Name, err)
			}
		}
	}
	if err := w.putRowsBack(old, next, rebuilt); err != nil {
		return err
	}
	if err := w.orderSchema(next); err != nil {
		return err
	}
	s, err := readSchema(w.session)
	if err != nil {
		return err
	}
	return w.useCatalog(next, s.roots())
}

// rewriteTables changes names and texts of tables that kept their rows, through temporary names so that they may swap.
func (w *writer) rewriteTables(old, next *catalog.Catalog, rebuilt []rebuild) error {
	type rewrite struct{ from, to, sql string }
	var rewrites []rewrite
	for _, t := range old.Tables {
		n := next.TableByID(t.ID)
		if n == nil || slices.ContainsFunc(rebuilt, func(r rebuild) bool { return r.table == t.ID }) {
			continue
		}
		if sql := tableSQL(next, n.Name); n.Name != t.Name || sql != tableSQL(old, t.Name) {
			rewrites = append(rewrites, rewrite{t.Name, n.Name, sql})
		}
	}
	if len(rewrites) == 0 {
		return nil
	}
	if err := w.run("PRAGMA writable_schema = ON"); err != nil {
		return err
	}
	for i, r := range rewrites {
		if err := w.renameInSchema(r.from, fmt.Sprintf("%srename_%d", internalPrefix, i)); err != nil {
			return err
		}
	}
	for i, r := range rewrites {
		if err := w.renameInSchema(fmt.Sprintf("%srename_%d", internalPrefix, i), r.to); err != nil {
			return err
		}
		err := w.run("UPDATE main.sqlite_schema SET sql = ?2 WHERE type = 'table' AND name = ?1",
			value.Text(r.to), value.Text(r.sql))
		if err != nil {
			return err
		}
	}
	return w.endSchemaWriting()
}

// endSchemaWriting has other connections, and this one, read the schema again after sqlite_schema was written.
func (w *writer) endSchemaWriting() error {
	version := int64(0)
	err := w.rows("PRAGMA schema_version", nil, func(st *sqlite.Stmt) error {
		version = st.ColumnInt64(0)
		return nil
	})
	if err != nil {
		return err
	}
	if err := w.run(fmt.Sprintf("PRAGMA schema_version = %d", version+1)); err != nil {
		return err
	}
	return w.run("PRAGMA writable_schema = RESET")
}

func (w *writer) renameInSchema(from, to string) error {
	err := w.run(`UPDATE main.sqlite_schema SET
		tbl_name = ?2,
		name = CASE
			WHEN type = 'table' THEN ?2
			WHEN name LIKE 'sqlite\_autoindex\_%' ESCAPE '\' THEN 'sqlite_autoindex_' || ?2 || substr(name, 18 + length(?1))
			ELSE name END
		WHERE tbl_name = ?1`, value.Text(from), value.Text(to))
	if err != nil {
		return err
	}
	exists := false
	err = w.rows("SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence'", nil, func(*sqlite.Stmt) error {
		exists = true
		return nil
	})
	if err != nil || !exists {
		return err
	}
	return w.run("UPDATE main.sqlite_sequence SET name = ?2 WHERE name = ?1", value.Text(from), value.Text(to))
}

func tableSQL(c *catalog.Catalog, name string) string {
	for _, o := range c.Objects {
		if o.Type == "table" && o.Name == name {
			return o.SQL
		}
	}
	return ""
}

func (w *writer) presentObjects() (map[string]bool, error) {
	present := make(map[string]bool)
	err := w.rows("SELECT type, name FROM main.sqlite_schema", nil, func(st *sqlite.Stmt) error {
		present[st.Column(0).Text()+" "+st.Column(1).Text()] = true
		return nil
	})
	return present, err
}

func decodeRow(t *catalog.Table, r *replicationv1.RowChange) (rowcodec.Row, error) {
	return rowcodec.DecodeRow(t, r.GetKey(), r.GetValue())
}
