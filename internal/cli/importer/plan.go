package importer

import (
	"slices"

	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// maxSegments bounds a plan's memory.
const maxSegments = 1 << 20

// segment is a run of statements in the input.
type segment struct {
	offset, end int64
	line        int // lines in front of it
}

// table is what a dump says of one table.
type table struct {
	name   string
	refers []string // the tables that its rows refer to
	rows   []segment
}

// plan is the order in which to run a dump that was written with foreign keys off. Such a dump, and every one that
// sqlite3's .dump makes is one, has its tables as they were created: rows come before the rows, and even before the tables,
// that they refer to. The primary checks foreign keys at the end of each transaction at the latest, so the tables are made
// first, then filled parents first, and the rest comes last.
type plan struct {
	schema []segment
	tables []*table // by first mention
	rest   []segment

	byName   map[string]*table
	last     *[]segment // the list that the statement before went to
	segments int
	triggers bool
}

func newPlan() *plan { return &plan{byName: make(map[string]*table)} }

// add takes the next statement in. It returns false if the statement is not one of a dump's, or if another order could
// change what it does: the dump has to run as it stands.
func (p *plan) add(s sqlsplit.Statement) bool {
	if name, refers, ok := createdTable(s.Text); ok {
		t := p.table(name)
		t.refers = append(t.refers, refers...)
		return p.put(&p.schema, s)
	}
	if name, ok := insertedTable(s.Text); ok && name != "sqlite_sequence" {
		return !p.triggers && p.put(&p.table(name).rows, s)
	}
	t := &tokens{text: s.Text}
	switch {
	case t.accept("drop"):
		return t.accept("table") && p.put(&p.schema, s)
	case t.accept("create"):
		t.accept("unique")
		if t.accept("trigger") {
			p.triggers = true
			return p.put(&p.rest, s)
		}
		return (t.accept("index") || t.accept("view")) && p.put(&p.rest, s)
	case t.accept("delete"):
		name, ok := "", t.accept("from")
		if ok {
			name, ok = t.table()
		}
		return ok && name == "sqlite_sequence" && p.put(&p.rest, s)
	default:
		_, ok := insertedTable(s.Text)
		return ok && p.put(&p.rest, s) // of sqlite_sequence, after the rows that count it up
	}
}

func (p *plan) table(name string) *table {
	t := p.byName[name]
	if t == nil {
		t = &table{name: name}
		p.byName[name] = t
		p.tables = append(p.tables, t)
	}
	return t
}

// put adds the statement to a list.
func (p *plan) put(list *[]segment, s sqlsplit.Statement) bool {
	if n := len(*list); n > 0 && p.last == list {
		(*list)[n-1].end = s.EndOffset
		return true
	}
	p.last = list
	p.segments++
	*list = append(*list, segment{offset: s.Offset, end: s.EndOffset, line: s.Line - 1})
	return p.segments <= maxSegments
}

// step is a part of a plan.
type step struct {
	segments []segment
	// whole says that the rows refer to each other in any order, so that they should be one transaction.
	whole bool
}

// steps returns the plan in order.
func (p *plan) steps() []step {
	steps := []step{{segments: p.schema}}
	waiting := slices.Clone(p.tables)
	filled := make(map[string]bool, len(waiting))
	for len(waiting) > 0 {
		next := slices.IndexFunc(waiting, func(t *table) bool {
			return !slices.ContainsFunc(t.refers, func(name string) bool {
				return name != t.name && p.byName[name] != nil && !filled[name]
			})
		})
		if next < 0 { // they refer to each other in a circle
			circle := step{whole: true}
			for _, t := range waiting {
				circle.segments = append(circle.segments, t.rows...)
			}
			steps = append(steps, circle)
			break
		}
		t := waiting[next]
		filled[t.name] = true
		steps = append(steps, step{segments: t.rows, whole: slices.Contains(t.refers, t.name)})
		waiting = slices.Delete(waiting, next, next+1)
	}
	return append(steps, step{segments: p.rest})
}
