// Package replicatest plays the primary of one database for tests: it turns changes of rows into the commit records that a
// real one would write, without SQL.
package replicatest

import (
	"crypto/sha256"
	"slices"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// Primary makes the records of one database. It is for one goroutine.
type Primary struct {
	// Epoch and MeshVersion are what the next records carry. NewPrimary sets epoch 1 and version 0.
	Epoch       uint32
	MeshVersion uint64
	// Silent makes records that do not say which rows are fresh, as an earlier build's.
	Silent bool

	version  uint64
	checksum [16]byte
	catalog  *catalog.Catalog
	rows     map[uint32]map[string][]byte // table → key → value
	sums     map[uint32]rowcodec.Sum
}

// NewPrimary returns the primary of an empty database.
func NewPrimary() *Primary {
	return &Primary{Epoch: 1, rows: make(map[uint32]map[string][]byte), sums: make(map[uint32]rowcodec.Sum)}
}

// Version returns the version of the last record.
func (p *Primary) Version() uint64 { return p.version }

// Checksum returns the checksum of the last record.
func (p *Primary) Checksum() [16]byte { return p.checksum }

// Rows returns the values of a table's rows by their keys. They are the primary's own.
func (p *Primary) Rows(t *catalog.Table) map[string][]byte { return p.rows[t.ID] }

// Sum returns a table's set-sum.
func (p *Primary) Sum(t *catalog.Table) rowcodec.Sum { return p.sums[t.ID] }

// Change is a part of a commit.
type Change func(*commit)

type commit struct {
	primary *Primary
	record  *replicationv1.CommitRecord
	changes map[uint32]*replicationv1.TableChange
	places  map[place]int // of rows in their TableChange
	fresh   map[place]bool
}

type place struct {
	table uint32
	key   string
}

// Commit returns the encoded record of the next commit.
func (p *Primary) Commit(changes ...Change) []byte {
	c := &commit{
		primary: p, changes: make(map[uint32]*replicationv1.TableChange), places: make(map[place]int), fresh: make(map[place]bool),
		record: &replicationv1.CommitRecord{
			Version: p.version + 1, Epoch: p.Epoch, MeshVersion: p.MeshVersion, PreviousChecksum: p.checksum[:],
			TimeUnixNanos: int64(p.version), Actor: "test",
		},
	}
	for _, change := range changes {
		change(c)
	}
	for id, change := range c.changes {
		change.Sum, _ = p.sums[id].AppendBinary(nil) // never fails
		change.RowCount = uint64(len(p.rows[id]))
	}
	b, err := proto.Marshal(c.record)
	if err != nil {
		panic(err) // no field of ours can make it fail
	}
	p.version++
	sum := sha256.Sum256(b)
	copy(p.checksum[:], sum[:])
	return b
}

// Schema makes these the tables. Those that were there and are not among them, by id, are dropped.
func Schema(tables ...*catalog.Table) Change {
	return SchemaOf(&catalog.Catalog{Tables: tables})
}

// SchemaOf is Schema with views and other objects.
func SchemaOf(of *catalog.Catalog) Change {
	return func(c *commit) {
		p := c.primary
		cat := &catalog.Catalog{Version: p.version + 1, NextID: 1 << 20, Tables: of.Tables, Objects: of.Objects}
		if p.catalog != nil {
			for _, old := range p.catalog.Tables {
				if cat.TableByID(old.ID) == nil {
					c.record.DroppedTableIds = append(c.record.DroppedTableIds, old.ID)
					delete(p.rows, old.ID)
					delete(p.sums, old.ID)
				}
			}
			for _, t := range of.Tables {
				if old := p.catalog.TableByID(t.ID); old != nil && len(t.Columns) < len(old.Columns) {
					c.restartSum(t)
				}
			}
		}
		p.catalog = cat
		c.record.Catalog = cat.ToProto()
	}
}

// restartSum makes the rows and the sum of a table that lost a column those without it.
func (c *commit) restartSum(t *catalog.Table) {
	p := c.primary
	var sum rowcodec.Sum
	for key, val := range p.rows[t.ID] {
		canonical, err := rowcodec.CanonicalRow(new([]byte), t, val)
		if err != nil {
			panic(err) // the rows are our own
		}
		p.rows[t.ID][key] = canonical
		sum = sum.Add(rowcodec.RowSum(t.ID, []byte(key), canonical))
	}
	p.sums[t.ID] = sum
	c.change(t)
}

// Put inserts or replaces rows.
func Put(t *catalog.Table, rows ...rowcodec.Row) Change {
	return func(c *commit) {
		for _, row := range rows {
			c.set(t, rowcodec.AppendRowKey(nil, t, row), rowcodec.AppendRow(nil, t, row))
		}
	}
}

// Delete deletes the rows that have these rows' keys.
func Delete(t *catalog.Table, rows ...rowcodec.Row) Change {
	return func(c *commit) {
		for _, row := range rows {
			c.set(t, rowcodec.AppendRowKey(nil, t, row), nil)
		}
	}
}

func (c *commit) set(t *catalog.Table, key, val []byte) {
	p := c.primary
	rows := p.rows[t.ID]
	if rows == nil {
		rows = make(map[string][]byte)
		p.rows[t.ID] = rows
	}
	at := place{t.ID, string(key)}
	old, ok := rows[string(key)]
	if _, again := c.places[at]; !again {
		c.fresh[at] = !ok
	}
	if ok {
		p.sums[t.ID] = p.sums[t.ID].Sub(rowcodec.RowSum(t.ID, key, old))
		delete(rows, string(key))
	}
	if val != nil {
		p.sums[t.ID] = p.sums[t.ID].Add(rowcodec.RowSum(t.ID, key, val))
		rows[string(key)] = val
	}
	change := c.change(t)
	row := &replicationv1.RowChange{Key: key, Value: val, Fresh: val != nil && c.fresh[at] && !p.Silent}
	if i, ok := c.places[at]; ok {
		change.Rows[i] = row
		return
	}
	c.places[at] = len(change.Rows)
	change.Rows = append(change.Rows, row)
}

// change returns what the record says of a table.
func (c *commit) change(t *catalog.Table) *replicationv1.TableChange {
	change := c.changes[t.ID]
	if change == nil {
		change = &replicationv1.TableChange{TableId: t.ID}
		c.changes[t.ID] = change
		c.record.Tables = append(c.record.Tables, change)
	}
	return change
}

// Table returns a rowid table whose first column is its INTEGER PRIMARY KEY, and whose other columns take any value.
func Table(id uint32, name string, columns ...string) *catalog.Table {
	t := &catalog.Table{ID: id, Name: name, Identity: catalog.IdentityIntegerKey}
	for i, c := range columns {
		t.Columns = append(t.Columns, catalog.Column{ID: uint32(i + 1), Name: c})
	}
	t.Columns[0].DeclaredType, t.Columns[0].Affinity = "INTEGER", catalog.AffinityInteger
	return t
}

// WithIndex returns a copy of t with one more index on the given columns.
func WithIndex(t *catalog.Table, id uint32, name string, unique bool, columns ...string) *catalog.Table {
	c := *t
	ix := catalog.Index{ID: id, Name: name, Unique: unique}
	for _, column := range columns {
		ix.Parts = append(ix.Parts, catalog.KeyPart{Column: t.ColumnByName(column)})
	}
	c.Indexes = append(slices.Clone(t.Indexes), ix)
	return &c
}

// WithColumn returns a copy of t with one more column, which old rows have fill in.
func WithColumn(t *catalog.Table, name string, fill value.Value) *catalog.Table {
	c := *t
	c.Columns = append(slices.Clone(t.Columns), catalog.Column{ID: uint32(len(t.Columns) + 1), Name: name, Fill: fill})
	return &c
}

// WithoutColumn returns a copy of t that lacks a column.
func WithoutColumn(t *catalog.Table, name string) *catalog.Table {
	return t.WithoutColumn(t.ColumnByName(name))
}

// Row returns a row of a table made by Table.
func Row(id int64, values ...value.Value) rowcodec.Row {
	return rowcodec.Row{Rowid: id, Values: append([]value.Value{value.Integer(id)}, values...)}
}

// The tables of _mesh that list databases and where they are.
var (
	MeshDatabases  = Table(1, meshdb.TableDatabases, "id", "name", "created_at")
	MeshPlacements = placements()
)

func placements() *catalog.Table {
	t := &catalog.Table{ID: 2, Name: meshdb.TablePlacements, WithoutRowid: true, Identity: catalog.IdentityDeclared,
		IntegerKey: -1, Key: []catalog.KeyPart{{Column: 0}, {Column: 1}},
		Columns: []catalog.Column{
			{ID: 1, Name: "database_id", DeclaredType: "INTEGER", Affinity: catalog.AffinityInteger, NotNull: true},
			{ID: 2, Name: "region", DeclaredType: "TEXT", Affinity: catalog.AffinityText, NotNull: true},
		}}
	return t
}

// MeshDatabase returns a row of MeshDatabases.
func MeshDatabase(id uint32, name string) rowcodec.Row {
	return Row(int64(id), value.Text(name), value.Integer(0))
}

// MeshPlacement returns a row of MeshPlacements.
func MeshPlacement(id uint32, region string) rowcodec.Row {
	return rowcodec.Row{Values: []value.Value{value.Integer(int64(id)), value.Text(region)}}
}
