package callers_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

func TestSessions(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx := context.Background()
	ann := w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	refresh := func(region, token string) (*authv1.Tokens, error) {
		res, err := w.auth(region, "").RefreshToken(ctx, connect.NewRequest(&authv1.RefreshTokenRequest{RefreshToken: token}))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetTokens(), nil
	}
	first := w.mustLogin(west, "ann")
	second, err := refresh(west, first.GetRefreshToken())
	if err != nil || second.GetSessionId() != first.GetSessionId() || second.GetRefreshToken() == first.GetRefreshToken() {
		t.Fatalf("refresh: %v, %v", second, err)
	}
	expect(t, "refreshed", w.get(east, second.GetAccessToken()), "")

	// Two show the same token at once, in two regions: one is a thief, nobody knows which, and the session ends.
	var both sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for _, region := range []string{east, west} {
		both.Go(func() {
			if _, err := refresh(region, second.GetRefreshToken()); err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	both.Wait()
	if won > 1 {
		t.Errorf("%d of two got tokens", won)
	}
	w.Eventually("the session has ended in both regions", func(context.Context) error {
		for _, region := range []string{east, west} {
			if got := reason(w.get(region, second.GetAccessToken())); got != "TOKEN_INVALID" {
				return fmt.Errorf("%s: %q", region, got)
			}
		}
		return nil
	})
	for _, made := range []string{"", "nsr_x", first.GetRefreshToken(), first.GetAccessToken(), w.AdminToken()} {
		if _, err := refresh(west, made); err == nil {
			t.Errorf("%.8s… was refreshed", made)
		}
	}

	one, other := w.mustLogin(west, "ann"), w.mustLogin(west, "ann")
	revoke := func(by string, req *authv1.RevokeTokenRequest) error {
		_, err := w.auth(west, by).RevokeToken(ctx, connect.NewRequest(req))
		return err
	}
	w.user(west, "bob")
	bob := w.mustLogin(west, "bob").GetAccessToken()
	token := &authv1.RevokeTokenRequest{Target: &authv1.RevokeTokenRequest_AccessToken{AccessToken: one.GetAccessToken()}}
	session := &authv1.RevokeTokenRequest{Target: &authv1.RevokeTokenRequest_SessionId{SessionId: other.GetSessionId()}}
	all := &authv1.RevokeTokenRequest{Target: &authv1.RevokeTokenRequest_AccountId{AccountId: ann.GetId()}}
	for _, req := range []*authv1.RevokeTokenRequest{token, session, all} {
		expect(t, "bob revokes", revoke(bob, req), "PERMISSION_DENIED")
	}
	expect(t, "revoke a token", revoke(other.GetAccessToken(), token), "")
	expect(t, "with it", w.get(west, one.GetAccessToken()), "TOKEN_INVALID")
	expect(t, "with the other", w.get(west, other.GetAccessToken()), "")
	expect(t, "revoke a session", revoke(other.GetAccessToken(), session), "")
	expect(t, "with the other now", w.get(west, other.GetAccessToken()), "TOKEN_INVALID")
	third := w.mustLogin(west, "ann")
	expect(t, "revoke all", revoke(w.AdminToken(), all), "")
	expect(t, "with the third", w.get(west, third.GetAccessToken()), "TOKEN_INVALID")
	if _, err := refresh(west, third.GetRefreshToken()); err == nil {
		t.Error("a session that has ended was refreshed")
	}
	expect(t, "a new one", w.get(west, w.mustLogin(west, "ann").GetAccessToken()), "")
}

// TestRefreshAgain has the answer to a refresh be lost: who asks again under the key of the first time goes on, and nobody else does.
func TestRefreshAgain(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx := context.Background()
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	refresh := func(region, token, key string) (*authv1.Tokens, error) {
		req := connect.NewRequest(&authv1.RefreshTokenRequest{RefreshToken: token})
		if key != "" {
			req.Header().Set(rpcheader.IdempotencyKey, key)
		}
		res, err := w.auth(region, "").RefreshToken(ctx, req)
		if err != nil {
			return nil, err
		}
		return res.Msg.GetTokens(), nil
	}
	const key = "0123456789abcdef"
	begin := func() (first, token string) { // the token has been used under the key, and its answer is lost
		first = w.mustLogin(west, "ann").GetRefreshToken()
		lost, err := refresh(west, first, key)
		if err != nil {
			t.Fatal(err)
		}
		return first, lost.GetRefreshToken()
	}
	ended := func(what, token string) {
		t.Helper()
		_, err := refresh(west, token, "")
		expect(t, what+": the session", err, "TOKEN_INVALID")
	}

	first, lost := begin()
	again, err := refresh(east, first, key)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the new access token", w.get(west, again.GetAccessToken()), "")
	if again.GetRefreshToken() == lost || again.GetRefreshToken() == first {
		t.Error("a refresh token was made twice")
	}
	next, err := refresh(west, again.GetRefreshToken(), "")
	expect(t, "on with the second answer", err, "")
	next, err = refresh(west, next.GetRefreshToken(), key)
	expect(t, "the session goes on", err, "")
	_, err = refresh(west, first, key)
	expect(t, "the first token, much later", err, "TOKEN_INVALID")
	ended("a token whose answer was not lost", next.GetRefreshToken())

	for name, other := range map[string]string{"without a key": "", "with another key": "0123456789abcdeg"} {
		first, lost := begin()
		_, err := refresh(west, first, other)
		expect(t, name, err, "TOKEN_INVALID")
		ended(name, lost)
	}

	first, lost = begin()
	if again, err = refresh(west, first, key); err != nil {
		t.Fatal(err)
	}
	_, err = refresh(west, lost, "")
	expect(t, "on with the first answer", err, "")
	_, err = refresh(west, again.GetRefreshToken(), "")
	expect(t, "on with the second one too", err, "TOKEN_INVALID")
	w.Eventually("the audit tells a repeat and a thief", func(ctx context.Context) error {
		recorded, err := authv1connect.NewAuditServiceClient(w.bare, w.URL(west), cli.WithToken(w.AdminToken())).ListEntries(ctx,
			connect.NewRequest(&authv1.ListEntriesRequest{Action: "AuthService/RefreshToken"}))
		if err != nil {
			return err
		}
		got := map[string]int{}
		for _, e := range recorded.Msg.GetEntries() {
			if strings.HasSuffix(e.GetEntry().GetTarget(), "session="+again.GetSessionId()) {
				got[e.GetEntry().GetReason()]++
			}
		}
		if !maps.Equal(got, map[string]int{"": 2, "REFRESH_REPEATED": 1, "REFRESH_TOKEN_REUSED": 1}) {
			return fmt.Errorf("recorded: %v", got)
		}
		return nil
	})
	_, err = refresh(west, lost, "")
	expect(t, "a session that two have", err, "TOKEN_INVALID")

	first = w.mustLogin(west, "ann").GetRefreshToken()
	for _, want := range []string{"", "TOKEN_INVALID"} {
		_, err := refresh(west, first, "short")
		expect(t, "with a key that can be guessed", err, want)
	}

	first = w.mustLogin(west, "ann").GetRefreshToken()
	var last *authv1.Tokens
	for range 8 {
		if last, err = refresh(west, first, key); err != nil {
			t.Fatal(err)
		}
	}
	_, err = refresh(west, first, key)
	expect(t, "again and again", err, "TOKEN_INVALID")
	ended("again and again", last.GetRefreshToken())
}

func TestPasswords(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx := context.Background()
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	_, err := w.accounts(west, w.AdminToken()).CreateAccount(ctx, connect.NewRequest(&authv1.CreateAccountRequest{
		Kind: authv1.AccountKind_ACCOUNT_KIND_USER, Name: "ann", Password: "another password",
	}))
	expect(t, "a second ann", err, "ALREADY_EXISTS")
	tokens := w.mustLogin(west, "ann")
	change := func(token, old, to string) error {
		_, err := w.auth(west, token).ChangePassword(ctx, connect.NewRequest(&authv1.ChangePasswordRequest{OldPassword: old, NewPassword: to}))
		return err
	}
	expect(t, "change with a wrong one", change(tokens.GetAccessToken(), "wrong", "a new password"), "UNAUTHENTICATED")
	expect(t, "change to a short one", change(tokens.GetAccessToken(), password, "short"), "FIELD_INVALID")
	expect(t, "an API key's", change(w.AdminToken(), password, "a new password"), "PERMISSION_DENIED")
	expect(t, "change", change(tokens.GetAccessToken(), password, "a new password"), "")
	expect(t, "with the old session", w.get(west, tokens.GetAccessToken()), "TOKEN_INVALID")
	_, err = w.login(west, "ann", password)
	expect(t, "with the old password", err, "UNAUTHENTICATED")
	if _, err := w.login(west, "ann", "a new password"); err != nil {
		t.Fatal(err)
	}

	create := func() string {
		t.Helper()
		reset, err := w.accounts(west, w.AdminToken()).CreateResetToken(ctx, connect.NewRequest(&authv1.CreateResetTokenRequest{Account: "ann"}))
		if err != nil {
			t.Fatal(err)
		}
		return reset.Msg.GetResetToken()
	}
	use := func(token string) error {
		_, err := w.auth(west, "").ResetPassword(ctx, connect.NewRequest(&authv1.ResetPasswordRequest{ResetToken: token, NewPassword: password}))
		return err
	}
	expect(t, "a token that is none", use("nsp_x"), "TOKEN_INVALID")
	reset := create()
	expect(t, "reset", use(reset), "")
	expect(t, "reset again", use(reset), "TOKEN_INVALID")

	// A reset token ends with the password, and with the account.
	reset = create()
	expect(t, "change", change(w.mustLogin(west, "ann").GetAccessToken(), password, password), "")
	expect(t, "reset after a change", use(reset), "TOKEN_INVALID")
	disable := func(disabled bool) {
		t.Helper()
		_, err := w.accounts(west, w.AdminToken()).SetDisabled(ctx, connect.NewRequest(&authv1.SetDisabledRequest{Account: "ann", Disabled: disabled}))
		if err != nil {
			t.Fatal(err)
		}
	}
	reset = create()
	disable(true)
	expect(t, "reset while disabled", use(create()), "TOKEN_INVALID")
	disable(false)
	expect(t, "reset with a token of before", use(reset), "TOKEN_INVALID")

	// Of several who change the same password one does.
	token := w.mustLogin(west, "ann").GetAccessToken()
	var done atomic.Int32
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if change(token, password, password) == nil {
				done.Add(1)
			}
		})
	}
	if all.Wait(); done.Load() != 1 {
		t.Errorf("%d changed the password", done.Load())
	}
	w.mustLogin(west, "ann")

	// Nobody finds out by the error who there is, nor by trying for long.
	for _, name := range []string{"nobody", "admin", "ann"} { // ann last: she is locked out for some seconds, in which she tries again
		for i := range 6 {
			_, err := w.login(west, name, "wrong")
			want := "UNAUTHENTICATED"
			if i >= 5 {
				want = "ACCOUNT_LOCKED"
			}
			expect(t, fmt.Sprintf("%s, attempt %d", name, i), err, want)
		}
	}
	_, err = w.login(west, "ann", password)
	expect(t, "locked out", err, "ACCOUNT_LOCKED")
}

// TestOldPasswordInFlight has somebody who knows a password log in again and again while it is changed: nothing of that outlives it.
func TestOldPasswordInFlight(t *testing.T) {
	w := start(t, meshtest.Options{})
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	ann := w.mustLogin(west, "ann").GetAccessToken()
	var mu sync.Mutex
	var stolen []*authv1.Tokens
	began := make(chan struct{}, 40)
	var thieves sync.WaitGroup
	for range 4 {
		thieves.Go(func() {
			for range 10 {
				began <- struct{}{}
				tokens, err := w.login(west, "ann", password)
				if err != nil {
					return
				}
				mu.Lock()
				stolen = append(stolen, tokens)
				mu.Unlock()
			}
		})
	}
	for range 6 {
		<-began
	}
	_, err := w.auth(east, ann).ChangePassword(context.Background(), connect.NewRequest(&authv1.ChangePasswordRequest{
		OldPassword: password, NewPassword: "a new password",
	}))
	expect(t, "change", err, "")
	thieves.Wait()
	for _, tokens := range stolen {
		_, err := w.auth(east, "").RefreshToken(context.Background(), connect.NewRequest(&authv1.RefreshTokenRequest{
			RefreshToken: tokens.GetRefreshToken(),
		}))
		expect(t, "a refresh token", err, "TOKEN_INVALID")
		w.Eventually("its access token has ended", func(context.Context) error {
			if r := reason(w.get(west, tokens.GetAccessToken())); r != "TOKEN_INVALID" {
				return fmt.Errorf("reason %q", r)
			}
			return nil
		})
		if t.Failed() {
			return
		}
	}
}

func TestAPIKeys(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx := context.Background()
	admin := w.accounts(west, w.AdminToken())
	_, err := admin.CreateAccount(ctx, connect.NewRequest(&authv1.CreateAccountRequest{
		Kind: authv1.AccountKind_ACCOUNT_KIND_SERVICE, Name: "bot", Grants: []*authv1.Grant{grant(authv1.Role_ROLE_READER)},
	}))
	if err != nil {
		t.Fatal(err)
	}
	made, err := admin.CreateApiKey(ctx, connect.NewRequest(&authv1.CreateApiKeyRequest{Account: "bot"}))
	if err != nil {
		t.Fatal(err)
	}
	secret := made.Msg.GetSecret()
	if !strings.HasPrefix(secret, made.Msg.GetKey().GetPrefix()) {
		t.Errorf("the prefix %s is not the secret's", made.Msg.GetKey().GetPrefix())
	}
	expect(t, "with the key", w.get(west, secret), "")
	opened, err := w.auth(west, "").Authenticate(ctx, connect.NewRequest(&authv1.AuthenticateRequest{
		Credential: &authv1.AuthenticateRequest_ApiKey{ApiKey: secret},
	}))
	if err != nil {
		t.Fatal(err)
	}
	token := opened.Msg.GetTokens().GetAccessToken()
	expect(t, "with a token of the key", w.get(west, token), "")
	end := time.Now().Add(time.Minute)
	short, err := admin.CreateApiKey(ctx, connect.NewRequest(&authv1.CreateApiKeyRequest{Account: "bot", ExpireTime: timestamppb.New(end)}))
	if err != nil {
		t.Fatal(err)
	}
	opened, err = w.auth(west, "").Authenticate(ctx, connect.NewRequest(&authv1.AuthenticateRequest{
		Credential: &authv1.AuthenticateRequest_ApiKey{ApiKey: short.Msg.GetSecret()},
	}))
	if err != nil || opened.Msg.GetTokens().GetExpireTime().AsTime().After(end) {
		t.Errorf("a token of a key that ends at %v: %v, %v", end, opened, err)
	}
	if _, err = admin.RevokeApiKey(ctx, connect.NewRequest(&authv1.RevokeApiKeyRequest{Id: short.Msg.GetKey().GetId()})); err != nil {
		t.Fatal(err)
	}
	rotated, err := admin.RotateApiKey(ctx, connect.NewRequest(&authv1.RotateApiKeyRequest{Id: made.Msg.GetKey().GetId()}))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "with the new key", w.get(west, rotated.Msg.GetSecret()), "")
	expect(t, "with the old key", w.get(west, secret), "")
	if _, err = admin.RevokeApiKey(ctx, connect.NewRequest(&authv1.RevokeApiKeyRequest{Id: made.Msg.GetKey().GetId()})); err != nil {
		t.Fatal(err)
	}
	expect(t, "with the revoked key", w.get(west, secret), "TOKEN_INVALID")
	expect(t, "with a token of the revoked key", w.get(west, token), "TOKEN_INVALID")
	expect(t, "with the new key", w.get(west, rotated.Msg.GetSecret()), "")
	keys, err := admin.ListApiKeys(ctx, connect.NewRequest(&authv1.ListApiKeysRequest{Account: "bot"}))
	if err != nil || len(keys.Msg.GetKeys()) != 1 {
		t.Errorf("keys: %v, %v", keys, err)
	}
	if _, err = admin.SetDisabled(ctx, connect.NewRequest(&authv1.SetDisabledRequest{Account: "bot", Disabled: true})); err != nil {
		t.Fatal(err)
	}
	expect(t, "disabled", w.get(west, rotated.Msg.GetSecret()), "TOKEN_INVALID")
}

// TestWithoutThePrimary: a region goes on to know its callers.
func TestWithoutThePrimary(t *testing.T) {
	w := start(t, meshtest.Options{})
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	token, admin := w.mustLogin(west, "ann").GetAccessToken(), w.AdminToken()
	w.StopPrimary()
	for range 3 {
		expect(t, "a token that nobody has seen here", w.get(west, token), "")
		expect(t, "the admin", w.get(east, admin), "")
	}
	expect(t, "nobody", w.get(west, ""), "UNAUTHENTICATED")
	_, err := w.login(west, "ann", password)
	expect(t, "a log-in", err, "PRIMARY_UNAVAILABLE")
	w.StopSidecar(west)
	w.StartSidecar(west)
	w.WaitReady()
	expect(t, "after a restart", w.get(west, token), "")
	w.StartPrimary()
	if w.AdminToken() != admin {
		t.Error("the admin's credential changed with a restart")
	}
	w.Eventually("log-ins go on", func(context.Context) error {
		_, err := w.login(west, "ann", password)
		return err
	})
}
