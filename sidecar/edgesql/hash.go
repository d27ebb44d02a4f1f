package edgesql

import (
	"bytes"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/sqlite"
)

// SQLite makes an index for a join without one on its own, but not of a virtual table. So a cursor that is asked again and again
// for the rows whose columns equal some values remembers the rows by those values.

const (
	// hashAfter is how often a cursor reads the whole table before it remembers it.
	hashAfter = 2
	// maxHashBytes bounds what a cursor remembers. A larger table is read each time.
	maxHashBytes = 16 << 20
)

// filter is a term of which no path knows anything: the rows whose column equals a value.
type filter struct {
	term

	column    int
	collation catalog.Collation
}

// rowHash are a table's rows by the values of some columns.
type rowHash struct {
	rows  []remembered
	byKey map[string][]int32
	plan  *plan // whose filters they are
}

type remembered struct{ key, stored []byte }

// wantFilters sets wanted to the values that the plan's filters are for; ok is false where no row can have them.
func (c *cursor) wantFilters(args sqlite.Args) (ok bool) {
	c.wanted = c.wanted[:0]
	at := args.Len() - len(c.plan.filters)
	for i := range c.plan.filters {
		f := &c.plan.filters[i]
		v := args.Value(at + i)
		if v.IsNull() {
			return false
		}
		c.wanted = rowcodec.AppendKeyValue(c.wanted, f.convert(v), f.collation, false)
	}
	return true
}

// filtersOf appends the values of the present row that filters compare.
func (c *cursor) filtersOf(dst []byte) ([]byte, error) {
	if err := c.load(); err != nil {
		return dst, err
	}
	for i := range c.plan.filters {
		f := &c.plan.filters[i]
		dst = rowcodec.AppendKeyValue(dst, c.row.Values[f.column], f.collation, false)
	}
	return dst, nil
}

// passes reports whether the present row is one that the filters are for.
func (c *cursor) passes() (ok bool, err error) {
	c.found, err = c.filtersOf(c.found[:0])
	return bytes.Equal(c.found, c.wanted), err
}

// remember reads the whole table; ok is false where it is too large.
func (c *cursor) remember() (ok bool, err error) {
	if h := c.hash; h != nil && h.plan == c.plan {
		return true, nil
	}
	c.hash = nil
	if c.tooLarge || c.scans < hashAfter {
		c.scans++
		return false, nil
	}
	h := &rowHash{byKey: make(map[string][]int32), plan: c.plan}
	size := 0
	if err := c.seek(); err != nil {
		return false, err
	}
	for c.rowIter.Next() {
		c.moved()
		if c.conn.rows++; c.conn.rows%checkEvery == 0 && c.conn.ctx.Err() != nil {
			return false, c.conn.ctx.Err()
		}
		if c.found, err = c.filtersOf(c.found[:0]); err != nil {
			return false, err
		}
		stored, _, err := c.rowIter.Value()
		if err != nil {
			return false, err
		}
		size += len(stored) + 2*len(c.found) + len(c.rowIter.Key()) + 100
		if size > maxHashBytes {
			c.tooLarge = true
			return false, nil
		}
		h.byKey[string(c.found)] = append(h.byKey[string(c.found)], int32(len(h.rows)))
		h.rows = append(h.rows, remembered{bytes.Clone(c.rowIter.Key()), bytes.Clone(stored)})
	}
	if err := c.rowIter.Err(); err != nil {
		return false, err
	}
	c.hash = h
	return true, nil
}

// nextMatch goes to the next remembered row.
func (c *cursor) nextMatch() bool {
	if len(c.matches) == 0 {
		return false
	}
	row := &c.hash.rows[c.matches[0]]
	c.matches = c.matches[1:]
	c.present, c.stored = row.key, row.stored
	return true
}

// filtersOf returns the filters of constraints on columns that no path begins with.
func (t *table) filtersOf(info *sqlite.IndexInfo, constraints []constraint) (filters []filter) {
	seen := make(map[int]bool)
	for _, k := range constraints {
		if k.operator != sqlite.OpEQ || k.in || k.column < 0 || seen[k.column] {
			continue
		}
		if t.Columns[k.column].Generated == catalog.GeneratedVirtual {
			continue // rows do not have it
		}
		if _, constant := info.RHS(k.constraint); constant {
			continue // it would be read once
		}
		collation, ok := collationOf(k.collation)
		if !ok || t.leads(k.column) {
			continue
		}
		seen[k.column] = true
		filters = append(filters, filter{term: k.term, column: k.column, collation: collation})
	}
	return filters
}

// leads reports whether a path begins with a column.
func (t *table) leads(column int) bool {
	for i := range t.paths {
		if t.paths[i].parts[0].Column == column {
			return true
		}
	}
	return false
}

func collationOf(name string) (catalog.Collation, bool) {
	for _, c := range []catalog.Collation{catalog.CollationBinary, catalog.CollationNoCase, catalog.CollationRTrim} {
		if collationName(c) == name {
			return c, true
		}
	}
	return 0, false
}
