package watchquery

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/stamp"
	"github.com/nearside-dev/nearside/sidecar/watch"
)

// resultField is the number of WatchQueryResponse.result.
const resultField = 1

// ErrWithheld means that the statement does not compile in a region that may not hold all of its database: another may.
var ErrWithheld = errors.New("the region does not hold all of the database")

// answer is what a statement answered at one version. It is immutable once it is published.
type answer struct {
	number  uint64 // from 1, the same as that of the one before if its bytes are the same
	wire    []byte // the field of WatchQueryResponse, encoded
	columns []byte // encoded

	epoch   uint32
	version uint64
	place   replica.TailPosition
	floor   stamp.Stamp  // of a state that it has at least
	slots   []stamp.Slot // what it depends on
	schema  uint64       // the version of the schema that it was compiled for
	tables  []tablePrint
}

// tablePrint is a table that a statement reads, as it takes it.
type tablePrint struct {
	id    uint32
	name  string
	print string
}

// holds reports whether the answer is the one at a moment of its copy. It asks for the state that it has at least: where it has
// a newer one, what that touched is raised, and so is not taken for held.
func (a *answer) holds(d *replica.Database, m replica.Moment) bool {
	r := stamp.Reading{At: a.floor, Until: a.floor}
	for _, slot := range a.slots {
		if !d.Holds(r, m, slot) {
			return false
		}
	}
	return true
}

// check returns why a statement that answered a cannot go on with a snapshot: SCHEMA_CHANGED, or WATCH_INTERRUPTED for a copy that
// was made anew or may not have what it reads any more.
func (a *answer) check(snap *replica.Snapshot) error {
	if a == nil {
		return nil
	}
	if !a.place.SameCopy(snap.TailPosition()) {
		return watch.Interrupted(replica.ErrTailGap)
	}
	if a.schema == snap.SchemaVersion() {
		return nil
	}
	for _, p := range a.tables {
		t := snap.Catalog().TableByID(p.id)
		switch {
		case t == nil && snap.Catalog().IsPartial():
			return watch.Interrupted(errForgotten) // the region may not hold it any more: another may
		case t == nil:
			return schemaChanged(p.name, snap.SchemaVersion(), "table %s was dropped or made anew", p.name)
		}
		now, err := watch.Fingerprint(t)
		if err != nil {
			return err
		}
		if now != p.print {
			return schemaChanged(p.name, snap.SchemaVersion(), "the columns, the key or the name of table %s changed", p.name)
		}
	}
	return nil
}

func schemaChanged(table string, version uint64, format string, args ...any) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_SCHEMA_CHANGED, format, args...).
		With("table", table).With("version", strconv.FormatUint(version, 10))
}

// message returns a message with the result. In the binary form bytes that a message does not know are written as they are: to
// who reads them they are its result.
func (a *answer) message(binary bool) (*datav1.WatchQueryResponse, error) {
	m := &datav1.WatchQueryResponse{}
	if binary {
		m.ProtoReflect().SetUnknown(a.wire)
		return m, nil
	}
	return m, proto.Unmarshal(a.wire, m)
}

// sink gathers an answer.
type sink struct {
	limit    int
	compiled edgesql.Compiled
	result   datav1.ResultSet
	bytes    int
}

var (
	_ sqlrun.Sink      = (*sink)(nil)
	_ edgesql.Observer = (*sink)(nil)
)

// Compiled implements edgesql.Observer.
func (s *sink) Compiled(c edgesql.Compiled) { s.compiled = c }

// Columns implements sqlrun.Sink.
func (s *sink) Columns(columns []*datav1.Column) error {
	if s.compiled.Volatile {
		return notWatchable("volatile", "it may answer something else without a commit: it calls a function like random() or asks for the schema")
	}
	s.result.Columns = columns
	return nil
}

// Row implements sqlrun.Sink.
func (s *sink) Row(row *datav1.Row, size int) error {
	if s.bytes += size; s.bytes > s.limit {
		return s.tooLarge()
	}
	s.result.Rows = append(s.result.Rows, row)
	return nil
}

func (s *sink) tooLarge() error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_RESULT_TOO_LARGE,
		"the answer of a watched query is larger than %d bytes", s.limit).With("limit", strconv.Itoa(s.limit))
}

// answer returns what was gathered from a snapshot.
func (s *sink) answer(snap *replica.Snapshot) (*answer, error) {
	a := &answer{
		epoch: snap.Epoch(), version: snap.Version(), place: snap.TailPosition(), floor: snap.Floor(), schema: snap.SchemaVersion(),
	}
	size := proto.Size(&s.result)
	if size > s.limit {
		return nil, s.tooLarge()
	}
	var err error
	a.wire = protowire.AppendTag(make([]byte, 0, size+protowire.SizeTag(resultField)+protowire.SizeBytes(0)+4), resultField, protowire.BytesType)
	a.wire = protowire.AppendVarint(a.wire, uint64(size))
	options := proto.MarshalOptions{Deterministic: true}
	if a.wire, err = options.MarshalAppend(a.wire, &s.result); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	if a.columns, err = options.Marshal(&datav1.ResultSet{Columns: s.result.GetColumns()}); err != nil {
		return nil, fmt.Errorf("encode columns: %w", err)
	}
	for _, t := range s.compiled.Tables {
		a.slots = append(a.slots, snap.TableSlot(t.ID))
		of, err := watch.Fingerprint(t)
		if err != nil {
			return nil, err
		}
		a.tables = append(a.tables, tablePrint{id: t.ID, name: t.Name, print: of})
	}
	if len(a.slots) == 0 {
		a.slots = append(a.slots, snap.TableSlot(0)) // of no table: it is raised with the whole database
	}
	return a, nil
}

// failed returns the watchers' error for what a run failed with. Last is what was answered before, nil if nothing was; snap is nil
// where there was none.
func (q *query) failed(last *answer, snap *replica.Snapshot, err error) error {
	again := func(err error) error {
		if last == nil {
			return watch.StartError(context.Background(), nil, err)
		}
		return watch.Interrupted(err)
	}
	if q.ctx.Err() != nil {
		return watch.Interrupted(q.ctx.Err()) // nobody is left, or the hub closes
	}
	if u, ok := errors.AsType[*edgesql.UnsupportedError](err); ok {
		switch {
		case u.Reason == edgesql.ReasonDiverged, u.Reason == edgesql.ReasonFailed:
			return again(err)
		case u.Reason == edgesql.ReasonWrites:
			return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_WRITES, "the statement may write: only a SELECT can be watched")
		case u.Reason != edgesql.ReasonError:
			return notWatchable(string(u.Reason), "%w", err)
		case last != nil && snap.Catalog().IsPartial():
			return watch.Interrupted(u)
		case last != nil:
			return schemaChanged("", snap.SchemaVersion(), "the statement does not compile any more: %w", u.Err)
		case snap.Catalog().IsPartial():
			return fmt.Errorf("%w: %w", ErrWithheld, u)
		default:
			return sqlrun.Error(u.Err)
		}
	}
	if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return err
	}
	return again(err)
}

func notWatchable(why, format string, args ...any) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_NOT_WATCHABLE,
		"the region cannot watch this statement: "+strings.ReplaceAll(format, "%w", "%v"), args...).With("why", why)
}
