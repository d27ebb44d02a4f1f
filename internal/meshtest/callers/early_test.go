package callers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

// TestTokenBeforeItsRows logs in at one region and goes on in another that has not heard of the user yet.
func TestTokenBeforeItsRows(t *testing.T) {
	var l *link
	w := start(t, meshtest.Options{Through: func(region, primaryAddr string) string {
		if region != west {
			return primaryAddr
		}
		if l == nil {
			l = newLink(t, primaryAddr)
		}
		return l.addr
	}})
	waited := func() (n int) {
		_, text, _ := strings.Cut(w.metrics(w.URL(west)), "\nnearside_auth_waited_total ")
		if _, err := fmt.Sscan(text, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	known, refused := false, false
	for n := 0; !known || !refused; n++ {
		if n == 30 { // all but always where 250 ms are a short time
			t.Fatalf("of 30 users somebody was known at once: %v, and somebody not: %v", known, refused)
		}
		_, _, release := l.holdRights("")
		name := fmt.Sprintf("ann%d", n)
		w.user(east, name, grant(authv1.Role_ROLE_READER))
		token := w.mustLogin(east, name).GetAccessToken()
		before := waited()
		asked := make(chan error, 1)
		go func() { asked <- w.get(west, token) }()
		if n%2 == 0 { // the rows come while the request waits
			w.Eventually("the request waits", func(context.Context) error {
				select {
				case err := <-asked:
					asked <- err
					return nil
				default:
				}
				if waited() == before {
					return errors.New("not yet")
				}
				return nil
			})
			release()
			w.Exec("", shop, "UPDATE items SET name = 'apple' WHERE id = 1") // the link has something to pass on
		}
		err := <-asked
		release()
		switch {
		case err == nil:
			known = true
		case waited() > before:
			expect(t, "without the rows", err, "TOKEN_INVALID")
			refused = true
		}
		w.Eventually("the region knows the user", func(context.Context) error { return w.get(west, token) })
	}
}
