package edgesql

import (
	"regexp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/value"
)

// bareCount is a statement that is the number of a table's rows and nothing else. SQLite counts an ordinary table by its pages,
// and steps through a virtual one.
var bareCount = regexp.MustCompile(`(?is)^\s*SELECT\s+count\s*\(\s*\*\s*\)(?:\s+AS\s+\w+|\s+AS\s+"[^"]+")?\s+` +
	`FROM\s+(?:main\s*\.\s*)?(?:(\w+)|"([^"]+)"|\[([^\]]+)\])(?:\s+AS\s+\w+)?\s*;?\s*$`)

// countedTable returns the table whose rows a statement that compiles counts, or nil.
func (c *conn) countedTable(text string) *catalog.Table {
	m := bareCount.FindStringSubmatch(text)
	if m == nil {
		return nil
	}
	return c.guard.tables[catalog.Fold(m[1]+m[2]+m[3])] // not a view
}

// count answers a statement that counts a table's rows.
func (c *conn) count(s *statement, sink sqlrun.Sink) error {
	rows, err := c.snap.RowCount(s.counts)
	if err != nil {
		return c.stepError(err, true)
	}
	if err := sink.Columns(sqlrun.Columns(s.Stmt)); err != nil {
		return err
	}
	v := value.Integer(int64(rows))
	return sink.Row(&datav1.Row{Values: []*datav1.Value{value.ToProto(v)}}, v.Size())
}
