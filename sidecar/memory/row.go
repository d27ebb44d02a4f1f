package memory

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// shape is the columns of a table, which its rows share.
type shape struct {
	columns []*datav1.Column
	wire    []byte // as field 1 of an answer, repeated
}

// Fields of the answers: all have their columns in 1, and GetResponse its row, ListResponse its rows in 2.
const (
	fieldColumns protowire.Number = 1
	fieldRow     protowire.Number = 2
)

// shapeOf returns the shape with these columns. Columns are compared by identity: those of one table at one schema are the
// same slice.
func (c *Cache) shapeOf(u *usage, columns []*datav1.Column) (*shape, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(columns) == 0 {
		return &shape{}, nil
	}
	if s, ok := u.shapes[columns[0]]; ok {
		return s, nil
	}
	s := &shape{columns: columns}
	for _, column := range columns {
		b, err := proto.Marshal(column)
		if err != nil {
			return nil, fmt.Errorf("encode column: %w", err)
		}
		s.wire = protowire.AppendBytes(protowire.AppendTag(s.wire, fieldColumns, protowire.BytesType), b)
	}
	if u.shapes == nil || len(u.shapes) >= maxShapes {
		u.shapes = make(map[*datav1.Column]*shape)
	}
	u.shapes[columns[0]] = s
	return s, nil
}

// Row is a row in memory, or that there is none.
type Row struct{ *entry }

// AppendGetResponse appends the wire form of a GetResponse with the row, but without its answer: whoever appends that as
// field 3 has a whole GetResponse.
func (r Row) AppendGetResponse(dst []byte) []byte {
	dst = append(dst, r.shape.wire...)
	if r.data == nil {
		return dst
	}
	return protowire.AppendBytes(protowire.AppendTag(dst, fieldRow, protowire.BytesType), r.data)
}

// Size is about what the row takes in an answer; 0 for the zero Row.
func (r Row) Size() int {
	if r.entry == nil {
		return 0
	}
	return len(r.data)
}

// Columns returns the table's columns, which nobody changes.
func (r Row) Columns() []*datav1.Column { return r.shape.columns }

// Wire returns the wire form of the datav1.Row, which nobody changes; nil where there is no row.
func (r Row) Wire() []byte { return r.data }

// Decode returns the row, which is the caller's; nil where there is none.
func (r Row) Decode() (*datav1.Row, error) {
	if r.data == nil {
		return nil, nil //nolint:nilnil // there is no row
	}
	row := new(datav1.Row)
	if err := proto.Unmarshal(r.data, row); err != nil {
		return nil, fmt.Errorf("decode row in memory: %w", err)
	}
	return row, nil
}

// appendRowKey appends the key of an entry. The wire form of the datav1.Key is the one that the caller sent: another form of
// the same key is another entry of the same row.
func appendRowKey[T ~string | ~[]byte](dst []byte, database uint32, table T, key []byte) []byte {
	dst = binary.AppendUvarint(appendKey(dst, KindRow, database), uint64(len(table)))
	return append(append(dst, table...), key...)
}

// Lookup answers a Get of a database from memory: table is the table's name as the request has it, and key the wire form of the
// request's datav1.Key, both as they were received; a request that is found was valid before. now is the stamp of a
// replica.Moment of the database that was taken before, and the row is what the copy has at that very moment, so the answer
// carries the moment's bookmark. ok is false for a miss. It allocates nothing for keys of up to 200 bytes.
func (c *Cache) Lookup(now stamp.Stamp, database uint32, table, key []byte) (r Row, ok bool) {
	return lookup(c, now, database, table, key)
}

// LookupKey is Lookup for a request that was decoded; key is of EncodeKey.
func (c *Cache) LookupKey(now stamp.Stamp, database uint32, table string, key []byte) (r Row, ok bool) {
	return lookup(c, now, database, table, key)
}

// EncodeKey returns the usual wire form of a key.
func EncodeKey(key *datav1.Key) ([]byte, error) {
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return wire, nil
}

// RowKey returns what identifies a row's entry among all entries.
func RowKey(database uint32, table string, key []byte) string {
	return string(appendRowKey(nil, database, table, key))
}

func lookup[T ~string | ~[]byte](c *Cache, now stamp.Stamp, database uint32, table T, key []byte) (r Row, ok bool) {
	if c == nil {
		return r, false
	}
	var buf [256]byte
	e := c.find(KindRow, appendRowKey(buf[:0], database, table, key), now)
	return Row{e}, e != nil
}

// KeepRow keeps the answer to a Get, as it was read. The row may be nil: there is none. A row depends on slot, which is that of
// its own key, or of its table for a look-up in vain by an index. Columns are kept as they are. ok is false where nothing can be
// kept; a row that is returned may be used even if the cache has no room for it.
func (c *Cache) KeepRow(
	reading stamp.Reading, slot stamp.Slot, database uint32, table string, key []byte, columns []*datav1.Column, row *datav1.Row,
) (r Row, ok bool) {
	if c == nil || reading.Until == 0 {
		return Row{}, false
	}
	e := &entry{
		key: string(appendRowKey(nil, database, table, key)), reading: reading, slots: [1]stamp.Slot{slot},
		kind: KindRow, database: database,
	}
	var err error
	if e.shape, err = c.shapeOf(c.usage(database), columns); err != nil {
		return Row{}, false
	}
	if row != nil {
		options := proto.MarshalOptions{}
		if e.data, err = options.MarshalAppend(make([]byte, 0, options.Size(row)), row); err != nil {
			return Row{}, false
		}
	}
	c.keep(e, 0)
	return Row{e}, true
}

// Holds reports whether a row that was found is what the copy has at a later moment too.
func (c *Cache) Holds(r Row, now stamp.Stamp) bool { return c.holds(r.entry, now) }
