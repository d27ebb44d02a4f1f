package auth

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
)

// newStored returns a Service that has databases, and can do what needs no more.
func newStored(t *testing.T) *Service {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	log, err := changelog.Open(filepath.Join(t.TempDir(), "log"), changelog.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	all, err := registry.Open(t.Context(), registry.Config{
		Dir: filepath.Join(t.TempDir(), "db"), Log: log, Logger: quiet, Metrics: engine.NewMetrics(prometheus.NewRegistry()),
	})
	if err != nil {
		t.Fatal(errors.Join(err, log.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(all.Close(), log.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := migrate(t.Context(), log, all.Auth()); err != nil {
		t.Fatal(err)
	}
	return &Service{mesh: all.Mesh(), auth: all.Auth()}
}

// TestAccountIsFoundByIDFirst: names that are others' ids could be given once.
func TestAccountIsFoundByIDFirst(t *testing.T) {
	s := newStored(t)
	for id, name := range map[string]string{"u_0123456789abcdef": "ann", "u_eeeeeeeeeeeeeeee": "u_0123456789abcdef"} {
		if _, err := transact(t.Context(), s.mesh, engine.SQL(
			"INSERT INTO accounts (id, kind, name, disabled, tokens_after, created_at) VALUES (?1, 'user', ?2, 0, 0, 0)", text(id), text(name),
		)); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"ann", "u_0123456789abcdef"} {
		if a, err := s.account(t.Context(), key); err != nil || a.name != "ann" {
			t.Errorf("%s is %+v, %v", key, a, err)
		}
	}
}

// TestSessionsEndBeforeTokens: between the two nobody gets a token by a session that is about to end.
func TestSessionsEndBeforeTokens(t *testing.T) {
	s := newStored(t)
	if _, err := transact(t.Context(), s.auth, engine.SQL(
		"INSERT INTO sessions (id, account_id, created_at, expires_at, ended) VALUES ('s_1', 'u_1', 0, 0, 0)",
	)); err != nil {
		t.Fatal(err)
	}
	asked := false
	s.config.Clock = func() time.Time {
		asked = true
		if err := query(t.Context(), s.auth, func(v []value.Value) {
			if v[0].Integer() != 1 {
				t.Error("tokens end at a moment when the session goes on")
			}
		}, "SELECT ended FROM sessions"); err != nil {
			t.Error(err)
		}
		return time.Now()
	}
	if err := s.endAll(t.Context(), "u_1"); err != nil || !asked {
		t.Error(asked, err)
	}
}
