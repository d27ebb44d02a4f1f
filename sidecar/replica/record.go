package replica

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/placement"
)

// record is what applying needs of a commit record. All bytes are the encoded record's own: a record of one row, which is
// most there are, is decoded without allocating.
type record struct {
	version          uint64
	epoch            uint32
	previousChecksum []byte
	meshVersion      uint64
	catalog          *replicationv1.Catalog // nil where the schema did not change
	tables           []tableChange
	dropped          []uint32
	withheld         []byte // the content of the last field, where something was left out of the record; else empty
}

type tableChange struct {
	id       uint32
	sum      []byte
	rowCount uint64
	rows     []rowChange
	replaced bool
}

type rowChange struct {
	key   []byte
	value []byte // nil for a delete
	fresh bool   // it was not there before the record
}

// reset empties r and keeps its memory.
func (r *record) reset() {
	for i := range r.tables {
		rows := r.tables[i].rows
		clear(rows)
		if cap(rows) > maxScratchRows {
			rows = nil
		}
		r.tables[i] = tableChange{rows: rows[:0]}
	}
	*r = record{tables: r.tables[:0], dropped: r.dropped[:0]}
}

// decode reads an encoded CommitRecord as proto.Unmarshal does, refuses what that refuses, and keeps what is needed. After an
// error r's content is undefined.
func (r *record) decode(b []byte) (err error) {
	r.reset()
	for len(b) > 0 {
		num, field, err := nextField(&b)
		if err != nil {
			return err
		}
		switch num {
		case 1:
			field.number(&r.version)
		case 2:
			field.number32(&r.epoch)
		case 3:
			field.content(&r.previousChecksum)
		case 5:
			field.number(&r.meshVersion)
		case 6:
			if r.catalog == nil && field.kind == protowire.BytesType {
				r.catalog = &replicationv1.Catalog{}
			}
			err = field.message(r.catalog)
		case 7:
			err = r.addTable(field)
		case 8:
			r.dropped, err = field.numbers(r.dropped)
		case 9:
			err = field.message(&replicationv1.Sequence{})
		case 10, 11, 13:
			if field.kind == protowire.BytesType && !utf8.Valid(field.bytes) {
				err = fmt.Errorf("field %d is not UTF-8", num)
			}
		case 14:
			err = field.message(&replicationv1.AppliedMigration{})
		case 20:
			field.content(&r.withheld)
			err = field.message(&replicationv1.Withheld{})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checksum returns the checksum by which the next record follows this one, of which encoded is the whole.
func (r *record) checksum(encoded []byte) ([checksumSize]byte, error) {
	return placement.ChecksumOf(encoded, r.withheld)
}

// checksumOf returns the checksum by which the next record follows an encoded one.
func checksumOf(encoded []byte) ([checksumSize]byte, error) {
	var r record
	if err := r.decode(encoded); err != nil {
		return [checksumSize]byte{}, err
	}
	return r.checksum(encoded)
}

func (r *record) addTable(field wireField) error {
	var b []byte
	if !field.content(&b) {
		return nil
	}
	if n := len(r.tables); n < cap(r.tables) {
		r.tables = r.tables[:n+1] // with the memory of its rows
	} else {
		r.tables = append(r.tables, tableChange{})
	}
	t := &r.tables[len(r.tables)-1]
	for len(b) > 0 {
		num, field, err := nextField(&b)
		if err != nil {
			return err
		}
		switch num {
		case 1:
			field.number32(&t.id)
		case 2:
			field.content(&t.sum)
		case 3:
			field.number(&t.rowCount)
		case 4:
			var row []byte
			if !field.content(&row) {
				continue
			}
			change, err := decodeRowChange(row)
			if err != nil {
				return err
			}
			t.rows = append(t.rows, change)
		case 5:
			if field.kind == protowire.VarintType {
				t.replaced = field.n != 0
			}
		}
	}
	return nil
}

func decodeRowChange(b []byte) (row rowChange, err error) {
	for len(b) > 0 {
		num, field, err := nextField(&b)
		if err != nil {
			return row, err
		}
		switch num {
		case 1:
			field.content(&row.key)
		case 2:
			field.content(&row.value)
		case 3:
			if field.kind == protowire.VarintType {
				row.fresh = field.n != 0
			}
		}
	}
	return row, nil
}

// wireField is the value of one field. Each of its methods does nothing where the field is of another kind: such a field is
// an unknown one.
type wireField struct {
	kind  protowire.Type
	n     uint64 // of a varint
	bytes []byte // of a string, bytes or a message; never nil then
}

// nextField takes the next field off b.
func nextField(b *[]byte) (int, wireField, error) {
	num, kind, n := protowire.ConsumeTag(*b)
	if n < 0 {
		return 0, wireField{}, protowire.ParseError(n)
	}
	if num > protowire.MaxValidNumber {
		return 0, wireField{}, fmt.Errorf("field %d", num)
	}
	rest := (*b)[n:]
	f := wireField{kind: kind}
	switch kind {
	case protowire.VarintType:
		f.n, n = protowire.ConsumeVarint(rest)
	case protowire.BytesType:
		f.bytes, n = protowire.ConsumeBytes(rest)
	default:
		n = protowire.ConsumeFieldValue(num, kind, rest)
	}
	if n < 0 {
		return 0, f, protowire.ParseError(n)
	}
	*b = rest[n:]
	return int(num), f, nil
}

func (f wireField) number(to *uint64) {
	if f.kind == protowire.VarintType {
		*to = f.n
	}
}

func (f wireField) number32(to *uint32) {
	if f.kind == protowire.VarintType {
		*to = uint32(f.n) // more bits are cut off, as proto.Unmarshal does
	}
}

func (f wireField) content(to *[]byte) bool {
	if f.kind == protowire.BytesType {
		*to = f.bytes
	}
	return f.kind == protowire.BytesType
}

// numbers appends a repeated field's numbers, packed or not.
func (f wireField) numbers(dst []uint32) ([]uint32, error) {
	if f.kind == protowire.VarintType {
		return append(dst, uint32(f.n)), nil
	}
	for b := f.bytes; len(b) > 0; {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return dst, protowire.ParseError(n)
		}
		dst, b = append(dst, uint32(v)), b[n:]
	}
	return dst, nil
}

// message merges a message into m, which is what becomes of one that is there twice.
func (f wireField) message(m proto.Message) error {
	if f.kind != protowire.BytesType {
		return nil
	}
	return proto.UnmarshalOptions{Merge: true}.Unmarshal(f.bytes, m)
}
