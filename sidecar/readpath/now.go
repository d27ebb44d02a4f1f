package readpath

import (
	"encoding/binary"
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/keyread"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/readpath/wire"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// Reads that are answered at once, from and into their wire form: those by primary key that the copy can answer as it is, with
// no wait and no error. The others take the layers of Path.

var (
	_ hotrpc.Method = (*Path)(nil).GetNow
	_ hotrpc.Method = (*Path)(nil).BatchGetNow
)

// now is the memory of one such read.
type now struct {
	request wire.Request
	values  []value.Value
	key     []byte
	row     rowcodec.Row
	kept    []keptRow

	caller    *identity.Principal
	database  *Database
	copy      *replica.Database
	moment    replica.Moment
	begin     time.Time
	staleness time.Duration
}

// keptRow is a row that was read, to be kept if all was read of one state.
type keptRow struct {
	key        int // of the request
	slot       stamp.Slot
	begin, end int // of its wire form in the answer; the same for no row
}

var nows = sync.Pool{New: func() any { return new(now) }}

func (n *now) release() {
	// Nothing of it may keep a request or a block of the store alive.
	clear(n.values[:cap(n.values)])
	clear(n.row.Values[:cap(n.row.Values)])
	clear(n.request.Keys[:cap(n.request.Keys)])
	*n = now{
		request: wire.Request{Keys: n.request.Keys[:0]}, values: n.values[:0], key: n.key[:0],
		row: rowcodec.Row{Values: n.row.Values[:0]}, kept: n.kept[:0],
	}
	nows.Put(n)
}

// GetNow answers a GetRequest. It is a hotrpc.Method.
func (p *Path) GetNow(caller *identity.Principal, h http.Header, msg []byte, a *hotrpc.Answer) bool {
	n := nows.Get().(*now)
	defer n.release()
	if !n.request.ParseGet(msg) || !p.openNow(n, &n.request, h) || !p.mayNow(caller, datav1connect.DataServiceGetProcedure, n) {
		return false
	}
	if row, ok := p.memory.cache.Lookup(n.moment.Stamp(), n.database.id, n.request.Table, n.request.Keys[0]); ok {
		a.Message = row.AppendGetResponse(a.Message)
		return p.answerNow(n, methodGet, datav1.Source_SOURCE_MEMORY, 0, a)
	}
	read := nowReading{now: n}
	if !read.open() {
		return false
	}
	a.Message = append(a.Message, read.table.columns...)
	start := len(a.Message)
	a.Message = append(a.Message, tagRow)
	var found bool
	if a.Message, found = read.appendRow(0, a.Message); !found {
		a.Message = a.Message[:start]
	}
	if !read.close() {
		return false
	}
	p.keepNow(&read, a.Message)
	return p.answerNow(n, methodGet, datav1.Source_SOURCE_REPLICA, read.rows, a)
}

// BatchGetNow answers a BatchGetRequest. It is a hotrpc.Method.
func (p *Path) BatchGetNow(caller *identity.Principal, h http.Header, msg []byte, a *hotrpc.Answer) bool {
	n := nows.Get().(*now)
	defer n.release()
	if !n.request.ParseBatchGet(msg) || !p.openNow(n, &n.request, h) || !p.mayNow(caller, datav1connect.DataServiceBatchGetProcedure, n) {
		return false
	}
	t := n.table()
	if t == nil {
		return false
	}
	read := nowReading{now: n}
	a.Message = append(a.Message, t.columns...)
	for i, key := range n.request.Keys {
		if len(a.Message) > keyread.MaxPageBytes {
			read.failed = true // what is large may be too large, and the layers count in another way
			break
		}
		if row, ok := p.memory.cache.Lookup(n.moment.Stamp(), n.database.id, n.request.Table, key); ok {
			a.Message = appendResult(a.Message, row.Wire())
			continue
		}
		if read.table == nil && !read.open() {
			return false
		}
		start := len(a.Message)
		a.Message = append(a.Message, tagResult, tagResultRow)
		var found bool
		if a.Message, found = read.appendRow(i, a.Message); !found {
			a.Message = append(a.Message[:start], tagResult, 0)
			continue
		}
		var moved int
		a.Message, moved = prefixed(a.Message, start+1)
		read.move(moved)
	}
	if read.table == nil && !read.failed {
		return p.answerNow(n, methodBatchGet, datav1.Source_SOURCE_MEMORY, 0, a)
	}
	if !read.close() {
		return false
	}
	p.keepNow(&read, a.Message)
	return p.answerNow(n, methodBatchGet, datav1.Source_SOURCE_REPLICA, read.rows, a)
}

// appendResult appends a result of a BatchGetResponse with a row's wire form; nil is no row.
func appendResult(dst, row []byte) []byte {
	dst = append(dst, tagResult)
	if row == nil {
		return append(dst, 0)
	}
	size := uint64(len(row))
	dst = binary.AppendUvarint(dst, size+1+uint64(protowire.SizeVarint(size)))
	dst = binary.AppendUvarint(append(dst, tagResultRow), size)
	return append(dst, row...)
}

// Tags of fields: number and wire type, of which a varint is 0.
const (
	tagRow       = 2<<3 | 2 // of GetResponse
	tagResult    = 2<<3 | 2 // of BatchGetResponse
	tagResultRow = 1<<3 | 2
	tagAnswer    = 3<<3 | 2 // of both
	tagResultSet = 1<<3 | 2 // of QueryResponse
	tagQueried   = 2<<3 | 2 // its answer

	tagBookmark  = 1<<3 | 2
	tagRegion    = 2<<3 | 2
	tagSource    = 3 << 3
	tagStaleness = 5 << 3
	tagSQLMs     = 6<<3 | 1
	tagRowsRead  = 7 << 3
)

// prefixed puts the length of what begins at start before it, and returns how far that has moved.
func prefixed(b []byte, start int) (out []byte, moved int) {
	var length [binary.MaxVarintLen64]byte
	moved = binary.PutUvarint(length[:], uint64(len(b)-start))
	return slices.Insert(b, start, length[:moved]...), moved
}

// mayNow reports whether the caller may read what the request names. Where it may not, the layers' general handler says so.
func (p *Path) mayNow(caller *identity.Principal, procedure string, n *now) bool {
	n.caller = caller
	// The name is of the request, and looked at during the call only.
	table := unsafe.String(unsafe.SliceData(n.request.Table), len(n.request.Table)) //nolint:gosec // see above
	return p.guard.MayNow(caller, procedure, n.database.name, table)
}

// openNow finds the copy that a request is about and a moment of it that is as fresh as the request asks for.
func (p *Path) openNow(n *now, r *wire.Request, h http.Header) (ok bool) {
	if r.Level == datav1.Consistency_LEVEL_MAX_STALENESS || r.Level == datav1.Consistency_LEVEL_PRIMARY {
		return false
	}
	codec := p.codec()
	if codec == nil {
		return false
	}
	var m marks
	if len(r.Bookmark) > 0 {
		b, err := codec.Decode(string(r.Bookmark))
		if err != nil {
			return false
		}
		m.field = &b
	}
	if lines := h[bookmarkHeader]; len(lines) > 0 {
		var err error
		if m.header, err = codec.DecodeList(strings.Join(lines, ","), rpcheader.MaxBookmarks); err != nil {
			return false
		}
		if _, marked := m.mesh(); marked {
			return false // what names mean may have to be waited for
		}
	}
	if n.database = p.directory.find(string(r.Database), false); n.database == nil {
		return false
	}
	if n.copy, ok = p.store.Database(n.database.id); !ok {
		return false
	}
	want, marked := bookmark.Bookmark{}, false
	if m.field != nil {
		want, marked = *m.field, true
	} else if len(m.header) > 0 {
		want, marked = m.newest(n.database.id)
	}
	switch {
	case m.field != nil && want.DatabaseID != n.database.id,
		r.Level == datav1.Consistency_LEVEL_AT_LEAST && !marked && len(m.header) == 0:
		return false // an error
	}
	n.begin = time.Now()
	n.staleness = n.copy.Staleness(n.begin) // before the moment, which can only be newer
	if n.moment, ok = n.copy.Moment(); !ok {
		return false
	}
	if marked && r.Level != datav1.Consistency_LEVEL_ANY {
		ok, err := n.moment.Reaches(want.Epoch, want.Version)
		return ok && err == nil
	}
	return true
}

var bookmarkHeader = http.CanonicalHeaderKey(rpcheader.Bookmark)

// nowTable is what reads at once need of a table.
type nowTable struct {
	table   *catalog.Table
	shape   *keyread.Shape
	parts   []catalog.KeyPart
	columns []byte // the first field of answers, encoded
}

// newNowTable returns nil for a table that takes a plan.
func newNowTable(t *catalog.Table) *nowTable {
	parts, index := t.PrimaryKey()
	if index != nil || t.HasVirtualColumns() {
		return nil
	}
	shape := keyread.NewShape(t)
	columns, err := proto.Marshal(&datav1.GetResponse{Columns: shape.Columns})
	if err != nil {
		return nil // a name that is not UTF-8: package proto says so
	}
	return &nowTable{table: t, shape: shape, parts: parts, columns: columns}
}

// table returns the request's table; nil if it is not known or takes a plan.
func (n *now) table() *nowTable {
	cat := n.moment.Catalog()
	if cat == nil {
		return nil
	}
	return n.database.shapesOf(cat).byName[string(n.request.Table)]
}

// nowReading reads rows of the copy at the moment of a now.
type nowReading struct {
	*now

	state  replica.Now
	table  *nowTable // nil: not open
	rows   int       // that were found
	failed bool      // the read takes a plan, or failed
}

// open begins to read, unless the moment has passed or the table takes a plan.
func (r *nowReading) open() (ok bool) {
	t := r.now.table()
	if t == nil {
		return false
	}
	if r.state, ok = r.copy.Now(); !ok {
		return false
	}
	if r.state.Reading().At != r.moment.Stamp() || !r.state.Readable(t.table) {
		r.state.Close()
		return false
	}
	r.table = t
	return true
}

// close ends the reading and reports whether what was read is what the copy had at the moment.
func (r *nowReading) close() bool {
	if r.table == nil {
		return false
	}
	return r.state.Close() && !r.failed
}

// appendRow appends the row of a key of the request, with its length before it, if it is found.
func (r *nowReading) appendRow(key int, dst []byte) (out []byte, found bool) {
	if r.failed {
		return dst, false
	}
	t := r.table
	values, ok := wire.AppendKey(r.values[:0], r.request.Keys[key])
	if r.values = values; ok {
		r.key, ok = keyread.AppendPrimaryKey(r.key[:0], t.table, t.parts, values)
	}
	if !ok {
		r.failed = true
		return dst, false
	}
	kept := keptRow{key: key, slot: r.state.RowSlot(t.table.ID, r.key)}
	stored, version, closer, err := r.state.GetRow(t.table, r.key)
	if err == nil && closer != nil {
		if err = rowcodec.DecodeRowInto(&r.row, t.table, r.key, stored); err == nil {
			var size int
			dst, size = t.shape.AppendRow(dst, r.row, version)
			kept.begin, kept.end = len(dst)-size, len(dst)
		}
		err = errors.Join(err, closer.Close())
	}
	if err != nil {
		r.failed = true
		return dst, false
	}
	r.kept = append(r.kept, kept)
	if closer == nil {
		return dst, false
	}
	r.rows++
	return dst, true
}

// move notes that the last row has been moved.
func (r *nowReading) move(by int) {
	last := &r.kept[len(r.kept)-1]
	last.begin, last.end = last.begin+by, last.end+by
}

// keepNow keeps the rows of an answer that were read.
func (p *Path) keepNow(r *nowReading, message []byte) {
	if p.memory.cache == nil {
		return
	}
	for _, k := range r.kept {
		var row []byte
		if k.end > k.begin {
			row = message[k.begin:k.end]
		}
		p.memory.cache.KeepRowWire(r.state.Reading(), k.slot, r.database.id, r.request.Table, r.request.Keys[k.key], r.table.shape.Columns, row)
	}
}

// answerNow appends the field that says where the answer comes from. It reports false where the caller was let in by rows of _mesh
// that have changed meanwhile: what was read may be newer than they are.
func (p *Path) answerNow(n *now, method method, source datav1.Source, rows int, a *hotrpc.Answer) bool {
	if !p.guard.Current(n.caller) {
		return false
	}
	m := n.database.markOf(p.codec(), n.moment.Epoch(), n.moment.Version())
	a.Bookmark, a.Region, a.Source = m.header, p.region, sourceHeaders[source]
	a.StalenessMs = Milliseconds(n.staleness)

	b := a.Message
	if method == methodQuery {
		b = append(b, tagQueried)
	} else {
		b = append(b, tagAnswer)
	}
	start := len(b)
	b = append(append(b, tagBookmark, byte(len(m.text))), m.text...)
	b = append(binary.AppendUvarint(append(b, tagRegion), uint64(len(p.region[0]))), p.region[0]...)
	b = append(b, tagSource, byte(source))
	if a.StalenessMs > 0 {
		b = binary.AppendUvarint(append(b, tagStaleness), uint64(a.StalenessMs))
	}
	if source == datav1.Source_SOURCE_REPLICA {
		if ms := float64(time.Since(n.begin).Microseconds()) / 1000; ms > 0 {
			b = binary.LittleEndian.AppendUint64(append(b, tagSQLMs), math.Float64bits(ms))
		}
	}
	if rows > 0 {
		b = binary.AppendUvarint(append(b, tagRowsRead), uint64(rows))
	}
	a.Message, _ = prefixed(b, start)
	p.metrics.bySource[method][source].Inc()
	return true
}

var sourceHeaders = [...][]string{
	datav1.Source_SOURCE_MEMORY:  {rpcheader.SourceName(datav1.Source_SOURCE_MEMORY)},
	datav1.Source_SOURCE_REPLICA: {rpcheader.SourceName(datav1.Source_SOURCE_REPLICA)},
}
