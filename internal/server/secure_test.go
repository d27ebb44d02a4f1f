package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/pki"
)

const mesh = "00112233445566778899aabbccddeeff"

// nodeWorld is a listener of a primary, and what is needed to be a node of its mesh.
type nodeWorld struct {
	authority *pki.Authority
	primary   *pki.Node
	revoked   atomic.Bool
	server    *Server
	addr      string
}

func issue(t testing.TB, a *pki.Authority, region string, role pki.Role, node string) *pki.Node {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.Issue(&key.PublicKey, pki.ID{Mesh: a.Mesh(), Region: region, Role: role}, node)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.NewCredentials(key, chain, a.Roots(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return pki.NewNode(c, nil)
}

// whoHandler answers with who called.
var whoHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/hang" {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return
	}
	p := identity.From(r.Context())
	_, _ = fmt.Fprintf(w, "%s %s %s", p, p.Region, r.Proto)
})

func startSecure(t *testing.T, security Security) *nodeWorld {
	t.Helper()
	a, err := pki.OpenAuthority(t.TempDir(), mesh, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &nodeWorld{authority: a, primary: issue(t, a, "home", pki.RolePrimary, "primary")}
	security.Nodes, security.NodeName = w.primary.Server(true), pki.ServerName(mesh)
	security.Principal = func(state tls.ConnectionState) (*identity.Principal, error) {
		peer, err := w.primary.Caller(state)
		if err != nil || peer.Node == "" {
			return nil, err
		}
		if w.revoked.Load() {
			return nil, errors.New("revoked")
		}
		return &identity.Principal{Kind: identity.Node, ID: peer.Node, Region: peer.ID.Region}, nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	w.server, err = Start(ln, whoHandler, Config{Name: "test", Security: security, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := w.server.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return w
}

func fetch(t *testing.T, c *http.Client, url string) (int, string, error) {
	t.Helper()
	t.Cleanup(c.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

func TestNodesAreKnown(t *testing.T) {
	w := startSecure(t, Security{Plaintext: PlaintextLoopback})
	node := issue(t, w.authority, "eu", pki.RoleSidecar, "n1")
	for proto, c := range map[string]*http.Client{
		"HTTP/1.1": httpclient.NewUnaryTLS(node.Client("http/1.1", pki.RolePrimary)),
		"HTTP/2.0": httpclient.NewStreamingTLS(node.Client("h2", pki.RolePrimary)),
	} {
		if _, got, err := fetch(t, c, "https://"+w.addr+"/"); err != nil || got != "node:n1 eu "+proto {
			t.Errorf("%s: got %q, %v", proto, got, err)
		}
	}
	if _, got, err := fetch(t, httpclient.NewUnary(), "http://"+w.addr+"/"); err != nil || got != "anonymous  HTTP/1.1" {
		t.Errorf("plaintext: got %q, %v", got, err)
	}
	if _, got, err := fetch(t, httpclient.NewStreaming(), "http://"+w.addr+"/"); err != nil || got != "anonymous  HTTP/2.0" {
		t.Errorf("plaintext over HTTP/2: got %q, %v", got, err)
	}
	if n := w.server.CountNodes(func(p *identity.Principal) bool { return p.ID == "n1" }); n != 2 {
		t.Errorf("%d connections of the node", n)
	}
}

// TestNodesAreRefused calls a listener as those who must not.
func TestNodesAreRefused(t *testing.T) {
	w := startSecure(t, Security{Plaintext: PlaintextLoopback})
	other, err := pki.OpenAuthority(t.TempDir(), mesh, nil)
	if err != nil {
		t.Fatal(err)
	}
	foreign := issue(t, other, "eu", pki.RoleSidecar, "n1")
	config := foreign.Client("http/1.1", pki.RolePrimary)
	config.VerifyConnection = nil // it talks to anybody
	if _, got, err := fetch(t, httpclient.NewUnaryTLS(config), "https://"+w.addr+"/"); err == nil {
		t.Errorf("another mesh's node got %q", got)
	}
	if _, got, err := fetch(t, httpclient.NewUnaryTLS(foreign.Client("http/1.1", pki.RolePrimary)), "https://"+w.addr+"/"); err == nil {
		t.Errorf("a node took another mesh's primary for its own: %q", got)
	}
	sidecar := issue(t, w.authority, "eu", pki.RoleSidecar, "n2")
	_, got, err := fetch(t, httpclient.NewUnaryTLS(sidecar.Client("http/1.1", pki.RoleSidecar)), "https://"+w.addr+"/")
	if !errors.Is(err, pki.ErrCertificate) {
		t.Errorf("a node took the primary for a sidecar: %q, %v", got, err)
	}
	plain := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	if _, got, err := fetch(t, httpclient.NewUnaryTLS(plain), "https://"+w.addr+"/"); err == nil {
		t.Errorf("a caller got TLS where there is none for callers: %q", got)
	}
	old := sidecar.Client("http/1.1", pki.RolePrimary)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, got, err := fetch(t, httpclient.NewUnaryTLS(old), "https://"+w.addr+"/"); err == nil {
		t.Errorf("TLS 1.2 got %q", got)
	}
}

func TestDisconnect(t *testing.T) {
	w := startSecure(t, Security{Plaintext: PlaintextLoopback})
	node := issue(t, w.authority, "eu", pki.RoleSidecar, "n1")
	c := httpclient.NewStreamingTLS(node.Client("h2", pki.RolePrimary))
	t.Cleanup(c.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+w.addr+"/hang", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	w.revoked.Store(true)
	if n := w.server.Disconnect(func(p *identity.Principal) bool { return p.ID == "n1" }); n != 1 {
		t.Errorf("%d connections cut", n)
	}
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("the call of a revoked node went on")
	}
	if _, got, err := fetch(t, c, "https://"+w.addr+"/"); err == nil {
		t.Errorf("a revoked node got %q", got)
	}
}

// writePair writes a certificate for 127.0.0.1 and returns whom to trust for it.
func writePair(t *testing.T, certFile, keyFile, name string) *x509.CertPool {
	t.Helper()
	cert, key := selfSigned(t, name)
	if err := errors.Join(os.WriteFile(certFile, cert, 0o600), os.WriteFile(keyFile, key, 0o600)); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}

func TestCallersCertificate(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first := writePair(t, certFile, keyFile, "first")
	certificate, err := LoadCertificate(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w := startSecure(t, Security{Plaintext: PlaintextNone, Callers: certificate.Config()})
	get := func(pool *x509.CertPool, http2 bool) (string, error) {
		config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
		c := httpclient.NewUnaryTLS(config)
		if http2 {
			c = httpclient.NewStreamingTLS(config)
		}
		_, got, err := fetch(t, c, "https://"+w.addr+"/")
		return got, err
	}
	for http2, want := range map[bool]string{false: "anonymous  HTTP/1.1", true: "anonymous  HTTP/2.0"} {
		if got, err := get(first, http2); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	status, text, err := fetch(t, httpclient.NewUnary(), "http://"+w.addr+"/")
	if err != nil || status != http.StatusBadRequest || !strings.Contains(text, "https://") {
		t.Errorf("plaintext: %d %q, %v", status, text, err)
	}
	node := issue(t, w.authority, "eu", pki.RoleSidecar, "n1")
	if _, got, err := fetch(t, httpclient.NewUnaryTLS(node.Client("http/1.1", pki.RolePrimary)), "https://"+w.addr+"/"); err != nil ||
		got != "node:n1 eu HTTP/1.1" {
		t.Errorf("node beside callers: %q, %v", got, err)
	}

	// New files are used, broken ones are not.
	if err := os.WriteFile(keyFile, []byte("half of a"), 0o600); err != nil {
		t.Fatal(err)
	}
	certificate.lookAt = time.Time{}
	if _, err := get(first, false); err != nil {
		t.Errorf("with broken files: %v", err)
	}
	second := writePair(t, certFile, keyFile, "second one")
	certificate.mu.Lock()
	certificate.lookAt = time.Time{}
	certificate.mu.Unlock()
	if _, err := get(second, false); err != nil {
		t.Errorf("with new files: %v", err)
	}
	if _, err := LoadCertificate(certFile, certFile, nil); err == nil {
		t.Error("a certificate was taken for a key")
	}
}

func TestPlaintextFromLoopbackAlone(t *testing.T) {
	for kind, want := range map[Plaintext][2]bool{
		PlaintextAny: {true, true}, PlaintextLoopback: {true, false}, PlaintextNone: {false, false},
	} {
		for i, addr := range []string{"127.0.0.1", "10.0.0.1"} {
			l := &connections{security: Security{Plaintext: kind}}
			c := &conn{listener: l, client: &client{addr: mustAddr(addr)}}
			if got := c.plaintextAllowed(); got != want[i] {
				t.Errorf("kind %d from %s: %v", kind, addr, got)
			}
		}
	}
}
