package catalog

import (
	"errors"
	"fmt"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/value"
)

// ErrInvalid means that a wire form does not describe a catalog.
var ErrInvalid = errors.New("invalid catalog")

// ToProto returns the wire form.
func (c *Catalog) ToProto() *replicationv1.Catalog {
	p := &replicationv1.Catalog{Version: c.Version, NextId: c.NextID, Partial: c.Partial}
	for _, o := range c.Objects {
		p.Objects = append(p.Objects, &replicationv1.Catalog_Object{Type: o.Type, Name: o.Name, Table: o.Table, Sql: o.SQL})
	}
	for _, t := range c.Tables {
		p.Tables = append(p.Tables, t.toProto())
	}
	p.Schema = c.schemaToProto()
	return p
}

// schemaToProto names what is in Objects too by its place there: the text of a schema is long.
func (c *Catalog) schemaToProto() []*replicationv1.Catalog_SchemaRow {
	if len(c.Schema) == 0 {
		return nil
	}
	places := make(map[Object]uint32, len(c.Objects))
	for i, o := range c.Objects {
		places[o] = uint32(i + 1)
	}
	rows := make([]*replicationv1.Catalog_SchemaRow, len(c.Schema))
	for i, r := range c.Schema {
		rows[i] = &replicationv1.Catalog_SchemaRow{Rowid: r.Rowid, RootPage: r.RootPage, Object: places[r.Object]}
		if rows[i].Object == 0 {
			rows[i].Own = &replicationv1.Catalog_Object{Type: r.Type, Name: r.Name, Table: r.Table, Sql: r.SQL}
		}
	}
	return rows
}

func (c *Catalog) schemaFromProto(rows []*replicationv1.Catalog_SchemaRow) error {
	for _, p := range rows {
		r := SchemaRow{Rowid: p.GetRowid(), RootPage: p.GetRootPage()}
		switch place := p.GetObject(); {
		case place == 0:
			o := p.GetOwn()
			r.Object = Object{Type: o.GetType(), Name: o.GetName(), Table: o.GetTable(), SQL: o.GetSql()}
		case int64(place) > int64(len(c.Objects)):
			return fmt.Errorf("%w: object %d of %d", ErrInvalid, place, len(c.Objects))
		default:
			r.Object = c.Objects[place-1]
		}
		c.Schema = append(c.Schema, r)
	}
	return nil
}

func (t *Table) toProto() *replicationv1.Catalog_Table {
	p := &replicationv1.Catalog_Table{
		Id: t.ID, Name: t.Name, WithoutRowid: t.WithoutRowid, Strict: t.Strict, Autoincrement: t.Autoincrement,
		Identity: uint32(t.Identity), IntegerKey: uint32(t.IntegerKey + 1), Key: partsToProto(t.Key), ColumnsDropped: t.ColumnsDropped,
	}
	for i := range t.Columns {
		c := &t.Columns[i]
		pc := &replicationv1.Catalog_Column{
			Id: c.ID, Name: c.Name, DeclaredType: c.DeclaredType, Affinity: uint32(c.Affinity),
			Collation: uint32(c.Collation), NotNull: c.NotNull, Hidden: c.Hidden, Generated: uint32(c.Generated),
		}
		if !c.Fill.IsNull() {
			pc.Fill = value.ToProto(c.Fill)
		}
		p.Columns = append(p.Columns, pc)
	}
	for _, ix := range t.Indexes {
		p.Indexes = append(p.Indexes, &replicationv1.Catalog_Index{
			Id: ix.ID, Name: ix.Name, Unique: ix.Unique, Primary: ix.Primary, Parts: partsToProto(ix.Parts),
		})
	}
	return p
}

func partsToProto(parts []KeyPart) []*replicationv1.Catalog_KeyPart {
	var ps []*replicationv1.Catalog_KeyPart
	for _, k := range parts {
		ps = append(ps, &replicationv1.Catalog_KeyPart{
			Column: uint32(k.Column + 1), Collation: uint32(k.Collation), Desc: k.Desc,
		})
	}
	return ps
}

// FromProto reads a wire form. It checks every index and enum, so that code using the catalog need not.
func FromProto(p *replicationv1.Catalog) (*Catalog, error) {
	c := &Catalog{Version: p.GetVersion(), NextID: p.GetNextId(), Partial: p.GetPartial()}
	for _, o := range p.GetObjects() {
		c.Objects = append(c.Objects, Object{Type: o.GetType(), Name: o.GetName(), Table: o.GetTable(), SQL: o.GetSql()})
	}
	for _, pt := range p.GetTables() {
		t, err := tableFromProto(pt)
		if err != nil {
			return nil, fmt.Errorf("%w: table %q: %w", ErrInvalid, pt.GetName(), err)
		}
		c.Tables = append(c.Tables, t)
	}
	if err := c.schemaFromProto(p.GetSchema()); err != nil {
		return nil, err
	}
	return c, nil
}

func tableFromProto(p *replicationv1.Catalog_Table) (*Table, error) {
	t := &Table{
		ID: p.GetId(), Name: p.GetName(), WithoutRowid: p.GetWithoutRowid(), Strict: p.GetStrict(),
		Autoincrement: p.GetAutoincrement(), Identity: Identity(p.GetIdentity()), IntegerKey: int(p.GetIntegerKey()) - 1, ColumnsDropped: p.GetColumnsDropped(),
	}
	columns := len(p.GetColumns())
	if p.GetIdentity() > uint32(IdentityDeclared) {
		return nil, fmt.Errorf("identity %d", p.GetIdentity())
	}
	if int64(p.GetIntegerKey()) > int64(columns) || (t.Identity == IdentityIntegerKey) != (t.IntegerKey >= 0) {
		return nil, fmt.Errorf("integer key %d of %d columns with identity %d", t.IntegerKey, columns, t.Identity)
	}
	ids := make(map[uint32]bool, columns)
	for _, pc := range p.GetColumns() {
		if ids[pc.GetId()] {
			return nil, fmt.Errorf("column %q: id %d is another's", pc.GetName(), pc.GetId())
		}
		ids[pc.GetId()] = true
		if pc.GetAffinity() > uint32(AffinityReal) || pc.GetCollation() > uint32(CollationRTrim) ||
			pc.GetGenerated() > uint32(GeneratedStored) {
			return nil, fmt.Errorf("column %q: affinity %d, collation %d, generated %d",
				pc.GetName(), pc.GetAffinity(), pc.GetCollation(), pc.GetGenerated())
		}
		t.Columns = append(t.Columns, Column{
			ID: pc.GetId(), Name: pc.GetName(), DeclaredType: pc.GetDeclaredType(), Affinity: Affinity(pc.GetAffinity()),
			Collation: Collation(pc.GetCollation()), NotNull: pc.GetNotNull(), Hidden: pc.GetHidden(),
			Generated: Generated(pc.GetGenerated()), Fill: value.FromProto(pc.GetFill()),
		})
	}
	var err error
	if t.Key, err = partsFromProto(p.GetKey(), columns); err != nil {
		return nil, err
	}
	if (t.Identity == IdentityDeclared) != (len(t.Key) > 0) {
		return nil, fmt.Errorf("identity %d with %d key columns", t.Identity, len(t.Key))
	}
	for _, pi := range p.GetIndexes() {
		parts, err := partsFromProto(pi.GetParts(), columns)
		if err != nil {
			return nil, fmt.Errorf("index %q: %w", pi.GetName(), err)
		}
		t.Indexes = append(t.Indexes, Index{
			ID: pi.GetId(), Name: pi.GetName(), Unique: pi.GetUnique(), Primary: pi.GetPrimary(), Parts: parts,
		})
	}
	return t, nil
}

func partsFromProto(ps []*replicationv1.Catalog_KeyPart, columns int) ([]KeyPart, error) {
	var parts []KeyPart
	for _, p := range ps {
		if int64(p.GetColumn()) > int64(columns) || p.GetCollation() > uint32(CollationRTrim) {
			return nil, fmt.Errorf("key part: column %d of %d, collation %d", p.GetColumn(), columns, p.GetCollation())
		}
		parts = append(parts, KeyPart{
			Column: int(p.GetColumn()) - 1, Collation: Collation(p.GetCollation()), Desc: p.GetDesc(),
		})
	}
	return parts, nil
}

// Describe returns the table as GetDatabase shows it.
func (t *Table) Describe() *datav1.Table {
	d := &datav1.Table{Name: t.Name}
	for i := range t.Columns {
		c := &t.Columns[i]
		d.Columns = append(d.Columns, &datav1.TableColumn{
			Name: c.Name, DeclaredType: c.DeclaredType, NotNull: c.NotNull, Generated: c.Generated != GeneratedNo,
		})
	}
	parts, _ := t.PrimaryKey()
	for _, part := range parts {
		if part.Column >= 0 {
			d.Key = append(d.Key, t.Columns[part.Column].Name)
		}
	}
	for _, ix := range t.Indexes {
		di := &datav1.TableIndex{Name: ix.Name, Unique: ix.Unique}
		for _, part := range ix.Parts {
			name := "rowid"
			if part.Column >= 0 {
				name = t.Columns[part.Column].Name
			}
			di.Columns = append(di.Columns, name)
		}
		d.Indexes = append(d.Indexes, di)
	}
	return d
}

// ResultColumns returns the table's visible columns as a read answers them, and their places in Table.Columns.
func (t *Table) ResultColumns() (columns []*datav1.Column, places []int) {
	for i := range t.Columns {
		if t.Columns[i].Hidden {
			continue
		}
		columns = append(columns, &datav1.Column{Name: t.Columns[i].Name, DeclaredType: t.Columns[i].DeclaredType})
		places = append(places, i)
	}
	return columns, places
}
