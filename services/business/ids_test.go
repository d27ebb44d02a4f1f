package business

import (
	"strings"
	"testing"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
)

func TestNewID(t *testing.T) {
	ada, bob := &businessv1.CreateUserRequest{Email: "ada@example.com", Name: "Ada"}, &businessv1.CreateUserRequest{Email: "bob@example.com", Name: "Bob"}
	id := func(prefix, key string, req *businessv1.CreateUserRequest) string {
		t.Helper()
		id, err := newID(prefix, key, req)
		if err != nil {
			t.Fatal(err)
		}
		if rest, ok := strings.CutPrefix(id, prefix); !ok || len(rest) != 26 || strings.Trim(rest, "0123456789abcdefghijklmnopqrstuv") != "" {
			t.Fatalf("id %q is not %s and 26 letters of base32hex", id, prefix)
		}
		return id
	}
	first := id(userPrefix, "k", ada)
	if again := id(userPrefix, "k", &businessv1.CreateUserRequest{Email: "ada@example.com", Name: "Ada"}); again != first {
		t.Errorf("the same key and request: %q and %q", first, again)
	}
	for name, other := range map[string]string{
		"another key":     id(userPrefix, "l", ada),
		"another request": id(userPrefix, "k", bob),
		"no key":          id(userPrefix, "", ada),
	} {
		if other == first {
			t.Errorf("%s has the same id %q", name, other)
		}
	}
	if a, b := id(userPrefix, "", ada), id(userPrefix, "", ada); a == b {
		t.Errorf("two calls without a key have the same id %q", a)
	}
	if a, b := id(userPrefix, "k", ada), id(orderPrefix, "k", ada); a[len(userPrefix):] == b[len(orderPrefix):] {
		t.Errorf("two kinds have the same rest: %q and %q", a, b)
	}
}
