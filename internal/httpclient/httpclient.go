// Package httpclient makes the HTTP clients with which nodes of the mesh talk to each other, without the environment's proxies.
package httpclient

import (
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

const (
	dialTimeout = 2 * time.Second // and as much for the TLS
	keepAlive   = 15 * time.Second

	// The server keeps idle connections for longer, so that it does not close one just as a request goes out on it.
	idleTimeout = 90 * time.Second

	maxIdlePerHost = 256
	maxIdle        = 1024
	bufferBytes    = 32 << 10
)

// NewUnary returns a client for unary calls: HTTP/1.1 on a pool of kept connections, which on a hot path costs less than one
// shared HTTP/2 connection and has no head-of-line blocking. Who is done with it calls CloseIdleConnections.
func NewUnary() *http.Client { return NewUnaryTLS(nil) }

// NewUnaryTLS is NewUnary over TLS; nil is none.
func NewUnaryTLS(config *tls.Config) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	t := newTransport(protocols)
	t.TLSClientConfig = config
	t.MaxIdleConnsPerHost = maxIdlePerHost
	t.MaxIdleConns = maxIdle
	return &http.Client{Transport: t, CheckRedirect: refuseRedirects}
}

// NewStreaming returns a client for streams in both directions: HTTP/2 with prior knowledge. A connection whose peer answers
// no ping is given up. Who is done with it calls CloseIdleConnections.
func NewStreaming() *http.Client { return NewStreamingTLS(nil) }

// NewStreamingTLS is NewStreaming over TLS, where HTTP/2 is agreed upon in the handshake; nil is none.
func NewStreamingTLS(config *tls.Config) *http.Client {
	protocols := new(http.Protocols)
	if config == nil {
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP2(true)
	}
	t := newTransport(protocols)
	t.TLSClientConfig = config
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second}
	return &http.Client{Transport: envelopes{t}, CheckRedirect: refuseRedirects}
}

func newTransport(protocols *http.Protocols) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	return &http.Transport{
		DialContext:         dialer.DialContext,
		Protocols:           protocols,
		IdleConnTimeout:     idleTimeout,
		TLSHandshakeTimeout: dialTimeout,
		DisableCompression:  true, // Connect decides about compression
		ReadBufferSize:      bufferBytes,
		WriteBufferSize:     bufferBytes,
	}
}

// refuseRedirects makes a redirect the answer. A peer of the mesh sends none, and following one would carry a caller's
// credentials elsewhere.
func refuseRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Secure returns a client that calls every URL as if it were of https, for nodes whose URLs are those of their callers.
func Secure(c *http.Client) *http.Client {
	secured := *c
	secured.Transport = secure{c.Transport}
	return &secured
}

// SecureSome returns a client that makes some calls with secured and others with plain: those to a host of which is says so, and
// those of https.
func SecureSome(secured, plain *http.Client, is func(host string) bool) *http.Client {
	some := *plain
	some.Transport = &secureSome{secured: secured, plain: plain, is: is}
	return &some
}

type secureSome struct {
	secured, plain *http.Client
	is             func(host string) bool
}

// RoundTrip implements http.RoundTripper.
func (s *secureSome) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" || s.is(r.URL.Host) {
		return secure{s.secured.Transport}.RoundTrip(r)
	}
	return s.plain.Transport.RoundTrip(r)
}

// CloseIdleConnections is what http.Client.CloseIdleConnections looks for.
func (s *secureSome) CloseIdleConnections() {
	s.secured.CloseIdleConnections()
	s.plain.CloseIdleConnections()
}

type secure struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (s secure) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" {
		return s.RoundTripper.RoundTrip(r)
	}
	u := *r.URL
	u.Scheme = "https"
	secured := r.WithContext(r.Context())
	secured.URL = &u
	return s.RoundTripper.RoundTrip(secured)
}

// CloseIdleConnections is what http.Client.CloseIdleConnections looks for.
func (s secure) CloseIdleConnections() {
	if c, ok := s.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
