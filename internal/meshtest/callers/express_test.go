package callers_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

// TestExpressCalls: reads and writes that pass net/http by pass the same checks, on a connection that has carried good ones.
func TestExpressCalls(t *testing.T) {
	w := start(t, meshtest.Options{Regions: []string{west}})
	transport := &http.Transport{MaxConnsPerHost: 1} // HTTP/1.1, one connection
	t.Cleanup(transport.CloseIdleConnections)
	w.bare = &http.Client{Transport: transport}
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	w.user(west, "bob", grant(authv1.Role_ROLE_WRITER))
	ann, bob := w.mustLogin(west, "ann").GetAccessToken(), w.mustLogin(west, "bob").GetAccessToken()
	transport.CloseIdleConnections() // logging in was net/http's

	answered := func() string {
		for line := range strings.Lines(w.metrics(w.URL(west))) {
			if rest, ok := strings.CutPrefix(line, `nearside_server_express_total{listener="gateway"} `); ok {
				return strings.TrimSpace(rest)
			}
		}
		t.Fatal("no metric")
		return ""
	}
	for range 5 {
		expect(t, "ann reads", w.get(west, ann), "")
	}
	_, err := w.insert(west, bob, "", "pear")
	expect(t, "bob writes", err, "")
	if n := answered(); n != "6" {
		t.Errorf("%s calls were answered without net/http, want 6", n)
	}
	_, err = w.insert(west, ann, "", "plum")
	expect(t, "ann writes", err, "PERMISSION_DENIED")
	transport.CloseIdleConnections()
	expect(t, "nobody reads", w.get(west, ""), "UNAUTHENTICATED")
	transport.CloseIdleConnections()
	expect(t, "a forged token", w.get(west, ann+"x"), "TOKEN_INVALID")
	transport.CloseIdleConnections()
	expect(t, "ann reads again", w.get(west, ann), "")
	_, err = w.accounts(west, w.AdminToken()).SetDisabled(context.Background(), connect.NewRequest(&authv1.SetDisabledRequest{
		Account: "ann", Disabled: true,
	}))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "ann is disabled", w.get(west, ann), "TOKEN_INVALID")
}
