// Package httpclient makes the HTTP clients with which nodes of the mesh talk to each other, without TLS and without the
// environment's proxies.
package httpclient

import (
	"net"
	"net/http"
	"time"
)

const (
	dialTimeout = 2 * time.Second
	keepAlive   = 15 * time.Second

	// The server keeps idle connections for longer, so that it does not close one just as a request goes out on it.
	idleTimeout = 90 * time.Second

	maxIdlePerHost = 256
	maxIdle        = 1024
	bufferBytes    = 32 << 10
)

// NewUnary returns a client for unary calls: HTTP/1.1 on a pool of kept connections, which on a hot path costs less than one
// shared HTTP/2 connection and has no head-of-line blocking. Who is done with it calls CloseIdleConnections.
func NewUnary() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	t := newTransport(protocols)
	t.MaxIdleConnsPerHost = maxIdlePerHost
	t.MaxIdleConns = maxIdle
	return &http.Client{Transport: t, CheckRedirect: refuseRedirects}
}

// NewStreaming returns a client for streams in both directions: HTTP/2 with prior knowledge. A connection whose peer answers
// no ping is given up. Who is done with it calls CloseIdleConnections.
func NewStreaming() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	t := newTransport(protocols)
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second}
	return &http.Client{Transport: envelopes{t}, CheckRedirect: refuseRedirects}
}

func newTransport(protocols *http.Protocols) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	return &http.Transport{
		DialContext:        dialer.DialContext,
		Protocols:          protocols,
		IdleConnTimeout:    idleTimeout,
		DisableCompression: true, // Connect decides about compression
		ReadBufferSize:     bufferBytes,
		WriteBufferSize:    bufferBytes,
	}
}

// refuseRedirects makes a redirect the answer. A peer of the mesh sends none, and following one would carry a caller's
// credentials elsewhere.
func refuseRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
