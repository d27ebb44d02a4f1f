package readpath

import (
	"context"
	"net/http"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
)

// Callers who see some tables or rows only. Rows in memory are everybody's: reads by key of a table that has hidden ones pass
// memory by, and the rows that the copy has are looked at one by one. Results of statements are kept apart by what their callers
// see.

// keyedRequest is a read of one table.
type keyedRequest interface {
	GetDatabase() string
	GetTable() string
	GetConsistency() *datav1.Consistency
}

// keyed is read of a read by key, with which rows of its table the caller may see.
func (p *Path) keyed(ctx context.Context, h http.Header, procedure string, req keyedRequest) (Read, error) {
	read, err := p.read(ctx, h, req.GetDatabase(), req.GetConsistency())
	if err != nil {
		return read, err
	}
	if view := p.guard.View(ctx, procedure, access.RightRead, req.GetDatabase()); view != nil {
		read.rows, err = view.Table(req.GetTable())
	}
	return read, err
}

// readSQL is read of a statement, with the view that its caller has of the database.
func (p *Path) readSQL(ctx context.Context, h http.Header, procedure string, req sqlRequest) (Read, error) {
	read, err := p.read(ctx, h, req.GetDatabase(), req.GetConsistency())
	if err == nil {
		read.sql = p.guard.View(ctx, procedure, access.RightRead, req.GetDatabase())
		read.View = read.sql.Name()
	}
	return read, err
}

// ask runs a statement.
func (r *Read) ask(ctx context.Context, sql SQL, v *view, st *datav1.Statement, sink sqlrun.Sink) (edgesql.Stats, error) {
	if r.sql == nil {
		return sql.Query(ctx, r.Database.id, v.snap, st, sink)
	}
	return sql.QueryView(ctx, r.Database.id, v.snap, r.sql, st, sink)
}

// passOn returns nil where the primary may answer a statement that this region did not. To who sees some rows only regions alone
// answer.
func (r *Read) passOn() error {
	if r.sql == nil {
		return nil
	}
	switch r.passed {
	case whyUnknown, whyBehind, whyStale, whyNotReady, whyFailed, "":
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY,
			"this region's copy cannot answer now, and the primary answers no SQL to who may see some rows only").
			WithRetryAfter(100 * time.Millisecond)
	default:
		return r.sql.Refused("this statement is none that a region answers (" + r.passed + ")")
	}
}
