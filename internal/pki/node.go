package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// Node is a node's side of TLS with others of its mesh. Its credentials may be replaced at any time: connections that there are
// stay, new ones use the new ones. It may be used concurrently.
type Node struct {
	clock func() time.Time
	now   atomic.Pointer[Credentials]
}

// NewNode returns a node with its first credentials. clock defaults to time.Now.
func NewNode(c *Credentials, clock func() time.Time) *Node {
	n := &Node{clock: clock}
	if n.clock == nil {
		n.clock = time.Now
	}
	n.now.Store(c)
	return n
}

// Credentials returns the present ones.
func (n *Node) Credentials() *Credentials { return n.now.Load() }

// Replace makes new connections use c.
func (n *Node) Replace(c *Credentials) { n.now.Store(c) }

// Self is who the node is.
func (n *Node) Self() Peer { return n.Credentials().Self() }

// Server returns the TLS of a listener towards nodes: 1.3, with a certificate from both sides, but for a caller that has none
// yet if optional is set. Nothing is resumed, so that each connection is checked as it begins.
func (n *Node) Server(optional bool) *tls.Config {
	auth := tls.RequireAnyClientCert
	if optional {
		auth = tls.RequestClientCert
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
		ClientAuth: auth, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &n.Credentials().certificate, nil },
	}
}

// Caller returns who is at the other end of a connection to a listener with Server's TLS. A certificate that has run out within
// Grace is a Peer with Expired set; none is the zero Peer. Its error is ErrCertificate.
func (n *Node) Caller(state tls.ConnectionState) (Peer, error) {
	if len(state.PeerCertificates) == 0 {
		return Peer{}, nil
	}
	c := n.Credentials()
	return verify(verifyParams{
		chain: state.PeerCertificates, roots: c.Roots, mesh: c.self.ID.Mesh, now: n.clock(),
		usage: x509.ExtKeyUsageClientAuth, grace: Grace,
	})
}

// Client returns the TLS with which the node calls others: 1.3, with its own certificate, towards a node of its mesh in one of
// the roles. protocol is the one that is spoken: "h2" or "http/1.1".
func (n *Node) Client(protocol string, roles ...Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, ServerName: ServerName(n.Self().ID.Mesh),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &n.Credentials().certificate, nil
		},
		// Nodes have names of their own instead of their hosts', and whom to trust changes: VerifyConnection does it all.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			c := n.Credentials()
			return verifyServer(state, c.Roots, c.self.ID.Mesh, n.clock(), roles)
		},
	}
}

func verifyServer(state tls.ConnectionState, roots []*x509.Certificate, mesh string, now time.Time, roles []Role) error {
	peer, err := verify(verifyParams{
		chain: state.PeerCertificates, roots: roots, mesh: mesh, now: now, usage: x509.ExtKeyUsageServerAuth,
	})
	if err != nil {
		return err
	}
	if slices.Contains(roles, peer.ID.Role) {
		return nil
	}
	return fmt.Errorf("%w: %s is in none of the roles %v", ErrCertificate, peer.ID, roles)
}

// JoiningClient returns the TLS with which a machine that is no node yet calls the primary: its certificate must come from the
// authority whose key the token names.
func JoiningClient(t JoinToken, clock func() time.Time) *tls.Config {
	if clock == nil {
		clock = time.Now
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, ServerName: ServerName(t.Mesh),
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it
		VerifyConnection: func(state tls.ConnectionState) error {
			for _, c := range state.PeerCertificates {
				if Pin(c) == t.CA && c.IsCA {
					return verifyServer(state, []*x509.Certificate{c}, t.Mesh, clock(), []Role{RolePrimary})
				}
			}
			return fmt.Errorf("%w: its authority is not the one that the join token names", ErrCertificate)
		},
	}
}
