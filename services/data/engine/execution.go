package engine

import (
	"context"
	"errors"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/budget"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
)

// execution is one run of one transaction inside a group.
type execution struct {
	w       *writer
	ctx     context.Context //nolint:containedctx // an execution is one call
	version uint64          // the version that it will make
	alone   bool            // its group has no other
	shared  bool            // others of its group already ran and wait for it
	begun   time.Time

	view     RowView // which rows it may see and change; nil is all
	stopped  stopReason
	answer   budget.Meter
	rowsRead uint64

	schema    bool
	unsettled bool         // the schema has changed since it was derived last
	before    *schemaState // what the transaction found; nil until the schema is derived
	sequences bool
	deferKeys bool
}

// stopReason says why the progress handler stopped a statement.
type stopReason uint8

const (
	stopNone stopReason = iota
	stopCaller
	stopBudget
	stopMemory
)

// errNeedsAlone means that a transaction must run in a group of its own: it changes the schema, or it takes long.
var errNeedsAlone = errors.New("transaction needs a group of its own")

// onProgress is the progress handler; true stops the running statement. It is asked only while a transaction's own
// statements run, so a late cancellation cannot hit the next transaction.
func (w *writer) onProgress() bool {
	x := w.current
	if x == nil {
		return false
	}
	if x.ctx.Err() != nil {
		x.stopped = stopCaller
		return true
	}
	if w.db.lacksMemory(w.conn) {
		x.stopped = stopMemory
		return true
	}
	if x.shared && time.Since(x.begun) > groupBudget {
		x.stopped = stopBudget
		return true
	}
	return false
}

// operations runs the transaction's operations.
func (x *execution) operations(tx *Transaction) ([]*datav1.ResultSet, error) {
	x.w.guard.trusted = false
	x.w.current = x
	defer func() {
		x.w.guard.trusted = true
		x.w.current = nil
	}()
	results := make([]*datav1.ResultSet, len(tx.Operations))
	for i, op := range tx.Operations {
		if err := x.ctx.Err(); err != nil {
			x.stopped = stopCaller
			return nil, interruptedError(x.ctx)
		}
		rs, err := op.run(x)
		if err != nil {
			return nil, withOperation(err, i)
		}
		results[i] = rs
	}
	return results, nil
}

// table returns a table by name, for typed operations.
func (x *execution) table(name string) (*access, error) {
	a := x.w.tables[catalog.Fold(name)]
	if a == nil {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_TABLE_NOT_FOUND, "no such table: %s", name).With("table", name)
	}
	return a, nil
}

// statement runs one statement.
func (x *execution) statement(st *datav1.Statement) (rs *datav1.ResultSet, err error) {
	p, err := x.w.lookup(st.GetSql())
	if err != nil {
		return nil, x.stepError(err) // it may be stopped already
	}
	return x.runPrepared(p, st)
}

// first runs the first statement of a text; rs is nil where it holds none.
func (x *execution) first(text string) (rs *datav1.ResultSet, tail string, err error) {
	p, tail, err := x.w.compile(text)
	if err != nil {
		return nil, "", x.stepError(err)
	}
	if p == nil {
		return nil, tail, nil
	}
	rs, err = x.runPrepared(p, nil)
	return rs, tail, errors.Join(err, p.Finalize())
}

func (x *execution) runPrepared(p *prepared, st *datav1.Statement) (rs *datav1.ResultSet, err error) {
	defer func() {
		if st != nil {
			err = errors.Join(err, x.w.release(p))
		}
	}()
	if p.footprint.schema && !x.alone {
		return nil, errNeedsAlone
	}
	x.note(p.footprint)
	if x.unsettled && p.footprint.remakes() {
		if err := x.settle(footprint{}); err != nil {
			return nil, err
		}
	}
	if st != nil {
		if err := sqlrun.Bind(p.Stmt, st); err != nil {
			return nil, err
		}
	}
	x.w.capture.inserted = nil
	x.w.guard.take()
	if rs, err = x.step(p); err != nil {
		return nil, err
	}
	// SQLite compiles a statement anew where the schema has changed since, and then it may do something else: a DROP TABLE IF
	// EXISTS that found no table before finds one now.
	did := p.footprint
	if again := x.w.guard.take(); again.schema && !did.schema {
		if !x.alone {
			return nil, errNeedsAlone
		}
		x.note(again)
		did = again
	}
	x.unsettled = x.unsettled || did.schema
	if did.remakes() {
		if err := x.settle(did); err != nil {
			return nil, err
		}
	}
	if !p.readOnly && !p.footprint.schema {
		rs.RowsAffected = x.w.conn.Changes()
	}
	rs.LastInsertRowid = x.w.capture.inserted
	return rs, x.w.capture.err
}

func (x *execution) note(f footprint) {
	x.schema = x.schema || f.schema
	x.sequences = x.sequences || f.sequences
	x.deferKeys = x.deferKeys || f.deferKeys
}

func (x *execution) step(p *prepared) (*datav1.ResultSet, error) {
	rs := &datav1.ResultSet{}
	for first := true; ; first = false {
		row, err := p.Step()
		if err != nil {
			return nil, x.stepError(err)
		}
		if first {
			rs.Columns = sqlrun.Columns(p.Stmt) // not sooner: the schema may have changed, and the step compiled it anew
		}
		if !row {
			x.rowsRead += uint64(p.RowsRead())
			return rs, nil
		}
		r, size := sqlrun.Row(p.Stmt)
		if err := sqlrun.Measure(&x.answer, size); err != nil {
			return nil, err
		}
		rs.Rows = append(rs.Rows, r)
	}
}

func (x *execution) stepError(err error) error {
	if !isInterrupt(err) {
		return statementError(err)
	}
	switch x.stopped {
	case stopBudget:
		return errNeedsAlone
	case stopMemory:
		return sqlrun.MemoryError()
	default:
		return interruptedError(x.ctx)
	}
}

// rowVersion returns the version of a row's last change as this transaction sees it.
func (x *execution) rowVersion(a *access, key []byte) (uint64, error) {
	if t := x.w.capture.tables[a.table.Name]; t != nil && t.find(key) != nil {
		return x.version, nil
	}
	if v, ok := x.w.pending.rowVersion(a.table.ID, key); ok {
		return v, nil
	}
	return x.w.log.RowVersion(x.w.id, a.table.ID, key)
}

// finish does what the end of a transaction needs while its savepoint is still open, and returns its record.
func (x *execution) finish(tx *Transaction) (*change, error) {
	w := x.w
	violated, err := w.conn.DeferredForeignKeys()
	if err != nil {
		return nil, err
	}
	if violated {
		// RELEASE would let it pass and the COMMIT of the whole group would fail.
		return nil, statementError(&sqlite.Error{
			Code: sqlite.CodeConstraint, Extended: sqlite.CodeConstraintForeignKey,
			Message: "FOREIGN KEY constraint failed", Offset: -1,
		})
	}
	c := &change{version: x.version}
	if x.unsettled {
		if err := x.settle(footprint{}); err != nil {
			return nil, err
		}
	}
	if err := x.checkView(); err != nil {
		return nil, err
	}
	if x.before != nil {
		c.addSchema(x)
	}
	if err := c.addRows(x); err != nil {
		return nil, err
	}
	if x.sequences || x.schema {
		if err := c.addSequences(x); err != nil {
			return nil, err
		}
	}
	if c.isEmpty() && tx.Migration == nil {
		return nil, nil
	}
	return c, c.encode(w, tx)
}

func tooLarge(size, limit int) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_TRANSACTION_TOO_LARGE,
		"the transaction changes %d bytes, the limit is %d", size, limit).
		With("bytes", itoa(size)).With("limit", itoa(limit))
}
