package catalog

import "strings"

// TableByName finds a table by its name, ignoring ASCII case as SQLite does, or returns nil.
func (c *Catalog) TableByName(name string) *Table {
	if c == nil {
		return nil
	}
	for _, t := range c.Tables {
		if equalFold(t.Name, name) {
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
		if equalFold(t.Columns[i].Name, name) {
			return i
		}
	}
	return -1
}

// IndexByName finds an index by name, ignoring ASCII case, or returns nil.
func (t *Table) IndexByName(name string) *Index {
	for i := range t.Indexes {
		if equalFold(t.Indexes[i].Name, name) {
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

// equalFold compares as SQLite compares identifiers: only ASCII letters fold.
func equalFold(a, b string) bool {
	return len(a) == len(b) && asciiLower(a) == asciiLower(b)
}

func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
