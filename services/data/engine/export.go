package engine

import (
	"strings"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
)

// ExportRows gives all rows of a table in the order in which it stores them: the values of its columns, generated ones left
// out. Where rows have a hidden rowid that can be written, rowid is a name for it, and each row begins with its value. The
// sink's columns do not have it.
func (v *View) ExportRows(t *catalog.Table, sink ExportSink) error {
	rowid := ""
	if !t.WithoutRowid && t.Identity != catalog.IdentityIntegerKey {
		rowid = rowidName(t)
	}
	var columns []string
	if rowid != "" {
		columns = append(columns, rowid)
	}
	for _, c := range t.Columns {
		if c.Generated == catalog.GeneratedNo {
			columns = append(columns, quote(c.Name))
		}
	}
	// An index that has all columns would be read in its own order.
	query := "SELECT " + strings.Join(columns, ", ") + " FROM main." + quote(t.Name) + " NOT INDEXED"
	_, err := v.Query(&datav1.Statement{Sql: query}, &exported{ExportSink: sink, rowid: rowid})
	return err
}

// ExportSequences gives the rows of sqlite_sequence, if there are any.
func (v *View) ExportSequences(sink ExportSink) error {
	for _, t := range v.Catalog().Tables {
		if t.Autoincrement {
			_, err := v.Query(&datav1.Statement{Sql: "SELECT name, seq FROM main.sqlite_sequence"}, &exported{ExportSink: sink})
			return err
		}
	}
	return nil
}

// ExportSink takes an exported table: Table once, then Row for each row with its size in bytes.
type ExportSink interface {
	Table(columns []*datav1.Column, rowid string) error
	Row(row *datav1.Row, size int) error
}

type exported struct {
	ExportSink

	rowid string
}

// Columns implements RowSink.
func (e *exported) Columns(columns []*datav1.Column) error {
	if e.rowid != "" {
		columns = columns[1:]
	}
	return e.Table(columns, e.rowid)
}
