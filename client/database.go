package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// Database is one database through a Client, with Go values in place of messages. Its reads are part of the client's session:
// they are never older than what the session has seen or done. It is safe for concurrent use; methods that say how fresh
// reads are to be return another one.
type Database struct {
	client      *Client
	name        string
	consistency *datav1.Consistency
}

// Database returns a database by its name. It does not ask whether there is one.
func (c *Client) Database(name string) *Database { return &Database{client: c, name: name} }

// Name returns the database's name.
func (db *Database) Name() string { return db.name }

func (db *Database) with(c *datav1.Consistency) *Database {
	return &Database{client: db.client, name: db.name, consistency: c}
}

// FromPrimary returns the database with reads from the primary.
func (db *Database) FromPrimary() *Database {
	return db.with(&datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY})
}

// Stale returns the database with reads of whatever the region has, older than what the session has seen if need be: they
// are answered while the primary is away.
func (db *Database) Stale() *Database {
	return db.with(&datav1.Consistency{Level: datav1.Consistency_LEVEL_ANY})
}

// MaxStaleness returns the database with reads from a copy that is no older than d, else from the primary.
func (db *Database) MaxStaleness(d time.Duration) *Database {
	return db.with(&datav1.Consistency{Level: datav1.Consistency_LEVEL_MAX_STALENESS, MaxStaleness: durationpb.New(d)})
}

// AtLeast returns the database with reads that are at least as fresh as a bookmark.
func (db *Database) AtLeast(bookmark string) *Database {
	return db.with(&datav1.Consistency{Level: datav1.Consistency_LEVEL_AT_LEAST, Bookmark: bookmark})
}

// Result is what a write did.
type Result struct {
	RowsAffected    int64  // inserted, updated or deleted by the operation itself
	LastInsertRowID int64  // 0 if the operation inserted no row into a table with rowids
	Bookmark        string // of the state that it made; a session keeps it by itself
	Version         uint64 // of the transaction that it was, from Batch, Put, Update and Delete; 0 if that changed nothing
	Replayed        bool   // whether this is the answer to an earlier call with the same idempotency key
}

// Exec runs one SQL statement, which may write. Parameters are as in Value, those made with sql.Named by name.
func (db *Database) Exec(ctx context.Context, query string, args ...any) (Result, error) {
	st, err := statement(query, args)
	if err != nil {
		return Result{}, err
	}
	res, err := db.client.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
		Database: db.name, Statement: st, Consistency: db.consistency, IdempotencyKey: idempotencyKey(ctx),
	}))
	if err != nil {
		return Result{}, err
	}
	r := result(res.Msg.GetResult())
	r.Bookmark, r.Replayed = res.Msg.GetAnswer().GetBookmark(), res.Msg.GetReplayed()
	return r, nil
}

// Put inserts a row, or overwrites the columns given where one with its primary key is there. The row is a struct or a map
// from column names. For a condition, use Batch with the function Put.
func (db *Database) Put(ctx context.Context, table string, row any) (Result, error) {
	return db.one(ctx, Put(table, row))
}

// Update changes columns of the row with a key; columns is a struct or a map from column names. Where there is no such row
// RowsAffected is 0.
func (db *Database) Update(ctx context.Context, table string, columns any, key ...any) (Result, error) {
	return db.one(ctx, Update(table, columns, key...))
}

// Delete deletes the row with a key. Where there is no such row RowsAffected is 0.
func (db *Database) Delete(ctx context.Context, table string, key ...any) (Result, error) {
	return db.one(ctx, Delete(table, key...))
}

func (db *Database) one(ctx context.Context, op Operation) (Result, error) {
	results, err := db.Batch(ctx, op)
	if err != nil {
		return Result{}, err
	}
	return results[0], nil
}

// Batch runs operations in order in one transaction, all or nothing, and returns a result for each. Where one fails the
// error's Operation is its index.
func (db *Database) Batch(ctx context.Context, ops ...Operation) ([]Result, error) {
	req := &datav1.TransactRequest{Database: db.name, IdempotencyKey: idempotencyKey(ctx)}
	for i, op := range ops {
		if op.err != nil {
			return nil, fmt.Errorf("operation %d: %w", i, op.err)
		}
		req.Operations = append(req.Operations, op.message)
	}
	res, err := db.client.Transact(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(ops))
	for i := range results {
		if i < len(res.Msg.GetResults()) { // an old answer that was too large to keep has none
			results[i] = result(res.Msg.GetResults()[i])
		}
		results[i].Bookmark, results[i].Version = res.Msg.GetAnswer().GetBookmark(), res.Msg.GetVersion()
		results[i].Replayed = res.Msg.GetReplayed()
	}
	return results, nil
}

func result(set *datav1.ResultSet) Result {
	return Result{RowsAffected: set.GetRowsAffected(), LastInsertRowID: set.GetLastInsertRowid()}
}

type idempotencyContextKey struct{}

// WithIdempotencyKey returns a context under which one write of a Database happens once, however often it is called, by this
// process or by another: repeats answer what the first one did. Another write under the same key is refused. Without it, each
// call has a key of its own, which makes only the client's own repeats safe.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idempotencyContextKey{}, key)
}

func idempotencyKey(ctx context.Context) string {
	key, _ := ctx.Value(idempotencyContextKey{}).(string)
	return key
}

// Operation is one step of a Batch. Make one with Put, Update, Delete or Exec.
type Operation struct {
	message *datav1.Operation
	err     error
}

// Put is an operation that inserts or overwrites a row; see Database.Put.
func Put(table string, row any) Operation {
	values, err := columnsOf(row)
	if err != nil {
		return Operation{err: fmt.Errorf("put into %s: %w", table, err)}
	}
	return Operation{message: &datav1.Operation{Operation: &datav1.Operation_Put{
		Put: &datav1.Put{Table: table, Values: values},
	}}}
}

// Update is an operation that changes columns of a row; see Database.Update.
func Update(table string, columns any, key ...any) Operation {
	set, err := columnsOf(columns)
	if err != nil {
		return Operation{err: fmt.Errorf("update %s: %w", table, err)}
	}
	k, err := keyOf(key)
	if err != nil {
		return Operation{err: fmt.Errorf("update %s: %w", table, err)}
	}
	return Operation{message: &datav1.Operation{Operation: &datav1.Operation_Update{
		Update: &datav1.Update{Table: table, Key: k, Set: set},
	}}}
}

// Delete is an operation that deletes a row; see Database.Delete.
func Delete(table string, key ...any) Operation {
	k, err := keyOf(key)
	if err != nil {
		return Operation{err: fmt.Errorf("delete from %s: %w", table, err)}
	}
	return Operation{message: &datav1.Operation{Operation: &datav1.Operation_Delete{
		Delete: &datav1.Delete{Table: table, Key: k},
	}}}
}

// Exec is an operation that runs an SQL statement; see Database.Exec.
func Exec(query string, args ...any) Operation {
	st, err := statement(query, args)
	if err != nil {
		return Operation{err: err}
	}
	return Operation{message: &datav1.Operation{Operation: &datav1.Operation_Statement{Statement: st}}}
}

// IfVersion returns the operation with the condition that the row's last change was this version. Where it does not hold the
// whole batch fails with ErrPreconditionFailed, and Error.PresentVersion is the row's.
func (op Operation) IfVersion(version uint64) Operation {
	return op.when(&datav1.Precondition{Condition: &datav1.Precondition_IfVersion{IfVersion: version}})
}

// IfAbsent returns the operation with the condition that there is no such row; see IfVersion.
func (op Operation) IfAbsent() Operation {
	return op.when(&datav1.Precondition{Condition: &datav1.Precondition_IfAbsent{IfAbsent: true}})
}

// IfExists returns the operation with the condition that there is such a row; see IfVersion.
func (op Operation) IfExists() Operation {
	return op.when(&datav1.Precondition{Condition: &datav1.Precondition_IfExists{IfExists: true}})
}

// when returns the operation with a condition, and leaves op as it is.
func (op Operation) when(p *datav1.Precondition) Operation {
	switch o := op.message.GetOperation().(type) {
	case *datav1.Operation_Put:
		op.message = &datav1.Operation{Operation: &datav1.Operation_Put{Put: &datav1.Put{
			Table: o.Put.GetTable(), Values: o.Put.GetValues(), Precondition: p,
		}}}
	case *datav1.Operation_Update:
		op.message = &datav1.Operation{Operation: &datav1.Operation_Update{Update: &datav1.Update{
			Table: o.Update.GetTable(), Key: o.Update.GetKey(), Set: o.Update.GetSet(), Precondition: p,
		}}}
	case *datav1.Operation_Delete:
		op.message = &datav1.Operation{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{
			Table: o.Delete.GetTable(), Key: o.Delete.GetKey(), Precondition: p,
		}}}
	default:
		op.err = errors.Join(op.err, errors.New("a statement takes no condition: write it into its WHERE"))
	}
	return op
}
