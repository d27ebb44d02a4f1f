package keyread

import (
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// ListPlan names a run of rows in the order of Order, then Tie, or the other way round.
//
// NULL is a value like any other here: it comes before all others in ascending order, and a NULL in Prefix selects the rows
// that have NULL there (IS, not =).
type ListPlan struct {
	Table *catalog.Table
	// Index is the index to follow; nil is the row's key.
	Index *catalog.Index
	// Order is the index's columns, or the row key's.
	Order []catalog.KeyPart
	// Tie is the row key's columns, which order the rows that Order leaves equal; nil without an index.
	Tie []catalog.KeyPart

	// Prefix is what the first columns of Order must be.
	Prefix []value.Value
	// Start and End bound the columns of Order after the prefix; nil is no bound. A bound of fewer values than columns
	// stands before all rows that begin with them (Start, exclusive End) or after them (End, exclusive Start). They follow
	// the order of Order: for a descending column Start is the greater value.
	Start, End                   []value.Value
	StartExclusive, EndExclusive bool
	// Reverse goes from the last row to the first. Start and End keep their meaning.
	Reverse bool

	// Limit is how many rows the page may have.
	Limit int
	// After is the values of Order and Tie of the last row of the page before, as they are stored; nil for the first page.
	After []value.Value

	hash requestHash
}

// PlanList plans a List. Errors are TABLE_NOT_FOUND, INDEX_NOT_FOUND, FIELD_INVALID and PAGE_TOKEN_INVALID.
func PlanList(cat *catalog.Catalog, req *datav1.ListRequest) (*ListPlan, error) {
	t, err := Table(cat, req.GetTable())
	if err != nil {
		return nil, err
	}
	p := &ListPlan{
		Table: t, Reverse: req.GetReverse(), Limit: DefaultPageSize, hash: hashRequest(req),
	}
	p.Order, p.Index = t.PrimaryKey()
	if name := req.GetIndex(); name != "" {
		p.Index = t.IndexByName(name)
		if p.Index == nil {
			return nil, indexNotFound(t, name, "no such index")
		}
		p.Order = p.Index.Parts
	}
	if p.Index != nil {
		p.Tie = t.KeyColumns()
	}
	if err := p.setRange(req); err != nil {
		return nil, err
	}
	if n := req.GetPageSize(); n > MaxPageSize {
		return nil, rpcerr.InvalidField("page_size", "must be at most %d", MaxPageSize)
	} else if n > 0 {
		p.Limit = int(n)
	}
	if token := req.GetPageToken(); token != "" {
		p.After, err = decodeToken(token, p.hash, len(p.Order)+len(p.Tie))
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *ListPlan) setRange(req *datav1.ListRequest) error {
	n := len(req.GetPrefix())
	if n > len(p.Order) {
		return rpcerr.InvalidField("prefix", "has %d values for %d columns", n, len(p.Order))
	}
	p.Prefix = operands(p.Table, p.Order, req.GetPrefix())
	rest := p.Order[n:]
	bound := func(path string, b *datav1.ListRequest_Bound) ([]value.Value, error) {
		switch {
		case b == nil:
			return nil, nil
		case len(b.GetValues()) == 0:
			return nil, rpcerr.InvalidField(path, "must have a value")
		case len(b.GetValues()) > len(rest):
			return nil, rpcerr.InvalidField(path, "has %d values for the %d columns after the prefix",
				len(b.GetValues()), len(rest))
		}
		return operands(p.Table, rest, b.GetValues()), nil
	}
	var err error
	if p.Start, err = bound("start.values", req.GetStart()); err != nil {
		return err
	}
	if p.End, err = bound("end.values", req.GetEnd()); err != nil {
		return err
	}
	p.StartExclusive, p.EndExclusive = req.GetStart().GetExclusive(), req.GetEnd().GetExclusive()
	return nil
}

// appendPosition appends a row's values of Order and Tie, as a page token has them.
func (p *ListPlan) appendPosition(dst []byte, row rowcodec.Row) []byte {
	for _, parts := range [2][]catalog.KeyPart{p.Order, p.Tie} {
		for _, part := range parts {
			v := value.Integer(row.Rowid)
			if part.Column >= 0 && part.Column != p.Table.IntegerKey {
				v = row.Values[part.Column]
			}
			dst = appendValue(dst, v)
		}
	}
	return dst
}
