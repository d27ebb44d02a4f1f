package keyread

import (
	"context"
	"strconv"
	"unicode/utf8"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/budget"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// Shape is how a table's rows appear in answers. It is immutable and may be used for as long as its table is.
type Shape struct {
	// Columns go into answers as they are; nobody changes them.
	Columns []*datav1.Column
	places  []int
}

// NewShape returns the shape of a table's rows.
func NewShape(t *catalog.Table) *Shape {
	columns, places := t.ResultColumns()
	return &Shape{Columns: columns, places: places}
}

// Row returns a row's visible values, which share no memory with row. version is that of the commit that last changed it.
func (s *Shape) Row(row rowcodec.Row, version uint64) *datav1.Row {
	values := make([]datav1.Value, len(s.places)) // one allocation for what lives and dies together
	out := &datav1.Row{Values: make([]*datav1.Value, len(s.places)), Version: version}
	for i, place := range s.places {
		v := row.Values[place]
		// ToProto copies text, but not what it passes as bytes.
		if v.Kind() == value.KindBlob || v.Kind() == value.KindText && !utf8.Valid(v.Bytes()) {
			v = v.Clone()
		}
		value.SetProto(&values[i], v)
		out.Values[i] = &values[i]
	}
	return out
}

// size is about what the row takes in an answer.
func (s *Shape) size(row rowcodec.Row) int {
	n := 16
	for _, place := range s.places {
		n += 4 + row.Values[place].Size()
	}
	return n
}

// Batch collects the rows of a BatchGet.
type Batch struct {
	shape   *Shape
	results []*datav1.BatchGetResponse_Result
	meter   budget.Meter
}

// NewBatch returns an empty batch with room for n rows of the shape, which answers the call of ctx.
func NewBatch(ctx context.Context, shape *Shape, n int) *Batch {
	return &Batch{shape: shape, meter: budget.NewMeter(ctx), results: make([]*datav1.BatchGetResponse_Result, 0, n)}
}

// Add adds the next key's row. The error is RESULT_TOO_LARGE, or OVERLOADED.
func (b *Batch) Add(row rowcodec.Row, version uint64) error {
	size := b.shape.size(row)
	if b.meter.Size()+size > MaxResponseBytes {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_RESULT_TOO_LARGE, "the rows exceed %d bytes", MaxResponseBytes).
			With("limit", strconv.Itoa(MaxResponseBytes))
	}
	if err := b.meter.Add(size); err != nil {
		return err
	}
	b.results = append(b.results, &datav1.BatchGetResponse_Result{Row: b.shape.Row(row, version)})
	return nil
}

// AddMissing says that the next key has no row.
func (b *Batch) AddMissing() {
	b.results = append(b.results, &datav1.BatchGetResponse_Result{})
}

// Response returns the answer, without its Answer field.
func (b *Batch) Response() *datav1.BatchGetResponse {
	return &datav1.BatchGetResponse{Columns: b.shape.Columns, Results: b.results}
}

// Page collects the rows of a List, in the plan's order.
type Page struct {
	plan  *ListPlan
	shape *Shape
	rows  []*datav1.Row
	bytes int
	last  []byte // position of the last row
	more  bool
}

// NewPage returns an empty page of rows of the shape.
func NewPage(plan *ListPlan, shape *Shape) *Page {
	return &Page{plan: plan, shape: shape}
}

// Add adds the next row. It returns false if the row is not added because the page is full: then it is complete and goes
// on with this row on the next one. A caller offers rows until then, or until there are none.
func (p *Page) Add(row rowcodec.Row, version uint64) bool {
	size := p.shape.size(row)
	if len(p.rows) == p.plan.Limit || len(p.rows) > 0 && p.bytes+size > MaxPageBytes {
		p.more = true
		return false
	}
	p.bytes += size
	p.rows = append(p.rows, p.shape.Row(row, version))
	p.last = p.plan.appendPosition(p.last[:0], row)
	return true
}

// Len returns how many rows the page has.
func (p *Page) Len() int { return len(p.rows) }

// Response returns the answer, without its Answer field. The error is RESULT_TOO_LARGE if there is another page and the last
// row's key is too long for a page token.
func (p *Page) Response() (*datav1.ListResponse, error) {
	res := &datav1.ListResponse{Columns: p.shape.Columns, Rows: p.rows}
	if p.more {
		var err error
		if res.NextPageToken, err = encodeToken(p.plan.hash, p.last); err != nil {
			return nil, err
		}
	}
	return res, nil
}
