package auth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"time"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/engine"
)

const (
	// minRefreshKey is how long, in bytes, an idempotency key has to be to count for a refresh token: it is as good as the new one.
	minRefreshKey = 16
	// maxRepeats is how many tokens a refresh token may give way to, of which one is used.
	maxRepeats = 8
)

// RefreshToken implements authv1connect.AuthServiceHandler.
func (s *Service) RefreshToken(
	ctx context.Context, req *connect.Request[authv1.RefreshTokenRequest],
) (*connect.Response[authv1.RefreshTokenResponse], error) {
	now := s.config.Clock()
	hash := access.HashSecret(req.Msg.GetRefreshToken())
	session, owner, ended, err := s.refreshToken(ctx, hash, now)
	switch {
	case err != nil:
		return nil, err
	case session == "":
		return nil, errInvalid
	}
	note := audit.NoteOf(ctx)
	note.Target = "account=" + owner + " session=" + session
	if ended {
		return nil, errInvalid
	}
	a, err := s.account(ctx, owner)
	if err != nil || a.disabled {
		return nil, errInvalid
	}
	next, _ := access.NewSecret(access.RefreshTokenPrefix)
	ends := now.Add(s.config.RefreshLifetime)
	tokens, err := s.tokens(a, session, next, ends) // before the next statement: what ends the session after it ends them too
	if err != nil {
		return nil, err
	}
	replaced, again, err := s.replaceRefreshToken(ctx, session, hash, access.HashSecret(next), refreshKey(req.Header()), now, ends)
	if err != nil {
		return nil, err
	}
	if !replaced {
		if _, _, ended, err = s.refreshToken(ctx, hash, now); err != nil || ended {
			return nil, cmp.Or(err, error(errInvalid)) // by somebody else meanwhile, which is no thief's work
		}
		s.config.Logger.WarnContext(ctx, "refresh token used twice: the session ends", slog.String("session", session),
			slog.String("account", owner))
		note.Reason = "REFRESH_TOKEN_REUSED"
		if err := s.endSession(ctx, session); err != nil {
			return nil, err
		}
		return nil, errInvalid
	}
	note.Actor = a.kind + ":" + a.id
	if again {
		note.Reason = "REFRESH_REPEATED"
	}
	return connect.NewResponse(&authv1.RefreshTokenResponse{Tokens: tokens}), nil
}

// refreshToken returns whose a refresh token is, and whether it or its session has ended; session is "" if there is no such token.
func (s *Service) refreshToken(ctx context.Context, hash [sha256.Size]byte, now time.Time) (session, owner string, ended bool, err error) {
	err = query(ctx, s.auth, func(v []value.Value) { session, owner, ended = v[0].Text(), v[1].Text(), v[2].Integer() != 0 },
		`SELECT s.id, s.account_id, s.ended OR r.expires_at <= ?2 FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id
		WHERE r.hash = ?1`, value.Blob(hash[:]), integer(now.UnixMilli()))
	return session, owner, ended, err
}

// refreshKey returns the hash of the idempotency key that a refresh token is used under; NULL is none.
func refreshKey(h http.Header) value.Value {
	key := h.Get(rpcheader.IdempotencyKey)
	if len(key) < minRefreshKey {
		return value.Null()
	}
	hash := sha256.Sum256([]byte(key))
	return value.Blob(hash[:])
}

// replaceRefreshToken has a token give way to the next one, in one transaction, so that of two who show it at once one comes second.
// Who comes second gets one too only under the key of the first, and while nobody has used one: that answer may have been lost. Of
// those answers one arrived, so whoever shows another one after it is somebody else. again says that the token had been used before.
func (s *Service) replaceRefreshToken(
	ctx context.Context, session string, old, next [sha256.Size]byte, key value.Value, now, ends time.Time,
) (replaced, again bool, err error) {
	from, to := value.Blob(old[:]), value.Blob(next[:])
	changed, err := transact(ctx, s.auth,
		engine.SQL(`INSERT INTO refresh_tokens (hash, session_id, expires_at, used_at, parent)
			SELECT ?2, r.session_id, ?3, 0, ?1 FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id
			WHERE r.hash = ?1 AND NOT s.ended AND (r.used_at = 0 OR r.key_hash = ?4
				AND NOT EXISTS (SELECT 1 FROM refresh_tokens n WHERE n.parent = ?1 AND n.used_at <> 0)
				AND (SELECT count(*) FROM refresh_tokens n WHERE n.parent = ?1) < ?5)
			AND NOT EXISTS (SELECT 1 FROM refresh_tokens b WHERE b.parent = r.parent AND b.hash <> ?1 AND b.used_at <> 0)`,
			from, to, integer(ends.UnixMilli()), key, integer(maxRepeats)),
		engine.SQL(`UPDATE refresh_tokens SET used_at = ?2, key_hash = ?3
			WHERE hash = ?1 AND used_at = 0 AND EXISTS (SELECT 1 FROM refresh_tokens WHERE hash = ?4)`,
			from, integer(now.UnixMilli()), key, to),
		engine.SQL("UPDATE sessions SET expires_at = ?2 WHERE id = ?1 AND NOT ended", text(session), integer(ends.UnixMilli())))
	if err != nil {
		return false, false, err
	}
	return changed[0] > 0, changed[1] == 0, nil
}
