package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// The files of a node's folder.
const (
	CredentialsFile = "node.pem" // private key and certificates
	trustFile       = "ca.pem"   // whom the node trusts
)

// Credentials are what a node shows to others, and whom it trusts. They are never changed.
type Credentials struct {
	Key   *ecdsa.PrivateKey
	Chain []*x509.Certificate // the node's own first
	Roots []*x509.Certificate

	self        Peer
	certificate tls.Certificate
}

// NewCredentials checks that the parts belong together. A certificate that has run out is accepted: see Peer.Expired.
func NewCredentials(key *ecdsa.PrivateKey, chain, roots []*x509.Certificate, now time.Time) (*Credentials, error) {
	c := &Credentials{Key: key, Chain: chain, Roots: roots}
	if key == nil || len(chain) == 0 || len(roots) == 0 {
		return nil, fmt.Errorf("%w: want a key, certificates and whom to trust", ErrFile)
	}
	if !key.PublicKey.Equal(chain[0].PublicKey) {
		return nil, fmt.Errorf("%w: the certificate is not of the key", ErrFile)
	}
	if len(chain[0].URIs) != 1 {
		return nil, fmt.Errorf("%w: it names no node", ErrCertificate)
	}
	id, err := ParseID(chain[0].URIs[0].String())
	if err != nil {
		return nil, err
	}
	at := now
	if at.After(chain[0].NotAfter) {
		at = chain[0].NotAfter
	}
	c.self, err = verify(verifyParams{
		chain: chain, roots: roots, mesh: id.Mesh, now: at, usage: x509.ExtKeyUsageClientAuth,
	})
	if err != nil {
		return nil, err
	}
	c.certificate = tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, one := range chain {
		c.certificate.Certificate = append(c.certificate.Certificate, one.Raw)
	}
	return c, nil
}

// Self is who the credentials say that their holder is. Its Expired is always false.
func (c *Credentials) Self() Peer { return c.self }

// RenewAt is when two thirds of the certificate's life are over.
func (c *Credentials) RenewAt() time.Time {
	life := c.Chain[0].NotAfter.Sub(c.Chain[0].NotBefore.Add(backdate))
	return c.Chain[0].NotAfter.Add(-life / 3)
}

// Save writes the credentials into a folder, which is there.
func (c *Credentials) Save(dir string) error {
	key, err := EncodeKey(c.Key)
	if err != nil {
		return err
	}
	// Whom to trust first: it fits the earlier certificate too.
	if err := WriteFile(filepath.Join(dir, trustFile), EncodeCertificates(c.Roots)); err != nil {
		return err
	}
	return WriteFile(filepath.Join(dir, CredentialsFile), append(key, EncodeCertificates(c.Chain)...))
}

// LoadCredentials reads what Save wrote. The error is fs.ErrNotExist where nothing was.
func LoadCredentials(dir string, now time.Time) (*Credentials, error) {
	text, err := readFile(filepath.Join(dir, CredentialsFile))
	if err != nil {
		return nil, err
	}
	key, chain, err := decodePEM(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, CredentialsFile), err)
	}
	trust, err := readFile(filepath.Join(dir, trustFile))
	if err != nil {
		return nil, errors.Join(ErrFile, fmt.Errorf("read whom to trust: %s", filepath.Join(dir, trustFile)))
	}
	roots, err := ParseCertificates(trust)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, trustFile), err)
	}
	c, err := NewCredentials(key, chain, roots, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, CredentialsFile), err)
	}
	return c, nil
}
