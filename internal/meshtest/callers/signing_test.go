package callers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

// TestSigningKeys: a new key changes nothing for what others have signed, until they are taken back; then all of that is worth nothing in
// each region, and stays so.
func TestSigningKeys(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx := context.Background()
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	rotate := func(token string, revoke bool) (string, error) {
		res, err := w.accounts(west, token).RotateSigningKey(ctx, connect.NewRequest(&authv1.RotateSigningKeyRequest{RevokeOthers: revoke}))
		if err != nil {
			return "", err
		}
		return res.Msg.GetKid(), nil
	}
	published := func(region string) (kids []string) {
		t.Helper()
		res, err := w.bare.Get(w.URL(region) + "/.well-known/jwks.json")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var set struct {
			Keys []struct {
				Kid string `json:"kid"`
			} `json:"keys"`
		}
		if err := json.NewDecoder(res.Body).Decode(&set); err != nil {
			t.Fatal(err)
		}
		for _, k := range set.Keys {
			kids = append(kids, k.Kid)
		}
		return kids
	}
	// wait waits until each region has so many keys, and that one among them.
	wait := func(kid string, n int) {
		t.Helper()
		for _, region := range []string{east, west} {
			w.Eventually(region+" has the keys", func(context.Context) error {
				if kids := published(region); len(kids) != n || !slices.Contains(kids, kid) {
					return fmt.Errorf("there are %v", kids)
				}
				return nil
			})
		}
	}
	tokens := w.mustLogin(west, "ann")
	everywhere := func(what, token, want string) {
		t.Helper()
		for _, region := range []string{"", east, west} {
			for range 2 { // once it is known too
				expect(t, what+" at "+region, w.get(region, token), want)
			}
		}
	}
	w.Eventually("the other region knows ann", func(context.Context) error { return w.get(east, tokens.GetAccessToken()) })
	everywhere("the first token", tokens.GetAccessToken(), "")
	_, err := rotate(tokens.GetAccessToken(), true)
	expect(t, "ann rotates", err, "PERMISSION_DENIED")
	second, err := rotate(w.AdminToken(), false)
	if err != nil {
		t.Fatal(err)
	}
	wait(second, 2)
	everywhere("the first token beside a new key", tokens.GetAccessToken(), "")
	kid, err := rotate(w.AdminToken(), true)
	if err != nil {
		t.Fatal(err)
	}
	wait(kid, 1)
	everywhere("a token of a key that was taken back", tokens.GetAccessToken(), "TOKEN_INVALID")
	next, err := w.auth(east, "").RefreshToken(ctx, connect.NewRequest(&authv1.RefreshTokenRequest{RefreshToken: tokens.GetRefreshToken()}))
	if err != nil {
		t.Fatal(err)
	}
	everywhere("the token after it", next.Msg.GetTokens().GetAccessToken(), "")
	everywhere("an API key", w.AdminToken(), "")
	w.StopPrimary()
	w.StartPrimary()
	w.WaitReady()
	wait(kid, 1)
	everywhere("a token of a key that was taken back, after a restart", tokens.GetAccessToken(), "TOKEN_INVALID")
	everywhere("the token after it, after a restart", next.Msg.GetTokens().GetAccessToken(), "")
}
