package watch

import (
	"fmt"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// changesField is the number of WatchResponse.changes.
const changesField = 2

// record is a commit as watchers share it.
type record struct {
	*replica.TailRecord

	tables []*table // as in TailRecord
}

func newRecord(r *replica.TailRecord) *record {
	rec := &record{TailRecord: r, tables: make([]*table, len(r.Tables))}
	for i := range r.Tables {
		rec.tables[i] = &table{TailTable: &r.Tables[i], version: r.Version}
	}
	return rec
}

// table is what a commit did to a table. It is decoded once, by the first who needs it.
type table struct {
	*replica.TailTable

	version uint64
	once    sync.Once
	schema  *schema // that rows were decoded with
	rows    []row
	err     error
}

// row is a row that a commit touched.
type row struct {
	key      []byte
	now, old *rowcodec.Row // nil where it is not there
	put      change        // unless now is nil
	gone     change        // that it is deleted, or has left what is watched
}

// change is one as it is sent: as a message, and encoded as an element of WatchResponse.changes.
type change struct {
	message *datav1.WatchResponse_Change
	encoded []byte
}

// decode returns the table's rows.
func (t *table) decode(s *schema) ([]row, error) {
	t.once.Do(func() {
		t.schema = s
		t.rows, t.err = decodeRows(t.TailTable, s, t.version)
	})
	if t.schema.print != s.print {
		return decodeRows(t.TailTable, s, t.version) // whoever came first took the table for another
	}
	return t.rows, t.err
}

func decodeRows(t *replica.TailTable, s *schema, version uint64) ([]row, error) {
	rows := make([]row, len(t.Rows))
	for i := range t.Rows {
		if err := rows[i].decode(&t.Rows[i], t.OldKnown, s, version); err != nil {
			return nil, fmt.Errorf("record %d: %w", version, err)
		}
	}
	return rows, nil
}

func (r *row) decode(in *replica.TailRow, oldKnown bool, s *schema, version uint64) error {
	r.key = in.Key
	var err error
	if r.now, err = decodeRow(s.table, in.Key, in.Value); err != nil {
		return err
	}
	if r.old, err = decodeRow(s.table, in.Key, in.Old); err != nil {
		return err
	}
	if r.now != nil {
		r.put, err = newChange(&datav1.WatchResponse_Change{Key: keyOf(s.table, r.now), Row: s.shape.Row(*r.now, version)})
		if err != nil {
			return err
		}
	}
	gone := &datav1.WatchResponse_Change{Left: r.now != nil}
	switch {
	case r.old != nil:
		gone.Key = keyOf(s.table, r.old)
	case r.now == nil && !oldKnown:
		if gone.Key, err = decodeKey(s.table, in.Key); err != nil {
			return err
		}
	default:
		return nil // nobody can have it
	}
	r.gone, err = newChange(gone)
	return err
}

func decodeRow(t *catalog.Table, key, val []byte) (*rowcodec.Row, error) {
	if val == nil {
		return nil, nil
	}
	r := new(rowcodec.Row)
	return r, rowcodec.DecodeRowInto(r, t, key, val)
}

// keyOf returns the values of the row's key.
func keyOf(t *catalog.Table, r *rowcodec.Row) []*datav1.Value {
	var key []*datav1.Value
	for _, part := range t.KeyColumns() {
		v := value.Integer(r.Rowid)
		if part.Column >= 0 && part.Column != t.IntegerKey {
			v = r.Values[part.Column]
		}
		key = append(key, value.ToProto(v))
	}
	return key
}

// decodeKey returns the values of an encoded key: equal to the row's in their columns' collations, though not always the same.
func decodeKey(t *catalog.Table, b []byte) ([]*datav1.Value, error) {
	var key []*datav1.Value
	for _, part := range t.KeyColumns() {
		v, rest, err := rowcodec.DecodeKeyValue(b, part.Desc)
		if err != nil {
			return nil, err
		}
		key, b = append(key, value.ToProto(v)), rest
	}
	return key, nil
}

func newChange(m *datav1.WatchResponse_Change) (change, error) {
	size := proto.Size(m)
	b := make([]byte, 0, size+8)
	b = protowire.AppendTag(b, changesField, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
	return change{message: m, encoded: b}, err
}

// match returns the row's change for a watcher; ok is false if there is none.
func (r *row) match(w *target, scratch []byte) (c change, ok bool) {
	if !w.inRange(r.key) {
		return change{}, false
	}
	if r.now != nil && w.equals(r.now, scratch) {
		return r.put, true
	}
	if w.selects() && (r.old == nil || !w.equals(r.old, scratch)) {
		return change{}, false
	}
	return r.gone, r.gone.message != nil
}
