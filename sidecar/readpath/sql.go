package readpath

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// maxStreams is how many streams of SQL a region answers at once, whose callers take their time; more are refused. It leaves
// places for statements that are not streams.
const maxStreams = edgesql.DefaultMaxRunning / 2

// SQL is what the read path needs of package edgesql.
type SQL interface {
	Query(
		ctx context.Context, database uint32, snap *replica.Snapshot, st *datav1.Statement, sink sqlrun.Sink,
	) (edgesql.Stats, error)
}

// Query answers a Query from the replica. It returns nil, and no error, where the primary has to answer.
func (p *Path) Query(ctx context.Context, h http.Header, req *datav1.QueryRequest) (*datav1.QueryResponse, error) {
	var sink sqlrun.Collector
	answer, err := p.query(ctx, h, req, &sink)
	if answer == nil {
		return nil, err
	}
	p.metrics.answered(methodQuery, answer)
	return &datav1.QueryResponse{Result: &sink.Result, Answer: answer}, nil
}

// Execute answers an Execute from the replica if its statement only reads. It returns nil, and no error, where the primary
// has to answer.
func (p *Path) Execute(ctx context.Context, h http.Header, req *datav1.ExecuteRequest) (*datav1.ExecuteResponse, error) {
	switch sqlsplit.Kind(req.GetStatement().GetSql()) {
	case "SELECT", "VALUES", "WITH":
	default:
		return nil, nil //nolint:nilnil // as documented
	}
	var sink sqlrun.Collector
	answer, err := p.query(ctx, h, req, &sink)
	if answer == nil {
		return nil, err
	}
	p.metrics.answered(methodExecute, answer)
	return &datav1.ExecuteResponse{Result: &sink.Result, Answer: answer}, nil
}

type sqlRequest interface {
	GetDatabase() string
	GetConsistency() *datav1.Consistency
	GetStatement() *datav1.Statement
}

// query runs a statement on the replica. answer is nil where there is an error, or the primary has to answer.
func (p *Path) query(
	ctx context.Context, h http.Header, req sqlRequest, sink sqlrun.Sink,
) (answer *datav1.Answer, err error) {
	read, err := p.read(ctx, h, req.GetDatabase(), req.GetConsistency())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, sqlrun.StatementTimeout)
	defer cancel()
	done, err := p.replica.answer(ctx, &read, func(v *view) error {
		stats, err := p.sql.Query(ctx, read.Database.id, v.snap, req.GetStatement(), sink)
		if err == nil {
			answer = v.answer(int(stats.RowsRead))
		}
		return err
	})
	if !done {
		return nil, err
	}
	return answer, nil
}

// QueryStream answers a QueryStream from the replica. It reports false, and no error, where the primary has to answer; nothing
// has been sent then.
func (p *Path) QueryStream(
	ctx context.Context, h http.Header, req *datav1.QueryStreamRequest, out *connect.ServerStream[datav1.QueryStreamResponse],
) (done bool, err error) {
	read, err := p.read(ctx, h, req.GetDatabase(), req.GetConsistency())
	if err != nil {
		return false, err
	}
	select {
	case p.streams <- struct{}{}:
	default:
		return false, rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "%d streams read in this region", maxStreams).
			With("limit", strconv.Itoa(maxStreams)).WithRetryAfter(time.Second)
	}
	defer func() { <-p.streams }()
	sink, ctx, stop := sqlrun.NewStreamer(ctx, out)
	defer stop()
	var failed error // after the answer had begun
	done, err = p.replica.answer(ctx, &read, func(v *view) error {
		sink.First = v.answer(0)
		rpcheader.SetAnswer(out.ResponseHeader(), sink.First)
		stats, err := p.sql.Query(ctx, read.Database.id, v.snap, req.GetStatement(), sink)
		switch {
		case err == nil:
			last := v.answer(int(stats.RowsRead))
			p.metrics.answered(methodQueryStream, last)
			failed = sink.Flush(last)
		case sink.Begun():
			failed = err
		default:
			return err
		}
		return nil
	})
	if done {
		return true, failed
	}
	if sink.First != nil { // what the primary answers has its own; the stream's other headers stay
		set := make(http.Header)
		rpcheader.SetAnswer(set, sink.First)
		for name := range set {
			out.ResponseHeader().Del(name)
		}
	}
	return false, err
}
