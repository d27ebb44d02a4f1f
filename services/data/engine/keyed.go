package engine

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/keyread"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// keyedRead writes the SQL of a plan of package keyread.
type keyedRead struct {
	table  *catalog.Table
	rowid  string
	terms  []string
	params []value.Value
	order  []string
	limit  int
}

// Get reads the row that a plan names; ok is false if there is none. version is that of the row's last change, 0 where a
// newer commit already hid it.
func (v *View) Get(p *keyread.GetPlan) (row rowcodec.Row, version uint64, ok bool, err error) {
	if p.Never {
		return row, 0, false, nil
	}
	q := newKeyedRead(p.Table)
	for i, part := range p.Parts {
		q.termf("%s = %s", q.expr(part), q.param(p.Values[i]))
	}
	err = v.keyed(q, func(r rowcodec.Row, n uint64) bool {
		row, version, ok = r, n, true
		return false
	})
	return row, version, ok, err
}

// List calls f for the rows of a plan in its order, until f returns false.
// Only the rows of the filter are there; nil is all.
func (v *View) List(p *keyread.ListPlan, visible *policy.Rows, f func(row rowcodec.Row, version uint64) bool) error {
	q := newKeyedRead(p.Table)
	for i, x := range p.Prefix {
		q.termf("%s IS %s", q.expr(p.Order[i]), q.param(x))
	}
	if visible != nil {
		some := visible.Conditions(func(column int, text string) {
			name := quote(p.Table.Columns[column].Name)
			q.termf("typeof(%s) = 'text' AND %s = %s COLLATE BINARY", name, name, q.param(value.Text(text)))
		})
		if !some {
			q.terms = append(q.terms, "0")
		}
	}
	rest := p.Order[len(p.Prefix):]
	if p.Start != nil {
		q.terms = append(q.terms, q.beyond(rest[:len(p.Start)], p.Start, true, !p.StartExclusive))
	}
	if p.End != nil {
		q.terms = append(q.terms, q.beyond(rest[:len(p.End)], p.End, false, !p.EndExclusive))
	}
	all := append(append([]catalog.KeyPart(nil), p.Order...), p.Tie...)
	if p.After != nil {
		q.terms = append(q.terms, q.beyond(all, p.After, !p.Reverse, false))
	}
	for _, part := range all {
		direction := " ASC"
		if part.Desc != p.Reverse {
			direction = " DESC"
		}
		q.order = append(q.order, q.expr(part)+direction)
	}
	q.limit = p.Limit + 1 // one more tells whether there is another page
	return v.keyed(q, f)
}

func newKeyedRead(t *catalog.Table) *keyedRead {
	return &keyedRead{table: t, rowid: rowidName(t)}
}

func (q *keyedRead) termf(format string, args ...any) {
	q.terms = append(q.terms, fmt.Sprintf(format, args...))
}

func (q *keyedRead) expr(part catalog.KeyPart) string {
	if part.Column < 0 {
		return q.rowid
	}
	return quote(q.table.Columns[part.Column].Name) + " COLLATE " + collationName(part.Collation)
}

func (q *keyedRead) param(v value.Value) string {
	q.params = append(q.params, v)
	return "?" + strconv.Itoa(len(q.params))
}

// beyond is the condition that a row's tuple of parts is after (or before) the tuple of values in the order of the parts,
// or equal to it. NULL is a value that comes first, which SQL's comparisons do not know.
func (q *keyedRead) beyond(parts []catalog.KeyPart, values []value.Value, after, orEqual bool) string {
	var equal, ways []string
	for i, part := range parts {
		way := q.past(part, values[i], after != part.Desc)
		if way != "" {
			ways = append(ways, conjunction(append(slices.Clip(equal), way)))
		}
		if i < len(parts)-1 || orEqual { // a parameter that no term uses cannot be bound
			equal = append(equal, q.expr(part)+" IS "+q.param(values[i]))
		}
	}
	if orEqual {
		ways = append(ways, conjunction(equal))
	}
	if len(ways) == 0 {
		return "0"
	}
	return "(" + strings.Join(ways, " OR ") + ")"
}

// past is the condition that a column is greater (or smaller) than a value; "" for never.
func (q *keyedRead) past(part catalog.KeyPart, v value.Value, greater bool) string {
	e := q.expr(part)
	switch {
	case v.IsNull() && greater:
		return e + " IS NOT NULL"
	case v.IsNull():
		return ""
	case greater:
		return e + " > " + q.param(v)
	default:
		return "(" + e + " < " + q.param(v) + " OR " + e + " IS NULL)"
	}
}

func conjunction(terms []string) string { return "(" + strings.Join(terms, " AND ") + ")" }

// keyed runs the SQL and calls f for each row until it returns false.
func (v *View) keyed(q *keyedRead, f func(rowcodec.Row, uint64) bool) error {
	a := &access{table: q.table}
	selected := []string{orNull(q.rowid)}
	if q.table.WithoutRowid {
		selected[0] = "NULL"
	}
	for i := range q.table.Columns {
		selected = append(selected, quote(q.table.Columns[i].Name))
	}
	sql := "SELECT " + strings.Join(selected, ", ") + " FROM main." + quote(q.table.Name)
	if len(q.terms) > 0 {
		sql += " WHERE " + strings.Join(q.terms, " AND ")
	}
	if len(q.order) > 0 {
		sql += " ORDER BY " + strings.Join(q.order, ", ")
	}
	if q.limit > 0 {
		sql += " LIMIT " + strconv.Itoa(q.limit)
	}
	enough := false
	err := v.r.rows(sql, q.params, func(st *sqlite.Stmt) error {
		row := a.row(st)
		version, err := v.rowVersion(q.table, row)
		if err != nil {
			return err
		}
		if enough = !f(row, version); enough {
			return errEnough
		}
		return nil
	})
	if enough {
		return nil
	}
	if isInterrupt(err) && v.r.ctx.Err() != nil {
		return interruptedError(v.r.ctx)
	}
	return err
}

var errEnough = errors.New("enough rows")

// rowVersion looks a row's version up in the log, which may be newer than the view.
func (v *View) rowVersion(t *catalog.Table, row rowcodec.Row) (uint64, error) {
	version, err := v.db.log.RowVersion(v.db.id, t.ID, rowcodec.AppendRowKey(nil, t, row))
	if version > v.head.Version {
		return 0, err
	}
	return version, err
}
