package policy

import (
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/value"
)

// Rows is a Filter of one table as it is now. It is immutable; nil is all rows.
type Rows struct {
	terms []columnTerm
	none  bool // no row is in it
}

type columnTerm struct {
	column int
	value  string
}

// Of returns the filter for a table. Where the table has no such column, or one whose values are not kept, no row is in it: nobody
// knows whose they are.
func (f *Filter) Of(t *catalog.Table) *Rows {
	if f == nil {
		return nil
	}
	r := &Rows{}
	for _, term := range f.Terms {
		i := t.ColumnByName(term.Column)
		if i < 0 || t.Columns[i].Generated == catalog.GeneratedVirtual || term.Value == "" {
			return &Rows{none: true}
		}
		r.terms = append(r.terms, columnTerm{column: i, value: term.Value})
	}
	return r
}

// Has reports whether a row with the values of the table's columns is in it.
func (r *Rows) Has(values []value.Value) bool {
	if r == nil {
		return true
	}
	if r.none {
		return false
	}
	for i := range r.terms {
		t := &r.terms[i]
		if t.column >= len(values) {
			return false
		}
		if v := values[t.column]; v.Kind() != value.KindText || string(v.Bytes()) != t.value {
			return false
		}
	}
	return true
}

// Conditions calls f for each comparison that a row has to pass; it is false where no row can.
func (r *Rows) Conditions(f func(column int, value string)) bool {
	if r.none {
		return false
	}
	for _, t := range r.terms {
		f(t.column, t.value)
	}
	return true
}

// Equal reports whether two filters let the same rows through.
func (f *Filter) Equal(o *Filter) bool {
	if f == nil || o == nil {
		return f == o
	}
	if len(f.Terms) != len(o.Terms) {
		return false
	}
	for i := range f.Terms {
		if f.Terms[i] != o.Terms[i] {
			return false
		}
	}
	return true
}
