package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// ErrCertificate means that a certificate does not make its holder a node of the mesh.
var ErrCertificate = errors.New("not a certificate of this mesh")

// Peer is a node as its certificate says.
type Peer struct {
	ID      ID
	Node    string    // its node id
	Serial  string    // of the certificate, hexadecimal
	Expires time.Time // when the certificate does
	// Expired says that it has, but not so long ago that it could not be replaced.
	Expired bool
}

// verifyParams are what a chain of certificates is held against.
type verifyParams struct {
	chain []*x509.Certificate // the node's first
	roots []*x509.Certificate
	mesh  string
	now   time.Time
	usage x509.ExtKeyUsage
	grace time.Duration // how long after its end a certificate still counts
}

// verify returns who a chain of certificates is, by the roots. Its error is ErrCertificate.
func verify(p verifyParams) (Peer, error) {
	if len(p.chain) == 0 {
		return Peer{}, fmt.Errorf("%w: there is none", ErrCertificate)
	}
	leaf := p.chain[0]
	if leaf.IsCA || len(leaf.URIs) != 1 || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return Peer{}, fmt.Errorf("%w: it names no node", ErrCertificate)
	}
	id, err := ParseID(leaf.URIs[0].String())
	if err != nil || !nodePattern.MatchString(leaf.Subject.CommonName) {
		return Peer{}, fmt.Errorf("%w: it names no node", ErrCertificate)
	}
	if id.Mesh != p.mesh {
		return Peer{}, fmt.Errorf("%w: it is of mesh %s", ErrCertificate, id.Mesh)
	}
	peer := Peer{
		ID: id, Node: leaf.Subject.CommonName, Serial: leaf.SerialNumber.Text(16), Expires: leaf.NotAfter,
		Expired: p.now.After(leaf.NotAfter),
	}
	at := p.now
	if peer.Expired && p.now.Sub(leaf.NotAfter) <= p.grace {
		at = leaf.NotAfter
	}
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{p.usage},
	}
	for _, c := range p.roots {
		options.Roots.AddCert(c)
	}
	for _, c := range p.chain[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(options); err != nil {
		return Peer{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return peer, nil
}
