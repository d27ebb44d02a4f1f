//go:build unix

package dirlock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAcquire(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	synctest.Test(t, func(t *testing.T) {
		first, err := Acquire(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Acquire(t.Context(), dir)
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
			t.Errorf("second: %v", err)
		}
		if err := first.Release(); err != nil {
			t.Fatal(err)
		}
		again, err := Acquire(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Release(); err != nil {
			t.Fatal(err)
		}
	})
}

// Who comes while the one before is still dying gets the folder.
func TestAcquireOfTheDying(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		first, err := Acquire(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		released := make(chan error, 1)
		time.AfterFunc(patience/2, func() { released <- first.Release() })
		second, err := Acquire(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(<-released, second.Release()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAcquireStopped(t *testing.T) {
	dir := t.TempDir()
	first, err := Acquire(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Acquire(ctx, dir); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v", err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestAcquireNoFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(t.Context(), file); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("got %v", err)
	}
}
