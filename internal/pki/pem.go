package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const (
	pemKey         = "PRIVATE KEY"
	pemCertificate = "CERTIFICATE"

	// maxFileBytes bounds what is read of a file of this package, maxCertificates how many certificates are in one.
	maxFileBytes    = 64 << 10
	maxCertificates = 16
)

// ErrFile means that a file or message does not have what this package writes. It never quotes what was read.
var ErrFile = errors.New("not of the expected form")

// NewKey makes a private key.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// EncodeCertificates returns certificates as PEM.
func EncodeCertificates(certificates []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certificates {
		_ = pem.Encode(&out, &pem.Block{Type: pemCertificate, Bytes: c.Raw}) // a buffer takes it
	}
	return out.Bytes()
}

// EncodeKey returns a private key as PEM.
func EncodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// ReadKey reads a private key from a file. Its error is ErrFile where the file has something else.
func ReadKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	key, certificates, err := decodePEM(text)
	if err != nil || key == nil || len(certificates) > 0 {
		return nil, fmt.Errorf("%s: %w: want a private key", path, ErrFile)
	}
	return key, nil
}

// decodePEM reads at most one key of P-256 and some certificates. key is nil where there is none.
func decodePEM(text []byte) (key *ecdsa.PrivateKey, certificates []*x509.Certificate, err error) {
	if len(text) > maxFileBytes {
		return nil, nil, fmt.Errorf("%w: larger than %d bytes", ErrFile, maxFileBytes)
	}
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, nil, fmt.Errorf("%w: no PEM", ErrFile)
		}
		text = rest
		switch block.Type {
		case pemKey:
			parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			k, ok := parsed.(*ecdsa.PrivateKey)
			if err != nil || !ok || k.Curve != elliptic.P256() || key != nil {
				return nil, nil, fmt.Errorf("%w: no key of P-256, or more than one", ErrFile)
			}
			key = k
		case pemCertificate:
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil || len(certificates) == maxCertificates {
				return nil, nil, fmt.Errorf("%w: no certificate, or too many", ErrFile)
			}
			certificates = append(certificates, c)
		default:
			return nil, nil, fmt.Errorf("%w: neither a key nor a certificate", ErrFile)
		}
	}
	return key, certificates, nil
}

// ParseCertificates reads certificates from PEM: at least one and nothing else. Its error is ErrFile.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	key, certificates, err := decodePEM(text)
	if err != nil {
		return nil, err
	}
	if key != nil || len(certificates) == 0 {
		return nil, fmt.Errorf("%w: want certificates alone", ErrFile)
	}
	return certificates, nil
}

// Pin returns the name of a public key: "sha256:" and the hash of its SubjectPublicKeyInfo.
func Pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return pinPrefix + base64.RawURLEncoding.EncodeToString(sum[:])
}

const pinPrefix = "sha256:"

// ParseRequest reads a certificate request, DER, that was signed with its own key of P-256. Nothing else of it counts. Its
// error is ErrFile.
func ParseRequest(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > maxFileBytes {
		return nil, fmt.Errorf("%w: a request larger than %d bytes", ErrFile, maxFileBytes)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: no certificate request", ErrFile)
	}
	key, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || request.CheckSignature() != nil {
		return nil, fmt.Errorf("%w: a request must be signed with its own key of P-256", ErrFile)
	}
	return key, nil
}

// NewRequest returns a certificate request, DER, for a key.
func NewRequest(key crypto.Signer) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// readFile reads a small file.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	return io.ReadAll(io.LimitReader(f, maxFileBytes+1))
}

// WriteFile writes a file that only its owner may read, whole or not at all.
func WriteFile(path string, content []byte) error {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = f.Chmod(0o600) // it may be there from before
	if err == nil {
		_, err = f.Write(content)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", temporary, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
