package nodes_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
	"github.com/nearside-dev/nearside/services/primary"
	"github.com/nearside-dev/nearside/sidecar"
)

// alone starts a sidecar that was given nothing but where the primary is.
func alone(t *testing.T, region, dir, primary string) (*sidecar.Sidecar, error) {
	t.Helper()
	s, err := sidecar.Start(t.Context(), sidecar.Config{
		Region: region, PrimaryURL: primary, Listen: freeport.Addr(t), Dir: dir, Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		t.Cleanup(func() { _ = s.Close(context.WithoutCancel(t.Context())) })
	}
	return s, err
}

func ready(t *testing.T, s *sidecar.Sidecar) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestJoiningByThemselves: sidecars on the primary's machine find the token in its folder, several at once too; each is a node
// then, and starts again without the primary.
func TestJoiningByThemselves(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east}, NodeCertificates: true, Auth: true})
	var group sync.WaitGroup
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	for i, dir := range dirs {
		group.Go(func() {
			s, err := alone(t, "west-"+string(rune('a'+i)), dir, m.PrimaryURL())
			if err != nil {
				t.Error(err)
				return
			}
			ready(t, s)
			if i == 0 {
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	if n := node(t, m, "west-c"); n.GetConnections() == 0 {
		t.Errorf("%v", n)
	}
	m.StopPrimary()
	s, err := alone(t, "west-a", dirs[0], m.PrimaryURL())
	if err != nil {
		t.Fatal(err)
	}
	ready(t, s)
}

// TestNoTokenToRead says what to do where the primary's folder is none of the sidecar's.
func TestNoTokenToRead(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east}, NodeCertificates: true, Auth: true})
	token := filepath.Join(m.PrimaryDir(), "join.token")
	// As a file that may not be read, for a user who may read all.
	if err := errors.Join(os.Rename(token, token+".away"), os.Symlink(token, token)); err != nil {
		t.Fatal(err)
	}
	_, err := alone(t, west, t.TempDir(), m.PrimaryURL())
	if !errors.Is(err, sidecar.ErrNotJoined) || !strings.Contains(err.Error(), "nearside node token --region "+west+" --out FILE") {
		t.Errorf("%v", err)
	}
	_, err = alone(t, west, t.TempDir(), strings.Replace(m.PrimaryURL(), "http:", "https:", 1))
	if !errors.Is(err, sidecar.ErrNotJoined) {
		t.Errorf("over https: %v", err)
	}
}

// TestOpenPrimary: where nodes need no certificate they get none.
func TestOpenPrimary(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east}, Auth: true, Primary: func(c *primary.Config) { c.RequireNodes = false }})
	dir := t.TempDir()
	s, err := alone(t, west, dir, m.PrimaryURL())
	if err != nil {
		t.Fatal(err)
	}
	ready(t, s)
	if _, err := os.Stat(filepath.Join(dir, "node")); err == nil {
		t.Error("it has joined")
	}
}
