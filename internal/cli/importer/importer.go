package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// What the primary takes.
const (
	MaxStatementBytes   = 1 << 20
	MaxTransactionBytes = 64 << 20
	MaxOperations       = 100_000
)

// Transactor is the part of DataService that an import needs.
type Transactor interface {
	Transact(context.Context, *connect.Request[datav1.TransactRequest]) (*connect.Response[datav1.TransactResponse], error)
}

// Options say how to import.
type Options struct {
	Database string
	// Name is what errors call the input.
	Name string
	// Atomic puts all in one transaction: at most MaxTransactionBytes and MaxOperations.
	Atomic bool
	// Again, if not empty, makes this import another one than earlier ones of the same file: it repeats their batches.
	Again string
	// BatchStatements and BatchBytes bound a batch.
	BatchStatements, BatchBytes int
	// RetryFor is how long one batch is tried again while the mesh is unavailable.
	RetryFor time.Duration
	// OnBatch, if set, is told the state after each batch.
	OnBatch func(Summary)
	// OnNote, if set, is told of what was left out.
	OnNote func(string)
}

// Summary counts what an import did.
type Summary struct {
	Statements        int64 // run, in this import or in an earlier one that it resumes
	SkippedStatements int64 // of the dump's own transactions and settings
	Rows              int64 // rows inserted, updated or deleted
	Batches           int
	SkippedBatches    int    // done by an earlier import
	Bytes             int64  // of the statements
	Bookmark          string // of the last batch
}

// ErrForgotten means that an earlier import of this file did a later batch but the primary no longer knows that it also
// did an earlier one, which has now been done twice.
var ErrForgotten = errors.New("an earlier import of this file went further, but its first batches are no longer known " +
	"and have been repeated: restore or empty the database, then import with --again")

// StatementError is a statement that failed, and its transaction with it.
type StatementError struct {
	Name      string
	Line      int
	Statement string
	Err       error
}

// Error names the place, the cause and how the statement begins.
func (e *StatementError) Error() string {
	return fmt.Sprintf("%s:%d: %v: in %s", e.Name, e.Line, e.Err, abridge(e.Statement))
}

// Unwrap returns the cause.
func (e *StatementError) Unwrap() error { return e.Err }

// Run imports the statements of in. What it did before an error stays, and the Summary says how much that was.
//
// Where the dump turns foreign keys off they are not checked, as SQLite would not: its rows may come before those that they
// refer to. OnNote is told at the end if some refer to nothing.
func Run(ctx context.Context, client Transactor, in io.Reader, opts Options) (Summary, error) {
	r := &run{client: client, opts: opts, keys: newKeyChain(opts.Database, opts.Again)}
	err := r.scan(in, func(s sqlsplit.Statement) error { return r.add(ctx, s) })
	if err == nil {
		err = r.flush(ctx)
	}
	if err == nil && r.unchecked {
		err = r.checkForeignKeys(ctx)
	}
	return r.summary, err
}
