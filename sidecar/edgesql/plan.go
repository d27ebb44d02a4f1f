package edgesql

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// plan is a way to read a table: a path, the values that its first parts equal, bounds for the next part, and a direction.
// The arguments of Filter are in this order. It is immutable.
type plan struct {
	path    *path
	equal   []term
	lower   *term    // > or >=
	upper   *term    // < or <=
	filters []filter // of a scan of the rows
	used    uint64   // the columns that may be read, by columnBit
	reverse bool
	point   bool // at most one row: the whole key of a row is given
	covered bool // all columns that are read are parts of the path
	counted bool // nothing is read of any row, as far as is known: how many there are will do
	// distinct is by how many leading parts of the path rows are told apart: one of those that agree in them will do. 0 is all rows.
	distinct int
}

// term is one side of a comparison.
type term struct {
	operator   sqlite.Operator
	conversion sqlite.Conversion
	constraint int // in IndexInfo, while planning
	in         bool
}

// convert returns v as it is compared.
func (t *term) convert(v value.Value) value.Value {
	switch t.conversion {
	case sqlite.ConvertNumeric:
		// Not the column's own affinity: REAL would round an integer that is compared exactly.
		return value.Numeric(v)
	case sqlite.ConvertText:
		return catalog.AffinityText.Apply(v)
	default:
		return v
	}
}

// Costs, in steps over a row.
const (
	costSeek  = 4.0 // going to a place
	costFetch = 3.0 // getting the row of an index entry
	costEntry = 0.8 // a step over an index entry whose row is not needed
)

// equalRows are the rows that agree in so many parts of an index: SQLite's own guesses, so that plans are like its own.
var equalRows = [...]float64{10, 9, 8, 7, 6, 5}

// BestIndex implements sqlite.VirtualTable.
func (t *table) BestIndex(info *sqlite.IndexInfo) error {
	rows := rowCount(t.conn.snap, t.Table)
	constraints := t.constraints(info)
	var best candidate
	paths := t.paths
	if info.NotIndexed() {
		paths = paths[:1]
	}
	for i := range paths {
		c := t.candidate(info, &t.paths[i], constraints, rows)
		if i == 0 || c.better(&best) {
			best = c
		}
	}
	if c, ok := t.hashed(info, constraints, rows); ok && c.better(&best) {
		best = c
	}
	p := best.plan
	if info.Constraints() == 0 && info.OrderBys() == 0 && info.NothingUsed() && !t.conn.filtered {
		p = plan{path: &t.paths[0], counted: true}
	}
	if best.ordered && info.Distinct() >= 2 {
		p.distinct = distinctParts(t.Table, info, p.path)
	}
	p.used = info.ColumnsUsed()
	for i := range p.filters {
		p.used |= columnBit(p.filters[i].column)
	}
	place := 0
	use := func(x *term) {
		// Rows are compared exactly as SQLite would, so it need not do it again.
		info.Use(x.constraint, place, true)
		place++
	}
	for i := range p.equal {
		use(&p.equal[i])
	}
	for _, x := range []*term{p.lower, p.upper} {
		if x != nil {
			use(x)
		}
	}
	for i := range p.filters {
		use(&p.filters[i].term)
	}
	number, ok := t.number(&p)
	if !ok {
		return errTooManyPlans
	}
	return info.SetPlan(sqlite.Plan{
		Number: number, Cost: best.cost, Rows: int64(best.rows), Ordered: best.ordered, Unique: best.unique,
	})
}

var errTooManyPlans = fmt.Errorf("more than %d plans of one table", maxPlans)

const (
	// maxPlans bounds the plans that a connection knows of a table.
	maxPlans = 1 << 14
	// maxKeptPlans bounds those that it knows of all tables when it is kept for the next statement. There is one for each set of
	// columns that is asked for, and none is forgotten while compiled statements may have it.
	maxKeptPlans = maxPlans / 8
)

// number returns the number of a plan, the same for equal ones.
func (t *table) number(p *plan) (number int, ok bool) {
	var b strings.Builder
	index := uint32(0)
	if p.path.index != nil {
		index = p.path.index.ID
	}
	fmt.Fprintf(&b, "%d %x %v %v %v %v %d", index, p.used, p.reverse, p.point, p.covered, p.counted, p.distinct)
	for _, x := range p.equal {
		fmt.Fprintf(&b, " =%d,%d", x.operator, x.conversion)
	}
	for _, x := range []*term{p.lower, p.upper} {
		if x != nil {
			fmt.Fprintf(&b, " %d,%d", x.operator, x.conversion)
		}
	}
	for _, f := range p.filters {
		fmt.Fprintf(&b, " %d=%d,%d", f.column, f.collation, f.conversion)
	}
	key := b.String()
	if n, ok := t.known[key]; ok {
		return n, true
	}
	if len(t.plans) == maxPlans {
		return 0, false
	}
	t.plans = append(t.plans, p)
	t.conn.plans++
	t.known[key] = len(t.plans) - 1
	return len(t.plans) - 1, true
}

// constraint is a constraint that could narrow a scan.
type constraint struct {
	term

	column    int // -1 is the rowid
	collation string
}

// constraints returns those constraints whose comparison a path can make.
func (t *table) constraints(info *sqlite.IndexInfo) (out []constraint) {
	for i := range info.Constraints() {
		k := info.Constraint(i)
		if !k.Usable {
			continue
		}
		c := constraint{term: term{operator: k.Operator, constraint: i}, column: plainColumn(t.Table, k.Column)}
		switch k.Operator {
		case sqlite.OpEQ, sqlite.OpIs, sqlite.OpGT, sqlite.OpGE, sqlite.OpLT, sqlite.OpLE:
			c.conversion, c.collation = info.Conversion(i), info.Collation(i)
			if !t.comparable(c.column, c.conversion) {
				continue
			}
			c.in = k.Operator == sqlite.OpEQ && info.In(i, false)
		case sqlite.OpIsNull:
		default:
			continue
		}
		out = append(out, c)
	}
	return out
}

// comparable reports whether stored values of a column are compared as they are: a conversion of the value alone makes the
// comparison that SQLite makes of both.
func (t *table) comparable(column int, conversion sqlite.Conversion) bool {
	affinity := catalog.AffinityInteger
	if column >= 0 {
		affinity = t.Columns[column].Affinity
	}
	switch affinity {
	case catalog.AffinityText:
		return conversion == sqlite.ConvertText || conversion == sqlite.ConvertNothing
	case catalog.AffinityBlob:
		return conversion == sqlite.ConvertNothing
	default:
		return conversion == sqlite.ConvertNumeric // the column's values have been converted when they were stored
	}
}

// candidate is a plan and what it costs.
type candidate struct {
	plan

	cost, rows float64
	ordered    bool
	unique     bool
}

func (c *candidate) better(than *candidate) bool {
	if c.cost != than.cost {
		return c.cost < than.cost
	}
	return c.ordered && !than.ordered
}

// find returns a constraint on a part with one of the operators.
func find(t *catalog.Table, constraints []constraint, part catalog.KeyPart, operators ...sqlite.Operator) *constraint {
	for i := range constraints {
		c := &constraints[i]
		if c.column != plainColumn(t, part.Column) ||
			c.operator != sqlite.OpIsNull && c.collation != collationName(part.Collation) {
			continue
		}
		if slices.Contains(operators, c.operator) {
			return c
		}
	}
	return nil
}

// candidate returns the best plan along a path.
func (t *table) candidate(info *sqlite.IndexInfo, p *path, constraints []constraint, total float64) candidate {
	c := candidate{plan: plan{path: p, covered: p.covers(info)}}
	used := make(map[int]bool) // constraints
	nulls, times := false, 1.0
	for _, part := range p.parts {
		k := find(t.Table, constraints, part, sqlite.OpEQ, sqlite.OpIs, sqlite.OpIsNull)
		if k == nil || used[k.constraint] {
			break
		}
		used[k.constraint] = true
		nulls = nulls || k.operator != sqlite.OpEQ
		if k.in {
			times *= 5
		}
		c.equal = append(c.equal, k.term)
	}
	c.rows = total
	n := len(c.equal)
	switch {
	case p.unique > 0 && n >= p.unique && (!nulls || p.index == nil):
		c.rows, c.unique = 1, times == 1
	case n > 0:
		c.rows = min(c.rows, equalRows[min(n, len(equalRows))-1])
	}
	// A point is read by its key alone; ordinary keys have no NULLs, so IS is as good as =.
	c.point = p.index == nil && n == len(p.parts)
	if n < len(p.parts) && !c.unique {
		c.addRange(t.Table, constraints, used)
	}
	c.rows = max(1, c.rows) * times

	perRow := 1.0
	switch {
	case p.index != nil && c.covered:
		perRow = costEntry
	case p.index != nil:
		perRow += costFetch
	}
	c.cost = c.rows*perRow + times*costSeek
	c.rows = t.filtered(constraints, used, c.rows)
	c.ordered, c.reverse = p.order(t.Table, info, n)
	if info.OrderBys() > 0 && !c.ordered {
		c.cost += c.rows // something for the sorter, so that equal costs are not: SQLite adds its own
	}
	return c
}

// hashed returns the plan that remembers rows by the values of columns that no path begins with.
func (t *table) hashed(info *sqlite.IndexInfo, constraints []constraint, rows float64) (c candidate, ok bool) {
	filters := t.filtersOf(info, constraints)
	if len(filters) == 0 || info.NotIndexed() {
		return c, false
	}
	used := make(map[int]bool)
	for _, f := range filters {
		used[f.constraint] = true
	}
	// Reading the table first is shared by all the times that it is asked again; how many, nobody tells.
	c = candidate{plan: plan{path: &t.paths[0], filters: filters}, cost: costSeek + rows/8}
	c.rows = t.filtered(constraints, used, min(rows, equalRows[0]))
	return c, true
}

func (c *candidate) addRange(t *catalog.Table, constraints []constraint, used map[int]bool) {
	part := c.path.parts[len(c.equal)]
	if k := find(t, constraints, part, sqlite.OpGT, sqlite.OpGE); k != nil && !used[k.constraint] {
		used[k.constraint] = true
		c.lower = &k.term
		c.rows /= 4
	}
	if k := find(t, constraints, part, sqlite.OpLT, sqlite.OpLE); k != nil && !used[k.constraint] {
		used[k.constraint] = true
		c.upper = &k.term
		c.rows /= 4
	}
	if c.lower != nil && c.upper != nil {
		c.rows /= 4
	}
}

// filtered guesses how many rows are left when SQLite has looked at the other constraints.
func (t *table) filtered(constraints []constraint, used map[int]bool, rows float64) float64 {
	for _, k := range constraints {
		if used[k.constraint] {
			continue
		}
		if k.operator == sqlite.OpEQ {
			rows /= 4
		} else {
			rows /= 2
		}
	}
	return max(1, rows)
}

// covers reports whether all that a statement reads is in the keys.
func (p *path) covers(info *sqlite.IndexInfo) bool {
	for column, at := range p.held {
		if at < 0 && info.Used(column) && column < 63 {
			return false
		}
	}
	return len(p.held) <= 63 || !info.Used(63)
}

// order reports whether the path is in the order wanted once its first parts have one value, and from which end.
func (p *path) order(t *catalog.Table, info *sqlite.IndexInfo, equal int) (ordered, reverse bool) {
	n := info.OrderBys()
	if n == 0 {
		return false, false
	}
	at, decided := equal, false
	for i := range n {
		o := info.OrderBy(i)
		column := plainColumn(t, o.Column)
		if p.constant(t, column, equal) {
			continue
		}
		if at == len(p.parts) {
			return false, false
		}
		part := p.parts[at]
		if plainColumn(t, part.Column) != column || column >= 0 && part.Collation != t.Columns[column].Collation {
			return false, false
		}
		backwards := o.Desc != part.Desc
		if decided && backwards != reverse {
			return false, false
		}
		reverse, decided = backwards, true
		at++
	}
	return true, reverse
}

// constant reports whether a column has one value, as it is sorted, in the rows whose first parts are equal.
func (p *path) constant(t *catalog.Table, column, equal int) bool {
	for _, part := range p.parts[:equal] {
		if plainColumn(t, part.Column) == column && (column < 0 || part.Collation == t.Columns[column].Collation) {
			return true
		}
	}
	return false
}
