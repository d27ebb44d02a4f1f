package access

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Audience is what all access tokens are for.
const Audience = "nearside"

const (
	maxTokenBytes = 4096
	// clockSkew is how much a region's clock may be behind that of the primary, which says from when a token is valid.
	clockSkew = time.Minute
)

// Prefixes of opaque secrets, so that people and secret scanners know what they have found.
const (
	APIKeyPrefix       = "nsk_"
	RefreshTokenPrefix = "nsr_"
	ResetTokenPrefix   = "nsp_"
)

// Errors of credentials. They say no more than a caller may know.
var (
	errMissing = rpcerr.New(datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, "no credential: send the header Authorization: Bearer …")
	errInvalid = rpcerr.New(datav1.ErrorReason_ERROR_REASON_TOKEN_INVALID, "the credential is not valid")
	errExpired = rpcerr.New(datav1.ErrorReason_ERROR_REASON_TOKEN_EXPIRED, "the access token has expired")
)

// claimMadeAt is a claim that every access token of a mesh has, and no other one.
const claimMadeAt = `"nearside_iat_ms"`

// Claims are what an access token says.
type Claims struct {
	jwt.RegisteredClaims

	Session  string `json:"sid,omitempty"`
	MadeAtMs int64  `json:"nearside_iat_ms"` // iat, in milliseconds

	// The state of _mesh that the token was made by. No region judges a new token by an older one if it can help it.
	MeshEpoch   uint32 `json:"nearside_mesh_epoch,omitempty"`
	MeshVersion uint64 `json:"nearside_mesh_version,omitempty"`
}

// madeBy is the state of _mesh that the token was made by; zero if it does not say.
func (c *Claims) madeBy() Version { return Version{Epoch: c.MeshEpoch, Version: c.MeshVersion} }

// Sign returns the access token of claims.
func Sign(c *Claims, kid string, key ed25519.PrivateKey) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	t.Header["kid"] = kid
	return t.SignedString(key)
}

// Times are looked at by verify, which knows the rule for those that run out in a region that is cut off.
var parser = jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithoutClaimsValidation(),
	jwt.WithStrictDecoding())

// verify checks an access token's signature and all claims but its end.
func (s *state) verify(token string, now time.Time) (c *Claims, kid string, err error) {
	c = &Claims{}
	var key *signingKey
	_, err = parser.ParseWithClaims(token, c, func(t *jwt.Token) (any, error) {
		kid, _ = t.Header["kid"].(string)
		if key = s.signing[kid]; key == nil || len(t.Header) != 3 { // alg, typ and kid: no extension is known here
			return nil, errUnknownKey
		}
		return key.public, nil
	})
	switch {
	case err != nil:
		return nil, "", errInvalid
	case key.verifiesUntil != 0 && now.UnixMilli() > key.verifiesUntil,
		c.Issuer != key.issuer, len(c.Audience) != 1 || c.Audience[0] != Audience,
		c.Subject == "" || c.ID == "" || c.ExpiresAt == nil || c.IssuedAt == nil || c.NotBefore == nil || c.MadeAtMs <= 0,
		now.Add(clockSkew).Before(c.NotBefore.Time), now.Add(clockSkew).Before(c.IssuedAt.Time):
		return nil, "", errInvalid
	}
	return c, kid, nil
}

var errUnknownKey = errors.New("unknown key")

var secretEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// NewSecret returns an opaque secret of 256 random bits and the id that it may be told by.
func NewSecret(prefix string) (secret, id string) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	var name [5]byte
	_, _ = rand.Read(name[:])
	id = strings.ToLower(secretEncoding.EncodeToString(name[:]))
	return fmt.Sprintf("%s%s_%s", prefix, id, strings.ToLower(secretEncoding.EncodeToString(random[:]))), id
}

// HashSecret returns what is kept of a secret. It needs no salt and no work: there are 2^256 secrets.
func HashSecret(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }
