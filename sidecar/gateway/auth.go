package gateway

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/sidecar/forward"
	"github.com/nearside-dev/nearside/sidecar/readpath"
)

// meshPatience is how long an answer waits for the region's own copy to have what it says.
const meshPatience = time.Second

// Auth answers AuthService, AccountService and PolicyService: what can be answered from the region's rows is, all else goes to the primary. An
// answer about something that was changed comes when the region has it too, if that does not take long.
type Auth struct {
	primary  *forward.Primary
	path     *readpath.Path
	guard    *access.Guard
	verifier *access.Verifier
	auth     authv1connect.AuthServiceClient
	accounts authv1connect.AccountServiceClient
	policies authv1connect.PolicyServiceClient
}

var (
	_ authv1connect.AuthServiceHandler    = (*Auth)(nil)
	_ authv1connect.AccountServiceHandler = (*Auth)(nil)
)

// NewAuth returns a region's AuthService and AccountService. The client makes the calls to the primary at url.
func NewAuth(
	primary *forward.Primary, path *readpath.Path, guard *access.Guard, verifier *access.Verifier, client *http.Client, url string,
) *Auth {
	plain := connect.WithAcceptCompression("gzip", nil, nil)
	return &Auth{
		primary: primary, path: path, guard: guard, verifier: verifier,
		auth:     authv1connect.NewAuthServiceClient(client, url, plain),
		accounts: authv1connect.NewAccountServiceClient(client, url, plain),
		policies: authv1connect.NewPolicyServiceClient(client, url, plain),
	}
}

// pass passes a call on, and waits for what it has changed.
func pass[Req, Res any](
	ctx context.Context, a *Auth, method string, repeatable bool, req *connect.Request[Req],
	send func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error),
) (*connect.Response[Res], error) {
	mark := ""
	res, err := forward.Pass(ctx, a.primary, method, repeatable, req, send, func(res *connect.Response[Res]) {
		mark = res.Header().Get(rpcheader.Bookmark)
	})
	if err == nil && mark != "" {
		ctx, cancel := context.WithTimeout(ctx, meshPatience)
		defer cancel()
		a.path.WaitMesh(ctx, mark)
		res.Header().Set(rpcheader.Bookmark, mark)
	}
	return res, err
}

// Authorize implements authv1connect.AuthServiceHandler.
func (a *Auth) Authorize(
	ctx context.Context, req *connect.Request[authv1.AuthorizeRequest],
) (*connect.Response[authv1.AuthorizeResponse], error) {
	res, err := a.guard.Answer(ctx, req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// GetJwks implements authv1connect.AuthServiceHandler.
func (a *Auth) GetJwks(
	context.Context, *connect.Request[authv1.GetJwksRequest],
) (*connect.Response[authv1.GetJwksResponse], error) {
	res, err := a.verifier.Jwks()
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// Authenticate implements authv1connect.AuthServiceHandler.
func (a *Auth) Authenticate(
	ctx context.Context, req *connect.Request[authv1.AuthenticateRequest],
) (*connect.Response[authv1.AuthenticateResponse], error) {
	return pass(ctx, a, "Authenticate", false, req, a.auth.Authenticate)
}

// RefreshToken implements authv1connect.AuthServiceHandler.
func (a *Auth) RefreshToken(
	ctx context.Context, req *connect.Request[authv1.RefreshTokenRequest],
) (*connect.Response[authv1.RefreshTokenResponse], error) {
	return pass(ctx, a, "RefreshToken", false, req, a.auth.RefreshToken)
}

// RevokeToken implements authv1connect.AuthServiceHandler.
func (a *Auth) RevokeToken(
	ctx context.Context, req *connect.Request[authv1.RevokeTokenRequest],
) (*connect.Response[authv1.RevokeTokenResponse], error) {
	return pass(ctx, a, "RevokeToken", false, req, a.auth.RevokeToken)
}

// ChangePassword implements authv1connect.AuthServiceHandler.
func (a *Auth) ChangePassword(
	ctx context.Context, req *connect.Request[authv1.ChangePasswordRequest],
) (*connect.Response[authv1.ChangePasswordResponse], error) {
	return pass(ctx, a, "ChangePassword", false, req, a.auth.ChangePassword)
}

// ResetPassword implements authv1connect.AuthServiceHandler.
func (a *Auth) ResetPassword(
	ctx context.Context, req *connect.Request[authv1.ResetPasswordRequest],
) (*connect.Response[authv1.ResetPasswordResponse], error) {
	return pass(ctx, a, "ResetPassword", false, req, a.auth.ResetPassword)
}

// CreateAccount implements authv1connect.AccountServiceHandler.
func (a *Auth) CreateAccount(
	ctx context.Context, req *connect.Request[authv1.CreateAccountRequest],
) (*connect.Response[authv1.CreateAccountResponse], error) {
	return pass(ctx, a, "CreateAccount", false, req, a.accounts.CreateAccount)
}

// ListAccounts implements authv1connect.AccountServiceHandler.
func (a *Auth) ListAccounts(
	ctx context.Context, req *connect.Request[authv1.ListAccountsRequest],
) (*connect.Response[authv1.ListAccountsResponse], error) {
	return pass(ctx, a, "ListAccounts", true, req, a.accounts.ListAccounts)
}

// SetDisabled implements authv1connect.AccountServiceHandler.
func (a *Auth) SetDisabled(
	ctx context.Context, req *connect.Request[authv1.SetDisabledRequest],
) (*connect.Response[authv1.SetDisabledResponse], error) {
	return pass(ctx, a, "SetDisabled", false, req, a.accounts.SetDisabled)
}

// GrantRole implements authv1connect.AccountServiceHandler.
func (a *Auth) GrantRole(
	ctx context.Context, req *connect.Request[authv1.GrantRoleRequest],
) (*connect.Response[authv1.GrantRoleResponse], error) {
	return pass(ctx, a, "GrantRole", false, req, a.accounts.GrantRole)
}

// RevokeRole implements authv1connect.AccountServiceHandler.
func (a *Auth) RevokeRole(
	ctx context.Context, req *connect.Request[authv1.RevokeRoleRequest],
) (*connect.Response[authv1.RevokeRoleResponse], error) {
	return pass(ctx, a, "RevokeRole", false, req, a.accounts.RevokeRole)
}

// CreateApiKey implements authv1connect.AccountServiceHandler.
func (a *Auth) CreateApiKey( //nolint:revive // the generated interface has the name
	ctx context.Context, req *connect.Request[authv1.CreateApiKeyRequest],
) (*connect.Response[authv1.CreateApiKeyResponse], error) {
	return pass(ctx, a, "CreateApiKey", false, req, a.accounts.CreateApiKey)
}

// ListApiKeys implements authv1connect.AccountServiceHandler.
func (a *Auth) ListApiKeys( //nolint:revive // the generated interface has the name
	ctx context.Context, req *connect.Request[authv1.ListApiKeysRequest],
) (*connect.Response[authv1.ListApiKeysResponse], error) {
	return pass(ctx, a, "ListApiKeys", true, req, a.accounts.ListApiKeys)
}

// RotateApiKey implements authv1connect.AccountServiceHandler.
func (a *Auth) RotateApiKey( //nolint:revive // the generated interface has the name
	ctx context.Context, req *connect.Request[authv1.RotateApiKeyRequest],
) (*connect.Response[authv1.RotateApiKeyResponse], error) {
	return pass(ctx, a, "RotateApiKey", false, req, a.accounts.RotateApiKey)
}

// RotateSigningKey implements authv1connect.AccountServiceHandler.
func (a *Auth) RotateSigningKey(
	ctx context.Context, req *connect.Request[authv1.RotateSigningKeyRequest],
) (*connect.Response[authv1.RotateSigningKeyResponse], error) {
	return pass(ctx, a, "RotateSigningKey", false, req, a.accounts.RotateSigningKey)
}

// RevokeApiKey implements authv1connect.AccountServiceHandler.
func (a *Auth) RevokeApiKey( //nolint:revive // the generated interface has the name
	ctx context.Context, req *connect.Request[authv1.RevokeApiKeyRequest],
) (*connect.Response[authv1.RevokeApiKeyResponse], error) {
	return pass(ctx, a, "RevokeApiKey", false, req, a.accounts.RevokeApiKey)
}

// CreateResetToken implements authv1connect.AccountServiceHandler.
func (a *Auth) CreateResetToken(
	ctx context.Context, req *connect.Request[authv1.CreateResetTokenRequest],
) (*connect.Response[authv1.CreateResetTokenResponse], error) {
	return pass(ctx, a, "CreateResetToken", false, req, a.accounts.CreateResetToken)
}

// SetTenant implements authv1connect.AccountServiceHandler.
func (a *Auth) SetTenant(
	ctx context.Context, req *connect.Request[authv1.SetTenantRequest],
) (*connect.Response[authv1.SetTenantResponse], error) {
	return pass(ctx, a, "SetTenant", false, req, a.accounts.SetTenant)
}

// SetRateLimit implements authv1connect.AccountServiceHandler.
func (a *Auth) SetRateLimit(
	ctx context.Context, req *connect.Request[authv1.SetRateLimitRequest],
) (*connect.Response[authv1.SetRateLimitResponse], error) {
	return pass(ctx, a, "SetRateLimit", false, req, a.accounts.SetRateLimit)
}

// ListRateLimits implements authv1connect.AccountServiceHandler.
func (a *Auth) ListRateLimits(
	ctx context.Context, req *connect.Request[authv1.ListRateLimitsRequest],
) (*connect.Response[authv1.ListRateLimitsResponse], error) {
	return pass(ctx, a, "ListRateLimits", true, req, a.accounts.ListRateLimits)
}

// DeleteRateLimit implements authv1connect.AccountServiceHandler.
func (a *Auth) DeleteRateLimit(
	ctx context.Context, req *connect.Request[authv1.DeleteRateLimitRequest],
) (*connect.Response[authv1.DeleteRateLimitResponse], error) {
	return pass(ctx, a, "DeleteRateLimit", false, req, a.accounts.DeleteRateLimit)
}
