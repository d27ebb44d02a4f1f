package httpclient_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/httpclient"
)

// TestTLS calls a server over TLS by both protocols, with a URL that says http.
func TestTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	config := func() *tls.Config { return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13} }
	for want, client := range map[string]*http.Client{
		"HTTP/1.1": httpclient.NewUnaryTLS(config()), "HTTP/2.0": httpclient.NewStreamingTLS(config()),
	} {
		secure := httpclient.Secure(client)
		for _, url := range []string{server.URL, strings.Replace(server.URL, "https://", "http://", 1)} {
			res, err := secure.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || string(got) != want {
				t.Errorf("%s: got %q, %v, want %s", url, got, err, want)
			}
		}
		secure.CloseIdleConnections()
	}
}
