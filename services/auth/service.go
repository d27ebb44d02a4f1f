package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// Defaults of Config.
const (
	DefaultTokenLifetime   = 10 * time.Minute
	DefaultRefreshLifetime = 30 * 24 * time.Hour
	DefaultKeyRotation     = 30 * 24 * time.Hour

	resetLifetime = time.Hour
	// revocationLifetime is how long a revocation is kept: longer than any access token lives, with all grace.
	revocationLifetime = 48 * time.Hour
)

// MaxTokenLifetime is the most that an access token may live, so that revocations can be forgotten.
const MaxTokenLifetime = 24 * time.Hour

// Config is a Service's. All but the durations and the clock are required.
type Config struct {
	Auth, Mesh *engine.DB
	Log        *changelog.Log
	Verifier   *access.Verifier
	Guard      *access.Guard // answers Authorize
	MeshID     [16]byte
	Bookmark   func(changelog.Head) string // of _mesh
	Logger     *slog.Logger

	TokenLifetime   time.Duration // of access tokens; default DefaultTokenLifetime
	RefreshLifetime time.Duration // of a session from its last use; default DefaultRefreshLifetime
	KeyRotation     time.Duration // how old a signing key becomes; default DefaultKeyRotation
	Clock           func() time.Time
}

// Service answers AuthService and AccountService.
type Service struct {
	config    Config
	auth      *engine.DB
	mesh      *engine.DB
	passwords *passwords
	lockout   lockout
	signer    *signer
	policies  sync.Mutex // held while one is written
}

var _ authv1connect.AuthServiceHandler = (*Service)(nil)

// New opens what _auth keeps.
func New(ctx context.Context, c Config) (*Service, error) {
	c.TokenLifetime = min(cmp.Or(c.TokenLifetime, DefaultTokenLifetime), MaxTokenLifetime)
	c.RefreshLifetime = cmp.Or(c.RefreshLifetime, DefaultRefreshLifetime)
	c.KeyRotation = cmp.Or(c.KeyRotation, DefaultKeyRotation)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if err := migrate(ctx, c.Log, c.Auth); err != nil {
		return nil, err
	}
	passwords, err := newPasswords()
	if err != nil {
		return nil, err
	}
	s := &Service{
		config: c, auth: c.Auth, mesh: c.Mesh, passwords: passwords, lockout: newLockout(c.Clock),
		signer: &signer{
			auth: c.Auth, mesh: c.Mesh, log: c.Log, issuer: "nearside:" + hex.EncodeToString(c.MeshID[:]), every: c.KeyRotation,
			lifetime: c.TokenLifetime + time.Hour, clock: c.Clock, logger: c.Logger,
		},
	}
	return s, s.signer.load(ctx)
}

// Tidy rotates keys and forgets what has ended. It is called now and then.
func (s *Service) Tidy(ctx context.Context) error {
	now := integer(s.config.Clock().UnixMilli())
	errs := []error{s.signer.rotate(ctx)}
	for _, old := range []struct {
		db  *engine.DB
		any string
		sql string
	}{
		{s.mesh, "SELECT 1 FROM revocations WHERE expires_at < ?1 LIMIT 1", "DELETE FROM revocations WHERE expires_at < ?1"},
		{s.auth, "SELECT 1 FROM sessions WHERE expires_at < ?1 LIMIT 1", "DELETE FROM sessions WHERE expires_at < ?1"},
		{s.auth, "SELECT 1 FROM refresh_tokens WHERE expires_at < ?1 LIMIT 1", "DELETE FROM refresh_tokens WHERE expires_at < ?1"},
		{s.auth, "SELECT 1 FROM reset_tokens WHERE expires_at < ?1 LIMIT 1", "DELETE FROM reset_tokens WHERE expires_at < ?1"},
	} {
		found := false
		err := query(ctx, old.db, func([]value.Value) { found = true }, old.any, now)
		if err == nil && found {
			_, err = transact(ctx, old.db, engine.SQL(old.sql, now))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

var ids = base32.HexEncoding.WithPadding(base32.NoPadding)

// newID returns an id that nobody else makes.
func newID(prefix string) string {
	var random [10]byte
	_, _ = rand.Read(random[:]) // never fails
	return prefix + strings.ToLower(ids.EncodeToString(random[:]))
}

var (
	errWrong   = rpcerr.New(datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, "the name or the password is wrong")
	errInvalid = rpcerr.New(datav1.ErrorReason_ERROR_REASON_TOKEN_INVALID, "the token is not valid")
)

func denied(ctx context.Context, action string) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, "%s may not do this", identity.From(ctx)).
		With("action", action).With("policy", access.PolicyDefaultDeny)
}

// Authenticate implements authv1connect.AuthServiceHandler.
func (s *Service) Authenticate(
	ctx context.Context, req *connect.Request[authv1.AuthenticateRequest],
) (*connect.Response[authv1.AuthenticateResponse], error) {
	var tokens *authv1.Tokens
	var err error
	if key := req.Msg.GetApiKey(); key != "" {
		tokens, err = s.withKey(ctx, key)
	} else {
		tokens, err = s.withPassword(ctx, req.Msg.GetPassword().GetName(), req.Msg.GetPassword().GetPassword())
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&authv1.AuthenticateResponse{Tokens: tokens}), nil
}

func (s *Service) withKey(ctx context.Context, key string) (*authv1.Tokens, error) {
	if !strings.HasPrefix(key, access.APIKeyPrefix) {
		return nil, errInvalid
	}
	p, err := s.config.Verifier.Credential(key)
	if err != nil {
		return nil, err
	}
	a, err := s.account(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	audit.NoteOf(ctx).Actor, audit.NoteOf(ctx).Target = p.Actor(), "key="+p.Credential
	lifetime := s.config.TokenLifetime
	keys, err := s.apiKeys(ctx, "id", p.Credential)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.GetExpireTime() != nil {
			lifetime = min(lifetime, k.GetExpireTime().AsTime().Sub(s.config.Clock()))
		}
	}
	// The session is the key's: what ends the key ends the tokens that it has opened.
	token, ends, err := s.signer.sign(a.id, p.Credential, a.tokensAfter, lifetime)
	if err != nil {
		return nil, err
	}
	return &authv1.Tokens{AccessToken: token, ExpireTime: timestamppb.New(ends), AccountId: a.id}, nil
}

func (s *Service) withPassword(ctx context.Context, name, password string) (*authv1.Tokens, error) {
	a, hash, err := s.checkPassword(ctx, name, password)
	if err != nil {
		s.config.Logger.InfoContext(ctx, "log-in refused", slog.String("reason", rpcerr.ReasonOf(err).String()))
		return nil, err
	}
	audit.NoteOf(ctx).Actor = a.kind + ":" + a.id
	return s.openSession(ctx, a, hash)
}

// checkPassword returns the account of a name and its password, and the hash that the password has there. It takes as long for an
// unknown name as for a wrong password.
func (s *Service) checkPassword(ctx context.Context, name, password string) (a *accountRow, hash string, err error) {
	locked := s.lockout.check(name)
	a, err = s.account(ctx, name)
	if err != nil && rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND {
		return nil, "", err
	}
	if a != nil {
		audit.NoteOf(ctx).Target = "account=" + a.id // a name that nobody has may be a password in the wrong field
	}
	if locked != nil {
		return nil, "", locked
	}
	if a != nil && !a.disabled && a.name == name { // ids are no names to log in with
		err := query(ctx, s.auth, func(v []value.Value) { hash = v[0].Text() },
			"SELECT hash FROM passwords WHERE account_id = ?1", text(a.id))
		if err != nil {
			return nil, "", err
		}
	}
	equal, old, err := s.passwords.compare(ctx, hash, password)
	if err != nil {
		return nil, "", err
	}
	if !equal {
		s.lockout.Failed(name)
		return nil, "", errWrong
	}
	s.lockout.Forget(name)
	if old {
		var replaced bool
		if hash, replaced, err = s.replacePassword(ctx, a.id, hash, password); err != nil {
			return nil, "", err
		}
		if !replaced {
			return s.checkPassword(ctx, name, password)
		}
	}
	return a, hash, nil
}

// replacePassword replaces a password that has been checked. It does not where another one was set meanwhile.
func (s *Service) replacePassword(ctx context.Context, account, before, password string) (hash string, replaced bool, err error) {
	if hash, err = s.passwords.hash(ctx, password); err != nil {
		return "", false, err
	}
	changed, err := transact(ctx, s.auth,
		engine.SQL("UPDATE passwords SET hash = ?3, changed_at = ?4 WHERE account_id = ?1 AND hash = ?2",
			text(account), text(before), text(hash), integer(s.config.Clock().UnixMilli())))
	return hash, err == nil && changed[0] > 0, err
}

func (s *Service) setPassword(ctx context.Context, account, password string) error {
	hash, err := s.passwords.hash(ctx, password)
	if err != nil {
		return err
	}
	_, err = transact(ctx, s.auth, engine.SQL(
		`INSERT INTO passwords (account_id, hash, changed_at) VALUES (?1, ?2, ?3)
		ON CONFLICT (account_id) DO UPDATE SET hash = excluded.hash, changed_at = excluded.changed_at`,
		text(account), text(hash), integer(s.config.Clock().UnixMilli())))
	return err
}

// openSession opens a session of an account whose password has a hash. Who changes the password ends the sessions that are there then,
// and those that are being opened with the one before.
func (s *Service) openSession(ctx context.Context, a *accountRow, hash string) (*authv1.Tokens, error) {
	now := s.config.Clock()
	session := newID("s_")
	secret, _ := access.NewSecret(access.RefreshTokenPrefix)
	refresh := access.HashSecret(secret)
	ends := now.Add(s.config.RefreshLifetime)
	tokens, err := s.tokens(a, session, secret, ends) // before the session is there: what ends it ends them too
	if err != nil {
		return nil, err
	}
	changed, err := transact(ctx, s.auth,
		engine.SQL(`INSERT INTO sessions (id, account_id, created_at, expires_at, ended)
			SELECT ?1, account_id, ?3, ?4, 0 FROM passwords WHERE account_id = ?2 AND hash = ?5`,
			text(session), text(a.id), integer(now.UnixMilli()), integer(ends.UnixMilli()), text(hash)),
		engine.SQL("INSERT INTO refresh_tokens (hash, session_id, expires_at, used_at) SELECT ?1, id, ?3, 0 FROM sessions WHERE id = ?2",
			value.Blob(refresh[:]), text(session), integer(ends.UnixMilli())))
	if err != nil {
		return nil, err
	}
	if changed[0] == 0 {
		return nil, errWrong // by now
	}
	return tokens, nil
}

func (s *Service) tokens(a *accountRow, session, refresh string, refreshEnds time.Time) (*authv1.Tokens, error) {
	token, ends, err := s.signer.sign(a.id, session, a.tokensAfter, s.config.TokenLifetime)
	if err != nil {
		return nil, err
	}
	return &authv1.Tokens{
		AccessToken: token, ExpireTime: timestamppb.New(ends), RefreshToken: refresh,
		RefreshExpireTime: timestamppb.New(refreshEnds), SessionId: session, AccountId: a.id,
	}, nil
}

// endSession ends a session here and its access tokens everywhere.
func (s *Service) endSession(ctx context.Context, session string) error {
	if err := s.revoke(ctx, session); err != nil {
		return err
	}
	_, err := transact(ctx, s.auth, engine.SQL("UPDATE sessions SET ended = 1 WHERE id = ?1", text(session)))
	return err
}

// revoke tells the regions that a token or a session has ended.
func (s *Service) revoke(ctx context.Context, id string) error {
	_, err := transact(ctx, s.mesh, engine.SQL("INSERT OR IGNORE INTO revocations (id, expires_at) VALUES (?1, ?2)",
		text(id), integer(s.config.Clock().Add(revocationLifetime).UnixMilli())))
	return err
}

// endAll ends all sessions and access tokens of an account. The sessions end first: what was refreshed before that was made before the
// moment by which the tokens end.
func (s *Service) endAll(ctx context.Context, account string) error {
	_, err := transact(ctx, s.auth, engine.SQL("UPDATE sessions SET ended = 1 WHERE account_id = ?1", text(account)))
	if err != nil {
		return err
	}
	_, err = transact(ctx, s.mesh, engine.SQL("UPDATE accounts SET tokens_after = max(tokens_after, ?2) WHERE id = ?1",
		text(account), integer(s.config.Clock().UnixMilli())))
	return err
}

// RevokeToken implements authv1connect.AuthServiceHandler.
func (s *Service) RevokeToken(
	ctx context.Context, req *connect.Request[authv1.RevokeTokenRequest],
) (*connect.Response[authv1.RevokeTokenResponse], error) {
	action := req.Spec().Procedure
	var err error
	switch t := req.Msg.GetTarget().(type) {
	case *authv1.RevokeTokenRequest_AccessToken:
		p, verr := s.config.Verifier.Credential(t.AccessToken)
		switch {
		case rpcerr.ReasonOf(verr) == datav1.ErrorReason_ERROR_REASON_TOKEN_EXPIRED:
		case verr != nil:
			err = verr
		case strings.HasPrefix(t.AccessToken, access.APIKeyPrefix):
			err = rpcerr.InvalidField("access_token", "is an API key: RevokeApiKey ends it")
		case !s.mayEnd(ctx, p.ID):
			err = denied(ctx, action)
		default:
			err = s.revoke(ctx, p.Credential)
		}
	case *authv1.RevokeTokenRequest_SessionId:
		owner := ""
		err = query(ctx, s.auth, func(v []value.Value) { owner = v[0].Text() },
			"SELECT account_id FROM sessions WHERE id = ?1", text(t.SessionId))
		switch {
		case err != nil:
		case !s.mayEnd(ctx, owner):
			err = denied(ctx, action)
		case owner == "":
			err = notFound("session", t.SessionId)
		default:
			err = s.endSession(ctx, t.SessionId)
		}
	case *authv1.RevokeTokenRequest_AccountId:
		if !s.mayEnd(ctx, t.AccountId) {
			err = denied(ctx, action)
		} else if _, err = s.account(ctx, t.AccountId); err == nil {
			err = s.endAll(ctx, t.AccountId)
		}
	}
	if err != nil {
		return nil, err
	}
	return doneAt[authv1.RevokeTokenResponse](s), nil
}

// mayEnd reports whether the caller may end what is an account's.
func (s *Service) mayEnd(ctx context.Context, account string) bool {
	p := identity.From(ctx)
	return p.ID == account && account != "" || p.HasRole(access.RoleAdmin)
}

// Authorize implements authv1connect.AuthServiceHandler.
func (s *Service) Authorize(
	ctx context.Context, req *connect.Request[authv1.AuthorizeRequest],
) (*connect.Response[authv1.AuthorizeResponse], error) {
	res, err := s.config.Guard.Answer(ctx, req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// GetJwks implements authv1connect.AuthServiceHandler.
func (s *Service) GetJwks(
	context.Context, *connect.Request[authv1.GetJwksRequest],
) (*connect.Response[authv1.GetJwksResponse], error) {
	res, err := s.config.Verifier.Jwks()
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// ChangePassword implements authv1connect.AuthServiceHandler.
func (s *Service) ChangePassword(
	ctx context.Context, req *connect.Request[authv1.ChangePasswordRequest],
) (*connect.Response[authv1.ChangePasswordResponse], error) {
	p := identity.From(ctx)
	if p.Kind != identity.User {
		return nil, denied(ctx, req.Spec().Procedure)
	}
	a, err := s.account(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	_, hash, err := s.checkPassword(ctx, a.name, req.Msg.GetOldPassword())
	if err != nil {
		return nil, err
	}
	if err := s.endResets(ctx, a.id); err != nil {
		return nil, err
	}
	_, replaced, err := s.replacePassword(ctx, a.id, hash, req.Msg.GetNewPassword())
	switch {
	case err != nil:
		return nil, err
	case !replaced:
		return nil, errWrong // by now
	}
	if err := s.endAll(ctx, a.id); err != nil {
		return nil, err
	}
	return doneAt[authv1.ChangePasswordResponse](s), nil
}

// endResets ends the reset tokens of an account.
func (s *Service) endResets(ctx context.Context, account string) error {
	_, err := transact(ctx, s.auth, engine.SQL("DELETE FROM reset_tokens WHERE account_id = ?1", text(account)))
	return err
}

// ResetPassword implements authv1connect.AuthServiceHandler.
func (s *Service) ResetPassword(
	ctx context.Context, req *connect.Request[authv1.ResetPasswordRequest],
) (*connect.Response[authv1.ResetPasswordResponse], error) {
	hash := access.HashSecret(req.Msg.GetResetToken())
	now := integer(s.config.Clock().UnixMilli())
	account := ""
	err := query(ctx, s.auth, func(v []value.Value) { account = v[0].Text() },
		"SELECT account_id FROM reset_tokens WHERE hash = ?1 AND expires_at > ?2", value.Blob(hash[:]), now)
	if err != nil {
		return nil, err
	}
	if account == "" {
		return nil, errInvalid
	}
	a, err := s.account(ctx, account)
	if err != nil {
		return nil, errInvalid
	}
	audit.NoteOf(ctx).Target = "account=" + a.id
	if a.disabled {
		return nil, errInvalid
	}
	encoded, err := s.passwords.hash(ctx, req.Msg.GetNewPassword())
	if err != nil {
		return nil, err
	}
	changed, err := transact(ctx, s.auth,
		engine.SQL(`INSERT OR REPLACE INTO passwords (account_id, hash, changed_at)
			SELECT account_id, ?3, ?2 FROM reset_tokens WHERE hash = ?1 AND expires_at > ?2`, value.Blob(hash[:]), now, text(encoded)),
		engine.SQL("DELETE FROM reset_tokens WHERE account_id = ?1", text(account)))
	if err != nil {
		return nil, err
	}
	if changed[0] == 0 {
		return nil, errInvalid // somebody else was faster
	}
	s.lockout.Forget(a.name)
	audit.NoteOf(ctx).Actor = a.kind + ":" + a.id
	if err := s.endAll(ctx, account); err != nil {
		return nil, err
	}
	return doneAt[authv1.ResetPasswordResponse](s), nil
}
