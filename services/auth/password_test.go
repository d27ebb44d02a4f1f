package auth

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

func TestPasswordHashes(t *testing.T) {
	p, err := newPasswords()
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	hash, err := p.hash(ctx, "a password")
	if err != nil || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("%s, %v", hash, err)
	}
	weak := params{memoryKiB: 8, passes: 1, lanes: 1}
	salt := []byte("saltsaltsaltsalt")
	old := encodeHash(weak, salt, weak.key("a password", salt))
	for _, test := range []struct {
		name, hash, password string
		equal, old           bool
	}{
		{"right", hash, "a password", true, false},
		{"wrong", hash, "A password", false, false},
		{"empty", hash, "", false, false},
		{"old parameters", old, "a password", true, true},
		{"nobody's", "", "of nobody", false, false}, // though it is what the dummy was made of
	} {
		equal, again, err := p.compare(ctx, test.hash, test.password)
		if err != nil || equal != test.equal || again != test.old {
			t.Errorf("%s: %v, %v, %v", test.name, equal, again, err)
		}
	}
	for _, bad := range []string{
		"x", "$argon2id$v=19$m=0,t=1,p=1$c2FsdA$" + strings.Repeat("A", 43), strings.Replace(hash, "argon2id", "argon2i", 1),
		strings.Replace(hash, "m=19456", "m=99999999", 1), hash[:len(hash)-3], strings.Replace(hash, "v=19", "v=16", 1),
	} {
		if _, _, err := p.compare(ctx, bad, "a password"); err == nil {
			t.Errorf("%s is a hash", bad)
		}
	}
}

func FuzzDecodeHash(f *testing.F) {
	f.Add(encodeHash(presentParams, make([]byte, saltBytes), make([]byte, hashBytes)))
	f.Add("$argon2id$v=19$m=1,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, text string) {
		p, _, key, err := decodeHash(text)
		if err == nil && (len(key) != hashBytes || p.memoryKiB > maxMemoryKiB || p.passes > maxPasses || p.lanes == 0) {
			t.Errorf("%q: %+v", text, p)
		}
	})
}

// TestLogInFlood: those who are too many are told so, and those who wait go when they have no more time.
func TestLogInFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &passwords{running: make(chan struct{}, 1)}
		p.running <- struct{}{} // somebody is at it
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		failed := make(chan error, 100)
		for range 100 {
			go func() { failed <- p.admit(ctx) }()
		}
		overloaded := 0
		for range 100 {
			if rpcerr.ReasonOf(<-failed) == datav1.ErrorReason_ERROR_REASON_OVERLOADED {
				overloaded++
			}
		}
		if overloaded != 100-maxWaitingHashes {
			t.Errorf("%d were refused", overloaded)
		}
	})
}

func TestLockout(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := newLockout(func() time.Time { return now })
	locked := func(name string) time.Duration {
		e, ok := rpcerr.FromError(l.check(name))
		if !ok {
			return 0
		}
		return e.RetryAfter()
	}
	for i, want := range []time.Duration{0, 0, 0, 0, 15 * time.Second, 30 * time.Second, time.Minute} {
		l.Failed("ann")
		if got := locked("ann"); got != want {
			t.Errorf("after %d: %s, want %s", i+1, got, want)
		}
	}
	if got := locked("bob"); got != 0 {
		t.Errorf("bob: %s", got)
	}
	for range 100 {
		l.Failed("ann")
	}
	if got := locked("ann"); got != access.LongestWait {
		t.Errorf("after very many: %s", got)
	}
	l.Forget("ann")
	if got := locked("ann"); got != 0 {
		t.Errorf("after the right one: %s", got)
	}
	for i := range access.MaxBackedOff + 100 {
		l.Failed(time.Duration(i).String())
	}
	if n := l.Names(); n > access.MaxBackedOff {
		t.Errorf("%d names", n)
	}
}
