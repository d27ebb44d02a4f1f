package edgesql

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// image is what a table has at one state of its database, decoded: its rows in the order of their keys, column by column. It
// is for all statements whose snapshots have the table as it was then. What there is does not change; orders and hashes come
// when they are wanted.
type image struct {
	reading stamp.Reading
	held    uint64   // columns, as in plan.used
	keys    keySet   // of the rows
	rowids  []int64  // nil where rows have none
	columns []vector // by place in the table; without values where not held

	orders []atomic.Pointer[order] // of the table's paths; none of the first
	hashes atomic.Pointer[[]*imageHash]

	mu   sync.Mutex // of those who add hashes
	size int64      // guarded by images.mu
}

// order is the order of an index.
type order struct {
	keys keySet // of the entries
	rows []uint32
}

// vector is the values of a column.
type vector struct {
	kinds []value.Kind // nil where all are of kind
	kind  value.Kind
	nums  []uint64 // an integer, the bits of a real, or where text or a blob is in bytes: its end, and its length below
	bytes []byte
}

// Text and blobs have their end in the upper bits and their length in the lower ones.
const lengthBits = 32

func (v *vector) add(x value.Value) (ok bool) {
	if n := len(v.nums); n == 0 {
		v.kind = x.Kind()
	} else if v.kinds == nil && x.Kind() != v.kind {
		v.kinds = make([]value.Kind, n, cap(v.nums))
		for i := range v.kinds {
			v.kinds[i] = v.kind
		}
	}
	if v.kinds != nil {
		v.kinds = append(v.kinds, x.Kind())
	}
	num := x.Bits()
	if x.Kind() == value.KindText || x.Kind() == value.KindBlob {
		if len(x.Bytes()) > maxKeyBytes-len(v.bytes) {
			return false
		}
		v.bytes = append(v.bytes, x.Bytes()...)
		num = uint64(len(v.bytes))<<lengthBits | uint64(len(x.Bytes()))
	}
	v.nums = append(v.nums, num)
	return true
}

// value returns value i. It shares the image's memory.
func (v *vector) value(i int) value.Value {
	kind := v.kind
	if v.kinds != nil {
		kind = v.kinds[i]
	}
	num := v.nums[i]
	switch kind {
	case value.KindText, value.KindBlob:
		end, length := num>>lengthBits, num&(1<<lengthBits-1)
		b := v.bytes[end-length : end : end]
		if kind == value.KindText {
			return value.TextBytes(b)
		}
		return value.Blob(b)
	default:
		return value.FromBits(kind, num)
	}
}

func (v *vector) size() int { return cap(v.kinds) + 8*cap(v.nums) + cap(v.bytes) }

// columnBit is a column's bit in a set of columns: the last one stands for all that have no bit of their own, as in SQLite.
func columnBit(column int) uint64 { return 1 << min(column, 63) }

// has reports whether the image holds all columns of a set.
func (img *image) has(columns uint64) bool { return columns&^img.held == 0 }

var (
	errImageTooLarge = errors.New("the image of the table is too large")
	errImageOutdated = errors.New("it is not known what state the snapshot has")
)

// checkEvery is how many rows are read between looks at whether somebody still wants them.
const checkEvery = 1024

// newImage reads an image of a table with the columns of a set; limit is how many bytes it may take.
func newImage(
	ctx context.Context, snap *replica.Snapshot, t *catalog.Table, paths int, held uint64, limit int64,
) (_ *image, err error) {
	img := &image{
		reading: snap.Reading(), held: held, columns: make([]vector, len(t.Columns)), orders: make([]atomic.Pointer[order], paths),
	}
	if img.reading == (stamp.Reading{}) {
		return nil, errImageOutdated
	}
	rows, err := snap.RowCount(t)
	if err != nil {
		return nil, err
	}
	const perKey = 16
	if least := int64(rows) * int64(perKey+8*bits.OnesCount64(held)); least > limit {
		return nil, errImageTooLarge
	}
	keys := keyList{ends: make([]uint32, 0, rows)}
	if !t.WithoutRowid {
		img.rowids = make([]int64, 0, rows)
	}
	holds := make([]int, 0, len(t.Columns))
	for i := range img.columns {
		if i != t.IntegerKey && held&columnBit(i) != 0 {
			holds = append(holds, i)
			img.columns[i].nums = make([]uint64, 0, rows)
		}
	}
	iter, err := snap.NewRowIter(t, nil, nil, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	var row rowcodec.Row
	for n := 1; iter.Next(); n++ {
		stored, _, err := iter.Value()
		if err != nil {
			return nil, err
		}
		if err := rowcodec.DecodeRowInto(&row, t, iter.Key(), stored); err != nil {
			return nil, err
		}
		ok := keys.add(iter.Key())
		if img.rowids != nil {
			img.rowids = append(img.rowids, row.Rowid)
		}
		for _, i := range holds {
			ok = img.columns[i].add(row.Values[i]) && ok
		}
		if n%checkEvery == 0 {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			ok = ok && int64(len(keys.whole))+img.dataSize() <= limit
		}
		if !ok {
			return nil, errImageTooLarge
		}
	}
	if err := iter.Err(); err != nil {
		return nil, err
	}
	img.keys = keys.set()
	img.size = img.dataSize() + int64(img.keys.size())
	if img.size > limit {
		return nil, errImageTooLarge
	}
	return img, nil
}

// dataSize is the memory that what is in the image takes, without keys, orders and hashes.
func (img *image) dataSize() int64 {
	n := 8*cap(img.rowids) + 512
	for i := range img.columns {
		n += img.columns[i].size()
	}
	return int64(n)
}

// newOrder reads the order of an index for an image that the snapshot's table is like.
func (img *image) newOrder(
	ctx context.Context, snap *replica.Snapshot, t *catalog.Table, ix *catalog.Index, limit int64,
) (_ *order, err error) {
	rows := img.keys.len()
	const perEntry = 16
	if int64(rows)*perEntry > limit {
		return nil, errImageTooLarge
	}
	keys := keyList{ends: make([]uint32, 0, rows)}
	o := &order{rows: make([]uint32, 0, rows)}
	iter, err := snap.NewIndexIter(t, ix, nil, nil, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for iter.Next() {
		key, err := iter.RowKey()
		if err != nil {
			return nil, err
		}
		at := img.keys.find(key)
		if at < 0 {
			return nil, fmt.Errorf("%w: index %s of table %s has an entry without a row", replica.ErrCorrupt, ix.Name, t.Name)
		}
		if len(o.rows)%checkEvery == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !keys.add(iter.Key()) || int64(len(keys.whole)) > limit {
			return nil, errImageTooLarge
		}
		o.rows = append(o.rows, uint32(at))
	}
	if err := iter.Err(); err != nil {
		return nil, err
	}
	o.keys = keys.set()
	if o.size() > limit {
		return nil, errImageTooLarge
	}
	return o, nil
}

func (o *order) size() int64 { return int64(o.keys.size() + 4*cap(o.rows)) }

// imageHash are an image's rows by the values of some columns.
type imageHash struct {
	filters []filter
	first   map[string]int32 // values → the first row
	next    []int32          // row → the next one with the same values, or -1
	size    int64
}

// hash returns the rows by the columns of filters, or nil.
func (img *image) hash(filters []filter) *imageHash {
	hashes := img.hashes.Load()
	if hashes == nil {
		return nil
	}
	for _, h := range *hashes {
		if sameColumns(h.filters, filters) {
			return h
		}
	}
	return nil
}

func sameColumns(a, b []filter) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].column != b[i].column || a[i].collation != b[i].collation {
			return false
		}
	}
	return true
}

// newHash makes the rows by the columns of filters, which the image must hold.
func (img *image) newHash(ctx context.Context, filters []filter) (*imageHash, error) {
	rows := img.keys.len()
	h := &imageHash{filters: filters, first: make(map[string]int32), next: make([]int32, rows)}
	const perKey = 48 // of the map
	h.size = int64(4 * rows)
	var key []byte
	for i := rows - 1; i >= 0; i-- {
		if i%checkEvery == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		key = key[:0]
		for f := range filters {
			key = rowcodec.AppendKeyValue(key, img.columns[filters[f].column].value(i), filters[f].collation, false)
		}
		next, found := h.first[string(key)]
		if !found {
			next = -1
			h.size += int64(len(key) + perKey)
		}
		h.first[string(key)], h.next[i] = int32(i), next
	}
	return h, nil
}
