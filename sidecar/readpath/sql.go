package readpath

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/memory"
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
	QueryView(
		ctx context.Context, database uint32, snap *replica.Snapshot, view edgesql.View, st *datav1.Statement, sink sqlrun.Sink,
	) (edgesql.Stats, error)
	QueryNow(
		limit time.Duration, database uint32, snap *replica.Snapshot, st *datav1.Statement, sink sqlrun.Sink,
	) (stats edgesql.Stats, ok bool)
}

// Query answers a Query from memory or the replica. It returns nil, and no error, where the primary has to answer.
func (p *Path) Query(ctx context.Context, h http.Header, req *datav1.QueryRequest) (*datav1.QueryResponse, error) {
	res, err := p.query(ctx, h, req, maxAge(req))
	if res.answer == nil {
		return nil, err
	}
	p.metrics.answered(methodQuery, res.answer)
	return &datav1.QueryResponse{Result: res.set, Answer: res.answer}, nil
}

// Execute answers an Execute like a Query if its statement only reads. It returns nil, and no error, where the primary has to
// answer.
func (p *Path) Execute(ctx context.Context, h http.Header, req *datav1.ExecuteRequest) (*datav1.ExecuteResponse, error) {
	switch sqlsplit.Kind(req.GetStatement().GetSql()) {
	case "SELECT", "VALUES", "WITH", "PRAGMA":
	default:
		return nil, nil //nolint:nilnil // as documented
	}
	res, err := p.query(ctx, h, req, anyAge)
	if res.answer == nil {
		return nil, err
	}
	p.metrics.answered(methodExecute, res.answer)
	return &datav1.ExecuteResponse{Result: res.set, Answer: res.answer}, nil
}

type sqlRequest interface {
	GetDatabase() string
	GetConsistency() *datav1.Consistency
	GetStatement() *datav1.Statement
}

// query answers a statement. There is no answer where there is an error, or the primary has to answer.
func (p *Path) query(ctx context.Context, h http.Header, req sqlRequest, maxAge time.Duration) (result, error) {
	read, err := p.readSQL(ctx, h, datav1connect.DataServiceQueryProcedure, req)
	if err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, sqlrun.StatementTimeout)
	defer cancel()
	res, err := p.results.query(ctx, &read, &query{statement: req.GetStatement(), maxAge: maxAge})
	if err == nil && res.answer == nil {
		if err := read.passOn(); err != nil {
			return result{}, err
		}
		p.fallbacks.note(req.GetDatabase(), read.passed, req.GetStatement().GetSql())
	}
	return res, err
}

// anyAge is the age of results that may be as old as they are.
const anyAge = -1

func maxAge(req interface{ GetMaxAge() *durationpb.Duration }) time.Duration {
	if req.GetMaxAge() == nil {
		return anyAge
	}
	return req.GetMaxAge().AsDuration()
}

// QueryStream answers a QueryStream from memory, where small results are, or the replica. It reports false, and no error, where the primary has to answer; nothing
// has been sent then.
func (p *Path) QueryStream(
	ctx context.Context, h http.Header, req *datav1.QueryStreamRequest, out *connect.ServerStream[datav1.QueryStreamResponse],
) (done bool, err error) {
	read, err := p.readSQL(ctx, h, datav1connect.DataServiceQueryStreamProcedure, req)
	if err != nil {
		return false, err
	}
	q := query{statement: req.GetStatement(), maxAge: maxAge(req)}
	keep := p.results.prepare(&read, &q)
	if keep {
		if m, kept, _, ok := p.results.lookup(&read, &q); ok {
			return true, p.streamKept(m, kept, out)
		}
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
		tee := teeing{Sink: sink}
		stats, err := read.ask(ctx, p.sql, v, req.GetStatement(), &tee)
		switch {
		case err == nil:
			if keep && !tee.large {
				p.results.keep(v, &read, &q, &tee.kept, time.Since(tee.kept.begun))
			}
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
	if err == nil {
		if err = read.passOn(); err == nil {
			p.fallbacks.note(req.GetDatabase(), read.passed, req.GetStatement().GetSql())
		}
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

// streamKept streams a result from memory.
func (p *Path) streamKept(m moment, kept memory.Result, out *connect.ServerStream[datav1.QueryStreamResponse]) error {
	res, err := p.results.respond(m, kept)
	if err != nil {
		return err
	}
	p.metrics.answered(methodQueryStream, res.answer)
	rpcheader.SetAnswer(out.ResponseHeader(), res.answer)
	if err := out.Send(&datav1.QueryStreamResponse{Columns: res.set.GetColumns(), Answer: res.answer}); err != nil {
		return err
	}
	rows := res.set.GetRows()
	begin, size := 0, 0
	for i, row := range rows {
		if size += proto.Size(row); size >= sqlrun.PieceBytes {
			if err := out.Send(&datav1.QueryStreamResponse{Rows: rows[begin : i+1]}); err != nil {
				return err
			}
			begin, size = i+1, 0
		}
	}
	return out.Send(&datav1.QueryStreamResponse{Rows: rows[begin:], Answer: res.answer})
}
