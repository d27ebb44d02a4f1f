package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// Lifetime is how long a node's certificate is valid.
	Lifetime = 24 * time.Hour
	// Grace is how long after that it still serves to have itself replaced, and for nothing else.
	Grace = 7 * 24 * time.Hour

	authorityLifetime = 10 * 365 * 24 * time.Hour
	// backdate is how far a node's clock may be behind the primary's.
	backdate = 10 * time.Minute
	// overlap is how long the authority before the present one is still trusted: as long as any of its certificates serves.
	overlap = Lifetime + Grace

	keyFile   = "ca.key" // the present authority's private key
	rootsFile = "ca.pem" // the present authority's certificate, and then those that are still trusted
	crossFile = "ca-cross.pem"
)

// Authority issues the certificates of a mesh's nodes. Its methods may be called concurrently.
type Authority struct {
	mesh  string
	clock func() time.Time
	key   *ecdsa.PrivateKey
	roots []*x509.Certificate // the present one first
	cross []*x509.Certificate // the present key, certified by the authority before it
}

// OpenAuthority reads a mesh's authority from a folder, or makes it there. clock defaults to time.Now.
func OpenAuthority(dir, mesh string, clock func() time.Time) (*Authority, error) {
	if clock == nil {
		clock = time.Now
	}
	if !meshPattern.MatchString(mesh) {
		return nil, fmt.Errorf("%w: mesh %q", ErrID, mesh)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &Authority{mesh: mesh, clock: clock}
	var err error
	a.key, err = ReadKey(filepath.Join(dir, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return a, a.create(dir)
	}
	if err != nil {
		return nil, err
	}
	if err := a.readCertificates(dir); err != nil {
		return nil, err
	}
	if len(a.roots) == 0 || !a.key.PublicKey.Equal(a.roots[0].PublicKey) {
		return nil, fmt.Errorf("%s is not of the key in %s: %w", filepath.Join(dir, rootsFile), keyFile, ErrFile)
	}
	return a, nil
}

func (a *Authority) readCertificates(dir string) error {
	for name, into := range map[string]*[]*x509.Certificate{rootsFile: &a.roots, crossFile: &a.cross} {
		text, err := readFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) && name == crossFile {
			continue
		}
		if err != nil {
			return err
		}
		if *into, err = ParseCertificates(text); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
	}
	now := a.clock()
	a.cross = slices.DeleteFunc(a.cross, func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
	if len(a.cross) == 0 && len(a.roots) > 1 {
		a.roots = a.roots[:1] // nothing that the ones before have issued serves any more
	}
	return nil
}

// create makes a key and its certificate. The certificate is written first: a key without one could not be used.
func (a *Authority) create(dir string) error {
	key, err := NewKey()
	if err != nil {
		return err
	}
	root, err := a.certify(&key.PublicKey, nil, key, a.clock().Add(authorityLifetime))
	if err != nil {
		return err
	}
	a.key, a.roots = key, []*x509.Certificate{root}
	return a.write(dir)
}

func (a *Authority) write(dir string) error {
	key, err := EncodeKey(a.key)
	if err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(dir, rootsFile), EncodeCertificates(a.roots)); err != nil {
		return err
	}
	if len(a.cross) > 0 {
		if err := WriteFile(filepath.Join(dir, crossFile), EncodeCertificates(a.cross)); err != nil {
			return err
		}
	}
	return WriteFile(filepath.Join(dir, keyFile), key)
}

// Rotate gives the mesh's authority in a folder a new key, while its primary is stopped. The old key certifies the new one and
// is thrown away, so that nodes which know only the old one accept what the new one issues. What the old one has issued is
// trusted until it would serve for nothing any more.
func Rotate(dir string, clock func() time.Time) error {
	text, err := readFile(filepath.Join(dir, rootsFile)) // there is nothing to rotate where nothing is
	if err != nil {
		return err
	}
	roots, err := ParseCertificates(text)
	if err != nil || len(roots[0].URIs) != 1 {
		return fmt.Errorf("%s: %w", filepath.Join(dir, rootsFile), ErrFile)
	}
	a, err := OpenAuthority(dir, roots[0].URIs[0].Host, clock)
	if err != nil {
		return err
	}
	key, err := NewKey()
	if err != nil {
		return err
	}
	old := a.roots[0]
	until := a.clock().Add(overlap)
	cross, err := a.certify(&key.PublicKey, old, a.key, until)
	if err != nil {
		return err
	}
	root, err := a.certify(&key.PublicKey, nil, key, a.clock().Add(authorityLifetime))
	if err != nil {
		return err
	}
	// Of the keys before the last one nothing is left: two rotations within the overlap cost nodes that were off meanwhile
	// their certificate.
	a.key, a.roots, a.cross = key, []*x509.Certificate{root, old}, []*x509.Certificate{cross}
	return a.write(dir)
}

// certify makes an authority's certificate; parent is nil for its own.
func (a *Authority) certify(
	public *ecdsa.PublicKey, parent *x509.Certificate, key *ecdsa.PrivateKey, until time.Time,
) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	name := sha256.Sum256(der)
	template := &x509.Certificate{
		SerialNumber: serial,
		// Both certificates of a key have one name, and different keys different ones.
		Subject:   pkix.Name{CommonName: "Nearside mesh " + a.mesh, SerialNumber: hex.EncodeToString(name[:8])},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: a.mesh}},
		NotBefore: a.clock().Add(-backdate), NotAfter: until,
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent = template
		template.MaxPathLen = 1 // the one that it certifies when it is replaced
	} else {
		template.MaxPathLenZero = true
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, parent, public, key); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// Mesh is the mesh's id.
func (a *Authority) Mesh() string { return a.mesh }

// Roots returns the certificates that the nodes of the mesh are to trust.
func (a *Authority) Roots() []*x509.Certificate { return slices.Clone(a.roots) }

// Pin names the present authority's key.
func (a *Authority) Pin() string { return Pin(a.roots[0]) }

// Issue returns a certificate of a node for a key, and the authority's own behind it.
func (a *Authority) Issue(public *ecdsa.PublicKey, id ID, node string) ([]*x509.Certificate, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	if id.Mesh != a.mesh || !nodePattern.MatchString(node) {
		return nil, fmt.Errorf("%w: node %q of mesh %s", ErrID, node, id.Mesh)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := a.clock()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: node}, URIs: []*url.URL{id.URI()},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(Lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.roots[0], public, a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return append([]*x509.Certificate{leaf}, append(slices.Clone(a.cross), a.roots[0])...), nil
}
