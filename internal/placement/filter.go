package placement

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
)

// ErrUnknownTable means that a record has rows of a table of which the filter does not know the name: it was dropped since.
var ErrUnknownTable = errors.New("rows of a table of which the name is not known")

// checksumSize is the size of a record's checksum.
const checksumSize = 16

// Filter takes out of the commit records of one database, in their order, what a region may not hold. It is for one goroutine.
type Filter struct {
	names  map[string]bool // whether a region knows that it does not hold the table
	tables map[uint32]bool // whether it is withheld, by id
	untold map[uint32]bool // it is, but the region may have it still
}

// NewFilter returns a filter that withholds the tables of the given names (in lower case) from records that follow, or lead up
// to, a schema. Those of told are withheld too, and the region knows that it does not hold them: of the others a record says when
// they change, and nothing else, for what the region has of them must not be read any more. Without names it passes all.
func NewFilter(withheld, told []string, schema *replicationv1.Catalog) *Filter {
	f := &Filter{
		names: make(map[string]bool, len(withheld)+len(told)), tables: make(map[uint32]bool), untold: make(map[uint32]bool),
	}
	for _, name := range withheld {
		f.names[name] = false
	}
	for _, name := range told {
		f.names[name] = true
	}
	f.learn(schema)
	return f
}

// learn notes which ids are of which names. What was withheld under any name stays withheld.
func (f *Filter) learn(schema *replicationv1.Catalog) {
	for _, t := range schema.GetTables() {
		told, withheld := f.names[catalog.Fold(t.GetName())]
		f.tables[t.GetId()] = f.tables[t.GetId()] || withheld
		if withheld && !told {
			f.untold[t.GetId()] = true
		}
	}
}

// Allowed returns those of the ids that are of tables which are not withheld; of all that are known where there are none given.
// It is never nil.
func (f *Filter) Allowed(ids []uint32) []uint32 {
	allowed := []uint32{}
	if ids == nil {
		for id := range f.tables {
			ids = append(ids, id)
		}
		slices.Sort(ids)
	}
	for _, id := range ids {
		if withheld, known := f.tables[id]; known && !withheld {
			allowed = append(allowed, id)
		}
	}
	return allowed
}

// Catalog returns a schema without what is withheld: tables, their indexes and triggers, and views, triggers and virtual tables
// whose text may mean one of them, or a view that is left out. What is left out is not named either.
func (f *Filter) Catalog(c *replicationv1.Catalog) *replicationv1.Catalog {
	if c == nil {
		return nil
	}
	f.learn(c)
	out := &replicationv1.Catalog{Version: c.GetVersion(), NextId: c.GetNextId()}
	ordinary := make(map[string]bool) // kept tables: of them it is known what they are
	for _, t := range c.GetTables() {
		if f.tables[t.GetId()] {
			out.Partial = true
			continue
		}
		ordinary[catalog.Fold(t.GetName())] = true
		out.Tables = append(out.Tables, t)
	}
	hidden := make(map[string]bool, len(f.names))
	for name := range f.names {
		hidden[name] = true
	}
	for _, t := range c.GetTables() {
		if f.tables[t.GetId()] {
			hidden[catalog.Fold(t.GetName())] = true
		}
	}
	left := slices.Clone(c.GetObjects())
	for again := true; again; {
		again = false
		kept := left[:0]
		for _, o := range left {
			if !hides(hidden, ordinary, o) {
				kept = append(kept, o)
				continue
			}
			out.Partial = true
			if name := catalog.Fold(o.GetName()); o.GetType() != "index" && o.GetType() != "trigger" && !hidden[name] {
				hidden[name], again = true, true // what reads it is left out too
			}
		}
		left = kept
	}
	out.Objects = left
	if !out.Partial {
		out.Schema = c.GetSchema() // it names objects by their places, and tells of all
	}
	return out
}

// hides reports whether an object is left out.
func hides(hidden, ordinary map[string]bool, o *replicationv1.Catalog_Object) (hide bool) {
	if hidden[catalog.Fold(o.GetTable())] || hidden[catalog.Fold(o.GetName())] {
		return true
	}
	if o.GetType() == "index" || o.GetType() == "table" && ordinary[catalog.Fold(o.GetName())] {
		return false // they tell of their own table; that a foreign key names another is nothing of that one's
	}
	names(o.GetSql(), func(name string) { hide = hide || hidden[name] })
	return hide
}

// Record returns an encoded record without what is withheld; the record itself where there is nothing to take out, and nothing
// is copied then. The error is ErrUnknownTable, or that it is no record.
//
// A record that is not sent as it is has only what is known to be harmless: its place, the rows of other tables, and a schema that
// Catalog made. Of the tables that are withheld it has no rows, no sums and no sequences, for a sum's change is a hash of a
// row, by which one can be guessed. Nor does it say who made it, from where, under which idempotency key or with which migration.
func (f *Filter) Record(encoded []byte) ([]byte, error) {
	whole, err := f.passes(encoded)
	if err != nil || whole {
		return encoded, err
	}
	var r replicationv1.CommitRecord
	if err := proto.Unmarshal(encoded, &r); err != nil {
		return nil, fmt.Errorf("filter record: %w", err)
	}
	out := &replicationv1.CommitRecord{
		Version: r.GetVersion(), Epoch: r.GetEpoch(), PreviousChecksum: r.GetPreviousChecksum(),
		TimeUnixNanos: r.GetTimeUnixNanos(), MeshVersion: r.GetMeshVersion(), DroppedTableIds: r.GetDroppedTableIds(),
		Catalog: f.Catalog(r.GetCatalog()),
	}
	for _, t := range r.GetTables() {
		switch withheld, known := f.tables[t.GetTableId()]; {
		case !known:
			return nil, fmt.Errorf("record %d: %w: %d", r.GetVersion(), ErrUnknownTable, t.GetTableId())
		case !withheld:
			out.Tables = append(out.Tables, t)
		case f.untold[t.GetTableId()]:
			out.Tables = append(out.Tables, &replicationv1.TableChange{TableId: t.GetTableId(), Replaced: true})
		}
	}
	for _, s := range r.GetSequences() {
		if withheld, known := f.tables[s.GetTableId()]; known && !withheld {
			out.Sequences = append(out.Sequences, s)
		}
	}
	body, err := proto.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("filter record: %w", err)
	}
	return seal(body, encoded)
}

// seal appends the field that vouches for a record of which the log has original.
func seal(body, original []byte) ([]byte, error) {
	whole, part := sha256.Sum256(original), sha256.Sum256(body)
	seal, err := proto.Marshal(&replicationv1.Withheld{Checksum: whole[:checksumSize], BodyChecksum: part[:checksumSize]})
	if err != nil {
		return nil, fmt.Errorf("filter record: %w", err)
	}
	return protowire.AppendBytes(protowire.AppendTag(body, fieldWithheld, protowire.BytesType), seal), nil
}

// Fields of a CommitRecord.
const (
	fieldCatalog   protowire.Number = 6
	fieldTables    protowire.Number = 7
	fieldSequences protowire.Number = 9
	fieldLast      protowire.Number = 15 // that this build knows
	fieldWithheld  protowire.Number = 20
)

// passes reports whether a record may be sent as it is: it changes no schema and touches no table that is withheld.
func (f *Filter) passes(record []byte) (bool, error) {
	if len(f.names) == 0 {
		return true, nil
	}
	for b := record; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false, fmt.Errorf("filter record: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return false, fmt.Errorf("filter record: %w", protowire.ParseError(n))
		}
		switch {
		case number == fieldCatalog || number > fieldLast:
			return false, nil // of a newer build: nobody knows what it tells
		case number == fieldTables || number == fieldSequences:
			content, _ := protowire.ConsumeBytes(b)
			id, err := tableID(content)
			if err != nil || kind != protowire.BytesType {
				return false, err
			}
			if withheld, known := f.tables[id]; withheld || !known {
				return false, nil
			}
		}
		b = b[n:]
	}
	return true, nil
}

// tableID returns field 1 of a TableChange or a Sequence.
func tableID(b []byte) (id uint32, err error) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, fmt.Errorf("filter record: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if number == 1 && kind == protowire.VarintType {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return 0, fmt.Errorf("filter record: %w", protowire.ParseError(n))
			}
			id, b = uint32(v), b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return 0, fmt.Errorf("filter record: %w", protowire.ParseError(n))
		}
		b = b[n:]
	}
	return id, nil
}

// ErrSeal means that a record of which something was left out is not what its primary sent.
var ErrSeal = errors.New("record does not fit the checksum of what is left of it")

// ChecksumOf returns the checksum by which the next record follows an encoded one: its own, or that which the record of which
// something was left out has in the log. withheld is the content of the record's last field, empty where it has none. The error
// is ErrSeal.
func ChecksumOf(encoded, withheld []byte) (sum [checksumSize]byte, err error) {
	if len(withheld) == 0 {
		whole := sha256.Sum256(encoded)
		return [checksumSize]byte(whole[:checksumSize]), nil
	}
	var w replicationv1.Withheld
	tail := protowire.SizeTag(fieldWithheld) + protowire.SizeBytes(len(withheld))
	if proto.Unmarshal(withheld, &w) != nil || len(w.GetChecksum()) != checksumSize || tail > len(encoded) {
		return sum, ErrSeal
	}
	part := sha256.Sum256(encoded[:len(encoded)-tail])
	if string(part[:checksumSize]) != string(w.GetBodyChecksum()) || !slices.Equal(encoded[len(encoded)-len(withheld):], withheld) {
		return sum, ErrSeal
	}
	return [checksumSize]byte(w.GetChecksum()), nil
}
