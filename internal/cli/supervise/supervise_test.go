package supervise

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// machine is a role that fails when the test says so.
type machine struct {
	fatal  chan error
	closed func()
	err    error
}

func (m *machine) Fatal() <-chan error { return m.fatal }

func (m *machine) Close(context.Context) error {
	m.closed()
	return m.err
}

// pass lets time pass in the bubble, and all that happens in it.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var errBroken = errors.New("broken")

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(slog.New(slog.DiscardHandler))
		begun := time.Now()
		var current *machine
		var starts []time.Duration
		closes := 0
		refused := 0
		err := s.Keep(t.Context(), "store", func(context.Context) (Role, error) {
			starts = append(starts, time.Since(begun))
			if refused > 0 {
				refused--
				var none *machine
				return none, errBroken
			}
			current = &machine{fatal: make(chan error, 1), closed: func() { closes++ }}
			return current, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		neighbour := 0
		if err := s.Keep(t.Context(), "other", func(context.Context) (Role, error) {
			neighbour++
			return &machine{fatal: make(chan error), closed: func() {}}, nil
		}); err != nil {
			t.Fatal(err)
		}

		refused = 8
		current.fatal <- errBroken
		pass(50 * time.Second)
		// 0.1 s after the failure, then twice as long each time, up to 10 s.
		var want []time.Duration
		for _, ms := range []int{0, 100, 300, 700, 1500, 3100, 6300, 12700, 22700, 32700} {
			want = append(want, time.Duration(ms)*time.Millisecond)
		}
		if !slices.Equal(starts, want) {
			t.Errorf("started at %v, want %v", starts, want)
		}
		if closes != 1 {
			t.Errorf("closed %d times, want once", closes)
		}

		pass(time.Minute) // it has settled
		starts, begun = nil, time.Now()
		current.fatal <- errBroken
		pass(time.Second)
		if !slices.Equal(starts, []time.Duration{firstPause}) {
			t.Errorf("started at %v, want %v", starts, firstPause)
		}
		if neighbour != 1 {
			t.Errorf("neighbour started %d times", neighbour)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if closes != 3 {
			t.Errorf("closed %d times, want 3", closes)
		}
	})
}

func TestCloseWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(slog.New(slog.DiscardHandler))
		fatal := make(chan error, 1)
		started := false
		err := s.Keep(t.Context(), "store", func(ctx context.Context) (Role, error) {
			if started { // a start that hangs until it is called off
				<-ctx.Done()
				return nil, ctx.Err()
			}
			started = true
			return &machine{fatal: fatal, closed: func() {}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		fatal <- errBroken
		pass(time.Hour)
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCloseOrder(t *testing.T) {
	s := New(slog.New(slog.DiscardHandler))
	var order []string
	for _, name := range []string{"a", "b", "c"} {
		if err := s.Keep(t.Context(), name, func(context.Context) (Role, error) {
			return &machine{closed: func() { order = append(order, name) }, err: errBroken}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	err := s.Close(t.Context())
	if !errors.Is(err, errBroken) || !slices.Equal(order, []string{"c", "b", "a"}) {
		t.Errorf("closed %v, %v", order, err)
	}
}

func TestFirstStart(t *testing.T) {
	s := New(slog.New(slog.DiscardHandler))
	err := s.Keep(t.Context(), "store", func(context.Context) (Role, error) { return nil, errBroken })
	if !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCloseStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(slog.New(slog.DiscardHandler))
		release := make(chan struct{})
		closed := false
		if err := s.Keep(t.Context(), "first", func(context.Context) (Role, error) {
			return &machine{closed: func() { closed = true }}, nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.Keep(t.Context(), "stuck", func(context.Context) (Role, error) {
			return &machine{closed: func() { <-release }}, nil
		}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); !errors.Is(err, errStuck) || !closed {
			t.Errorf("got %v, the other one closed: %v", err, closed)
		}
		close(release)
	})
}
