package nodes

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

func open(t *testing.T, dir string, clock func() time.Time) *tokens {
	t.Helper()
	s, err := openTokens(dir, clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantInvalid(t *testing.T, what string, err error) {
	t.Helper()
	if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_JOIN_TOKEN_INVALID {
		t.Errorf("%s: %v", what, err)
	}
}

func TestTokensAreSpentOnce(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	clock := func() time.Time { return now }
	s := open(t, dir, clock)
	secret, err := s.create("eu", now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, tokensFile))
	if err != nil || strings.Contains(string(text), secret) {
		t.Errorf("the secret is kept: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, tokensFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	_, _, err = s.spend(secret, "us", "key", "n1")
	wantInvalid(t, "another region", err)
	_, _, err = s.spend("!"+secret[1:], "eu", "key", "n1")
	wantInvalid(t, "another secret", err)
	_, _, err = s.spend("", "eu", "key", "n1")
	wantInvalid(t, "no secret", err)

	// Many at once, each with a key of its own, and again after a restart.
	var winners atomic.Int32
	var winner atomic.Value
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			key := string(rune('a' + i))
			if node, again, err := s.spend(secret, "eu", key, "n"+key); err == nil {
				if again || node != "n"+key {
					t.Errorf("%s became %s", key, node)
				}
				winners.Add(1)
				winner.Store(key)
			}
		})
	}
	all.Wait()
	if winners.Load() != 1 || s.live(secret) {
		t.Fatalf("%d have spent it", winners.Load())
	}
	s = open(t, dir, clock)
	key := winner.Load().(string)
	if node, again, err := s.spend(secret, "eu", key, "other"); err != nil || !again || node != "n"+key {
		t.Errorf("the same key again: %s, %v, %v", node, again, err)
	}
	_, _, err = s.spend(secret, "eu", "z", "other")
	wantInvalid(t, "another key after a restart", err)
	_, _, err = s.spend(secret, "us", key, "other")
	wantInvalid(t, "the same key in another region", err)
}

func TestTokensExpire(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	s := open(t, dir, func() time.Time { return now })
	secret, err := s.create("", now.Add(time.Hour))
	if err != nil || !s.live(secret) {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	if s.live(secret) {
		t.Error("it is live at its end")
	}
	_, _, err = s.spend(secret, "eu", "key", "n1")
	wantInvalid(t, "expired", err)
	now = now.Add(time.Second)
	if _, err := s.create("", now.Add(time.Hour)); err != nil || len(s.byHash) != 1 {
		t.Errorf("%d tokens are kept, %v", len(s.byHash), err)
	}
}

func TestTokensAreBounded(t *testing.T) {
	now := time.Now()
	s := open(t, t.TempDir(), func() time.Time { return now })
	for i := range maxTokens {
		s.byHash[string(rune(i))+"hash"] = token{Expires: now.Add(time.Hour)}
	}
	if _, err := s.create("", now.Add(time.Hour)); rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_OVERLOADED {
		t.Errorf("one too many: %v", err)
	}
	if len(s.byHash) != maxTokens {
		t.Errorf("%d are kept", len(s.byHash))
	}
}

func TestBrokenTokensFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, tokensFile), []byte(`{"x":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openTokens(dir, time.Now); err == nil {
		t.Error("a broken file was taken for no tokens")
	}
}

func FuzzTokensFile(f *testing.F) {
	f.Add([]byte(`{"00":{"expires":"2026-01-01T00:00:00Z","spent_by":"k","node":"n1","for":"eu"}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, tokensFile), text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openTokens(dir, time.Now)
		if err != nil {
			return
		}
		if _, _, err := s.spend("secret", "eu", "key", "n1"); err == nil {
			t.Error("a file made a secret that nobody knows")
		}
	})
}
