package meshdb

import (
	"fmt"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/value"
)

// nodesMigration makes the table of the nodes that have joined. A row stays when its node is revoked: its certificate may still
// be about.
var nodesMigration = Migration{
	Name: "0004_nodes",
	SQL: `
CREATE TABLE nodes (
  id TEXT NOT NULL PRIMARY KEY,
  region TEXT NOT NULL,
  joined_at INTEGER NOT NULL, -- nanoseconds since 1970
  revoked_at INTEGER          -- the same; NULL: it was not
) STRICT, WITHOUT ROWID;
`,
}

// TableNodes is the table of the nodes.
const TableNodes = "nodes"

// Node is a row of nodes.
type Node struct {
	ID       string
	Region   string
	JoinedAt int64 // nanoseconds since 1970
	// RevokedAt is the same; 0 if it was not.
	RevokedAt int64
}

// NodeFromRow reads a row of the table nodes.
func NodeFromRow(t *catalog.Table, values []value.Value) (Node, error) {
	id, region, joined, revoked := t.ColumnByName("id"), t.ColumnByName("region"), t.ColumnByName("joined_at"),
		t.ColumnByName("revoked_at")
	if id < 0 || region < 0 || joined < 0 || revoked < 0 || len(values) < len(t.Columns) {
		return Node{}, fmt.Errorf("%w: %s", ErrRow, t.Name)
	}
	n := Node{ID: values[id].Text(), Region: values[region].Text(), JoinedAt: values[joined].Integer()}
	if !values[revoked].IsNull() {
		n.RevokedAt = values[revoked].Integer()
	}
	return n, nil
}
