package readpath

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/readpath/wire"
)

// Statements that are answered at once: what is in memory, and what takes the replica no longer than nowLimit. The layers of Path
// have the others, those that often took longer without a try (pace).

const (
	nowLimit = time.Millisecond
	// nowBytes is how large an answer may become here.
	nowBytes = sqlrun.PieceBytes
)

var _ hotrpc.Method = (*Path)(nil).QueryNow

// nowQuery is the memory of one such statement.
type nowQuery struct {
	now

	query wire.Query
	key   []byte
	sink  nowSink
}

var nowQueries = sync.Pool{New: func() any { return new(nowQuery) }}

func (n *nowQuery) release() {
	*n = nowQuery{key: n.key[:0], sink: nowSink{wire: n.sink.wire[:0]}}
	nowQueries.Put(n)
}

// QueryNow answers a QueryRequest. It is a hotrpc.Method.
func (p *Path) QueryNow(caller *identity.Principal, h http.Header, msg []byte, a *hotrpc.Answer) bool {
	n := nowQueries.Get().(*nowQuery)
	defer n.release()
	if !n.query.Parse(msg) || !p.openNow(&n.now, &n.query.Request, h) ||
		!p.guard.MayNow(caller, datav1connect.DataServiceQueryProcedure, n.database.name, "") {
		return false
	}
	n.caller = caller
	form := p.results.forms.ofBytes(n.query.SQL)
	const view = "" // all rows: who may see less has to be known here, or goes to the general handler
	cache := p.memory.cache
	if cache != nil {
		n.key = memory.AppendResultKey(
			n.key[:0], n.database.id, n.moment.SchemaVersion(), view, form.normal, n.query.Parameters)
		if kept, ok := cache.LookupResult(n.moment.Stamp(), n.key, anyAge); ok {
			a.Message = kept.AppendQueryResponse(a.Message)
			return p.answerNow(&n.now, methodQuery, datav1.Source_SOURCE_MEMORY, 0, a)
		}
	}
	if form.pace.slow(n.begin) {
		return false
	}
	rows, ok := p.runNow(n, h, msg)
	if !ok {
		if now := time.Now(); n.sink.large || now.Sub(n.begin) >= nowLimit {
			form.pace.missed(now, n.sink.large)
		}
		return false
	}
	form.pace.answered()
	a.Message = protowire.AppendBytes(append(a.Message, tagResultSet), n.sink.wire)
	return p.answerNow(&n.now, methodQuery, datav1.Source_SOURCE_REPLICA, rows, a)
}

// runNow runs the statement at the moment of n, and keeps what it answers.
func (p *Path) runNow(n *nowQuery, h http.Header, msg []byte) (rows int, ok bool) {
	var req datav1.QueryRequest
	if proto.Unmarshal(msg, &req) != nil {
		return 0, false
	}
	snap, err := n.copy.Snapshot()
	if err != nil {
		return 0, false
	}
	var stats edgesql.Stats
	// It is known which state the snapshot has, and it is the moment's.
	if r := snap.Reading(); r.Until != 0 && r.At == n.moment.Stamp() {
		stats, ok = p.sql.QueryNow(nowLimit, n.database.id, snap, req.GetStatement(), &n.sink)
	}
	if hotrpc.Passes(h, len(n.sink.wire)) {
		n.sink.large, ok = true, false // it is answered, and kept, elsewhere
	}
	if ok && p.memory.cache != nil && !n.sink.compiled.Volatile {
		p.memory.cache.KeepResult(snap.Reading(), n.database.id, memory.NewResult{
			Key: n.key, Tables: tableIDs(n.sink.compiled), Wire: n.sink.wire, Work: time.Since(n.sink.begun),
		})
	}
	return int(stats.RowsRead), snap.Close() == nil && ok
}

// nowSink is a Sink that encodes a ResultSet.
type nowSink struct {
	wire     []byte
	compiled edgesql.Compiled
	begun    time.Time
	large    bool // more than nowBytes
}

var (
	_ sqlrun.Sink      = (*nowSink)(nil)
	_ edgesql.Observer = (*nowSink)(nil)
)

// errNotNow is what a statement is stopped with whose answer is too large, or not to be encoded.
var errNotNow = errors.New("not an answer that is given at once")

// Compiled implements edgesql.Observer.
func (s *nowSink) Compiled(c edgesql.Compiled) { s.compiled, s.begun = c, time.Now() }

// Columns implements sqlrun.Sink.
func (s *nowSink) Columns(columns []*datav1.Column) error {
	for _, c := range columns {
		if err := s.append(fieldOfColumns, c); err != nil {
			return err
		}
	}
	return nil
}

// Row implements sqlrun.Sink.
func (s *nowSink) Row(row *datav1.Row, size int) error {
	if s.large = len(s.wire)+size > nowBytes; s.large {
		return errNotNow
	}
	return s.append(fieldOfRows, row)
}

// Fields of ResultSet.
const (
	fieldOfColumns protowire.Number = 1
	fieldOfRows    protowire.Number = 2
)

func (s *nowSink) append(field protowire.Number, m proto.Message) (err error) {
	options := proto.MarshalOptions{}
	size := options.Size(m)
	s.wire = protowire.AppendVarint(protowire.AppendTag(s.wire, field, protowire.BytesType), uint64(size))
	options.UseCachedSize = true
	if s.wire, err = options.MarshalAppend(s.wire, m); err != nil {
		return errNotNow // a name that is no UTF-8: the general handler says so
	}
	return nil
}
