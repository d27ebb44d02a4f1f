package mesh

import (
	"crypto/ed25519"
	"net/http"
	"testing"

	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/identity"
)

// TestPasses: what the gateway says to a service no caller says, however it is spelt.
func TestPasses(t *testing.T) {
	m, known, nobody := &route{service: &service{}}, &identity.Principal{Kind: identity.User, ID: "u_1"}, &identity.Principal{}
	for name, want := range map[string]bool{
		"nearside-subject": false, "x-real-ip": false, "Nearside_Subject": false, "NEARSIDE_SUBJECT": false, "x_forwarded-for": false, "X-Forwarded_For": false,
		"x-forwarded-host": false, "X_Forwarded_Proto": false, "x-forwarded-prefix": false, "true-client-ip": false, "x-client-ip": false,
		"forwarded": false, "x_request_id": false, "traceparent": false, "transfer-encoding": false,
		"authorization": false, "x-tenant": true, "x_tenant": true, "nearside_bookmark": true,
	} {
		if got := passes(http.CanonicalHeaderKey(name), nil, m, known); got != want {
			t.Errorf("%s passes: %t", name, got)
		}
	}
	for _, line := range []string{"Bearer abc", "Basic eDp5", "Bearer a.eyJzdWIiOiJ4In0.c"} {
		if !passes("Authorization", []string{line}, m, nobody) {
			t.Errorf("%s, which is none of the mesh's, does not pass", line)
		}
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := access.Sign(&access.Claims{MadeAtMs: 1}, "k", key)
	if err != nil {
		t.Fatal(err)
	}
	apiKey, _ := access.NewSecret(access.APIKeyPrefix)
	for _, lines := range [][]string{{apiKey}, {"Bearer " + apiKey}, {"Basic x", "bearer  " + apiKey}, {"Bearer " + token}, {"Basic x, Bearer " + token}} {
		if passes("Authorization", lines, m, nobody) {
			t.Errorf("a credential of the mesh's that is not good passes: %s", lines)
		}
		if !passes("Authorization", lines, &route{service: &service{pass: true}}, nobody) {
			t.Error("one does not pass that is to pass")
		}
	}
}
