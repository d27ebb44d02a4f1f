package auth

import (
	"context"
	"errors"
	"regexp"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/engine"
)

var _ authv1connect.AccountServiceHandler = (*Service)(nil)

const (
	defaultPage    = 100
	minPassword    = 8
	defaultOverlap = time.Hour
)

// accountRow is a row of accounts.
type accountRow struct {
	id, kind, name string
	disabled       bool
	tokensAfter    int64
	created        int64
}

func notFound(what, id string) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, "no such %s: %s", what, id).
		With("resource", what).With("id", id)
}

// account finds an account by id or name. A name that is another account's id is that account's: such names are not given any more.
func (s *Service) account(ctx context.Context, key string) (*accountRow, error) {
	var a *accountRow
	err := query(ctx, s.mesh, func(v []value.Value) {
		a = &accountRow{
			id: v[0].Text(), kind: v[1].Text(), name: v[2].Text(), disabled: v[3].Integer() != 0, tokensAfter: v[4].Integer(),
			created: v[5].Integer(),
		}
	}, "SELECT id, kind, name, disabled, tokens_after, created_at FROM accounts WHERE id = ?1 OR name = ?1 ORDER BY id <> ?1 LIMIT 1",
		text(key))
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, notFound("account", key)
	}
	return a, nil
}

func (s *Service) describe(ctx context.Context, a *accountRow) (*authv1.Account, error) {
	out := &authv1.Account{
		Id: a.id, Kind: authv1.AccountKind_ACCOUNT_KIND_USER, Name: a.name, Disabled: a.disabled,
		CreateTime: timestamppb.New(time.UnixMilli(a.created)),
	}
	if a.kind == identity.Service.String() {
		out.Kind = authv1.AccountKind_ACCOUNT_KIND_SERVICE
	}
	err := query(ctx, s.mesh, func(v []value.Value) { out.Tenant = v[0].Text() },
		"SELECT tenant FROM account_tenants WHERE account_id = ?1", text(a.id))
	if err != nil {
		return nil, err
	}
	err = query(ctx, s.mesh, func(v []value.Value) {
		out.Grants = append(out.Grants, &authv1.Grant{Role: roleOf(v[0].Text()), Database: v[1].Text()})
	}, "SELECT role, database FROM account_roles WHERE account_id = ?1 ORDER BY database, role", text(a.id))
	return out, err
}

var roleNames = map[authv1.Role]string{
	authv1.Role_ROLE_READER: access.RoleReader, authv1.Role_ROLE_WRITER: access.RoleWriter,
	authv1.Role_ROLE_OWNER: access.RoleOwner, authv1.Role_ROLE_ADMIN: access.RoleAdmin,
}

func roleOf(name string) authv1.Role {
	for r, n := range roleNames {
		if n == name {
			return r
		}
	}
	return authv1.Role_ROLE_UNSPECIFIED
}

func checkGrant(g *authv1.Grant) error {
	admin := g.GetRole() == authv1.Role_ROLE_ADMIN
	switch {
	case admin && g.GetDatabase() != "":
		return rpcerr.InvalidField("grant.database", "an admin has all databases")
	case !admin && g.GetDatabase() == "":
		return rpcerr.InvalidField("grant.database", "is required")
	case g.GetDatabase() != "" && g.GetDatabase()[0] == '_':
		return rpcerr.InvalidField("grant.database", "is the mesh's own: admins alone have it")
	}
	return nil
}

func grantOperation(account string, g *authv1.Grant) engine.Operation {
	return engine.SQL("INSERT OR IGNORE INTO account_roles (account_id, role, database) VALUES (?1, ?2, ?3)",
		text(account), text(roleNames[g.GetRole()]), text(g.GetDatabase()))
}

// likeAnID matches what newID makes for accounts.
var likeAnID = regexp.MustCompile(`^(u|sa)_[0-9a-v]{16}$`)

// CreateAccount implements authv1connect.AccountServiceHandler.
func (s *Service) CreateAccount(
	ctx context.Context, req *connect.Request[authv1.CreateAccountRequest],
) (*connect.Response[authv1.CreateAccountResponse], error) {
	m := req.Msg
	kind, prefix := identity.User.String(), "u_"
	if m.GetKind() == authv1.AccountKind_ACCOUNT_KIND_SERVICE {
		kind, prefix = identity.Service.String(), "sa_"
		if m.GetPassword() != "" {
			return nil, rpcerr.InvalidField("password", "a service account has none")
		}
	}
	if likeAnID.MatchString(m.GetName()) {
		return nil, rpcerr.InvalidField("name", "has the form of an account's id: who is meant by it would not be clear")
	}
	if m.GetPassword() != "" && len(m.GetPassword()) < minPassword {
		return nil, rpcerr.InvalidField("password", "is shorter than %d bytes", minPassword)
	}
	id := newID(prefix)
	ops := []engine.Operation{engine.SQL(
		`INSERT OR IGNORE INTO accounts (id, kind, name, disabled, tokens_after, created_at) VALUES (?1, ?2, ?3, 0, 0, ?4)`,
		text(id), text(kind), text(m.GetName()), integer(s.config.Clock().UnixMilli()))}
	for _, g := range m.GetGrants() {
		if err := checkGrant(g); err != nil {
			return nil, err
		}
		ops = append(ops, engine.SQL(
			"INSERT OR IGNORE INTO account_roles (account_id, role, database) SELECT id, ?2, ?3 FROM accounts WHERE id = ?1",
			text(id), text(roleNames[g.GetRole()]), text(g.GetDatabase())))
	}
	// The password comes first: an account that is there before it could not log in if the primary died between the two.
	if m.GetPassword() != "" {
		if err := s.setPassword(ctx, id, m.GetPassword()); err != nil {
			return nil, err
		}
	}
	changed, err := transact(ctx, s.mesh, ops...)
	if err != nil {
		return nil, err
	}
	if changed[0] == 0 {
		if _, err := transact(ctx, s.auth, engine.SQL("DELETE FROM passwords WHERE account_id = ?1", text(id))); err != nil {
			return nil, err
		}
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_ALREADY_EXISTS, "an account has this name: %s", m.GetName()).
			With("field", "name")
	}
	a, err := s.described(ctx, id)
	if err != nil {
		return nil, err
	}
	return withMark(s, &authv1.CreateAccountResponse{Account: a}), nil
}

func (s *Service) described(ctx context.Context, key string) (*authv1.Account, error) {
	a, err := s.account(ctx, key)
	if err != nil {
		return nil, err
	}
	return s.describe(ctx, a)
}

// ListAccounts implements authv1connect.AccountServiceHandler.
func (s *Service) ListAccounts(
	ctx context.Context, req *connect.Request[authv1.ListAccountsRequest],
) (*connect.Response[authv1.ListAccountsResponse], error) {
	size := int64(req.Msg.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	var names, ids []string
	err := query(ctx, s.mesh, func(v []value.Value) { names, ids = append(names, v[0].Text()), append(ids, v[1].Text()) },
		"SELECT name, id FROM accounts WHERE name > ?1 ORDER BY name LIMIT ?2", text(req.Msg.GetPageToken()), integer(size+1))
	if err != nil {
		return nil, err
	}
	msg := &authv1.ListAccountsResponse{}
	if int64(len(names)) > size {
		ids = ids[:size]
		msg.NextPageToken = names[size-1]
	}
	for _, id := range ids {
		var row *accountRow
		if row, err = s.account(ctx, id); err != nil {
			return nil, err
		}
		a, err := s.describe(ctx, row)
		if err != nil {
			return nil, err
		}
		msg.Accounts = append(msg.Accounts, a)
	}
	return connect.NewResponse(msg), nil
}

// SetDisabled implements authv1connect.AccountServiceHandler.
func (s *Service) SetDisabled(
	ctx context.Context, req *connect.Request[authv1.SetDisabledRequest],
) (*connect.Response[authv1.SetDisabledResponse], error) {
	a, err := s.account(ctx, req.Msg.GetAccount())
	if err != nil {
		return nil, err
	}
	disabled := int64(0)
	if req.Msg.GetDisabled() {
		disabled = 1
		if a.id == identity.From(ctx).ID {
			return nil, rpcerr.InvalidField("account", "is your own")
		}
	}
	if _, err := transact(ctx, s.mesh, engine.SQL("UPDATE accounts SET disabled = ?2 WHERE id = ?1", text(a.id), integer(disabled))); err != nil {
		return nil, err
	}
	if disabled == 1 {
		if err := errors.Join(s.endAll(ctx, a.id), s.endResets(ctx, a.id)); err != nil {
			return nil, err
		}
	}
	out, err := s.described(ctx, a.id)
	if err != nil {
		return nil, err
	}
	return withMark(s, &authv1.SetDisabledResponse{Account: out}), nil
}

// GrantRole implements authv1connect.AccountServiceHandler.
func (s *Service) GrantRole(
	ctx context.Context, req *connect.Request[authv1.GrantRoleRequest],
) (*connect.Response[authv1.GrantRoleResponse], error) {
	if err := checkGrant(req.Msg.GetGrant()); err != nil {
		return nil, err
	}
	a, err := s.account(ctx, req.Msg.GetAccount())
	if err != nil {
		return nil, err
	}
	if _, err := transact(ctx, s.mesh, grantOperation(a.id, req.Msg.GetGrant())); err != nil {
		return nil, err
	}
	out, err := s.describe(ctx, a)
	if err != nil {
		return nil, err
	}
	return withMark(s, &authv1.GrantRoleResponse{Account: out}), nil
}

// RevokeRole implements authv1connect.AccountServiceHandler.
func (s *Service) RevokeRole(
	ctx context.Context, req *connect.Request[authv1.RevokeRoleRequest],
) (*connect.Response[authv1.RevokeRoleResponse], error) {
	a, err := s.account(ctx, req.Msg.GetAccount())
	if err != nil {
		return nil, err
	}
	g := req.Msg.GetGrant()
	_, err = transact(ctx, s.mesh, engine.SQL("DELETE FROM account_roles WHERE account_id = ?1 AND role = ?2 AND database = ?3",
		text(a.id), text(roleNames[g.GetRole()]), text(g.GetDatabase())))
	if err != nil {
		return nil, err
	}
	out, err := s.describe(ctx, a)
	if err != nil {
		return nil, err
	}
	return withMark(s, &authv1.RevokeRoleResponse{Account: out}), nil
}

// newKey makes an API key.
func (s *Service) newKey(ctx context.Context, account string, expires int64) (*authv1.ApiKey, string, error) {
	secret, name := access.NewSecret(access.APIKeyPrefix)
	hash := access.HashSecret(secret)
	k := &authv1.ApiKey{Id: newID("k_"), AccountId: account, Prefix: access.APIKeyPrefix + name}
	now := s.config.Clock()
	_, err := transact(ctx, s.mesh, engine.SQL(
		"INSERT INTO api_keys (id, account_id, hash, prefix, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
		text(k.Id), text(account), value.Blob(hash[:]), text(k.Prefix), integer(now.UnixMilli()), integer(expires)))
	k.CreateTime = timestamppb.New(now.Truncate(time.Millisecond))
	if expires != 0 {
		k.ExpireTime = timestamppb.New(time.UnixMilli(expires))
	}
	return k, secret, err
}

// CreateApiKey implements authv1connect.AccountServiceHandler.
func (s *Service) CreateApiKey( //nolint:revive // the generated interface has the name
	ctx context.Context, req *connect.Request[authv1.CreateApiKeyRequest],
) (*connect.Response[authv1.CreateApiKeyResponse], error) {
	a, err := s.account(ctx, req.Msg.GetAccount())
	if err != nil {
		return nil, err
	}
	expires := int64(0)
	if t := req.Msg.GetExpireTime(); t != nil {
		if expires = t.AsTime().UnixMilli(); expires <= s.config.Clock().UnixMilli() {
			return nil, rpcerr.InvalidField("expire_time", "is past")
		}
	}
	k, secret, err := s.newKey(ctx, a.id, expires)
	if err != nil {
		return nil, err
	}
	return withMark(s, &authv1.CreateApiKeyResponse{Key: k, Secret: secret}), nil
}

func (s *Service) apiKeys(ctx context.Context, where, key string) (keys []*authv1.ApiKey, err error) {
	err = query(ctx, s.mesh, func(v []value.Value) {
		k := &authv1.ApiKey{
			Id: v[0].Text(), AccountId: v[1].Text(), Prefix: v[2].Text(), CreateTime: timestamppb.New(time.UnixMilli(v[3].Integer())),
		}
		if end := v[4].Integer(); end != 0 {
			k.ExpireTime = timestamppb.New(time.UnixMilli(end))
		}
		keys = append(keys, k)
	}, "SELECT id, account_id, prefix, created_at, expires_at FROM api_keys WHERE "+where+" = ?1 ORDER BY created_at DESC, id", text(key))
	return keys, err
}

// ListApiKeys implements authv1connect.AccountServiceHandler.
func (s *Service) ListApiKeys( //nolint:revive // the generated interface has the name
	ctx context.Context, req *connect.Request[authv1.ListApiKeysRequest],
) (*connect.Response[authv1.ListApiKeysResponse], error) {
	a, err := s.account(ctx, req.Msg.GetAccount())
	if err != nil {
		return nil, err
	}
	keys, err := s.apiKeys(ctx, "account_id", a.id)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&authv1.ListApiKeysResponse{Keys: keys}), nil
}

// RotateApiKey implements authv1connect.AccountServiceHandler.
func (s *Service) RotateApiKey( //nolint:revive // the generated interface has the name
	ctx context.Context, req *connect.Request[authv1.RotateApiKeyRequest],
) (*connect.Response[authv1.RotateApiKeyResponse], error) {
	old, err := s.apiKeys(ctx, "id", req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	if len(old) == 0 {
		return nil, notFound("API key", req.Msg.GetId())
	}
	overlap := defaultOverlap
	if d := req.Msg.GetOverlap(); d != nil {
		overlap = d.AsDuration()
	}
	k, secret, err := s.newKey(ctx, old[0].GetAccountId(), 0)
	if err != nil {
		return nil, err
	}
	_, err = transact(ctx, s.mesh, engine.SQL(
		"UPDATE api_keys SET expires_at = ?2 WHERE id = ?1 AND (expires_at = 0 OR expires_at > ?2)",
		text(old[0].GetId()), integer(s.config.Clock().Add(overlap).UnixMilli())))
	if err != nil {
		return nil, err
	}
	return withMark(s, &authv1.RotateApiKeyResponse{Key: k, Secret: secret}), nil
}

// RotateSigningKey implements authv1connect.AccountServiceHandler.
func (s *Service) RotateSigningKey(
	ctx context.Context, req *connect.Request[authv1.RotateSigningKeyRequest],
) (*connect.Response[authv1.RotateSigningKeyResponse], error) {
	k, err := s.signer.replace(ctx, req.Msg.GetRevokeOthers())
	if err != nil {
		return nil, err
	}
	return withMark(s, &authv1.RotateSigningKeyResponse{Kid: k.kid, SignsFrom: timestamppb.New(time.UnixMilli(k.signsAt))}), nil
}

// RevokeApiKey implements authv1connect.AccountServiceHandler.
func (s *Service) RevokeApiKey( //nolint:revive // the generated interface has the name
	ctx context.Context, req *connect.Request[authv1.RevokeApiKeyRequest],
) (*connect.Response[authv1.RevokeApiKeyResponse], error) {
	changed, err := transact(ctx, s.mesh,
		engine.SQL("DELETE FROM api_keys WHERE id = ?1", text(req.Msg.GetId())),
		engine.SQL("INSERT OR IGNORE INTO revocations (id, expires_at) VALUES (?1, ?2)", // of the tokens that it has opened
			text(req.Msg.GetId()), integer(s.config.Clock().Add(revocationLifetime).UnixMilli())))
	if err != nil {
		return nil, err
	}
	if changed[0] == 0 {
		return nil, notFound("API key", req.Msg.GetId())
	}
	return doneAt[authv1.RevokeApiKeyResponse](s), nil
}

// CreateResetToken implements authv1connect.AccountServiceHandler.
func (s *Service) CreateResetToken(
	ctx context.Context, req *connect.Request[authv1.CreateResetTokenRequest],
) (*connect.Response[authv1.CreateResetTokenResponse], error) {
	a, err := s.account(ctx, req.Msg.GetAccount())
	if err != nil {
		return nil, err
	}
	if a.kind != identity.User.String() {
		return nil, rpcerr.InvalidField("account", "is no user's")
	}
	secret, _ := access.NewSecret(access.ResetTokenPrefix)
	hash := access.HashSecret(secret)
	ends := s.config.Clock().Add(resetLifetime)
	_, err = transact(ctx, s.auth, engine.SQL("INSERT INTO reset_tokens (hash, account_id, expires_at) VALUES (?1, ?2, ?3)",
		value.Blob(hash[:]), text(a.id), integer(ends.UnixMilli())))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&authv1.CreateResetTokenResponse{
		ResetToken: secret, ExpireTime: timestamppb.New(ends.Truncate(time.Millisecond)),
	}), nil
}
