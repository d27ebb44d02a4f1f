package callers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/services/primary"
)

// TestSecretsAreNowhere looks for each secret in every file of every role, in the log, in the metrics and in errors.
func TestSecretsAreNowhere(t *testing.T) {
	var logs lockedBuffer
	logger := slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w := start(t, meshtest.Options{Logger: logger, NodeCertificates: true, Primary: func(c *primary.Config) { c.Logger = logger }})
	ctx := context.Background()
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	tokens := w.mustLogin(west, "ann")
	next, err := w.auth(west, "").RefreshToken(ctx, connect.NewRequest(&authv1.RefreshTokenRequest{RefreshToken: tokens.GetRefreshToken()}))
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	fails := func(err error) {
		t.Helper()
		wire, ok := errors.AsType[*connect.Error](err)
		if !ok {
			t.Errorf("no error: %v", err)
			return
		}
		texts = append(texts, wire.Error(), fmt.Sprint(wire.Meta()))
		for _, d := range wire.Details() {
			texts = append(texts, string(d.Bytes()))
		}
	}
	_, err = w.login(west, "ann", "a wrong password")
	fails(err)
	_, err = w.login(west, "a name", password)
	fails(err)
	_, err = w.login(west, password, "a wrong password") // in the wrong field
	fails(err)
	fails(w.get(west, tokens.GetAccessToken()+"x"))
	_, err = w.insert(west, tokens.GetAccessToken(), "", "x")
	fails(err)
	_, err = w.auth(west, "").RefreshToken(ctx, connect.NewRequest(&authv1.RefreshTokenRequest{RefreshToken: next.Msg.GetTokens().GetRefreshToken() + "x"}))
	fails(err)
	// A secret in the place of a name of the request is too long for one.
	as := connect.NewRequest(&datav1.ListDatabasesRequest{})
	as.Header().Set("x-request-id", w.AdminToken())
	_, err = w.data(west, "").ListDatabases(ctx, as)
	fails(err)
	reset, err := w.accounts(west, w.AdminToken()).CreateResetToken(ctx, connect.NewRequest(&authv1.CreateResetTokenRequest{Account: "ann"}))
	if err != nil {
		t.Fatal(err)
	}
	key, err := w.accounts(west, w.AdminToken()).CreateApiKey(ctx, connect.NewRequest(&authv1.CreateApiKeyRequest{Account: "admin"}))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the new key", w.get(west, key.Msg.GetSecret()), "")
	secrets := map[string]string{
		"password": password, "wrong password": "a wrong password", "access token": tokens.GetAccessToken(), "refresh token": tokens.GetRefreshToken(),
		"next refresh token": next.Msg.GetTokens().GetRefreshToken(), "reset token": reset.Msg.GetResetToken(), "API key": key.Msg.GetSecret(),
		"admin's key": w.AdminToken(),
	}
	for _, url := range []string{w.URL(east), w.URL(west), w.PrimaryURL()} {
		texts = append(texts, w.metrics(url))
	}
	w.StopPrimary()
	// What a region records for the audit meanwhile is on its own disk.
	_, _ = w.login(west, "ann", password)
	_ = w.get(west, tokens.GetAccessToken()+"y")
	expect(t, "without the primary", w.get(west, key.Msg.GetSecret()), "")
	w.StopSidecar(east)
	w.StopSidecar(west)
	texts = append(texts, logs.String())
	for _, text := range texts {
		for name, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("the %s is in a log, a metric or an error", name)
			}
		}
	}
	files := 0
	err = filepath.WalkDir(w.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		files++
		for name, secret := range secrets {
			if bytes.Contains(content, []byte(secret)) && (filepath.Base(path) != "admin.json" || name != "admin's key") {
				t.Errorf("the %s is in %s", name, path)
			}
		}
		inRegion := strings.HasPrefix(path, w.RegionDir(east)) || strings.HasPrefix(path, w.RegionDir(west))
		if inRegion && bytes.Contains(content, []byte("argon2id")) {
			t.Errorf("a password's hash is in %s", path)
		}
		return err
	})
	if err != nil || files < 10 {
		t.Errorf("%d files, %v", files, err)
	}
	info, err := os.Stat(filepath.Join(w.PrimaryDir(), "admin.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("admin.json: %v, %v", info.Mode(), err)
	}
	if !slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, "nearside_auth_refused_total") }) {
		t.Error("no metric of what was refused")
	}
}

// metrics returns the metrics of a listener.
func (w *world) metrics(url string) string {
	w.t.Helper()
	admin, err := server.AdminAddr(strings.TrimPrefix(url, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := w.bare.Get("http://" + admin + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
