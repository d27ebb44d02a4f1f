package client

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// service stands in front of a node: each of its calls makes some inner calls.
type service struct {
	datav1connect.UnimplementedDataServiceHandler

	inner      *Client
	innerCalls int
	err        error
}

func (s *service) call(ctx context.Context) error {
	for range s.innerCalls {
		if _, err := s.inner.Get(ctx, connect.NewRequest(&datav1.GetRequest{})); err != nil {
			return err
		}
	}
	return s.err
}

func (s *service) Get(ctx context.Context, _ *connect.Request[datav1.GetRequest]) (*connect.Response[datav1.GetResponse], error) {
	if err := s.call(ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(&datav1.GetResponse{}), nil
}

func (s *service) QueryStream(ctx context.Context, _ *connect.Request[datav1.QueryStreamRequest], stream *connect.ServerStream[datav1.QueryStreamResponse]) error {
	for range 2 {
		if err := s.call(ctx); err != nil {
			return err
		}
		if err := stream.Send(&datav1.QueryStreamResponse{}); err != nil {
			return err
		}
	}
	return nil
}

func mesh(n *node, s *service) memory {
	s.inner = New("http://mesh", WithHTTPClient(serve(n)), WithoutRetry())
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(s, connect.WithInterceptors(Propagate())))
	return memory{handler: mux}
}

var answerHeaders = []string{rpcheader.Bookmark, rpcheader.Region, rpcheader.Source, rpcheader.StalenessMs}

func headersOf(h http.Header) []string {
	var got []string
	for _, name := range answerHeaders {
		got = append(got, h.Get(name))
	}
	return got
}

func innerAnswer(bookmark, region, source, staleness string) answer {
	return answer{header: map[string]string{
		rpcheader.Bookmark: bookmark, rpcheader.Region: region, rpcheader.Source: source, rpcheader.StalenessMs: staleness,
	}}
}

func TestPropagate(t *testing.T) {
	for _, tc := range []struct {
		name     string
		bookmark string
		inner    []answer
		err      error
		sent     []string
		want     []string
		code     connect.Code
	}{
		{
			name: "no inner call", bookmark: a1,
			want: []string{a1, "", "", ""},
		},
		{
			name: "one", bookmark: a1 + "," + b1, inner: []answer{innerAnswer(a2, "eu", "REPLICA", "7")},
			sent: []string{a1 + "," + b1},
			want: []string{b1 + "," + a2, "eu", "REPLICA", "7"},
		},
		{
			name:  "the farthest and the oldest of several",
			inner: []answer{innerAnswer(a1, "eu", "PRIMARY", "0"), innerAnswer(a1, "eu", "MEMORY", "9"), innerAnswer(a1, "eu", "REPLICA", "3")},
			sent:  []string{"", a1, a1},
			want:  []string{a1, "eu", "PRIMARY", "9"},
		},
		{
			name: "an error carries them too", inner: []answer{innerAnswer(a2, "eu", "REPLICA", "7")},
			err:  rpcerr.New(datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, "no such thing"),
			sent: []string{""}, code: connect.CodeNotFound,
			want: []string{a2, "eu", "REPLICA", "7"},
		},
		{
			name: "an unknown error says nothing", err: errors.New("secret"),
			want: []string{"", "", "", ""}, code: connect.CodeUnknown,
		},
		{
			name: "too many bookmarks", bookmark: strings.Repeat("x,", rpcheader.MaxBookmarks),
			want: []string{"", "", "", ""}, code: connect.CodeUnknown, // rpcerr's interceptor gives it its code
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := &node{answer: tc.inner}
			outer := datav1connect.NewDataServiceClient(mesh(n, &service{innerCalls: len(tc.inner), err: tc.err}), "http://mesh")
			req := connect.NewRequest(&datav1.GetRequest{})
			if tc.bookmark != "" {
				req.Header().Set(rpcheader.Bookmark, tc.bookmark)
			}
			res, err := outer.Get(t.Context(), req)
			var header http.Header
			switch wire, ok := errors.AsType[*connect.Error](err); {
			case ok:
				header = wire.Meta()
			default:
				header = res.Header()
			}
			if tc.code == 0 && err != nil || tc.code != 0 && connect.CodeOf(err) != tc.code {
				t.Errorf("error = %v, want code %v", err, tc.code)
			}
			if diff := cmp.Diff(tc.want, headersOf(header)); diff != "" {
				t.Errorf("answered headers (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.sent, n.bookmarks()); diff != "" {
				t.Errorf("inner bookmarks (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPropagateStream(t *testing.T) {
	n := &node{answer: []answer{innerAnswer(a1, "eu", "REPLICA", "1"), innerAnswer(a2, "eu", "PRIMARY", "0")}}
	outer := New("http://mesh", WithHTTPClient(mesh(n, &service{innerCalls: 1})), InSession(NewSession(b1)))
	stream, err := outer.QueryStream(t.Context(), connect.NewRequest(&datav1.QueryStreamRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	messages := 0
	for stream.Receive() {
		messages++
	}
	if err := stream.Err(); err != nil || messages != 2 {
		t.Fatalf("%d messages, %v", messages, err)
	}
	if diff := cmp.Diff([]string{b1 + "," + a1, "eu", "REPLICA", "1"}, headersOf(stream.ResponseHeader())); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{b1 + "," + a2, "eu", "PRIMARY", "1"}, headersOf(stream.ResponseTrailer())); diff != "" {
		t.Errorf("trailers (-want +got):\n%s", diff)
	}
	if got, want := outer.Session().Bookmarks(), b1+","+a2; got != want {
		t.Errorf("the caller's session has %q, want %q", got, want)
	}
}

// TestSessionsDoNotMix: what one caller saw is not sent with another's calls, nor kept by the service.
func TestSessionsDoNotMix(t *testing.T) {
	n := &node{answer: []answer{innerAnswer(a1, "eu", "REPLICA", "1")}}
	s := &service{innerCalls: 1}
	h := mesh(n, s)
	for range 2 {
		if _, err := New("http://mesh", WithHTTPClient(h)).Get(t.Context(), connect.NewRequest(&datav1.GetRequest{})); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"", ""}, n.bookmarks()); diff != "" {
		t.Errorf("inner bookmarks (-want +got):\n%s", diff)
	}
	if got := s.inner.Session().Bookmarks(); got != "" {
		t.Errorf("the service's own session has %q", got)
	}
}

func TestContextSession(t *testing.T) {
	if _, ok := FromContext(t.Context()); ok {
		t.Error("a plain context has a session")
	}
	n := &node{answer: []answer{innerAnswer(a2, "eu", "REPLICA", "1")}}
	s := NewSession(a1)
	ctx := WithSession(t.Context(), s)
	if got, ok := FromContext(ctx); !ok || got != s {
		t.Error("the context does not give its session back")
	}
	c := New("http://mesh", WithHTTPClient(serve(n)))
	if _, err := c.Get(ctx, connect.NewRequest(&datav1.GetRequest{})); err != nil {
		t.Fatal(err)
	}
	if s.Bookmarks() != a2 || c.Session().Bookmarks() != "" {
		t.Errorf("the context's session has %q, the client's %q", s.Bookmarks(), c.Session().Bookmarks())
	}
}
