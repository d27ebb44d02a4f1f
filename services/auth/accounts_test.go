package auth

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
)

// TestAccountIsFoundByIDFirst: names that are others' ids could be given once.
func TestAccountIsFoundByIDFirst(t *testing.T) {
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
	s := &Service{mesh: all.Mesh()}
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
