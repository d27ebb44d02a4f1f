// Package meshdb names the mesh's own database, _mesh, for those who write it (services/data/registry) and those who read
// it from their replica (sidecar): its id, its tables, its rows.
package meshdb

import (
	"errors"
	"fmt"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/value"
)

// The system database. Its id is fixed because it is what all other ids are found in.
const (
	Name       = "_mesh"
	DatabaseID = uint32(1)
)

// Migration is one step of the schema of _mesh.
type Migration struct {
	Name string
	SQL  string
}

// Migrations is the schema of _mesh, in order. Applied ones are never changed.
//
// Database ids begin at 100 and are never used again (AUTOINCREMENT), so a copy of a deleted database cannot be taken for
// a new one.
var Migrations = []Migration{{
	Name: "0001_mesh",
	SQL: `
CREATE TABLE databases (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,
  created_at INTEGER NOT NULL -- nanoseconds since 1970
) STRICT;
INSERT INTO databases (id, name, created_at) VALUES (99, '_', 0);
DELETE FROM databases;
CREATE TABLE placements (
  database_id INTEGER NOT NULL REFERENCES databases (id) ON DELETE CASCADE,
  region TEXT NOT NULL,
  PRIMARY KEY (database_id, region)
) STRICT, WITHOUT ROWID;
CREATE TABLE regions (
  name TEXT NOT NULL PRIMARY KEY,
  url TEXT NOT NULL,
  is_primary INTEGER NOT NULL,
  registered_at INTEGER NOT NULL -- nanoseconds since 1970
) STRICT;
`,
}, {
	Name: "0002_table_placements",
	SQL: `
CREATE TABLE table_placements (
  database_id INTEGER NOT NULL REFERENCES databases (id) ON DELETE CASCADE,
  table_name TEXT NOT NULL COLLATE NOCASE, -- there need be no such table yet
  region TEXT NOT NULL,
  PRIMARY KEY (database_id, table_name, region)
) STRICT, WITHOUT ROWID;
`,
}, authMigration, nodesMigration, servicesMigration, corsMigration, policiesMigration, cacheRulesMigration, protocolsMigration,
	uncheckedMigration}

// The tables.
const (
	TableDatabases       = "databases"
	TablePlacements      = "placements"
	TableTablePlacements = "table_placements"
	TableRegions         = "regions"
)

// Database is a row of databases.
type Database struct {
	ID        uint32
	Name      string
	CreatedAt int64 // nanoseconds since 1970
}

// Region is a row of regions.
type Region struct {
	Name      string
	URL       string
	IsPrimary bool
}

// ErrRow means that a row of _mesh is not of this build's form.
var ErrRow = errors.New("unexpected row in _mesh")

// DatabaseFromRow reads a row of the table databases. Values are in the table's order.
func DatabaseFromRow(t *catalog.Table, values []value.Value) (Database, error) {
	id, name, created := t.ColumnByName("id"), t.ColumnByName("name"), t.ColumnByName("created_at")
	if id < 0 || name < 0 || created < 0 || len(values) < len(t.Columns) {
		return Database{}, fmt.Errorf("%w: %s", ErrRow, t.Name)
	}
	n := values[id].Integer()
	if n <= 0 || n > 1<<31 {
		return Database{}, fmt.Errorf("%w: database id %d", ErrRow, n)
	}
	return Database{ID: uint32(n), Name: values[name].Text(), CreatedAt: values[created].Integer()}, nil
}

// PlacementFromRow reads a row of the table placements.
func PlacementFromRow(t *catalog.Table, values []value.Value) (database uint32, region string, err error) {
	id, name := t.ColumnByName("database_id"), t.ColumnByName("region")
	if id < 0 || name < 0 || len(values) < len(t.Columns) {
		return 0, "", fmt.Errorf("%w: %s", ErrRow, t.Name)
	}
	return uint32(values[id].Integer()), values[name].Text(), nil
}

// TablePlacementFromRow reads a row of the table table_placements.
func TablePlacementFromRow(t *catalog.Table, values []value.Value) (database uint32, table, region string, err error) {
	id, name, where := t.ColumnByName("database_id"), t.ColumnByName("table_name"), t.ColumnByName("region")
	if id < 0 || name < 0 || where < 0 || len(values) < len(t.Columns) {
		return 0, "", "", fmt.Errorf("%w: %s", ErrRow, t.Name)
	}
	return uint32(values[id].Integer()), values[name].Text(), values[where].Text(), nil
}

// RegionFromRow reads a row of the table regions.
func RegionFromRow(t *catalog.Table, values []value.Value) (Region, error) {
	name, url, primary := t.ColumnByName("name"), t.ColumnByName("url"), t.ColumnByName("is_primary")
	if name < 0 || url < 0 || primary < 0 || len(values) < len(t.Columns) {
		return Region{}, fmt.Errorf("%w: %s", ErrRow, t.Name)
	}
	return Region{
		Name: values[name].Text(), URL: values[url].Text(), IsPrimary: values[primary].Integer() != 0,
	}, nil
}
