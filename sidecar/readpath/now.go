package readpath

import (
	"encoding/binary"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/keyread"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/readpath/wire"
	"github.com/nearside-dev/nearside/sidecar/replica"
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

	database  *Database
	copy      *replica.Database
	begin     time.Time
	staleness time.Duration
}

var nows = sync.Pool{New: func() any { return new(now) }}

func (n *now) release() {
	// Nothing of it may keep a request or a block of the store alive.
	clear(n.values[:cap(n.values)])
	clear(n.row.Values[:cap(n.row.Values)])
	clear(n.request.Keys[:cap(n.request.Keys)])
	*n = now{
		request: wire.Request{Keys: n.request.Keys[:0]}, values: n.values[:0], key: n.key[:0],
		row: rowcodec.Row{Values: n.row.Values[:0]},
	}
	nows.Put(n)
}

// GetNow answers a GetRequest. It is a hotrpc.Method.
func (p *Path) GetNow(h http.Header, msg []byte, a *hotrpc.Answer) bool {
	n := nows.Get().(*now)
	defer n.release()
	if !n.request.ParseGet(msg) {
		return false
	}
	state, ok := p.openNow(n, h)
	if !ok {
		return false
	}
	t, found, ok := n.table(&state)
	if ok {
		a.Message = append(a.Message, t.columns...)
		start := len(a.Message)
		a.Message = append(a.Message, tagRow)
		a.Message, found, ok = n.appendRow(&state, t, n.request.Keys[0], a.Message)
		if !found {
			a.Message = a.Message[:start]
		}
	}
	if !state.Close() || !ok {
		return false
	}
	rows := 0
	if found {
		rows = 1
	}
	p.answerNow(n, &state, methodGet, rows, a)
	return true
}

// BatchGetNow answers a BatchGetRequest. It is a hotrpc.Method.
func (p *Path) BatchGetNow(h http.Header, msg []byte, a *hotrpc.Answer) bool {
	n := nows.Get().(*now)
	defer n.release()
	if !n.request.ParseBatchGet(msg) {
		return false
	}
	state, ok := p.openNow(n, h)
	if !ok {
		return false
	}
	t, _, ok := n.table(&state)
	rows := 0
	if ok {
		a.Message = append(a.Message, t.columns...)
	}
	for _, key := range n.request.Keys {
		if !ok || len(a.Message) > keyread.MaxPageBytes {
			ok = false // what is large may be too large, and the layers count in another way
			break
		}
		start := len(a.Message)
		a.Message = append(a.Message, tagResult, tagResultRow)
		var found bool
		if a.Message, found, ok = n.appendRow(&state, t, key, a.Message); !found {
			a.Message = append(a.Message[:start], tagResult, 0)
			continue
		}
		rows++
		a.Message = prefixed(a.Message, start+1)
	}
	if !state.Close() || !ok {
		return false
	}
	p.answerNow(n, &state, methodBatchGet, rows, a)
	return true
}

// Tags of fields: number and wire type, of which a varint is 0.
const (
	tagRow       = 2<<3 | 2 // of GetResponse
	tagResult    = 2<<3 | 2 // of BatchGetResponse
	tagResultRow = 1<<3 | 2
	tagAnswer    = 3<<3 | 2 // of both

	tagBookmark  = 1<<3 | 2
	tagRegion    = 2<<3 | 2
	tagSource    = 3<<3
	tagStaleness = 5<<3
	tagSQLMs     = 6<<3 | 1
	tagRowsRead  = 7<<3
)

// prefixed puts the length of what begins at start before it.
func prefixed(b []byte, start int) []byte {
	n := len(b) - start
	var length [binary.MaxVarintLen64]byte
	return slices.Insert(b, start, length[:binary.PutUvarint(length[:], uint64(n))]...)
}

// openNow finds the copy that a request is about and begins to read it, if that is as fresh as the request asks for.
func (p *Path) openNow(n *now, h http.Header) (state replica.Now, ok bool) {
	r := &n.request
	if r.Level == datav1.Consistency_LEVEL_MAX_STALENESS || r.Level == datav1.Consistency_LEVEL_PRIMARY {
		return state, false
	}
	codec := p.codec()
	if codec == nil {
		return state, false
	}
	var m marks
	if len(r.Bookmark) > 0 {
		b, err := codec.Decode(string(r.Bookmark))
		if err != nil {
			return state, false
		}
		m.field = &b
	}
	if lines := h[bookmarkHeader]; len(lines) > 0 {
		var err error
		if m.header, err = codec.DecodeList(strings.Join(lines, ","), rpcheader.MaxBookmarks); err != nil {
			return state, false
		}
		if _, marked := m.mesh(); marked {
			return state, false // what names mean may have to be waited for
		}
	}
	if n.database = p.directory.find(string(r.Database), false); n.database == nil {
		return state, false
	}
	if n.copy, ok = p.store.Database(n.database.id); !ok {
		return state, false
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
		return state, false // an error
	}
	n.begin = time.Now()
	n.staleness = n.copy.Staleness(n.begin) // before the state, which can only be newer
	if state, ok = n.copy.Now(); !ok {
		return state, false
	}
	if marked && r.Level != datav1.Consistency_LEVEL_ANY && !state.Reaches(want.Epoch, want.Version) {
		state.Close()
		return state, false
	}
	return state, true
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

// table returns the request's table.
func (n *now) table(state *replica.Now) (t *nowTable, found, ok bool) {
	t = n.database.shapesOf(state.Catalog()).byName[string(n.request.Table)]
	return t, false, t != nil && state.Readable(t.table)
}

// appendRow appends the row of an encoded key, with its length before it. ok is false where the read takes a plan, or fails.
func (n *now) appendRow(state *replica.Now, t *nowTable, encoded, dst []byte) (out []byte, found, ok bool) {
	if n.values, ok = wire.AppendKey(n.values[:0], encoded); !ok {
		return dst, false, false
	}
	if n.key, ok = keyread.AppendPrimaryKey(n.key[:0], t.table, t.parts, n.values); !ok {
		return dst, false, false
	}
	stored, version, closer, err := state.GetRow(t.table, n.key)
	if err != nil || closer == nil {
		return dst, false, err == nil
	}
	err = rowcodec.DecodeRowInto(&n.row, t.table, n.key, stored)
	if err == nil {
		dst = t.shape.AppendRow(dst, n.row, version)
	}
	return dst, err == nil, closer.Close() == nil && err == nil
}

// answerNow appends the field that says where the answer comes from.
func (p *Path) answerNow(n *now, state *replica.Now, method method, rows int, a *hotrpc.Answer) {
	m := n.database.markOf(p.codec(), state.Epoch(), state.Version())
	a.Bookmark, a.Region, a.Source = m.header, p.region, sourceReplica
	a.StalenessMs = Milliseconds(n.staleness)

	b := a.Message
	b = append(b, tagAnswer)
	start := len(b)
	b = append(append(b, tagBookmark, byte(len(m.text))), m.text...)
	b = append(binary.AppendUvarint(append(b, tagRegion), uint64(len(p.region[0]))), p.region[0]...)
	b = append(b, tagSource, byte(datav1.Source_SOURCE_REPLICA))
	if a.StalenessMs > 0 {
		b = binary.AppendUvarint(append(b, tagStaleness), uint64(a.StalenessMs))
	}
	if ms := float64(time.Since(n.begin).Microseconds()) / 1000; ms > 0 {
		b = binary.LittleEndian.AppendUint64(append(b, tagSQLMs), math.Float64bits(ms))
	}
	if rows > 0 {
		b = binary.AppendUvarint(append(b, tagRowsRead), uint64(rows))
	}
	a.Message = prefixed(b, start)
	p.metrics.bySource[method][datav1.Source_SOURCE_REPLICA].Inc()
}

var sourceReplica = []string{rpcheader.SourceName(datav1.Source_SOURCE_REPLICA)}
