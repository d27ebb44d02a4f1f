package client

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// Session remembers the newest bookmark of each database that its calls met and sends them with the next calls, so that
// no call answers from a state before what the session has seen or done.
//
// It is a connect.Interceptor for clients; on a handler it does nothing (see Propagate). It is safe for concurrent use;
// of calls that run at the same time, neither waits for the other's bookmark.
//
// It remembers 32 databases. Beyond that it forgets the one it has not heard of for the longest time.
type Session struct {
	mu        sync.Mutex
	bookmarks []string // one for each database, the last heard of at the end
}

var _ connect.Interceptor = (*Session)(nil)

// NewSession returns a session that begins with the given bookmarks; each may be one, or several separated by commas.
func NewSession(bookmarks ...string) *Session {
	s := &Session{}
	s.Add(bookmarks...)
	return s
}

// Add makes later calls see at least what the bookmarks name. Each may be one, or several separated by commas. Older ones
// than the session's change nothing.
func (s *Session) Add(bookmarks ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bookmarks = merge(s.bookmarks, bookmarks)
	if over := len(s.bookmarks) - rpcheader.MaxBookmarks; over > 0 {
		s.bookmarks = slices.Delete(s.bookmarks, 0, over)
	}
}

// Bookmarks returns what the session has seen, in the form of the header nearside-bookmark: separated by commas, empty if
// it has seen nothing. NewSession(text) goes on from there, in another process too.
func (s *Session) Bookmarks() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.bookmarks, ",")
}

// WrapUnary implements connect.Interceptor.
func (s *Session) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if !req.Spec().IsClient {
			return next(ctx, req)
		}
		in := s.in(ctx)
		in.send(req.Header())
		res, err := next(ctx, req)
		if err != nil {
			// A failure is an observation too: a session that was told "no such row" must not see it again later.
			if wire, ok := errors.AsType[*connect.Error](err); ok {
				in.receive(wire.Meta())
			}
			return nil, err
		}
		in.receive(res.Header())
		return res, nil
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (s *Session) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		in := s.in(ctx)
		conn := next(ctx, spec)
		in.send(conn.RequestHeader())
		return &sessionConn{StreamingClientConn: conn, call: in}
	}
}

// WrapStreamingHandler implements connect.Interceptor. It does nothing.
func (s *Session) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// in returns what calls with this context belong to: the context's session before this one.
func (s *Session) in(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{session: s}
}

// sessionConn collects a stream's bookmarks. One goroutine receives, as connect demands.
type sessionConn struct {
	connect.StreamingClientConn

	call   *call
	header bool // the response header was looked at
}

func (c *sessionConn) Receive(msg any) error {
	err := c.StreamingClientConn.Receive(msg)
	if !c.header {
		c.header = true
		c.call.receive(c.ResponseHeader())
	}
	if err != nil {
		c.call.receive(c.ResponseTrailer())
	}
	return err
}

// merge returns a list with the newest bookmark of each database in have (one for each database) and headers (texts with
// commas), those of headers last.
//
// Bookmarks are opaque here but for this: they sort by age within a database, which their beginning names.
func merge(have, headers []string) []string {
	for _, header := range headers {
		for part := range strings.SplitSeq(header, ",") {
			b := strings.TrimSpace(part)
			if b == "" {
				continue
			}
			i := slices.IndexFunc(have, func(h string) bool { return database(h) == database(b) })
			if i >= 0 {
				b = max(b, have[i])
				have = slices.Delete(have, i, i+1)
			}
			have = append(have, b)
		}
	}
	return have
}

// databaseLen is the length of the text of a format byte and a uint32 database id: 40 bits, five in each letter.
const databaseLen = 8

// database returns the part of a bookmark that names its database. A text too short to be a bookmark stands for itself: it
// is sent on, and whoever reads bookmarks refuses it.
func database(bookmark string) string {
	return bookmark[:min(databaseLen, len(bookmark))]
}

func (s *Session) header(already []string) string {
	s.mu.Lock()
	mine := slices.Clone(s.bookmarks)
	s.mu.Unlock()
	return strings.Join(merge(mine, already), ",")
}

// send adds the session's bookmarks to those the caller set on this call alone.
func (c *call) send(h http.Header) {
	if text := c.session.header(h.Values(rpcheader.Bookmark)); text != "" {
		h.Set(rpcheader.Bookmark, text)
	}
	if len(c.authorization) > 0 && h.Get(authorization) == "" {
		h[authorization] = c.authorization
	}
	if h[requestid.Header] == nil && h[requestid.ParentHeader] == nil {
		maps.Copy(h, c.named)
	}
}
