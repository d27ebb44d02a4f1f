package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
)

// secretBytes is how long the secret of a join token is.
const secretBytes = 32

// JoinToken is what a machine needs to become a node: where the primary is, how to know it, and a secret that makes one node.
type JoinToken struct {
	URL     string    `json:"url"`    // the primary's: https://HOST:PORT
	Mesh    string    `json:"mesh"`   // its id
	CA      string    `json:"ca"`     // "sha256:" and the hash of its authority's key
	Secret  string    `json:"secret"` // spent when it is used
	Region  string    `json:"region,omitempty"`
	Expires time.Time `json:"expires"`
}

// NewSecret returns a new secret of a join token.
func NewSecret() string {
	var b [secretBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// SecretHash is what is kept of a secret where it is to be known again.
func SecretHash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Validate returns what is wrong with a token. The error does not quote it.
func (t JoinToken) Validate() error {
	u, err := url.Parse(t.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(t.URL) > 2048 {
		return errors.New("join token: url: want https://HOST:PORT")
	}
	if !meshPattern.MatchString(t.Mesh) {
		return errors.New("join token: mesh: want 32 hexadecimal digits")
	}
	pin, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimPrefix(t.CA, pinPrefix))
	if err != nil || !strings.HasPrefix(t.CA, pinPrefix) || len(pin) != sha256.Size {
		return errors.New("join token: ca: want sha256: and a hash")
	}
	if secret, err := base64.RawURLEncoding.Strict().DecodeString(t.Secret); err != nil || len(secret) != secretBytes {
		return errors.New("join token: secret: want 32 bytes")
	}
	if t.Region != "" && !regionPattern.MatchString(t.Region) {
		return errors.New("join token: region: not the name of a region")
	}
	return nil
}

// Encode returns a token as it is in a file.
func (t JoinToken) Encode() ([]byte, error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(t) //nolint:gosec // that is what a token is
	return append(text, '\n'), err
}

// String does not show the secret.
func (t JoinToken) String() string { return "join token for " + t.URL }

// GoString does not show the secret.
func (t JoinToken) GoString() string { return t.String() }

// ParseJoinToken reads what Encode wrote. The error does not quote it.
func ParseJoinToken(text []byte) (JoinToken, error) {
	if len(text) > maxFileBytes {
		return JoinToken{}, fmt.Errorf("join token: larger than %d bytes", maxFileBytes)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var t JoinToken
	if decoder.Decode(&t) != nil || decoder.Decode(&struct{}{}) != io.EOF { // the error could quote the secret
		return JoinToken{}, errors.New("join token: not of the expected form")
	}
	return t, t.Validate()
}

// ReadJoinToken reads the token in a file.
func ReadJoinToken(path string) (JoinToken, error) {
	text, err := readFile(path)
	if err != nil {
		return JoinToken{}, fmt.Errorf("read join token: %w", err)
	}
	t, err := ParseJoinToken(text)
	if err != nil {
		return JoinToken{}, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}
