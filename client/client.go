package client

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

// maxIdleConnsPerHost is how many connections to a gateway are kept for the next calls. net/http's default of 2 makes a
// busy service open one for nearly every call.
const maxIdleConnsPerHost = 64

// Client calls the data API of one gateway or primary. Its calls fail with *Error. It is safe for concurrent use.
//
// The generated methods take and return messages; Database is for those who would rather have Go values.
type Client struct {
	datav1connect.DataServiceClient

	session   *Session
	transport *http.Transport // nil if the caller gave the HTTP client
}

type config struct {
	session    *Session
	httpClient connect.HTTPClient
	retry      bool
	connect    []connect.ClientOption
}

// Option changes what New makes.
type Option func(*config)

// InSession makes the client's calls part of a session that others use too. Default: one of its own.
func InSession(s *Session) Option {
	return func(c *config) { c.session = s }
}

// WithHTTPClient makes the client use h, which stays the caller's. Default: one of its own, which Close releases.
func WithHTTPClient(h connect.HTTPClient) Option {
	return func(c *config) { c.httpClient = h }
}

// WithoutRetry leaves repeating to somebody else. Default: as Retry does it.
func WithoutRetry() Option {
	return func(c *config) { c.retry = false }
}

// WithToken makes the client's calls show an access token or an API key. Calls made for a caller of a handler with Propagate show
// the caller's instead, if there is one.
func WithToken(token string) Option {
	return WithConnect(connect.WithInterceptors(bearer("Bearer " + token)))
}

// bearer is what the header says.
type bearer string

func (b bearer) show(h http.Header) {
	if h.Get(authorization) == "" {
		h.Set(authorization, string(b))
	}
}

// WrapUnary implements connect.Interceptor.
func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		b.show(req.Header())
		return next(ctx, req)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		b.show(conn.RequestHeader())
		return conn
	}
}

// WrapStreamingHandler implements connect.Interceptor. It does nothing.
func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// WithConnect adds options for the generated client, such as connect.WithGRPC. Interceptors among them stand inside the
// client's own, so they see each repeat and its headers.
func WithConnect(opts ...connect.ClientOption) Option {
	return func(c *config) { c.connect = append(c.connect, opts...) }
}

// New returns a client of the listener at url, such as "http://127.0.0.1:8080". It does not connect yet.
func New(url string, opts ...Option) *Client {
	cfg := config{retry: true}
	for _, opt := range opts {
		opt(&cfg)
	}
	c := &Client{session: cfg.session}
	if c.session == nil {
		c.session = NewSession()
	}
	if cfg.httpClient == nil {
		c.transport = http.DefaultTransport.(*http.Transport).Clone()
		c.transport.MaxIdleConns = 0 // the limit is the one for each host, and there is one host
		c.transport.MaxIdleConnsPerHost = maxIdleConnsPerHost
		cfg.httpClient = &http.Client{Transport: c.transport}
	}
	// The repeat is outside the session, so that each try carries the bookmarks of its own time.
	own := []connect.Interceptor{typed{}}
	if cfg.retry {
		own = append(own, Retry())
	}
	own = append(own, c.session)
	c.DataServiceClient = datav1connect.NewDataServiceClient(cfg.httpClient, url,
		append([]connect.ClientOption{connect.WithInterceptors(own...)}, cfg.connect...)...)
	return c
}

// Session returns the session that the client's calls are part of.
func (c *Client) Session() *Session { return c.session }

// Close closes the connections that no call uses. The client may still be used.
func (c *Client) Close() {
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
}
