// Package placement says which regions may hold what (data residency), and takes out of commit records what one may not.
//
// The rules are rows of _mesh. The primary applies them to all that leaves for a region: a record without the rows, the schema
// without the tables, and nothing that tells of either. A region that has not been sent something cannot leak it.
package placement

import (
	"maps"
	"slices"

	"github.com/nearside-dev/nearside/internal/catalog"
)

// Rules says which regions may hold which databases and tables. They are immutable; nil Rules limit nothing.
type Rules struct {
	databases map[uint32]Database
}

// Database is the placement of one database. It is immutable.
type Database struct {
	// Regions may hold it; none means all.
	Regions []string
	// Tables has the regions, of those, that may hold a table, by its name in lower case (Fold). A table that is not in it may be
	// wherever its database may.
	Tables map[string][]string
}

// With returns the rules with another placement of a database.
func (r *Rules) With(id uint32, d Database) *Rules {
	next := &Rules{databases: make(map[uint32]Database)}
	if r != nil {
		maps.Copy(next.databases, r.databases)
	}
	if len(d.Regions) == 0 && len(d.Tables) == 0 {
		delete(next.databases, id)
	} else {
		next.databases[id] = d
	}
	if len(next.databases) == 0 {
		return nil
	}
	return next
}

// Of returns the placement of a database.
func (r *Rules) Of(id uint32) Database {
	if r == nil {
		return Database{}
	}
	return r.databases[id]
}

// Allows reports whether a region may hold a database, or at least some of it. The region "" may hold what all may.
func (r *Rules) Allows(id uint32, region string) bool { return allows(r.Of(id).Regions, region) }

// Withheld returns the names of the tables of a database that a region may not hold, in lower case and ascending.
func (r *Rules) Withheld(id uint32, region string) []string { return r.Of(id).Withheld(region) }

// Withheld returns the names of the tables that a region may not hold, in lower case and ascending.
func (d Database) Withheld(region string) (names []string) {
	for name, regions := range d.Tables {
		if !allows(regions, region) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// nowhere is the region of what no region may hold: no region has this name.
const nowhere = "\x00"

// And returns the placement that allows what both do.
func (d Database) And(other Database) Database {
	both := Database{Regions: and(d.Regions, other.Regions), Tables: make(map[string][]string)}
	for _, tables := range []map[string][]string{d.Tables, other.Tables} {
		for name := range tables {
			both.Tables[name] = and(d.Tables[name], other.Tables[name])
		}
	}
	return both
}

func and(a, b []string) (both []string) {
	if len(a) == 0 || len(b) == 0 {
		return append(slices.Clone(a), b...)
	}
	for _, region := range a {
		if slices.Contains(b, region) {
			both = append(both, region)
		}
	}
	if len(both) == 0 {
		return []string{nowhere}
	}
	return both
}

// Allows reports whether a region may hold the database, or at least some of it.
func (d Database) Allows(region string) bool { return allows(d.Regions, region) }

// AllowsTable reports whether a region may hold a table.
func (d Database) AllowsTable(table, region string) bool {
	return allows(d.Regions, region) && allows(d.Tables[catalog.Fold(table)], region)
}

// SameTable reports whether two names have the same placement.
func (d Database) SameTable(a, b string) bool {
	x, y := slices.Sorted(slices.Values(d.Tables[catalog.Fold(a)])), slices.Sorted(slices.Values(d.Tables[catalog.Fold(b)]))
	return slices.Equal(x, y)
}

func allows(regions []string, region string) bool {
	return len(regions) == 0 || slices.Contains(regions, region)
}
