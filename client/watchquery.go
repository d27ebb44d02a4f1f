package client

import (
	"context"
	"iter"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

// QueryResult is what a watched query answers at one version.
type QueryResult struct {
	Result *datav1.ResultSet
	// Answer is where the result came from. Its bookmark, as the request's consistency.bookmark, has another watch begin with a
	// result that is at least as fresh.
	Answer *datav1.Answer
}

// WatchQuery watches a query through a region's gateway: it yields what the statement answers, and again whenever it answers
// something else. Results that follow each other closely come as one, and while the loop's body runs only the newest is kept. The
// watch is opened again, at least as fresh as the last result, when the connection or the region ends it, with pauses that grow up
// to 2 s; a result that did not change meanwhile is not yielded again. It ends, with an error as its last element, when ctx does,
// when it cannot be begun, and with what the statement fails with, as SCHEMA_CHANGED.
//
// What a result points to belongs to the caller, who does not change it before the next one. The request is not kept, nor changed.
func WatchQuery(
	ctx context.Context, data datav1connect.DataServiceClient, req *datav1.WatchQueryRequest,
) iter.Seq2[QueryResult, error] {
	return func(yield func(QueryResult, error) bool) {
		w := &watchingQuery{request: proto.CloneOf(req)}
		for try := 0; ; try++ {
			stopped, err := w.stream(ctx, data, yield, &try)
			switch {
			case stopped:
				return
			case ctx.Err() != nil:
				yield(QueryResult{}, ctx.Err())
				return
			case w.last == nil || !goesOn(err):
				yield(QueryResult{}, err)
				return
			}
			if !rest(ctx, err, try) {
				yield(QueryResult{}, ctx.Err())
				return
			}
		}
	}
}

// watchingQuery is a watch over all its streams.
type watchingQuery struct {
	request *datav1.WatchQueryRequest // of the next stream
	last    *datav1.ResultSet         // that was yielded; nil before the first
}

// stream opens the watch and goes on until the stream ends, for which err is why, or the caller wants no more.
func (w *watchingQuery) stream(
	ctx context.Context, data datav1connect.DataServiceClient, yield func(QueryResult, error) bool, try *int,
) (stopped bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before Close, which would read all that is left
	in, err := data.WatchQuery(ctx, connect.NewRequest(w.request))
	if err != nil {
		return false, err
	}
	defer func() {
		cancel()
		_ = in.Close()
	}()
	for in.Receive() {
		m := in.Msg()
		*try = 0
		if w.request.Consistency == nil {
			w.request.Consistency = &datav1.Consistency{}
		}
		w.request.Consistency.Bookmark = m.GetAnswer().GetBookmark()
		if w.last != nil && proto.Equal(w.last, m.GetResult()) {
			continue
		}
		w.last = m.GetResult()
		if w.last == nil {
			w.last = &datav1.ResultSet{} // of a statement without columns, which there is not
		}
		if !yield(QueryResult{Result: w.last, Answer: m.GetAnswer()}, nil) {
			return true, nil
		}
	}
	return false, in.Err()
}
