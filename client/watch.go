package client

import (
	"context"
	"iter"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Event is one commit's changes of what is watched, or none: then only the bookmark has moved on.
type Event struct {
	// Changes are in the order of the rows' keys, all that the commit did to what is watched.
	Changes []*datav1.WatchResponse_Change
	// Bookmark is where the watch is after the event, and Schema what it takes the table for: given in another request, they
	// have it go on from here.
	Bookmark, Schema string
	// Columns are those of the rows, KeyColumns the names of those of the keys.
	Columns    []*datav1.Column
	KeyColumns []string
}

// Watch watches a table through a region's gateway. The first event has no changes: it says where the watch begins. The watch
// is opened again, from its last bookmark, when the connection or the region ends it, with pauses that grow up to 2 s; nothing
// is missed and nothing is told twice. It ends, with an error as its last element, when ctx does, when it cannot be begun, and
// when the rows have to be read again: BOOKMARK_TOO_OLD, BOOKMARK_LOST, SCHEMA_CHANGED.
//
// What an event points to belongs to the caller. The request is not kept, nor changed.
func Watch(ctx context.Context, data datav1connect.DataServiceClient, req *datav1.WatchRequest) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w := &watching{request: proto.CloneOf(req)}
		for try := 0; ; try++ {
			stopped, err := w.stream(ctx, data, yield, &try)
			switch {
			case stopped:
				return
			case ctx.Err() != nil:
				yield(Event{}, ctx.Err())
				return
			case !w.begun || !goesOn(err):
				yield(Event{}, err)
				return
			}
			if !rest(ctx, err, try) {
				yield(Event{}, ctx.Err())
				return
			}
		}
	}
}

// watching is a watch over all its streams.
type watching struct {
	request *datav1.WatchRequest // of the next stream
	begun   bool
	event   Event // what all events have
}

// stream opens the watch and goes on until the stream ends, for which err is why, or the caller wants no more.
func (w *watching) stream(
	ctx context.Context, data datav1connect.DataServiceClient, yield func(Event, error) bool, try *int,
) (stopped bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before Close, which would read all that is left
	in, err := data.Watch(ctx, connect.NewRequest(w.request))
	if err != nil {
		return false, err
	}
	defer func() {
		cancel()
		_ = in.Close()
	}()
	var pending []*datav1.WatchResponse_Change
	for in.Receive() {
		m := in.Msg()
		*try = 0
		first := m.GetSchema() != ""
		if first {
			w.event.Schema, w.event.Columns, w.event.KeyColumns = m.GetSchema(), m.GetColumns(), m.GetKeyColumns()
		}
		pending = append(pending, m.GetChanges()...)
		if m.GetAnswer() == nil {
			continue
		}
		again := first && w.begun
		w.begun = true
		w.event.Bookmark = m.GetAnswer().GetBookmark()
		w.request.Bookmark, w.request.Schema = w.event.Bookmark, w.event.Schema
		if again {
			continue
		}
		e := w.event
		e.Changes, pending = pending, nil
		if !yield(e, nil) {
			return true, nil
		}
	}
	return false, in.Err()
}

// goesOn reports whether a watch that ended with err can be opened again from its last bookmark.
func goesOn(err error) bool {
	if err == nil || !connect.IsWireError(err) {
		return true // the connection ended
	}
	switch rpcerr.ReasonOf(err) {
	case datav1.ErrorReason_ERROR_REASON_OVERLOADED:
		return true
	default:
		return connect.CodeOf(err) == connect.CodeUnavailable
	}
}

// rest waits before the watch is opened again, and reports whether it may be.
func rest(ctx context.Context, err error, try int) bool {
	delay := min(firstDelay<<min(try, 10), maxDelay)
	delay = delay/2 + rand.N(delay/2)
	if e, ok := rpcerr.FromError(err); ok {
		delay = max(delay, min(e.RetryAfter(), maxDelay))
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
