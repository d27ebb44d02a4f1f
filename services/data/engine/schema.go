package engine

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// schema is what sqlite_schema says now: a catalog without ids, and each table's root page.
type schema struct {
	rows    []catalog.SchemaRow // all
	objects []catalog.Object
	tables  []*schemaTable // in order of creation
}

type schemaTable struct {
	catalog.Table

	rootPage int64
	defaults []string // SQL text of each column's default; "" for none
}

// readSchema reads the schema of a connection.
func readSchema(s *session) (*schema, error) {
	var out schema
	err := s.rows("SELECT type, name, tbl_name, sql, rootpage, rowid FROM main.sqlite_schema ORDER BY rowid", nil,
		func(st *sqlite.Stmt) error {
			o := catalog.Object{
				Type: st.Column(0).Text(), Name: st.Column(1).Text(), Table: st.Column(2).Text(), SQL: st.Column(3).Text(),
			}
			if err := refuseInternalName(o); err != nil {
				return err
			}
			out.rows = append(out.rows, catalog.SchemaRow{Object: o, RootPage: st.ColumnInt64(4), Rowid: st.ColumnInt64(5)})
			if hasPrefixFold(o.Table, internalPrefix) || hasPrefixFold(o.Table, "sqlite_") || o.SQL == "" {
				return nil
			}
			out.objects = append(out.objects, o)
			if o.Type == "table" {
				t := &schemaTable{rootPage: st.ColumnInt64(4)}
				t.Name = o.Name
				out.tables = append(out.tables, t)
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	for _, t := range out.tables {
		if err := t.read(s); err != nil {
			return nil, fmt.Errorf("read schema of table %q: %w", t.Name, err)
		}
	}
	return &out, nil
}

// refuseInternalName catches what the guard cannot see: ALTER TABLE … RENAME TO.
func refuseInternalName(o catalog.Object) error {
	if !hasPrefixFold(o.Name, internalPrefix) || o.Name == metaTable || o.Name == catalogTable || o.Name == earlyTable {
		return nil
	}
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED, "not allowed: %s %s", o.Type, o.Name).
		With("action", o.Type+" "+o.Name)
}

// internalParentsSQL finds foreign keys to the engine's own tables.
const internalParentsSQL = `SELECT f."table" FROM main.sqlite_schema t, pragma_foreign_key_list(t.name) f
	WHERE t.type = 'table' AND f."table" LIKE '\_nearside\_%' ESCAPE '\' LIMIT 1`

// refuseInternalParents catches what the guard does not see either: with a foreign key to one of the engine's own tables SQLite
// would refuse what the engine writes there with each commit.
func refuseInternalParents(s *session) error {
	parent := ""
	err := s.rows(internalParentsSQL, nil, func(st *sqlite.Stmt) error {
		parent = st.Column(0).Text()
		return nil
	})
	if err != nil {
		return fmt.Errorf("read foreign keys: %w", err)
	}
	if parent == "" {
		return nil
	}
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED, "not allowed: a foreign key to table %s", parent).
		With("action", "table "+parent)
}

func (t *schemaTable) read(s *session) error {
	err := s.rows("SELECT type, wr, strict FROM pragma_table_list(?1) WHERE schema = 'main'",
		[]value.Value{value.Text(t.Name)}, func(st *sqlite.Stmt) error {
			if kind := st.Column(0).Text(); kind != "table" {
				return rpcerr.New(datav1.ErrorReason_ERROR_REASON_SCHEMA_UNSUPPORTED, "%s table %q is not supported", kind, t.Name).
					With("object", t.Name).With("feature", kind+" table")
			}
			t.WithoutRowid, t.Strict = st.ColumnInt64(1) != 0, st.ColumnInt64(2) != 0
			return nil
		})
	if err != nil {
		return err
	}
	primary, err := t.readColumns(s)
	if err != nil {
		return err
	}
	return t.readIndexes(s, primary)
}

// readColumns returns the columns of the primary key in the order of the key.
func (t *schemaTable) readColumns(s *session) (primary []int, err error) {
	keyPlaces := make(map[int]int) // place in the key, from 1 → column
	err = s.rows(`SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid`,
		[]value.Value{value.Text(t.Name)}, func(st *sqlite.Stmt) error {
			c := catalog.Column{
				Name: st.Column(0).Text(), DeclaredType: st.Column(1).Text(), NotNull: st.ColumnInt64(2) != 0,
			}
			switch st.ColumnInt64(5) {
			case 1:
				c.Hidden = true
			case 2:
				c.Generated = catalog.GeneratedVirtual
			case 3:
				c.Generated = catalog.GeneratedStored
			}
			c.Affinity = catalog.AffinityOf(c.DeclaredType)
			if t.Strict && strings.EqualFold(c.DeclaredType, "ANY") {
				c.Affinity = catalog.AffinityBlob // ANY of a STRICT table converts nothing
			}
			if place := int(st.ColumnInt64(4)); place > 0 {
				keyPlaces[place] = len(t.Columns)
			}
			t.Columns = append(t.Columns, c)
			t.defaults = append(t.defaults, st.Column(3).Text())
			return nil
		})
	if err != nil {
		return nil, err
	}
	for i := range t.Columns {
		m, err := s.conn.ColumnMetadata(t.Name, t.Columns[i].Name)
		if err != nil {
			return nil, err
		}
		if t.Columns[i].Collation, err = collation(m.Collation); err != nil {
			return nil, err
		}
		t.Autoincrement = t.Autoincrement || m.Autoincrement
	}
	for place := 1; place <= len(keyPlaces); place++ {
		primary = append(primary, keyPlaces[place])
	}
	return primary, nil
}

func collation(name string) (catalog.Collation, error) {
	switch strings.ToUpper(name) {
	case "", "BINARY":
		return catalog.CollationBinary, nil
	case "NOCASE":
		return catalog.CollationNoCase, nil
	case "RTRIM":
		return catalog.CollationRTrim, nil
	default:
		return 0, rpcerr.New(datav1.ErrorReason_ERROR_REASON_SCHEMA_UNSUPPORTED, "no such collation: %s", name).
			With("feature", "collation "+name)
	}
}

func collationName(c catalog.Collation) string {
	switch c {
	case catalog.CollationNoCase:
		return "NOCASE"
	case catalog.CollationRTrim:
		return "RTRIM"
	default:
		return "BINARY"
	}
}

// readIndexes reads the indexes and with them what identifies a row.
func (t *schemaTable) readIndexes(s *session, primary []int) error {
	type listed struct {
		name            string
		unique, partial bool
		primary         bool
	}
	var list []listed
	err := s.rows(`SELECT name, "unique", origin, partial FROM pragma_index_list(?1) ORDER BY seq DESC`,
		[]value.Value{value.Text(t.Name)}, func(st *sqlite.Stmt) error {
			list = append(list, listed{
				name: st.Column(0).Text(), unique: st.ColumnInt64(1) != 0, partial: st.ColumnInt64(3) != 0,
				primary: st.Column(2).Text() == "pk",
			})
			return nil
		})
	if err != nil {
		return err
	}
	t.IntegerKey = -1
	var key []catalog.KeyPart // of the primary key's index
	for _, l := range list {
		parts, plain, err := indexParts(s, l.name)
		if err != nil {
			return err
		}
		if l.primary {
			key = parts
		}
		// A partial index lacks rows, an expression or a virtual column cannot be computed there: a replica does without.
		if l.partial || !plain || l.primary && t.WithoutRowid || t.anyVirtual(parts) {
			continue
		}
		t.Indexes = append(t.Indexes, catalog.Index{Name: l.name, Unique: l.unique, Primary: l.primary, Parts: parts})
	}
	switch {
	case t.WithoutRowid:
		t.Identity, t.Key = catalog.IdentityDeclared, key
	case len(primary) == 1 && key == nil:
		// A rowid table with a key but no index for it: the column is the rowid.
		t.Identity, t.IntegerKey = catalog.IdentityIntegerKey, primary[0]
		t.Columns[primary[0]].NotNull = true
	case len(primary) > 0 && t.allNotNull(primary):
		t.Identity, t.Key = catalog.IdentityDeclared, key
		t.dropPrimaryIndex() // the rows themselves are in its order
	default:
		t.Identity = catalog.IdentityRowid
	}
	return nil
}

func (t *schemaTable) allNotNull(columns []int) bool {
	for _, c := range columns {
		if !t.Columns[c].NotNull {
			return false
		}
	}
	return true
}

func (t *schemaTable) anyVirtual(parts []catalog.KeyPart) bool {
	for _, part := range parts {
		if part.Column >= 0 && t.Columns[part.Column].Generated == catalog.GeneratedVirtual {
			return true
		}
	}
	return false
}

func (t *schemaTable) dropPrimaryIndex() {
	kept := t.Indexes[:0]
	for _, ix := range t.Indexes {
		if !ix.Primary {
			kept = append(kept, ix)
		}
	}
	t.Indexes = kept
}

// indexParts returns the key columns of an index; plain is false where one is an expression.
func indexParts(s *session, name string) (parts []catalog.KeyPart, plain bool, err error) {
	plain = true
	err = s.rows(`SELECT cid, "desc", coll FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno`,
		[]value.Value{value.Text(name)}, func(st *sqlite.Stmt) error {
			c, err := collation(st.Column(2).Text())
			if err != nil {
				return err
			}
			column := int(st.ColumnInt64(0))
			plain = plain && column >= -1
			parts = append(parts, catalog.KeyPart{Column: column, Collation: c, Desc: st.ColumnInt64(1) != 0})
			return nil
		})
	return parts, plain, err
}

// rows runs a trusted query and calls f for each row.
func (s *session) rows(sql string, params []value.Value, f func(*sqlite.Stmt) error) (err error) {
	st, err := s.trusted(sql)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Reset()) }()
	for i, p := range params {
		if err := st.BindValue(i+1, p); err != nil {
			return err
		}
	}
	for {
		row, err := st.Step()
		if err != nil || !row {
			return err
		}
		if err := f(st); err != nil {
			return err
		}
	}
}

// run runs a trusted statement that answers no rows.
func (s *session) run(sql string, params ...value.Value) error {
	return s.rows(sql, params, func(*sqlite.Stmt) error { return nil })
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// derived is a schema with ids, and what became of the rows.
type derived struct {
	catalog  *catalog.Catalog
	replaced []*catalog.Table // with new ids: their rows are shipped whole
	shed     []*catalog.Table // that lost a column: their rows have another sum
}

// derive gives a schema ids: a table keeps its id where its rows are certainly the same as before, but for columns that are
// gone; else it gets a new one and its rows are shipped whole.
//
// The schema's text does not say what was done, so this is careful: a table keeps its id only if it has its old root page
// and was not dropped by its name, and its columns are the same but for their names, with perhaps more behind them; or they
// have their names and one is missing, after one statement that altered the table.
func (n *schema) derive(old *catalog.Catalog, oldRoots map[string]int64, did footprint, s *session) (d derived, err error) {
	c := &catalog.Catalog{NextID: max(old.NextID, 1), Objects: n.objects, Schema: n.rows}
	gone := make(map[string]bool, len(did.dropped)) // by lower-case name
	for _, name := range did.dropped {
		gone[catalog.Fold(name)] = true
	}
	byRoot := make(map[int64]*catalog.Table)
	for _, t := range old.Tables {
		byRoot[oldRoots[t.Name]] = t
	}
	for _, nt := range n.tables {
		t := &nt.Table
		before := byRoot[nt.rootPage]
		keep, lost := before != nil && !gone[catalog.Fold(before.Name)], false
		if keep && did.alters(before.Name) {
			if column := nt.missingColumn(before); column >= 0 {
				if without := before.WithoutColumn(column); without != nil {
					before, lost = without, before.Columns[column].Generated != catalog.GeneratedVirtual
				}
			}
		}
		if keep {
			if keep, err = nt.inherit(before, &c.NextID, s); err != nil {
				return derived{}, err
			}
		}
		if keep && lost {
			d.shed = append(d.shed, t)
		}
		if !keep {
			before = nil
			t.ID = take(&c.NextID)
			for i := range t.Columns {
				t.Columns[i].ID, t.Columns[i].Fill = take(&c.NextID), value.Null()
			}
			d.replaced = append(d.replaced, t)
		}
		for i := range t.Indexes {
			t.Indexes[i].ID = sameIndex(before, &t.Indexes[i])
			if t.Indexes[i].ID == 0 {
				t.Indexes[i].ID = take(&c.NextID)
			}
		}
		c.Tables = append(c.Tables, t)
	}
	sort.Slice(c.Tables, func(i, j int) bool { return c.Tables[i].Name < c.Tables[j].Name })
	d.catalog = c
	return d, nil
}

func take(next *uint32) uint32 {
	id := *next
	*next++
	return id
}

// missingColumn returns which column of a table is no longer there, where all others are as they were; else -1. Where a name
// is there twice, none is.
func (t *schemaTable) missingColumn(before *catalog.Table) int {
	if len(t.Columns) != len(before.Columns)-1 {
		return -1
	}
	missing := 0
	for missing < len(t.Columns) && t.Columns[missing].Name == before.Columns[missing].Name {
		missing++
	}
	for i := missing; i < len(t.Columns); i++ {
		if t.Columns[i].Name != before.Columns[i+1].Name {
			return -1
		}
	}
	return missing
}

// inherit takes over a table's ids, or returns false if its rows may have other bytes now.
func (t *schemaTable) inherit(before *catalog.Table, next *uint32, s *session) (bool, error) {
	if t.WithoutRowid != before.WithoutRowid || t.Identity != before.Identity || t.IntegerKey != before.IntegerKey ||
		!equalParts(t.Key, before.Key) || len(t.Columns) < len(before.Columns) {
		return false, nil
	}
	for i := range t.Columns {
		c := &t.Columns[i]
		if i >= len(before.Columns) {
			if c.Generated == catalog.GeneratedStored {
				return false, nil
			}
			fill, err := t.fill(i, s)
			if err != nil {
				return false, err
			}
			c.ID, c.Fill = take(next), fill
			continue
		}
		b := &before.Columns[i]
		if c.DeclaredType != b.DeclaredType || c.Collation != b.Collation || c.NotNull != b.NotNull ||
			c.Generated != b.Generated {
			return false, nil
		}
		c.ID, c.Fill = b.ID, b.Fill
	}
	t.ID, t.ColumnsDropped = before.ID, before.ColumnsDropped
	return true, nil
}

// fill is the value that rows from before ADD COLUMN have. It is asked of such a row, because SQLite makes it in a way of its
// own: in a TEXT column 1.50 becomes '1.50', which no INSERT of 1.50 gives. Without rows any value would do.
func (t *schemaTable) fill(column int, s *session) (v value.Value, err error) {
	if t.defaults[column] == "" || t.Columns[column].Generated != catalog.GeneratedNo {
		return value.Null(), nil
	}
	err = s.rows("SELECT "+quote(t.Columns[column].Name)+" FROM main."+quote(t.Name)+" LIMIT 1", nil, func(st *sqlite.Stmt) error {
		v = st.Column(0)
		return nil
	})
	return v, err
}

func equalParts(a, b []catalog.KeyPart) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func sameIndex(before *catalog.Table, ix *catalog.Index) uint32 {
	if before == nil {
		return 0
	}
	old := before.IndexByName(ix.Name)
	if old == nil || old.Unique != ix.Unique || !equalParts(old.Parts, ix.Parts) {
		return 0
	}
	return old.ID
}

// roots returns each table's root page.
func (n *schema) roots() map[string]int64 {
	m := make(map[string]int64, len(n.tables))
	for _, t := range n.tables {
		m[t.Name] = t.rootPage
	}
	return m
}
