package callers_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// TestGuessingFromAnAddress: many wrong log-ins under many names, none of which gets locked, have their address wait.
func TestGuessingFromAnAddress(t *testing.T) {
	w := start(t, meshtest.Options{})
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	ann := w.mustLogin(west, "ann")
	for i := range access.DefaultFreeFailures - 1 {
		var err error
		switch i % 3 {
		case 0:
			_, err = w.login(west, fmt.Sprint("name", i), "a password")
		case 1:
			_, err = w.auth(west, "").RefreshToken(context.Background(), connect.NewRequest(&authv1.RefreshTokenRequest{
				RefreshToken: access.RefreshTokenPrefix + fmt.Sprint(i),
			}))
		default:
			_, err = w.auth(west, "").Authenticate(context.Background(), connect.NewRequest(&authv1.AuthenticateRequest{
				Credential: &authv1.AuthenticateRequest_ApiKey{ApiKey: access.APIKeyPrefix + fmt.Sprint(i)},
			}))
		}
		if r := reason(err); r != "UNAUTHENTICATED" && r != "TOKEN_INVALID" {
			t.Fatalf("guess %d: %q, %v", i, r, err)
		}
		if i == 10 {
			w.mustLogin(west, "ann") // takes nothing back
		}
	}
	_, err := w.login(west, "the last", "a password")
	expect(t, "the last guess", err, "UNAUTHENTICATED")
	_, err = w.login(west, "ann", password)
	e, ok := rpcerr.FromError(err)
	if !ok || reason(err) != "RATE_LIMITED" || e.RetryAfter() <= 0 || e.RetryAfter() > 15*time.Second {
		t.Errorf("after that ann logs in: %v", err)
	}
	expect(t, "who is logged in goes on", w.get(west, ann.GetAccessToken()), "")
	if _, err := w.login(east, "ann", password); err != nil {
		t.Errorf("at another gateway: %v", err)
	}
}
