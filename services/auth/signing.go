package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// publishAhead is how long before it signs a new key is published: regions have it before its first token.
const publishAhead = time.Minute

// signer makes access tokens. Its keys rotate: a new one is published, signs after a while, and the old one verifies as long
// as anything that it has signed can be valid.
type signer struct {
	auth, mesh *engine.DB
	log        *changelog.Log
	issuer     string
	every      time.Duration // rotation
	lifetime   time.Duration // of tokens, with all grace
	clock      func() time.Time
	logger     *slog.Logger

	mu   sync.Mutex
	keys []privateKey // the newest first
}

type privateKey struct {
	kid              string
	key              ed25519.PrivateKey
	created, signsAt int64 // milliseconds since 1970
}

// load reads the keys, and sees to it that there is one and that all are published: the primary may have died between the two.
func (s *signer) load(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = nil
	bad := false
	err := query(ctx, s.auth, func(v []value.Value) {
		seed := v[1].Bytes()
		if len(seed) != ed25519.SeedSize {
			bad = true
			return
		}
		s.keys = append(s.keys, privateKey{
			kid: v[0].Text(), key: ed25519.NewKeyFromSeed(seed), created: v[2].Integer(), signsAt: v[3].Integer(),
		})
	}, "SELECT kid, seed, created_at, signs_from FROM private_keys ORDER BY signs_from DESC, kid")
	if err != nil || bad {
		return fmt.Errorf("read signing keys: %w", err)
	}
	for _, k := range s.keys {
		if err := s.publish(ctx, k); err != nil {
			return err
		}
	}
	if err := s.unpublish(ctx); err != nil {
		return err
	}
	if len(s.keys) > 0 {
		return nil
	}
	return s.add(ctx, s.clock().UnixMilli())
}

func (s *signer) publish(ctx context.Context, k privateKey) error {
	_, err := transact(ctx, s.mesh, engine.SQL(
		`INSERT OR IGNORE INTO signing_keys (kid, issuer, public_key, created_at, verifies_until) VALUES (?1, ?2, ?3, ?4, 0)`,
		text(k.kid), text(s.issuer), value.Blob(k.key.Public().(ed25519.PublicKey)), integer(k.created)))
	if err != nil {
		return fmt.Errorf("publish signing key: %w", err)
	}
	return nil
}

// unpublish takes back all keys but those that there are.
func (s *signer) unpublish(ctx context.Context) error {
	var published []string
	err := query(ctx, s.mesh, func(v []value.Value) { published = append(published, v[0].Text()) }, "SELECT kid FROM signing_keys")
	if err != nil {
		return fmt.Errorf("read published signing keys: %w", err)
	}
	for _, kid := range published {
		if slices.ContainsFunc(s.keys, func(k privateKey) bool { return k.kid == kid }) {
			continue
		}
		if _, err := transact(ctx, s.mesh, engine.SQL("DELETE FROM signing_keys WHERE kid = ?1", text(kid))); err != nil {
			return fmt.Errorf("take back signing key: %w", err)
		}
	}
	return nil
}

// replace makes a key before its time. With revoke all others end now: first what signs with them, so that a primary that dies here
// takes the rest back when it starts.
func (s *signer) replace(ctx context.Context, revoke bool) (privateKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	if !revoke {
		now = now.Add(publishAhead)
	}
	ctx = context.WithoutCancel(ctx) // whoever asked may go; half of this is for nobody
	if err := s.add(ctx, now.UnixMilli()); err != nil {
		return privateKey{}, err
	}
	k := s.keys[0]
	if !revoke {
		return k, nil
	}
	if _, err := transact(ctx, s.auth, engine.SQL("DELETE FROM private_keys WHERE kid <> ?1", text(k.kid))); err != nil {
		return privateKey{}, fmt.Errorf("take back signing keys: %w", err)
	}
	s.keys = s.keys[:1:1]
	s.logger.WarnContext(ctx, "all other signing keys have ended", slog.String("kid", k.kid))
	return k, s.unpublish(ctx)
}

// add makes a key that signs from a time on.
func (s *signer) add(ctx context.Context, signsAt int64) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	var kid [8]byte
	_, _ = rand.Read(kid[:]) // never fails
	k := privateKey{kid: hex.EncodeToString(kid[:]), key: key, created: s.clock().UnixMilli(), signsAt: signsAt}
	_, err = transact(ctx, s.auth, engine.SQL("INSERT INTO private_keys (kid, seed, created_at, signs_from) VALUES (?1, ?2, ?3, ?4)",
		text(k.kid), value.Blob(key.Seed()), integer(k.created), integer(k.signsAt)))
	if err != nil {
		return fmt.Errorf("keep signing key: %w", err)
	}
	if err := s.publish(ctx, k); err != nil {
		return err
	}
	s.keys = append([]privateKey{k}, s.keys...)
	s.logger.InfoContext(ctx, "new signing key", slog.String("kid", k.kid))
	return nil
}

// rotate makes a new key when the newest is old, and ends those that a newer one has replaced.
func (s *signer) rotate(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	if len(s.keys) == 0 {
		return nil
	}
	if newest := s.keys[0]; now.Sub(time.UnixMilli(newest.created)) >= s.every {
		if err := s.add(ctx, now.Add(publishAhead).UnixMilli()); err != nil {
			return err
		}
	}
	for i := len(s.keys) - 1; i > 0; i-- {
		successor := s.keys[i-1]
		end := time.UnixMilli(successor.signsAt).Add(s.lifetime)
		if now.Before(time.UnixMilli(successor.signsAt)) {
			continue // the old one still signs
		}
		if _, err := transact(ctx, s.mesh, engine.SQL(
			"UPDATE signing_keys SET verifies_until = ?2 WHERE kid = ?1 AND verifies_until <> ?2", text(s.keys[i].kid), integer(end.UnixMilli()),
		)); err != nil {
			return err
		}
		if now.Before(end) {
			continue
		}
		if _, err := transact(ctx, s.mesh, engine.SQL("DELETE FROM signing_keys WHERE kid = ?1", text(s.keys[i].kid))); err != nil {
			return err
		}
		if _, err := transact(ctx, s.auth, engine.SQL("DELETE FROM private_keys WHERE kid = ?1", text(s.keys[i].kid))); err != nil {
			return err
		}
		s.keys = append(s.keys[:i], s.keys[i+1:]...)
	}
	return nil
}

// sign returns an access token of an account.
func (s *signer) sign(account, session string, notBefore int64, lifetime time.Duration) (token string, ends time.Time, err error) {
	now := s.clock()
	made := max(now.UnixMilli(), notBefore+1)
	s.mu.Lock()
	var key privateKey
	for _, k := range s.keys {
		if key = k; k.signsAt <= now.UnixMilli() {
			break
		}
	}
	s.mu.Unlock()
	ends = now.Add(lifetime)
	mesh, _ := s.log.Published(meshdb.DatabaseID)
	token, err = access.Sign(&access.Claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: s.issuer, Subject: account, Audience: jwt.ClaimStrings{access.Audience}, ID: newID("t_"),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(ends),
		},
		Session: session, MadeAtMs: made, MeshEpoch: mesh.Epoch, MeshVersion: mesh.Version,
	}, key.kid, key.key)
	return token, ends.Truncate(time.Second), err
}
