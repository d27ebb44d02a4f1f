package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// watchHandler is a data API that has Watch only.
type watchHandler struct {
	datav1connect.UnimplementedDataServiceHandler

	watch func(context.Context, *connect.Request[datav1.WatchRequest], *connect.ServerStream[datav1.WatchResponse]) error
}

func (h watchHandler) Watch(
	ctx context.Context, req *connect.Request[datav1.WatchRequest], out *connect.ServerStream[datav1.WatchResponse],
) error {
	return h.watch(ctx, req, out)
}

func (h watchHandler) serve(t *testing.T) string {
	t.Helper()
	errorsTyped, err := rpcerr.NewInterceptor(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(h, connect.WithInterceptors(errorsTyped)))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// TestWatchElsewhereIsInterrupted: the region that watches for another one dies, and the watcher is told to go on.
func TestWatchElsewhereIsInterrupted(t *testing.T) {
	region := watchHandler{watch: func(
		_ context.Context, _ *connect.Request[datav1.WatchRequest], out *connect.ServerStream[datav1.WatchResponse],
	) error {
		if err := out.Send(&datav1.WatchResponse{Schema: "s", Answer: &datav1.Answer{Bookmark: "b"}}); err != nil {
			return err
		}
		panic(http.ErrAbortHandler)
	}}
	regions := []meshdb.Region{{Name: "eu", URL: region.serve(t)}}
	d := &Data{streams: http.DefaultClient}
	here := watchHandler{watch: func(
		ctx context.Context, req *connect.Request[datav1.WatchRequest], out *connect.ServerStream[datav1.WatchResponse],
	) error {
		return watchElsewhere(ctx, d, regions, "a table", req, out, datav1connect.DataServiceClient.Watch)
	}}
	stream, err := datav1connect.NewDataServiceClient(http.DefaultClient, here.serve(t)).
		Watch(t.Context(), connect.NewRequest(&datav1.WatchRequest{Database: "d", Table: "t"}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	if !stream.Receive() || stream.Msg().GetAnswer().GetBookmark() != "b" {
		t.Fatalf("got %v, %v", stream.Msg(), stream.Err())
	}
	if stream.Receive() || rpcerr.ReasonOf(stream.Err()) != datav1.ErrorReason_ERROR_REASON_WATCH_INTERRUPTED {
		t.Errorf("got %v, %v", stream.Msg(), stream.Err())
	}
}
