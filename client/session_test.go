package client

import (
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

func TestSessionKeepsTheNewestOfEachDatabase(t *testing.T) {
	for _, tc := range []struct {
		name string
		add  []string
		want string
	}{
		{"nothing", nil, ""},
		{"empty", []string{"", " , ,"}, ""},
		{"one", []string{a1}, a1},
		{"newer", []string{a1, a2}, a2},
		{"older", []string{a2, a1}, a2},
		{"same", []string{a2, a2}, a2},
		{"two databases", []string{a1 + ", " + b1}, a1 + "," + b1},
		{"newer of one of two", []string{a1 + "," + b1, a3}, b1 + "," + a3},
		{"too short to be one", []string{"0", a1, "04", "0"}, a1 + ",04,0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := NewSession(tc.add...).Bookmarks(); got != tc.want {
				t.Errorf("bookmarks = %q, want %q", got, tc.want)
			}
		})
	}
}

// TestSessionKnowsRealBookmarks: what the session relies on holds for what nodes write.
func TestSessionKnowsRealBookmarks(t *testing.T) {
	codec, err := bookmark.New([]byte("a key of sixteen bytes or more"))
	if err != nil {
		t.Fatal(err)
	}
	of := func(database, epoch uint32, version uint64) string {
		return codec.Encode(bookmark.Bookmark{DatabaseID: database, Epoch: epoch, Version: version})
	}
	s := NewSession()
	for _, version := range []uint64{1, 255, 256, 1 << 40, 2} {
		s.Add(of(100, 1, version), of(101, 1, version))
	}
	s.Add(of(100, 2, 3))
	if got, want := s.Bookmarks(), of(101, 1, 1<<40)+","+of(100, 2, 3); got != want {
		t.Errorf("bookmarks = %q, want %q", got, want)
	}
}

func TestSessionIsBounded(t *testing.T) {
	s := NewSession()
	of := func(database int) string { return fmt.Sprintf("04%06d0001", database) }
	for i := range rpcheader.MaxBookmarks {
		s.Add(of(i))
	}
	s.Add(of(0)) // heard of again
	s.Add(of(99))
	got := strings.Split(s.Bookmarks(), ",")
	if len(got) != rpcheader.MaxBookmarks {
		t.Fatalf("%d bookmarks, want %d", len(got), rpcheader.MaxBookmarks)
	}
	if got[0] != of(2) {
		t.Errorf("the oldest kept is %q, want %q: the one not heard of for the longest time goes first", got[0], of(2))
	}
}

func TestSessionCarriesBookmarks(t *testing.T) {
	n := &node{answer: []answer{
		{header: map[string]string{rpcheader.Bookmark: a1}},
		{header: map[string]string{rpcheader.Bookmark: b1}},
		{header: map[string]string{rpcheader.Bookmark: a3}, err: connect.NewError(connect.CodeNotFound, nil)},
		{header: map[string]string{rpcheader.Bookmark: a2}},
	}}
	c := New("http://mesh", WithHTTPClient(serve(n)))
	get := func() {
		_, err := c.Get(t.Context(), connect.NewRequest(&datav1.GetRequest{}))
		if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
			t.Fatal(err)
		}
	}
	for range 5 {
		get()
	}
	want := []string{"", a1, a1 + "," + b1, b1 + "," + a3, b1 + "," + a3}
	if diff := cmp.Diff(want, n.bookmarks()); diff != "" {
		t.Errorf("bookmarks sent (-want +got):\n%s", diff)
	}
}

func TestSessionKeepsTheCallersOwnBookmark(t *testing.T) {
	n := &node{}
	c := New("http://mesh", WithHTTPClient(serve(n)), InSession(NewSession(a1, b1)))
	for _, own := range []string{a2, "04"} {
		req := connect.NewRequest(&datav1.GetRequest{})
		req.Header().Set(rpcheader.Bookmark, own)
		if _, err := c.Get(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{b1 + "," + a2, a1 + "," + b1 + ",04"}, n.bookmarks()); diff != "" {
		t.Errorf("bookmarks sent (-want +got):\n%s", diff)
	}
}

func TestSessionCarriesBookmarksOverStreams(t *testing.T) {
	for _, protocol := range []struct {
		name string
		opts []connect.ClientOption
	}{{"connect", nil}, {"grpc-web", []connect.ClientOption{connect.WithGRPCWeb()}}} {
		t.Run(protocol.name, func(t *testing.T) {
			n := &node{answer: []answer{
				{header: map[string]string{rpcheader.Bookmark: a1}},
				{header: map[string]string{rpcheader.Bookmark: a2}}, // in the trailers
			}}
			c := New("http://mesh", WithHTTPClient(serve(n)), InSession(NewSession(b1)), WithConnect(protocol.opts...))
			stream, err := c.QueryStream(t.Context(), connect.NewRequest(&datav1.QueryStreamRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			if !stream.Receive() {
				t.Fatal(stream.Err())
			}
			if got, want := c.Session().Bookmarks(), b1+","+a1; got != want {
				t.Errorf("after the first message: %q, want %q", got, want)
			}
			if stream.Receive() || stream.Err() != nil {
				t.Fatalf("want the end of the stream, got %v", stream.Err())
			}
			if got, want := c.Session().Bookmarks(), b1+","+a2; got != want {
				t.Errorf("at the end: %q, want %q", got, want)
			}
			if got := n.seen[0].Get(rpcheader.Bookmark); got != b1 {
				t.Errorf("sent %q, want %q", got, b1)
			}
			if err := stream.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func FuzzSession(f *testing.F) {
	f.Add("", "")
	f.Add(a1+","+b1, a2)
	f.Add("0,04,,"+a1, " "+a3+" ")
	f.Fuzz(func(t *testing.T, first, second string) {
		s := NewSession(first, second)
		text := s.Bookmarks()
		if again := NewSession(text).Bookmarks(); again != text {
			t.Errorf("%q reads back as %q", text, again)
		}
		seen := map[string]bool{}
		for b := range strings.SplitSeq(text, ",") {
			if seen[database(b)] {
				t.Errorf("%q holds a database twice", text)
			}
			seen[database(b)] = true
		}
		if len(seen) > rpcheader.MaxBookmarks {
			t.Errorf("%d bookmarks", len(seen))
		}
	})
}

func BenchmarkSession(b *testing.B) {
	s := NewSession(a1, b1)
	h := map[string][]string{}
	b.ReportAllocs()
	for b.Loop() {
		s.Add(a2)
		(&call{session: s}).send(h)
	}
}
