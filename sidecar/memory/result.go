package memory

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// Admission of results by the work that they save.
const (
	// smallResultBytes is the default of Options.SmallResult.
	smallResultBytes = 4 << 10
	// resultBytesPerMicrosecond is how fast a statement may have made a larger result that is kept still. One that was made
	// faster is a long value or two that are copied from the disk about as fast as from here; it would have others evicted that
	// took more.
	resultBytesPerMicrosecond = 256
)

// fieldResult is the ResultSet of a QueryResponse and of an ExecuteResponse.
const fieldResult protowire.Number = 1

// Result is the answer of a statement in memory.
type Result struct{ *entry }

// AppendQueryResponse appends the wire form of a QueryResponse with the result, but without its answer: whoever appends that as
// field 2 has a whole one. An ExecuteResponse is the same.
func (r Result) AppendQueryResponse(dst []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, fieldResult, protowire.BytesType), r.data)
}

// Wire returns the wire form of the datav1.ResultSet, which nobody changes.
func (r Result) Wire() []byte { return r.data }

// Decode returns the result, which is the caller's.
func (r Result) Decode() (*datav1.ResultSet, error) {
	res := new(datav1.ResultSet)
	if err := proto.Unmarshal(r.data, res); err != nil {
		return nil, fmt.Errorf("decode result in memory: %w", err)
	}
	return res, nil
}

// AppendResultKey appends what identifies a result among all entries: its database, the version of the schema under which its
// statement was compiled, the security view that its rows are seen through (empty for all rows), the statement's normal form
// and its encoded parameters, which EncodeParameters returns.
func AppendResultKey(dst []byte, database uint32, schema uint64, view, statement string, parameters []byte) []byte {
	dst = binary.AppendUvarint(appendKey(dst, KindResult, database), schema)
	dst = append(binary.AppendUvarint(dst, uint64(len(view))), view...)
	dst = append(binary.AppendUvarint(dst, uint64(len(statement))), statement...)
	return append(dst, parameters...)
}

// EncodeParameters returns the usual wire form of a statement's parameters, types and all.
func EncodeParameters(st *datav1.Statement) ([]byte, error) {
	if len(st.GetParameters()) == 0 && len(st.GetNamedParameters()) == 0 {
		return nil, nil
	}
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(&datav1.Statement{
		Parameters: st.GetParameters(), NamedParameters: st.GetNamedParameters(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode parameters: %w", err)
	}
	return wire, nil
}

// LookupResult answers a statement of a database from memory, as Lookup does a Get. The key is of AppendResultKey. A result that
// is as old as maxAge or older is a miss; negative is any age.
func (c *Cache) LookupResult(now stamp.Stamp, key []byte, maxAge time.Duration) (r Result, ok bool) {
	if c == nil {
		return r, false
	}
	e := c.findYoung(KindResult, key, now, maxAge)
	return Result{e}, e != nil
}

// NewResult is a result to keep.
type NewResult struct {
	Key []byte // of AppendResultKey; copied
	// Tables are the ids of the tables that it depends on.
	Tables []uint32
	Wire   []byte        // the encoded datav1.ResultSet; copied
	Work   time.Duration // that it took
}

// KeepResult keeps the result of a statement that was run at reading. ok is false where nothing can be kept; a result that is
// returned may be used even if the cache has no room for it.
func (c *Cache) KeepResult(reading stamp.Reading, database uint32, n NewResult) (r Result, ok bool) {
	if c == nil || reading.Until == 0 {
		return Result{}, false
	}
	e := &entry{
		key: string(n.Key), reading: reading, kind: KindResult, database: database, made: time.Since(c.begun),
		payload: payload{data: bytes.Clone(n.Wire)},
	}
	if e.data == nil {
		e.data = []byte{}
	}
	switch len(n.Tables) {
	case 0: // of no rows: only the schema could change it, and that is the database's
		e.slots[0] = c.stamps.Whole(database, 0)
	default:
		e.slots[0] = c.stamps.Whole(database, n.Tables[0])
		for _, table := range n.Tables[1:] {
			e.more = append(e.more, c.stamps.Whole(database, table))
		}
		e.more = slices.Clip(e.more)
	}
	if size := int64(len(n.Wire)); size > c.small && size > n.Work.Microseconds()*resultBytesPerMicrosecond {
		c.counts[KindResult].refused.Add(1)
		return Result{e}, true
	}
	c.keep(e, 0)
	return Result{e}, true
}

// HoldsResult reports whether a result that was found is what the copy has at a later moment too.
func (c *Cache) HoldsResult(r Result, now stamp.Stamp) bool { return c.holds(r.entry, now) }
