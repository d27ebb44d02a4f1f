// Package catalog describes a database's schema as replicas need it: tables and columns with ids that never change
// meaning, how rows are identified, which indexes exist.
//
// The primary derives a Catalog from sqlite_schema after each schema change (services/data/engine) and ships its wire
// form, nearside.replication.v1.Catalog, inside the commit record. Everyone else reads it from there.
package catalog

import "github.com/nearside-dev/nearside/internal/value"

// Affinity is an SQLite column affinity (https://sqlite.org/datatype3.html#type_affinity).
type Affinity uint8

// The five affinities.
const (
	AffinityBlob Affinity = iota
	AffinityText
	AffinityNumeric
	AffinityInteger
	AffinityReal
)

// Collation is one of SQLite's built-in collating sequences. No other can be declared: the primary has no others.
type Collation uint8

// The built-in collations.
const (
	CollationBinary Collation = iota
	CollationNoCase
	CollationRTrim
)

// Identity says what identifies a row of a table.
type Identity uint8

// A row is identified by its declared key where that is an INTEGER PRIMARY KEY, the table is WITHOUT ROWID, or all its
// key columns are NOT NULL; else by its rowid.
const (
	IdentityRowid      Identity = iota // hidden rowid
	IdentityIntegerKey                 // INTEGER PRIMARY KEY: a column that is the rowid
	IdentityDeclared                   // the columns of Table.Key
)

// Generated says how a column gets its value.
type Generated uint8

// Kinds of generated columns. Virtual ones are in no row bytes and no sums; stored ones are.
const (
	GeneratedNo Generated = iota
	GeneratedVirtual
	GeneratedStored
)

// Catalog is a database's schema at one version. It is immutable once published.
type Catalog struct {
	Version uint64 // the commit version that made it
	NextID  uint32 // the next table, column or index id to give
	Objects []Object
	Tables  []*Table // by Name's bytes
	Partial bool     // objects and tables are left out that the region may not hold (internal/placement)
	// Schema are all rows of the primary's sqlite_schema, by their rowids. It is empty where nobody told it.
	Schema []SchemaRow
}

// SchemaRow is a row of sqlite_schema as the primary's file has it, internal tables included.
type SchemaRow struct {
	Object

	Rowid    int64
	RootPage int64 // 0 for views and triggers
}

// Object is a row of sqlite_schema, in its order of creation, internal tables left out.
type Object struct {
	Type  string // table, index, view, trigger
	Name  string
	Table string
	SQL   string // empty for automatic indexes
}

// Table is one ordinary table. Virtual tables and their shadow tables are not replicated and not here.
type Table struct {
	ID            uint32 // a table whose rows were rewritten gets another id
	Name          string
	WithoutRowid  bool
	Strict        bool
	Autoincrement bool
	Identity      Identity
	IntegerKey    int       // index in Columns of the INTEGER PRIMARY KEY, or -1
	Key           []KeyPart // with IdentityDeclared: the key; else nil
	Columns       []Column  // in the order of SELECT *
	Indexes       []Index   // those a replica can keep: no partial, no expression index
	// ColumnsDropped says that rows from before may hold values of columns that are gone (rowcodec.CanonicalRow).
	ColumnsDropped bool
}

// KeyPart is a column of a key or an index.
type KeyPart struct {
	Column    int // index in Table.Columns, or -1 for the rowid
	Collation Collation
	Desc      bool
}

// Column is one column of a table.
type Column struct {
	ID           uint32
	Name         string
	DeclaredType string
	Affinity     Affinity
	Collation    Collation
	NotNull      bool
	Hidden       bool
	Generated    Generated
	Fill         value.Value // what rows written before ADD COLUMN have: NULL or the column's default then
}

// Index is a full, plain-column index. The key of an entry is its parts, then the row's key.
type Index struct {
	ID      uint32
	Name    string
	Unique  bool
	Primary bool // it is the declared PRIMARY KEY of a table whose rows are identified by their rowid
	Parts   []KeyPart
}
