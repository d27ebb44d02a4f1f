package mesh

import (
	"net/http"
	"testing"

	"github.com/nearside-dev/nearside/internal/identity"
)

// TestPasses: what the gateway says to a service no caller says, however it is spelt.
func TestPasses(t *testing.T) {
	m, known, nobody := &route{service: &service{}}, &identity.Principal{Kind: identity.User, ID: "u_1"}, &identity.Principal{}
	for name, want := range map[string]bool{
		"nearside-subject": false, "x-real-ip": false, "Nearside_Subject": false, "NEARSIDE_SUBJECT": false, "x_forwarded-for": false, "X-Forwarded_For": false,
		"forwarded": false, "x_request_id": false, "traceparent": false, "transfer-encoding": false,
		"authorization": false, "x-tenant": true, "x_tenant": true, "nearside_bookmark": true,
	} {
		if got := passes(http.CanonicalHeaderKey(name), m, known); got != want {
			t.Errorf("%s passes: %t", name, got)
		}
	}
	if !passes("Authorization", m, nobody) {
		t.Error("a credential that is none of the mesh's does not pass")
	}
}
