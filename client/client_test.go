package client

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// Bookmarks of two databases, in the order of their age.
const (
	a1 = "04000034000001"
	a2 = "04000034000002"
	a3 = "04000034000003"
	b1 = "04000038000001"
)

// node answers the data API as far as headers go: it notes those of each request and answers with those it is given.
type node struct {
	datav1connect.UnimplementedDataServiceHandler

	seen   []http.Header
	answer []answer // one for each call, in order
}

type answer struct {
	header map[string]string
	err    error
}

func (n *node) next(h http.Header) answer {
	n.seen = append(n.seen, h.Clone())
	if len(n.answer) == 0 {
		return answer{}
	}
	a := n.answer[0]
	n.answer = n.answer[1:]
	return a
}

func (a answer) write(h http.Header) {
	for k, v := range a.header {
		h.Set(k, v)
	}
}

func (n *node) Get(_ context.Context, req *connect.Request[datav1.GetRequest]) (*connect.Response[datav1.GetResponse], error) {
	return respond(n.next(req.Header()), &datav1.GetResponse{})
}

func (n *node) Execute(_ context.Context, req *connect.Request[datav1.ExecuteRequest]) (*connect.Response[datav1.ExecuteResponse], error) {
	return respond(n.next(req.Header()), &datav1.ExecuteResponse{})
}

func (n *node) CreateDatabase(_ context.Context, req *connect.Request[datav1.CreateDatabaseRequest]) (*connect.Response[datav1.CreateDatabaseResponse], error) {
	return respond(n.next(req.Header()), &datav1.CreateDatabaseResponse{})
}

func respond[T any](a answer, msg *T) (*connect.Response[T], error) {
	if a.err != nil {
		if wire, ok := errors.AsType[*connect.Error](a.err); ok {
			a.write(wire.Meta())
		}
		return nil, a.err
	}
	res := connect.NewResponse(msg)
	a.write(res.Header())
	return res, nil
}

func (n *node) QueryStream(_ context.Context, req *connect.Request[datav1.QueryStreamRequest], stream *connect.ServerStream[datav1.QueryStreamResponse]) error {
	n.next(req.Header()).write(stream.ResponseHeader())
	if err := stream.Send(&datav1.QueryStreamResponse{}); err != nil {
		return err
	}
	n.next(req.Header()).write(stream.ResponseTrailer())
	return nil
}

// memory is an HTTP client whose server is a handler called in place, so that time in it can stand still.
type memory struct{ handler http.Handler }

func (m memory) Do(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	m.handler.ServeHTTP(rec, req)
	return rec.Result(), req.Context().Err()
}

func serve(n *node, opts ...connect.HandlerOption) memory {
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(n, opts...))
	return memory{handler: mux}
}

func (n *node) bookmarks() []string {
	var got []string
	for _, h := range n.seen {
		got = append(got, h.Get(rpcheader.Bookmark))
	}
	return got
}

// TestRealConnection goes over a socket, and ends with no goroutine left.
func TestRealConnection(t *testing.T) {
	n := &node{answer: []answer{{header: map[string]string{rpcheader.Bookmark: a1}}}}
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(n))
	server := httptest.NewServer(mux)
	defer server.Close()
	c := New(server.URL + "/")
	defer c.Close()
	if _, err := c.Get(t.Context(), connect.NewRequest(&datav1.GetRequest{})); err != nil {
		t.Fatal(err)
	}
	if got := c.Session().Bookmarks(); got != a1 {
		t.Errorf("bookmarks = %q, want %q", got, a1)
	}
}
