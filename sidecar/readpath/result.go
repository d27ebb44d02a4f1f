package readpath

import (
	"context"
	"hash/maphash"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/budget"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/memory"
)

// results answers statements from memory where their results are there and still hold, and keeps what the replica answers. A
// result depends on the tables that its statement may read, by SQLite's own account, each of them whole.
type results struct {
	memory  *memoryReader
	replica *replicaReader
	sql     SQL
	flights flights[memory.Result]
	forms   forms
}

// query is a statement that is asked for.
type query struct {
	statement *datav1.Statement
	// maxAge is how long ago it may have been run; negative for any time, 0 to run it.
	maxAge time.Duration

	form       string
	parameters []byte
}

// result is what a statement answers. Its answer is nil where the primary has to be asked.
type result struct {
	set    *datav1.ResultSet
	answer *datav1.Answer
}

// prepare fills in what q is kept under. It reports false where memory has nothing to do with it.
func (r *results) prepare(read *Read, q *query) bool {
	if r.memory.skips(read) || q.maxAge == 0 {
		return false
	}
	var err error
	if q.parameters, err = memory.EncodeParameters(q.statement); err != nil {
		return false
	}
	q.form = r.forms.of(q.statement.GetSql()).normal
	return true
}

func (q *query) key(read *Read, schema uint64) []byte {
	return memory.AppendResultKey(nil, read.Database.id, schema, read.View, q.form, q.parameters)
}

// lookup answers from memory.
func (r *results) lookup(read *Read, q *query) (m moment, kept memory.Result, key []byte, ok bool) {
	if m, ok = r.memory.moment(read); !ok {
		return m, kept, nil, false
	}
	key = q.key(read, m.SchemaVersion())
	kept, ok = r.memory.cache.LookupResult(m.Stamp(), key, q.maxAge)
	return m, kept, key, ok
}

// query answers a statement.
func (r *results) query(ctx context.Context, read *Read, q *query) (result, error) {
	if !r.prepare(read, q) {
		res, _, _, err := r.run(ctx, read, q, false, nil)
		return res, err
	}
	m, kept, key, ok := r.lookup(read, q)
	if ok {
		return r.respond(m, kept)
	}
	if key == nil { // the copy has to be waited for, or is not fresh enough
		res, _, _, err := r.run(ctx, read, q, true, nil)
		return res, err
	}
	name := string(key)
	fl, leads := r.flights.join(name)
	if leads {
		give := func() { r.flights.land(name, fl, memory.Result{}, false) }
		defer give()
		res, kept, ok, err := r.run(ctx, read, q, true, give)
		r.flights.land(name, fl, kept, ok)
		return res, err
	}
	kept, ok, err := fl.wait(ctx)
	if err != nil {
		return result{}, sqlrun.Interrupted(ctx)
	}
	if ok {
		// What has landed may be older than what this caller asks for, and the copy newer than what has landed.
		if m, ok = r.memory.moment(read); ok && r.memory.cache.HoldsResult(kept, m.Stamp()) {
			return r.respond(m, kept)
		}
	}
	res, _, _, err := r.run(ctx, read, q, true, nil)
	return res, err
}

func (r *results) respond(m moment, kept memory.Result) (result, error) {
	set, err := kept.Decode()
	if err != nil {
		return result{}, err
	}
	return result{set: set, answer: r.memory.answer(m)}, nil
}

// run asks the replica, and keeps what it answers. Give is called as soon as it is clear that nothing will be kept; it may be
// nil.
func (r *results) run(
	ctx context.Context, read *Read, q *query, keep bool, give func(),
) (res result, kept memory.Result, ok bool, err error) {
	sink := keeping{give: give}
	sink.Meter = budget.NewMeter(ctx)
	below := read.from(&provenance{passed: give})
	done, err := r.replica.answer(ctx, below, func(v *view) error {
		stats, err := read.ask(ctx, r.sql, v, q.statement, &sink)
		if err != nil {
			return err
		}
		work := time.Since(sink.begun)
		res = result{set: &sink.Result, answer: v.answer(int(stats.RowsRead))}
		if keep {
			kept, ok = r.keep(v, read, q, &sink, work)
		}
		return nil
	})
	if !done {
		read.passed = below.passed
		return result{}, memory.Result{}, false, err
	}
	return res, kept, ok, nil
}

// keep keeps what a statement answered, if its tables alone decide on that.
func (r *results) keep(v *view, read *Read, q *query, sink *keeping, work time.Duration) (kept memory.Result, ok bool) {
	if sink.compiled.Volatile || sink.Meter.Size() > memory.MaxEntryBytes || v.snap.Reading().Until == 0 {
		return kept, false
	}
	wire, err := proto.Marshal(&sink.Result)
	if err != nil {
		return kept, false // a name that is no UTF-8: whoever sends it says so
	}
	return r.memory.cache.KeepResult(v.snap.Reading(), read.Database.id, memory.NewResult{
		Key: q.key(read, v.snap.SchemaVersion()), Tables: tableIDs(sink.compiled), Wire: wire, Work: work,
	})
}

func tableIDs(c edgesql.Compiled) []uint32 {
	if len(c.Tables) == 0 {
		return nil
	}
	ids := make([]uint32, len(c.Tables))
	for i, t := range c.Tables {
		ids[i] = t.ID
	}
	return ids
}

// keeping is a Sink that knows what its answer depends on.
type keeping struct {
	sqlrun.Collector

	give     func() // called if the statement's answer cannot be kept
	compiled edgesql.Compiled
	begun    time.Time // when the statement was compiled, and had its place
}

var (
	_ sqlrun.Sink      = (*keeping)(nil)
	_ edgesql.Observer = (*keeping)(nil)
)

// Compiled implements edgesql.Observer.
func (k *keeping) Compiled(c edgesql.Compiled) {
	k.compiled, k.begun = c, time.Now()
	if c.Volatile && k.give != nil {
		k.give()
	}
}

// teeing is a Sink that passes an answer on, and gathers it as long as it is small.
type teeing struct {
	sqlrun.Sink

	kept  keeping
	large bool
}

var (
	_ sqlrun.Sink      = (*teeing)(nil)
	_ edgesql.Observer = (*teeing)(nil)
)

// Compiled implements edgesql.Observer.
func (t *teeing) Compiled(c edgesql.Compiled) { t.kept.Compiled(c) }

// Columns implements sqlrun.Sink.
func (t *teeing) Columns(columns []*datav1.Column) error {
	t.kept.Result.Columns = columns
	return t.Sink.Columns(columns)
}

// Row implements sqlrun.Sink.
func (t *teeing) Row(row *datav1.Row, size int) error {
	if t.large = t.large || t.kept.Meter.Size()+size > sqlrun.PieceBytes; t.large {
		t.kept.Result.Rows = nil
	} else {
		_ = t.kept.Row(row, size) // far below what it refuses
	}
	return t.Sink.Row(row, size)
}

// Forms of statements that are remembered: making one takes longer than finding a result.
const (
	formPlaces   = 1024
	maxFormBytes = 2 << 10
)

// forms remembers the normal forms of the statements that were asked last.
type forms struct {
	places [formPlaces]atomic.Pointer[form]
}

// form is a statement's text and its normal form.
type form struct {
	text, normal string
	pace         pace // of answers at once
}

var formSeed = maphash.MakeSeed()

// ForgetStatements forgets the texts of statements that are remembered.
func (p *Path) ForgetStatements() {
	for i := range p.results.forms.places {
		p.results.forms.places[i].Store(nil)
	}
}

// of returns a statement's form.
func (f *forms) of(text string) *form {
	place := &f.places[maphash.String(formSeed, text)%formPlaces]
	if known := place.Load(); known != nil && known.text == text {
		return known
	}
	made := &form{text: text, normal: string(sqlsplit.AppendNormal(nil, text))}
	if len(text) <= maxFormBytes {
		place.Store(made)
	}
	return made
}

// ofBytes is of, without making a string of a text that is remembered.
func (f *forms) ofBytes(text []byte) *form {
	place := &f.places[maphash.Bytes(formSeed, text)%formPlaces]
	if known := place.Load(); known != nil && known.text == string(text) {
		return known
	}
	return f.of(string(text))
}
