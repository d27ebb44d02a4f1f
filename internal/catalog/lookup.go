package catalog

import (
	"slices"
)

// TableByName finds a table by its name, ignoring ASCII case as SQLite does, or returns nil.
func (c *Catalog) TableByName(name string) *Table {
	if c == nil {
		return nil
	}
	for _, t := range c.Tables {
		if SameName(t.Name, name) {
			return t
		}
	}
	return nil
}

// TableByID finds a table by its id, or returns nil.
func (c *Catalog) TableByID(id uint32) *Table {
	if c == nil {
		return nil
	}
	for _, t := range c.Tables {
		if t.ID == id {
			return t
		}
	}
	return nil
}

// ColumnByName returns the index of a column, ignoring ASCII case, or -1.
func (t *Table) ColumnByName(name string) int {
	for i := range t.Columns {
		if SameName(t.Columns[i].Name, name) {
			return i
		}
	}
	return -1
}

// ColumnByID returns the index of a column, or -1.
func (t *Table) ColumnByID(id uint32) int {
	for i := range t.Columns {
		if t.Columns[i].ID == id {
			return i
		}
	}
	return -1
}

// SameParts reports whether parts of t name the same columns, by their ids and in the same way, as others name of o.
func (t *Table) SameParts(parts []KeyPart, o *Table, others []KeyPart) bool {
	return slices.EqualFunc(parts, others, func(a, b KeyPart) bool {
		if a.Collation != b.Collation || a.Desc != b.Desc || (a.Column < 0) != (b.Column < 0) {
			return false
		}
		return a.Column < 0 || t.Columns[a.Column].ID == o.Columns[b.Column].ID
	})
}

// WithoutColumn returns a copy of t that lacks the column at an index. It returns nil where a key or an index has the column.
func (t *Table) WithoutColumn(column int) *Table {
	c := *t
	c.Columns = slices.Delete(slices.Clone(t.Columns), column, column+1)
	c.ColumnsDropped = t.ColumnsDropped || t.Columns[column].Generated != GeneratedVirtual
	if c.IntegerKey == column {
		return nil
	}
	if c.IntegerKey > column {
		c.IntegerKey--
	}
	ok := true
	shift := func(parts []KeyPart) []KeyPart {
		parts = slices.Clone(parts)
		for i := range parts {
			ok = ok && parts[i].Column != column
			if parts[i].Column > column {
				parts[i].Column--
			}
		}
		return parts
	}
	c.Key = shift(t.Key)
	c.Indexes = slices.Clone(t.Indexes)
	for i := range c.Indexes {
		c.Indexes[i].Parts = shift(c.Indexes[i].Parts)
	}
	if !ok {
		return nil
	}
	return &c
}

// IndexByName finds an index by name, ignoring ASCII case, or returns nil.
func (t *Table) IndexByName(name string) *Index {
	for i := range t.Indexes {
		if SameName(t.Indexes[i].Name, name) {
			return &t.Indexes[i]
		}
	}
	return nil
}

// KeyColumns returns what identifies a row to a caller: the declared key's parts, the INTEGER PRIMARY KEY, or the rowid
// (Column -1).
func (t *Table) KeyColumns() []KeyPart {
	switch t.Identity {
	case IdentityDeclared:
		return t.Key
	case IdentityIntegerKey:
		return []KeyPart{{Column: t.IntegerKey}}
	default:
		return []KeyPart{{Column: -1}}
	}
}

// PrimaryKey returns the columns by which a caller names a row: those of the declared primary key, or the rowid
// (Column -1) of a table without one. index is nil where they are KeyColumns, what identifies the row; a nullable key
// (such as TEXT PRIMARY KEY without NOT NULL) does not, and is to be looked up in the unique index returned.
func (t *Table) PrimaryKey() (parts []KeyPart, index *Index) {
	if t.Identity == IdentityRowid {
		for i := range t.Indexes {
			if t.Indexes[i].Primary {
				return t.Indexes[i].Parts, &t.Indexes[i]
			}
		}
	}
	return t.KeyColumns(), nil
}

// HasVirtualColumns reports whether a row's bytes lack columns that a reader would expect.
func (t *Table) HasVirtualColumns() bool {
	for i := range t.Columns {
		if t.Columns[i].Generated == GeneratedVirtual {
			return true
		}
	}
	return false
}

// SameName reports whether two names are one to SQLite.
func SameName(a, b string) bool { return len(a) == len(b) && Fold(a) == Fold(b) }

// Fold returns a name in lower case, as SQLite compares names: only ASCII letters have a case, "É" and "é" are two names. It
// allocates nothing for a name that is so already.
func Fold(name string) string {
	for i := range len(name) {
		if c := name[i]; 'A' <= c && c <= 'Z' {
			b := []byte(name)
			for j := i; j < len(b); j++ {
				if c := b[j]; 'A' <= c && c <= 'Z' {
					b[j] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return name
}

// IsPartial reports whether something is left out of the schema that the region may not hold.
func (c *Catalog) IsPartial() bool { return c != nil && c.Partial }
