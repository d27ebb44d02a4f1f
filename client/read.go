package client

import (
	"context"
	"fmt"
	"iter"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// First runs a query and returns its first row as a T, or ErrNoRow. It fetches the whole answer, so say LIMIT 1 where there may
// be many. T is a struct with `db` tags or names like the columns, map[string]any, []any, or the type of the one column;
// docs/client.md has the rules.
func First[T any](ctx context.Context, db *Database, query string, args ...any) (row T, err error) {
	rows, scan, err := fetch[T](ctx, db, query, args)
	switch {
	case err != nil:
		return row, err
	case len(rows) == 0:
		return row, ErrNoRow
	}
	return scan.scan(rows[0])
}

// All runs a query and returns its rows as Ts; see First. The answer is of one version and at most 64 MiB; for larger ones use
// Rows. It is nil if there are none.
func All[T any](ctx context.Context, db *Database, query string, args ...any) ([]T, error) {
	rows, scan, err := fetch[T](ctx, db, query, args)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	list := make([]T, len(rows))
	for i, row := range rows {
		if list[i], err = scan.scan(row); err != nil {
			return nil, fmt.Errorf("row %d: %w", i, err)
		}
	}
	return list, nil
}

func fetch[T any](ctx context.Context, db *Database, query string, args []any) ([]*datav1.Row, *scanner[T], error) {
	st, err := statement(query, args)
	if err != nil {
		return nil, nil, err
	}
	res, err := db.client.Query(ctx, connect.NewRequest(&datav1.QueryRequest{
		Database: db.name, Statement: st, Consistency: db.consistency,
	}))
	if err != nil {
		return nil, nil, err
	}
	scan, err := newScanner[T](res.Msg.GetResult().GetColumns())
	return res.Msg.GetResult().GetRows(), scan, err
}

// Rows runs a query whose answer may be of any size and gives its rows one by one, all of one version; see First. It holds a
// piece of the answer, 64 KiB or so, in memory. Leaving the loop ends the query. An error is given once, with a zero row, as
// the last thing; rows before it were good.
//
// Each loop over what Rows returns runs the query anew.
func Rows[T any](ctx context.Context, db *Database, query string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		if err := stream(ctx, db, query, args, func(row T) bool { return yield(row, nil) }); err != nil {
			yield(none, err)
		}
	}
}

// stream calls f with each row until that says false.
func stream[T any](ctx context.Context, db *Database, query string, args []any, f func(T) bool) error {
	st, err := statement(query, args)
	if err != nil {
		return err
	}
	// Closing a stream reads what is left of it; with its context ended, nothing is.
	ctx, cancel := context.WithCancel(ctx)
	in, err := db.client.QueryStream(ctx, connect.NewRequest(&datav1.QueryStreamRequest{
		Database: db.name, Statement: st, Consistency: db.consistency,
	}))
	if err != nil {
		cancel()
		return err
	}
	defer func() {
		cancel()
		_ = in.Close() // what it has to say was said by Err, or nobody asks for it
	}()
	var scan *scanner[T]
	for in.Receive() {
		if scan == nil { // the first piece has the columns
			if scan, err = newScanner[T](in.Msg().GetColumns()); err != nil {
				return err
			}
		}
		for _, row := range in.Msg().GetRows() {
			v, err := scan.scan(row)
			if err != nil {
				return err
			}
			if !f(v) {
				return nil
			}
		}
	}
	return in.Err()
}

// Get reads the row with a key, or returns ErrNoRow. T is as in First; a field with the tag `db:",version"` takes the version
// of the row's last change, for Operation.IfVersion.
func Get[T any](ctx context.Context, db *Database, table string, key ...any) (row T, err error) {
	k, err := keyOf(key)
	if err != nil {
		return row, err
	}
	res, err := db.client.Get(ctx, connect.NewRequest(&datav1.GetRequest{
		Database: db.name, Table: table, Key: k, Consistency: db.consistency,
	}))
	switch {
	case err != nil:
		return row, err
	case res.Msg.GetRow() == nil:
		return row, ErrNoRow
	}
	scan, err := newScanner[T](res.Msg.GetColumns())
	if err != nil {
		return row, err
	}
	return scan.scan(res.Msg.GetRow())
}

// BatchGet reads the rows with the given keys of one column, at most 1,000, all of one version. The answer has a row for each
// key, in their order; nil where there is none.
func BatchGet[T, K any](ctx context.Context, db *Database, table string, keys ...K) ([]*T, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	req := &datav1.BatchGetRequest{Database: db.name, Table: table, Consistency: db.consistency}
	for _, key := range keys {
		k, err := keyOf([]any{key})
		if err != nil {
			return nil, err
		}
		req.Keys = append(req.Keys, k)
	}
	res, err := db.client.BatchGet(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	scan, err := newScanner[T](res.Msg.GetColumns())
	if err != nil {
		return nil, err
	}
	rows := make([]*T, len(keys))
	for i, found := range res.Msg.GetResults() {
		if found.GetRow() == nil {
			continue
		}
		row, err := scan.scan(found.GetRow())
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		rows[i] = &row
	}
	return rows, nil
}

// Range says which rows List gives, and in which order. The zero value is all rows in the order of the primary key.
type Range struct {
	Index   string // whose order to follow; empty is the primary key
	Prefix  []any  // only rows whose first key columns equal these
	From    []any  // only rows from here on, by the key columns after the prefix
	To      []any  // only rows up to here, by the key columns after the prefix
	Reverse bool   // from the end to the start

	FromExclusive, ToExclusive bool // leave out the rows that begin with the bound's values

	// PageSize is the rows of a page: default 100, at most 10,000.
	PageSize uint32
}

func (r Range) request(db *Database, table string) (req *datav1.ListRequest, err error) {
	req = &datav1.ListRequest{
		Database: db.name, Table: table, Index: r.Index, Reverse: r.Reverse, PageSize: r.PageSize, Consistency: db.consistency,
	}
	if req.Prefix, err = valuesOf(r.Prefix); err != nil {
		return nil, fmt.Errorf("prefix: %w", err)
	}
	for _, b := range []struct {
		name      string
		values    []any
		exclusive bool
		to        **datav1.ListRequest_Bound
	}{{"from", r.From, r.FromExclusive, &req.Start}, {"to", r.To, r.ToExclusive, &req.End}} {
		if len(b.values) == 0 {
			continue
		}
		values, err := valuesOf(b.values)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", b.name, err)
		}
		*b.to = &datav1.ListRequest_Bound{Values: values, Exclusive: b.exclusive}
	}
	return req, nil
}

// List gives a table's rows in order, fetching a page when it is needed. T is as in Get. Errors are as in Rows.
//
// Each page is of one version, and no page is older than the one before. Over several pages: a row that is there, with the
// same key, all the while is given exactly once; one that comes, goes or changes its key meanwhile may or may not be given.
// What must be of one version as a whole fits into one page, or is a query for Rows. A bound set with MaxStaleness is one of
// the first page.
func List[T any](ctx context.Context, db *Database, table string, r Range) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		if err := list(ctx, db, table, r, func(row T) bool { return yield(row, nil) }); err != nil {
			yield(none, err)
		}
	}
}

func list[T any](ctx context.Context, db *Database, table string, r Range, f func(T) bool) error {
	req, err := r.request(db, table)
	if err != nil {
		return err
	}
	for {
		res, err := db.client.List(ctx, connect.NewRequest(req))
		if err != nil {
			return err
		}
		scan, err := newScanner[T](res.Msg.GetColumns())
		if err != nil {
			return err
		}
		for _, row := range res.Msg.GetRows() {
			v, err := scan.scan(row)
			if err != nil {
				return err
			}
			if !f(v) {
				return nil
			}
		}
		if req.PageToken = res.Msg.GetNextPageToken(); req.PageToken == "" {
			return nil
		}
		req.Consistency = notBefore(req.GetConsistency(), res.Msg.GetAnswer().GetBookmark())
	}
}

// notBefore returns the consistency of the next page: what the caller asked for, and where that could be answered from an
// older state, at least that of the page before.
func notBefore(c *datav1.Consistency, bookmark string) *datav1.Consistency {
	if c.GetLevel() == datav1.Consistency_LEVEL_PRIMARY {
		return c
	}
	return &datav1.Consistency{Level: datav1.Consistency_LEVEL_AT_LEAST, Bookmark: bookmark}
}
