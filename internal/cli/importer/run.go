package importer

import (
	"context"
	"errors"
	"fmt"
	"io"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// run is one import under way.
type run struct {
	client  Transactor
	opts    Options
	keys    *keyChain
	summary Summary
	batch   batch

	foreignKeysOff bool
	unchecked      bool   // some batch did not check foreign keys
	doneAt         uint64 // the version of the last batch that this import did; 0 before the first
	noted          int64  // the end of the last statement that was left out with a note
}

// batch is the statements of the next transaction.
type batch struct {
	statements []sqlsplit.Statement
	bytes      int
	schema     bool  // statements change the schema
	origins    []int // of the operations sent: the statement each one comes from
}

// scan calls f with each statement of the input.
func (r *run) scan(in io.Reader, f func(sqlsplit.Statement) error) error {
	scanner := sqlsplit.NewScanner(in, sqlsplit.Options{MaxStatementBytes: MaxTransactionBytes})
	for scanner.Scan() {
		if err := f(scanner.Statement()); err != nil {
			return err
		}
	}
	if tooLong, ok := errors.AsType[*sqlsplit.TooLongError](scanner.Err()); ok {
		return fmt.Errorf("%s:%d: the statement is longer than %d MiB, or a quote in it is not closed",
			r.opts.Name, tooLong.Line, MaxTransactionBytes>>20)
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("%s: %w", r.opts.Name, err)
	}
	return nil
}

func (r *run) add(ctx context.Context, s sqlsplit.Statement) error {
	role := roleOf(s.Text)
	if role != roleRows && role != roleSchema {
		return r.leaveOut(ctx, s, role)
	}
	if r.opts.Atomic {
		if r.batch.bytes+len(s.Text) > MaxTransactionBytes || len(r.batch.statements) == MaxOperations {
			return fmt.Errorf("%s:%d: --atomic takes at most %d MiB and %d statements: import without it",
				r.opts.Name, s.Line, MaxTransactionBytes>>20, MaxOperations)
		}
	} else if r.full(s, role) {
		if err := r.flush(ctx); err != nil {
			return err
		}
	}
	r.batch.statements = append(r.batch.statements, s)
	r.batch.bytes += len(s.Text)
	r.batch.schema = role == roleSchema
	return nil
}

// leaveOut deals with a statement that is not run.
func (r *run) leaveOut(ctx context.Context, s sqlsplit.Statement, role role) error {
	if role == roleRollback {
		return &StatementError{
			Name: r.opts.Name, Line: s.Line, Statement: s.Text,
			Err: errors.New("an import cannot go back; what stands before it would have to be left out"),
		}
	}
	r.summary.SkippedStatements++
	if role == roleTransaction {
		return nil
	}
	if off, ok := foreignKeys(s.Text); ok {
		return r.setForeignKeys(ctx, off)
	}
	if r.opts.OnNote != nil && s.EndOffset > r.noted {
		r.opts.OnNote(fmt.Sprintf("%s:%d: left out: %s", r.opts.Name, s.Line, abridge(s.Text)))
	}
	r.noted = max(r.noted, s.EndOffset)
	return nil
}

// full reports whether the batch has to go before s is added. Schema changes are kept apart from rows: they cost the
// primary a transaction of another kind.
func (r *run) full(s sqlsplit.Statement, role role) bool {
	n := len(r.batch.statements)
	return n > 0 && (n >= r.opts.BatchStatements || r.batch.bytes+len(s.Text) > r.opts.BatchBytes ||
		r.batch.schema != (role == roleSchema))
}

// setForeignKeys takes note of a PRAGMA foreign_keys.
func (r *run) setForeignKeys(ctx context.Context, off bool) error {
	if off == r.foreignKeysOff {
		return nil
	}
	if !r.opts.Atomic {
		if err := r.flush(ctx); err != nil {
			return err
		}
	}
	r.foreignKeysOff = off || r.opts.Atomic && r.foreignKeysOff
	return nil
}

// flush runs the batch.
func (r *run) flush(ctx context.Context) error {
	statements := r.batch.statements
	if len(statements) == 0 {
		return nil
	}
	// Tables are dropped in the order of their making as a rule, parents first.
	request := &datav1.TransactRequest{
		Database:             r.opts.Database,
		Operations:           make([]*datav1.Operation, 0, len(statements)),
		IdempotencyKey:       r.keys.next(statements, r.foreignKeysOff),
		DeferForeignKeys:     r.batch.schema && !r.foreignKeysOff,
		UncheckedForeignKeys: r.foreignKeysOff,
	}
	r.unchecked = r.unchecked || r.foreignKeysOff
	r.batch.origins = r.batch.origins[:0]
	for i, s := range statements {
		parts, err := statementsOf(s.Text, roleOf(s.Text))
		if err != nil {
			return &StatementError{Name: r.opts.Name, Line: s.Line, Statement: s.Text, Err: err}
		}
		for _, part := range parts {
			request.Operations = append(request.Operations, &datav1.Operation{
				Operation: &datav1.Operation_Statement{Statement: part},
			})
			r.batch.origins = append(r.batch.origins, i)
		}
		// A row may refer to a later one of its statement.
		request.DeferForeignKeys = request.DeferForeignKeys || len(parts) > 1 && !r.foreignKeysOff
	}
	response, err := transact(ctx, r.client, request, r.opts.RetryFor)
	if err != nil {
		return r.failure(err)
	}
	if err := r.place(response); err != nil {
		return fmt.Errorf("%s:%d: %w", r.opts.Name, statements[0].Line, err)
	}
	r.count(response)
	r.batch = batch{statements: statements[:0], origins: r.batch.origins[:0]}
	if r.opts.OnBatch != nil {
		r.opts.OnBatch(r.summary)
	}
	return nil
}

// place tells by the version of a batch who did it. One that is answered as done before, at a version after those that this
// import made, is its own: an attempt of which no answer came back. One from before them is an earlier import's.
func (r *run) place(response *datav1.TransactResponse) error {
	switch version := response.GetVersion(); {
	case version > r.doneAt && (r.doneAt > 0 || !response.GetReplayed()):
		r.doneAt = version
		response.Replayed = false
	case response.GetReplayed() && r.doneAt > 0 && version > 0:
		return ErrForgotten
	}
	return nil
}

// checkForeignKeys notes how many rows refer to rows that are not there.
func (r *run) checkForeignKeys(ctx context.Context) error {
	response, err := transact(ctx, r.client, &datav1.TransactRequest{
		Database: r.opts.Database,
		Operations: []*datav1.Operation{{Operation: &datav1.Operation_Statement{
			Statement: &datav1.Statement{Sql: "SELECT count(*) FROM pragma_foreign_key_check"},
		}}},
	}, r.opts.RetryFor)
	if err != nil {
		return fmt.Errorf("check foreign keys of %s: %w", r.opts.Database, err)
	}
	for _, result := range response.GetResults() {
		for _, row := range result.GetRows() {
			if n := row.GetValues()[0].GetInteger(); n > 0 && r.opts.OnNote != nil {
				r.opts.OnNote(fmt.Sprintf("%s: %d rows refer to rows that are not there: the dump turns foreign keys off",
					r.opts.Name, n))
			}
		}
	}
	return nil
}

func (r *run) count(response *datav1.TransactResponse) {
	statements := r.batch.statements
	r.summary.Batches++
	if response.GetReplayed() {
		r.summary.SkippedBatches++
	}
	r.summary.Statements += int64(len(statements))
	r.summary.Bytes += int64(r.batch.bytes)
	r.summary.Bookmark = response.GetAnswer().GetBookmark()
	for _, result := range response.GetResults() {
		r.summary.Rows += result.GetRowsAffected()
	}
	if len(response.GetResults()) == 0 { // a replay too large to be kept whole
		r.summary.Rows += int64(response.GetAnswer().GetRowsWritten())
	}
}
