package meshtest

import (
	"net/http"
	"testing"

	"github.com/nearside-dev/nearside/internal/cli"
)

// Show has all later calls of a client show the token of an admin.json, and returns it.
func Show(tb testing.TB, client *http.Client, adminFile string) (token string) {
	tb.Helper()
	admin, err := cli.ReadAdmin(adminFile)
	if err != nil || admin.Token == "" {
		tb.Fatalf("%s: no token: %v", adminFile, err)
	}
	base := client.Transport
	if base == nil {
		base = http.DefaultTransport
	}
	client.Transport = &showing{RoundTripper: base, value: "Bearer " + admin.Token}
	return admin.Token
}

// showing adds a credential to what has none.
type showing struct {
	http.RoundTripper

	value string
}

// RoundTrip implements http.RoundTripper.
func (s *showing) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Authorization") == "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", s.value)
	}
	return s.RoundTripper.RoundTrip(r)
}

// CloseIdleConnections is what http.Client asks for.
func (s *showing) CloseIdleConnections() {
	if c, ok := s.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
