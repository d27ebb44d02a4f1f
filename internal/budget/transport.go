package budget

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Transport is a client's: what a call's answer makes of another node's answer is measured for the account of the request's context.
// Where that has nothing left, reading fails with OVERLOADED.
type Transport struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.RoundTripper.RoundTrip(r)
	if err == nil && From(r.Context()) != nil && !isStream(r) {
		res.Body = &metered{ReadCloser: res.Body, meter: NewMeter(r.Context())}
	}
	return res, err
}

// isStream reports whether a call's answer is passed on message by message.
func isStream(r *http.Request) bool {
	t := r.Header.Get("Content-Type")
	return strings.HasPrefix(t, "application/connect+") || strings.HasPrefix(t, "application/grpc")
}

// CloseIdleConnections passes on http.Client's.
func (t Transport) CloseIdleConnections() {
	if c, ok := t.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

type metered struct {
	io.ReadCloser

	meter Meter
}

// Read implements io.Reader.
func (m *metered) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	if over := m.meter.Add(n); over != nil {
		wire, _ := rpcerr.ToConnect(over)
		return n, fmt.Errorf("read answer: %w", wire) // as Connect passes it on unchanged
	}
	return n, err
}
