package replica

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// maxOldBytes bounds what is kept of the rows that one record replaced: a delete of a whole table has a small record and
// large old rows. Of the tables beyond it the old rows are not known.
const maxOldBytes = 8 << 20

// oldRows gathers, by record of a group, the values that its rows had before it: a record tells only the new ones, and who
// reads the tail wants to know which rows left a filter. The group has the old rows at hand, for the sums.
//
// A record's old rows are, for each of its tables in their order, 0 where they are not known, else 1, then for each row that
// was there before its place among the table's rows, counted from the old row before (at least 1), and its value with its
// length, then 0. A record that only inserts has nothing at all.
type oldRows struct {
	buf  []byte
	ends []int // by record

	open      bool // a record is being added
	some      bool // of which something is to be kept
	begin     int  // where the record begins
	table     int  // where its table begins
	last      int  // one more than the place of the last old row of the table
	overflown bool
}

func (o *oldRows) clear() { *o = oldRows{buf: o.buf[:0], ends: o.ends[:0]} }

func (o *oldRows) beginRecord() { o.open, o.some, o.begin = true, false, len(o.buf) }

func (o *oldRows) beginTable() {
	o.table, o.last, o.overflown = len(o.buf), 0, false
	o.buf = append(o.buf, 1)
}

// add notes what a row was.
func (o *oldRows) add(place int, value []byte) {
	if !o.open || o.overflown {
		return
	}
	if o.overflown = len(o.buf)-o.begin+len(value) > maxOldBytes; o.overflown {
		return
	}
	o.buf = binary.AppendUvarint(o.buf, uint64(place+1-o.last))
	o.buf = binary.AppendUvarint(o.buf, uint64(len(value)))
	o.buf = append(o.buf, value...)
	o.last, o.some = place+1, true
}

func (o *oldRows) endTable(known bool) {
	if !known || o.overflown {
		o.buf, o.some = append(o.buf[:o.table], 0), true
		return
	}
	o.buf = append(o.buf, 0)
}

func (o *oldRows) endRecord() {
	if !o.some {
		o.buf = o.buf[:o.begin]
	}
	o.ends = append(o.ends, len(o.buf))
	o.open = false
}

// of returns what there is of the group's i-th record.
func (o *oldRows) of(i int) []byte {
	begin := 0
	if i > 0 {
		begin = o.ends[i-1]
	}
	return o.buf[begin:o.ends[i]]
}

// decodeOldRows sets what the rows of a record's tables were. The values share b's memory.
func decodeOldRows(b []byte, tables []TailTable) error {
	if len(b) == 0 {
		for i := range tables {
			tables[i].OldKnown = !tables[i].Replaced
		}
		return nil
	}
	r := numbers{b: b}
	for i := range tables {
		t := &tables[i]
		if t.OldKnown = r.next() == 1; !t.OldKnown {
			continue
		}
		place := uint64(0)
		for gap := r.next(); gap != 0 && !r.bad; gap = r.next() {
			value := r.bytes()
			if place += gap; r.bad || gap > uint64(len(t.Rows)) || place > uint64(len(t.Rows)) {
				return fmt.Errorf("%w: old rows", ErrCorrupt)
			}
			t.Rows[place-1].Old = value
		}
	}
	if r.bad || len(r.b) != 0 {
		return fmt.Errorf("%w: old rows of another length", ErrCorrupt)
	}
	return nil
}

// isDiverged reports whether a table is not what the primary has.
func (a *applied) isDiverged(table uint32) bool {
	_, bad := slices.BinarySearch(a.diverged, table)
	return bad
}
