package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/budget"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/gather"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// Limits of the writer.
const (
	// MaxTransactionBytes is how large a transaction's record may be.
	MaxTransactionBytes = 64 << 20

	// maxWholeTableBytes leaves room in a record for its catalog.
	maxWholeTableBytes = MaxTransactionBytes - 8<<20

	maxQueue      = 4096                  // waiting transactions
	maxGroup      = 512                   // transactions of one group
	maxGroupBytes = 16 << 20              // records of one group, about
	groupBudget   = 20 * time.Millisecond // how long a group may run before it is committed
)

// writer is the one goroutine that changes a database. All its fields belong to that goroutine; Open and recovery use them
// before it starts.
type writer struct {
	*session

	db  *DB
	id  uint32
	log *changelog.Log
	now func() time.Time

	// What is committed.
	head      changelog.Head
	catalog   *catalog.Catalog
	tables    map[string]*access // by lower-case name
	roots     map[string]int64
	sums      map[uint32]rowSum
	sequences map[uint32]int64
	misstated bool // the catalog does not tell the schema's rows as the file has them
	brief     briefKeys

	// The group that is being made.
	pending pendingState
	capture capture
	puts    putMemory
	current *execution // for the progress handler
}

// pendingState is what the transactions of a group have done so far; it is in SQLite's open transaction and nowhere else.
type pendingState struct {
	w           *writer
	head        changelog.Head
	sums        map[uint32]rowSum
	sequences   map[uint32]*int64 // nil: the entry is gone
	changes     []*change
	rowVersions map[string]uint64 // of the rows that the first indexed changes changed
	indexed     int
	keys        map[changelog.IdempotencyKey]bool
	bytes       int
}

// rowVersion returns the version of a row that the group changed, 0 for one that it deleted. Few ask: the rows are noted when
// the first one does.
func (p *pendingState) rowVersion(table uint32, key []byte) (version uint64, ok bool) {
	if p.rowVersions == nil {
		p.rowVersions = make(map[string]uint64)
	}
	for ; p.indexed < len(p.changes); p.indexed++ {
		c := p.changes[p.indexed]
		for _, t := range c.tables {
			for _, r := range t.GetRows() {
				version := c.version
				if r.Value == nil {
					version = 0
				}
				p.rowVersions[rowRef(t.GetTableId(), r.GetKey())] = version
			}
		}
	}
	version, ok = p.rowVersions[rowRef(table, key)]
	return version, ok
}

func (p *pendingState) sum(table uint32) rowSum {
	if s, ok := p.sums[table]; ok {
		return s
	}
	return p.w.sums[table]
}

func (p *pendingState) sequence(table uint32) (int64, bool) {
	if s, ok := p.sequences[table]; ok {
		if s == nil {
			return 0, false
		}
		return *s, true
	}
	s, ok := p.w.sequences[table]
	return s, ok
}

func (p *pendingState) add(c *change) {
	p.head = c.head(p.head.Epoch)
	for _, s := range c.sums {
		p.sums[s.table] = s.sum
	}
	for _, s := range c.sequences {
		p.sequences[s.GetTableId()] = s.Value
	}
	p.changes = append(p.changes, c)
	p.bytes += len(c.record)
}

// request is a transaction on its way.
type request struct {
	ctx   context.Context //nolint:containedctx // a request is one call
	tx    *Transaction
	state atomic.Int32 // stateQueued, then stateTaken or stateAbandoned
	alone bool         // the writer found that it needs its own group
	done  chan outcome // of capacity 1
}

const (
	stateQueued int32 = iota
	stateTaken
	stateAbandoned
)

type outcome struct {
	commit *Commit
	err    error
}

// member is a transaction of the present group that has run.
type member struct {
	r      *request
	change *change // nil if it changed nothing
	commit *Commit
	err    error
}

// loop runs groups until the queue is closed to it.
func (w *writer) loop(queue <-chan *request, stop <-chan struct{}) {
	var group []*request
	last := 0
	w.restate()
	for {
		select {
		case first := <-queue:
			group = append(group[:0], first)
		case <-stop:
			refuse(queue)
			return
		}
		gather.Ready(last, maxGroup, func() int { return len(queue) + len(group) })
		for len(group) < maxGroup && len(queue) > 0 {
			group = append(group, <-queue)
		}
		last = len(group)
		for rest := group; len(rest) > 0; {
			rest = w.group(rest)
		}
		w.restate()
		w.forget(group)
	}
}

// forget lets go of a group: what it wrote would stay in memory until the next one, of every database that is open.
func (w *writer) forget(group []*request) {
	clear(group)
	w.pending, w.capture, w.puts = pendingState{}, capture{}, putMemory{}
}

func refuse(queue <-chan *request) {
	for {
		select {
		case r := <-queue:
			r.done <- outcome{err: notServed(ErrClosed)}
		default:
			return
		}
	}
}

// group runs transactions as one group, commits it, answers, and returns those that are still to run. Nobody is answered
// before the group is durable: what one saw may be undone with another.
func (w *writer) group(requests []*request) (rest []*request) {
	if err := w.admit(); err != nil {
		for _, r := range requests {
			r.done <- outcome{err: err}
		}
		return nil
	}
	started := time.Now()
	if err := w.begin(); err != nil {
		if err := sqlrun.NoMemory(err); rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_MEMORY_LIMIT {
			for _, r := range requests {
				r.done <- outcome{err: err}
			}
			return nil
		}
		w.fail(requests, err)
		return nil
	}
	var members []member
	for i, r := range requests {
		if r.alone && i > 0 || i > 0 && (time.Since(started) > groupBudget || w.pending.bytes > maxGroupBytes) {
			rest = append(rest, requests[i:]...)
			break
		}
		if !r.state.CompareAndSwap(stateQueued, stateTaken) && r.state.Load() == stateAbandoned {
			continue // its caller has gone and was told that nothing was done
		}
		if key := r.tx.Key; key.Key != "" && w.pending.keys[key] {
			rest = append(rest, r) // the same key in one group: the second one repeats the first one's answer
			continue
		}
		m, lost := w.one(r, len(members) > 0)
		if lost {
			return w.undone(members, m, append(rest, requests[i+1:]...))
		}
		if errors.Is(m.err, errNeedsAlone) {
			r.alone = true
			rest = append(rest, r)
			continue
		}
		members = append(members, m)
		if key := r.tx.Key; key.Key != "" {
			w.pending.keys[key] = true
		}
		if r.alone {
			rest = append(rest, requests[i+1:]...)
			break
		}
	}
	w.commit(members, started)
	return rest
}

// undone sorts a group whose SQLite transaction is gone because of one of them (OR ROLLBACK, RAISE(ROLLBACK), an
// interrupted write): the others run again, and then the culprit alone, unless its caller ended it.
func (w *writer) undone(members []member, culprit member, rest []*request) []*request {
	w.db.metrics.groupsUndone.Inc()
	again := make([]*request, 0, len(members)+len(rest)+1)
	for _, m := range members {
		again = append(again, m.r)
	}
	again = append(again, rest...)
	if culprit.r.alone || culprit.r.ctx.Err() != nil {
		culprit.r.done <- outcome{err: culprit.err}
		return again
	}
	culprit.r.alone = true
	return append(again, culprit.r)
}

// admit refuses writes when the log has failed or the disk is nearly full.
func (w *writer) admit() error {
	if err := w.db.Problem(); err != nil {
		return notServed(err)
	}
	if err := w.log.Failed(); err != nil {
		return notServed(err)
	}
	if !w.log.CheckDisk() {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_DISK_RESERVE,
			"the primary's disk is nearly full: writes are refused until %d MiB of it are free", w.log.DiskReserve()>>20).
			WithRetryAfter(diskRetryAfter)
	}
	return nil
}

func (w *writer) begin() error {
	w.pending = pendingState{
		w: w, head: w.head, sums: make(map[uint32]rowSum), sequences: make(map[uint32]*int64),
		keys: make(map[changelog.IdempotencyKey]bool),
	}
	return w.run("BEGIN IMMEDIATE")
}

// one runs one transaction inside the group. lost means that the whole SQLite transaction is gone.
func (w *writer) one(r *request, shared bool) (m member, lost bool) {
	m.r = r
	if m.commit, m.err = w.replay(r.tx); m.commit != nil || m.err != nil {
		return m, false
	}
	begun := time.Now()
	x := &execution{
		w: w, ctx: r.ctx, version: w.pending.head.Version + 1, alone: r.alone, shared: shared, begun: begun, answer: budget.NewMeter(r.ctx),
		view: r.tx.View,
	}
	w.capture.reset()
	var results []*datav1.ResultSet
	var c *change
	var err error
	bare := w.bare(r)
	if bare {
		results, c, err = w.withoutSavepoint(x, r.tx)
	} else {
		results, c, err = w.savepoint(x, r.tx)
	}
	err = sqlrun.NoMemory(err)
	if x.schema {
		w.forgetStatements() // what was noted of them when they were compiled may be wrong now
	}
	if err != nil || w.conn.Autocommit() {
		x.unsettle()
	}
	if w.conn.Autocommit() {
		if err == nil {
			err = notServed(fmt.Errorf("transaction ended by itself"))
		}
		m.err = err
		return m, true
	}
	if err != nil && bare {
		m.err = err
		if w.capture.written == 0 {
			return m, false // the statement failed before it changed anything
		}
		if undo := w.run("ROLLBACK"); undo != nil {
			m.err = notServed(undo)
		}
		return m, true
	}
	if err != nil {
		if undo := errors.Join(w.run("ROLLBACK TO ns"), w.run("RELEASE ns")); undo != nil {
			m.err = notServed(undo)
			return m, true
		}
		m.err = err
		return m, false
	}
	m.commit = &Commit{
		Results: results, Head: w.pending.head, RowsRead: x.rowsRead, RowsWritten: w.capture.written,
		Elapsed: time.Since(begun), Filtered: r.tx.View != nil,
	}
	if c != nil {
		w.pending.add(c)
		m.change, m.commit.Version, m.commit.Head = c, c.version, w.pending.head
	}
	return m, false
}

// single is an operation of one statement that changes rows of one table.
type single interface {
	Operation
	tableName() string
}

// bare reports whether a transaction needs no savepoint, which has SQLite copy each page before its first change: one statement
// on a table that has no triggers and nothing to do with foreign keys. If it fails, then before it has changed anything. What
// goes wrong after it, which is next to nothing, undoes the group, and then it runs in one of its own, with a savepoint.
func (w *writer) bare(r *request) bool {
	tx := r.tx
	if r.alone || tx.View != nil || len(tx.Operations) != 1 || tx.DeferForeignKeys || tx.UncheckedForeignKeys || tx.Migration != nil {
		return false
	}
	op, ok := tx.Operations[0].(single)
	if !ok {
		return false
	}
	a := w.tables[catalog.Fold(op.tableName())]
	return a != nil && a.isPlain(w.session)
}

// withoutSavepoint runs the operation of a bare transaction.
func (w *writer) withoutSavepoint(x *execution, tx *Transaction) (results []*datav1.ResultSet, c *change, err error) {
	w.conn.ForgetChanges()
	if results, err = x.operations(tx); err == nil && !w.conn.Autocommit() {
		c, err = x.finish(tx)
	}
	return results, c, err
}

// savepoint runs the transaction's operations between SAVEPOINT and RELEASE.
func (w *writer) savepoint(x *execution, tx *Transaction) (results []*datav1.ResultSet, c *change, err error) {
	w.conn.ForgetChanges() // last_insert_rowid() and changes() must not tell of another client's transaction
	if err := w.run("SAVEPOINT ns"); err != nil {
		return nil, nil, err
	}
	if tx.UncheckedForeignKeys {
		// Unlike the PRAGMA this works inside a transaction; it has compiled statements compiled anew.
		if err := w.conn.EnableForeignKeys(false); err != nil {
			return nil, nil, err
		}
		defer func() { err = errors.Join(err, w.conn.EnableForeignKeys(true)) }()
	}
	if tx.DeferForeignKeys {
		x.deferKeys = true
		if err := w.run("PRAGMA defer_foreign_keys = ON"); err != nil {
			return nil, nil, err
		}
	}
	results, err = x.operations(tx)
	if err == nil && !w.conn.Autocommit() {
		c, err = x.finish(tx)
	}
	if x.deferKeys && !w.conn.Autocommit() {
		err = errors.Join(err, w.run("PRAGMA defer_foreign_keys = OFF"))
	}
	if err == nil && !w.conn.Autocommit() {
		err = w.run("RELEASE ns")
	}
	return results, c, err
}

// replay answers a transaction whose idempotency key is known; commit is nil where it is new.
func (w *writer) replay(tx *Transaction) (*Commit, error) {
	if tx.Key.Key == "" {
		return nil, nil
	}
	o, err := w.replayed(tx.Key)
	if errors.Is(err, changelog.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if o.RequestHash != tx.RequestHash {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_REUSED,
			"another request was made under this idempotency key")
	}
	c := &Commit{Version: o.Version, Head: w.pending.head, Replayed: true}
	if o.HasAnswer {
		var stored datav1.TransactResponse
		if err := proto.Unmarshal(o.Answer, &stored); err != nil {
			return nil, fmt.Errorf("%w: stored answer: %w", changelog.ErrCorrupt, err)
		}
		c.Results = stored.GetResults()
	}
	return c, nil
}

func (w *writer) meshVersion() uint64 { return w.db.meshVersion() }
