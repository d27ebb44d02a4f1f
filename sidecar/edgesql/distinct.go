package edgesql

import (
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/sqlite"
)

// exactKey reports whether equal keys of a column are of one value.
func exactKey(t *catalog.Table, part catalog.KeyPart) bool {
	if part.Column < 0 || part.Collation != catalog.CollationBinary || t.Columns[part.Column].Collation != catalog.CollationBinary {
		return false
	}
	return t.Columns[part.Column].Affinity != catalog.AffinityBlob // it may have 1 and 1.0
}

// distinctParts returns how many leading parts of a path rows need to be told apart by, where SQLite wants one row for equal
// ones, or 0. Nothing else of a row may be looked at, so that no condition can tell rows apart that agree in them.
func distinctParts(t *catalog.Table, info *sqlite.IndexInfo, p *path) int {
	n := info.OrderBys()
	if info.Constraints() > 0 || n == 0 || n > len(p.parts) {
		return 0
	}
	told := uint64(0)
	for i := range n {
		column := info.OrderBy(i).Column
		if column < 0 || column >= 63 || column == t.IntegerKey || p.parts[i].Column != column || !exactKey(t, p.parts[i]) {
			return 0
		}
		told |= columnBit(column)
	}
	if info.ColumnsUsed()&^told != 0 {
		return 0
	}
	return n
}

// skippable reports whether the values of a column are found faster where each is wanted once: a path begins with it, and many
// rows may have the same.
func (c *conn) skippable(tableName, column string) bool {
	known := c.guard.tables[catalog.Fold(tableName)]
	for _, t := range c.tables {
		if t.Table != known {
			continue
		}
		for i := range t.paths {
			p := &t.paths[i]
			first := p.parts[0]
			if first.Column < 0 || first.Column == t.IntegerKey || p.unique == 1 {
				continue
			}
			if catalog.SameName(t.Columns[first.Column].Name, column) && exactKey(t.Table, first) {
				return true
			}
		}
	}
	return false
}

// skipAlike goes from the present place in the image's order to the next row that differs from it in the first parts.
func (c *cursor) skipAlike() {
	key := c.keys.appendKey(c.alike[:0], c.place)
	c.alike = key
	rest := key
	var err error
	for i := range c.plan.distinct {
		if _, rest, err = rowcodec.DecodeKeyValue(rest, c.plan.path.parts[i].Desc); err != nil {
			c.place += c.step // leaving out what is alike is a favour
			c.togo--
			return
		}
	}
	same := key[:len(key)-len(rest)]
	if c.step < 0 {
		begin := c.place - c.togo + 1
		c.place = max(c.keys.search(same), begin) - 1
		c.togo = c.place - begin + 1
		return
	}
	end := c.place + c.togo
	if c.place++; c.place < end {
		c.place = min(c.keys.searchFrom(c.place, after(same)), end)
	}
	c.togo = end - c.place
}
