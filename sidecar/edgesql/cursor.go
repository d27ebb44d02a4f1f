package edgesql

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// cursor reads a table of the snapshot on which its statement runs. It decodes of a row what is asked for, when it is.
type cursor struct {
	*table

	plan    *plan
	rowIter *replica.RowIter   // over the rows, once it was needed
	entries *replica.IndexIter // over the entries of entriesOf
	of      *catalog.Index

	key          []byte // of the plan's equal parts; a point's whole
	lower, upper []byte

	got       int // rows got by their keys
	seeker    *replica.RowSeeker
	buffer    []byte // of stored, as long as there is no seeker
	stored    []byte // a row that was got by its key
	row       rowcodec.Row
	decoded   bool          // row is the present one
	generated bool          // and its virtual columns are computed
	parts     []value.Value // of the present key, as far as they were needed
	rest      []byte        // of the present key, behind parts
	begun     bool          // parts and rest are the present key's

	rule     *policy.Rows // of the view; nil is all rows
	counting bool         // rows are only counted
	left     uint64       // the present one and those after it

	// With an image.
	image     *image
	keys      *keySet    // of the order
	alike     []byte     // a key of it
	rows      []uint32   // of the order; nil where the image's own is meant
	chain     *imageHash // the rows to come are those behind chained
	chainless *image     // one that has no room for them
	at        int        // the present row
	place     int        // of the next one, in the order or in the image
	togo      int        // rows to come
	step      int        // 1 or -1

	// Of plans with filters.
	wanted, found []byte // encoded values: those asked for, those of a row
	scans         int    // how often the table was read
	tooLarge      bool
	hash          *rowHash
	matches       []int32 // places in hash of the rows to come
	matching      bool    // the present row is one of hash
	present       []byte  // its key
}

// Filter implements sqlite.VirtualCursor.
func (c *cursor) Filter(number int, _ string, args sqlite.Args) (bool, error) {
	if err := c.take(); err != nil {
		return false, err
	}
	return c.see(c.start(number, args))
}

// Next implements sqlite.VirtualCursor.
func (c *cursor) Next() (bool, error) { return c.see(c.next()) }

// start goes to the first row of a plan, whether or not it is in the view.
func (c *cursor) start(number int, args sqlite.Args) (bool, error) {
	if number < 0 || number >= len(c.plans) {
		return false, fmt.Errorf("no plan %d", number)
	}
	c.plan = c.plans[number]
	c.moved()
	c.image = nil
	p := c.plan
	c.key = c.key[:0]
	for i := range p.equal {
		x, part := &p.equal[i], p.path.parts[i]
		v := args.Value(i)
		if x.operator == sqlite.OpIsNull {
			v = value.Null()
		} else if v.IsNull() && x.operator == sqlite.OpEQ {
			return false, nil // nothing equals NULL
		}
		c.key = rowcodec.AppendKeyValue(c.key, x.convert(v), part.Collation, part.Desc)
	}
	c.matching, c.counting = false, p.counted
	if p.counted {
		var err error
		c.left, err = c.conn.snap.RowCount(c.Table)
		return c.left > 0, err
	}
	img, o, err := c.useImage(p)
	if err != nil {
		return false, err
	}
	c.image = img
	if p.point {
		c.conn.rows++
		if img != nil {
			c.at, c.togo, c.chain = img.keys.find(c.key), 0, nil
			return c.at >= 0, nil
		}
		return c.get(c.key)
	}
	if len(p.filters) > 0 {
		return c.filter(args)
	}
	if !c.bounds(args) {
		return false, nil
	}
	if img != nil {
		c.rangeOf(o)
		return c.nextInImage(), nil
	}
	if err := c.seek(); err != nil {
		return false, err
	}
	return c.next()
}

// filter is Filter for plans with filters.
func (c *cursor) filter(args sqlite.Args) (bool, error) {
	if !c.wantFilters(args) {
		return false, nil
	}
	if c.image != nil {
		ok, err := c.chainOf()
		if ok || err != nil {
			return ok && c.nextInImage(), err
		}
		c.image = nil
	}
	c.lower = c.lower[:0]
	c.upper = after(c.upper[:0])
	var err error
	if c.matching, err = c.remember(); err != nil {
		return false, err
	}
	c.moved()
	if c.matching {
		c.matches = c.hash.byKey[string(c.wanted)]
		return c.next()
	}
	if err := c.seek(); err != nil {
		return false, err
	}
	return c.next()
}

// bounds sets lower and upper, and reports whether anything can be between them.
func (c *cursor) bounds(args sqlite.Args) bool {
	p := c.plan
	c.lower = append(c.lower[:0], c.key...)
	c.upper = after(append(c.upper[:0], c.key...))
	if p.lower == nil && p.upper == nil {
		return true
	}
	part := p.path.parts[len(p.equal)]
	// NULLs, the least of all values, are in no range.
	if part.Desc {
		c.upper = rowcodec.AppendKeyValue(append(c.upper[:0], c.key...), value.Null(), part.Collation, true)
	} else {
		c.lower = after(rowcodec.AppendKeyValue(c.lower, value.Null(), part.Collation, false))
	}
	at := len(p.equal)
	for _, x := range [...]*term{p.lower, p.upper} {
		if x == nil {
			continue
		}
		v := args.Value(at)
		at++
		if v.IsNull() {
			return false // no comparison with NULL is true
		}
		bound := &c.upper
		if (x == p.lower) != part.Desc {
			bound = &c.lower
		}
		*bound = rowcodec.AppendKeyValue(append((*bound)[:0], c.key...), x.convert(v), part.Collation, part.Desc)
		// Keys that begin with the bound hold the value itself.
		if (x.operator == sqlite.OpGT || x.operator == sqlite.OpLE) != part.Desc {
			*bound = after(*bound)
		}
	}
	return bytes.Compare(c.lower, c.upper) < 0
}

// after turns a key into the first one after all that begin with it. For an empty one that is the greatest there is: no encoded
// key begins with 0xff.
func after(key []byte) []byte {
	for i := len(key) - 1; i >= 0; i-- {
		if key[i]++; key[i] != 0 {
			return key[:i+1]
		}
	}
	return append(key[:0], 0xff)
}

// seek readies the iterator of the plan.
func (c *cursor) seek() (err error) {
	p := c.plan
	c.spend(p.path.number, workSeek)
	if p.path.index == nil {
		if c.rowIter != nil {
			c.rowIter.Reset(c.lower, c.upper, p.reverse)
			return nil
		}
		c.rowIter, err = c.conn.snap.NewRowIter(c.Table, c.lower, c.upper, p.reverse)
		return err
	}
	if c.entries != nil && c.of == p.path.index {
		c.entries.Reset(c.lower, c.upper, p.reverse)
		return nil
	}
	if c.entries != nil {
		if err := c.entries.Close(); err != nil {
			return err
		}
		c.entries = nil
	}
	c.of = p.path.index
	c.entries, err = c.conn.snap.NewIndexIter(c.Table, c.of, c.lower, c.upper, p.reverse)
	return err
}

// moved forgets what is known of the present row.
func (c *cursor) moved() { c.decoded, c.generated, c.begun = false, false, false }

// next goes to the next row, whether or not it is in the view.
func (c *cursor) next() (bool, error) {
	if c.counting {
		c.left--
		return c.left > 0, nil
	}
	c.moved()
	switch {
	case c.image != nil:
		return c.nextInImage(), nil
	case c.plan.point:
		return false, nil
	case c.matching:
		c.conn.rows++
		return c.nextMatch(), nil
	case c.plan.path.index == nil:
		for c.rowIter.Next() {
			c.conn.rows++
			c.spend(0, workStep)
			if len(c.plan.filters) == 0 {
				return true, nil
			}
			c.moved()
			if ok, err := c.passes(); ok || err != nil {
				return ok, err
			}
			if c.conn.rows%checkEvery == 0 && c.conn.ctx.Err() != nil {
				return false, c.conn.ctx.Err()
			}
		}
		return false, c.rowIter.Err()
	default:
		if c.entries.Next() {
			c.conn.rows++
			c.spend(c.plan.path.number, workStep)
			return true, nil
		}
		return false, c.entries.Err()
	}
}

// stopCounting goes to the row that the count is at: something of it is read after all. That is its rowid, of which SQLite tells
// nothing beforehand.
func (c *cursor) stopCounting() error {
	if !c.counting {
		return nil
	}
	total, err := c.conn.snap.RowCount(c.Table)
	if err != nil {
		return err
	}
	c.counting = false
	c.lower, c.upper = c.lower[:0], after(c.upper[:0])
	if err := c.seek(); err != nil {
		return err
	}
	for range total - c.left + 1 {
		if more, err := c.next(); err != nil || !more {
			return errors.Join(err, fmt.Errorf("%w: table %s has fewer rows than it should", replica.ErrDiverged, c.Name))
		}
	}
	return nil
}

// Column implements sqlite.VirtualCursor.
func (c *cursor) Column(r sqlite.Result, i int) error {
	if i < 0 || i >= len(c.Columns) {
		return fmt.Errorf("no column %d", i)
	}
	if err := c.stopCounting(); err != nil {
		return err
	}
	if i == c.IntegerKey {
		rowid, err := c.Rowid()
		if err != nil {
			return err
		}
		return r.Value(value.Integer(rowid))
	}
	if c.image != nil && c.image.held&columnBit(i) != 0 {
		return r.Value(c.image.columns[i].value(c.at))
	}
	if p := c.plan.path; c.image == nil && p.index != nil && !c.decoded && p.held[i] >= 0 {
		part := p.held[i]
		v, err := c.part(part)
		if err != nil {
			return err
		}
		if v, exact := asStored(&c.Columns[i], p.parts[part], v); exact {
			return r.Value(v)
		}
	}
	if err := c.load(); err != nil {
		return err
	}
	if c.Columns[i].Generated == catalog.GeneratedVirtual {
		if err := c.generate(); err != nil {
			return err
		}
	}
	return r.Value(c.row.Values[i])
}

// asStored returns a column's value for what its key part decodes to; exact is false where two values have the same key.
func asStored(c *catalog.Column, part catalog.KeyPart, v value.Value) (_ value.Value, exact bool) {
	switch v.Kind() {
	case value.KindText:
		return v, part.Collation == catalog.CollationBinary
	case value.KindInteger:
		switch c.Affinity {
		case catalog.AffinityInteger, catalog.AffinityNumeric:
			// The least integer is the one that a column of these keeps as a real too.
			return v, v.Integer() != math.MinInt64
		case catalog.AffinityReal:
			return value.Real(float64(v.Integer())), v.Integer() != 0 // 0.0 or -0.0
		default:
			return v, false // an integer or a real
		}
	default:
		return v, true
	}
}

// Rowid implements sqlite.VirtualCursor.
func (c *cursor) Rowid() (int64, error) {
	if err := c.stopCounting(); err != nil {
		return 0, err
	}
	if c.image != nil && c.image.rowids != nil {
		return c.image.rowids[c.at], nil
	}
	p := c.plan.path
	if c.decoded || p.rowid < 0 || c.image != nil {
		err := c.load()
		return c.row.Rowid, err
	}
	v, err := c.part(p.rowid)
	if err != nil {
		return 0, err
	}
	if v.Kind() != value.KindInteger {
		return 0, fmt.Errorf("%w: table %s has a key that is no rowid", replica.ErrCorrupt, c.Name)
	}
	return v.Integer(), nil
}

// part decodes a part of the present key.
func (c *cursor) part(i int) (value.Value, error) {
	if !c.begun {
		c.parts, c.rest, c.begun = c.parts[:0], c.presentKey(), true
	}
	for len(c.parts) <= i {
		v, rest, err := rowcodec.DecodeKeyValue(c.rest, c.plan.path.parts[len(c.parts)].Desc)
		if err != nil {
			return v, fmt.Errorf("table %s: %w", c.Name, err)
		}
		c.parts, c.rest = append(c.parts, v), rest
	}
	return c.parts[i], nil
}

func (c *cursor) presentKey() []byte {
	switch {
	case c.plan.point:
		return c.key
	case c.matching:
		return c.present
	case c.plan.path.index == nil:
		return c.rowIter.Key()
	default:
		return c.entries.Key()
	}
}

// load decodes the present row.
func (c *cursor) load() (err error) {
	if c.decoded {
		return nil
	}
	key, stored := c.key, c.stored
	switch {
	case c.image != nil:
		// A column that SQLite did not say it would read.
		c.present = c.image.keys.appendKey(c.present[:0], c.at)
		key = c.present
		ok, err := c.get(key)
		if err != nil || !ok {
			return errors.Join(err, fmt.Errorf("%w: table %s has no row that its image has", replica.ErrCorrupt, c.Name))
		}
		stored = c.stored
	case c.plan.point:
	case c.matching:
		key = c.present
	case c.plan.path.index == nil:
		key = c.rowIter.Key()
		if stored, _, err = c.rowIter.Value(); err != nil {
			return err
		}
	default:
		if key, err = c.entries.RowKey(); err != nil {
			return err
		}
		ok, err := c.get(key)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%w: index %s of table %s has an entry without a row", replica.ErrCorrupt, c.of.Name, c.Name)
		}
		stored = c.stored
	}
	if err := rowcodec.DecodeRowInto(&c.row, c.Table, key, stored); err != nil {
		return err
	}
	c.decoded = true
	return nil
}

// seekAfter is how many rows are got one by one before a seeker is worth its making.
const seekAfter = 2

// get reads the row with a key into stored.
func (c *cursor) get(key []byte) (ok bool, err error) {
	c.spend(c.plan.path.number, workSeek)
	if c.got++; c.got <= seekAfter {
		c.buffer, ok, err = c.conn.snap.AppendRow(c.buffer[:0], c.Table, key)
		c.stored = c.buffer
		return ok, err
	}
	if c.seeker == nil {
		if c.seeker, err = c.conn.snap.NewRowSeeker(c.Table); err != nil {
			return false, err
		}
	}
	c.stored, ok, err = c.seeker.Seek(key)
	return ok, err
}

// Close implements sqlite.VirtualCursor.
func (c *cursor) Close() {
	var errs []error
	if c.seeker != nil {
		errs = append(errs, c.seeker.Close())
	}
	if c.rowIter != nil {
		errs = append(errs, c.rowIter.Close())
	}
	if c.entries != nil {
		errs = append(errs, c.entries.Close())
	}
	c.rowIter, c.entries, c.seeker = nil, nil, nil
	if err := errors.Join(errs...); err != nil {
		c.conn.closing = errors.Join(c.conn.closing, err)
	}
}
