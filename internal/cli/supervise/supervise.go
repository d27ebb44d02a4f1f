// Package supervise runs the roles of one process: one that ends with a fatal error is closed and started again, with
// growing pauses, while its neighbours go on.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
	// settled is how long a role must have run for its next pause to be the first one again.
	settled = time.Minute
	// closeTimeout is how long a failed role may take to close.
	closeTimeout = 10 * time.Second
	// closeGrace is how long a role may take to close once it has no more time.
	closeGrace = 2 * time.Second
)

// Role is a running part of the process.
type Role interface {
	// Fatal receives an error when the role can no longer do its work.
	Fatal() <-chan error
	// Close ends the role, cleanly if it can before ctx ends. It is called once.
	Close(ctx context.Context) error
}

// StartFunc starts a role. ctx is for the start alone.
type StartFunc func(ctx context.Context) (Role, error)

// Supervisor is for one goroutine.
type Supervisor struct {
	logger *slog.Logger
	ctx    context.Context //nolint:containedctx // of restarts, which outlive the call that starts a role
	cancel context.CancelFunc
	roles  []*kept // in the order of their start
}

// New returns a Supervisor of no roles.
func New(logger *slog.Logger) *Supervisor {
	ctx, cancel := context.WithCancel(context.Background())
	return &Supervisor{logger: logger, ctx: ctx, cancel: cancel}
}

// kept is a role that is started again when it fails, by a goroutine of its own.
type kept struct {
	name   string
	start  StartFunc
	logger *slog.Logger
	stop   chan context.Context
	done   chan error
}

// Keep starts a role and keeps it running until Close. It returns the error of this first start.
func (s *Supervisor) Keep(ctx context.Context, name string, start StartFunc) error {
	role, err := start(ctx)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	k := &kept{
		name: name, start: start, logger: s.logger.With(slog.String("role", name)),
		stop: make(chan context.Context, 1), done: make(chan error, 1),
	}
	s.roles = append(s.roles, k)
	go func() { k.done <- k.run(s.ctx, role) }()
	return nil
}

// Close ends the roles, the last one started first. Those that ctx leaves no time for are cut off, and one that does not
// end even then is left behind: a process that was told to stop must stop.
func (s *Supervisor) Close(ctx context.Context) error {
	s.cancel()
	var errs []error
	for _, k := range slices.Backward(s.roles) {
		k.stop <- ctx
		if err := wait(ctx, k.done); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", k.name, err))
		}
	}
	return errors.Join(errs...)
}

// End closes a role, and gives up on one that does not end even when ctx has: the error says so.
func End(ctx context.Context, role Role) error {
	done := make(chan error, 1)
	go func() { done <- role.Close(ctx) }()
	return wait(ctx, done)
}

var errStuck = errors.New("does not end")

func wait(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(closeGrace):
		return errStuck
	}
}

// run watches the role, and starts it again when it fails, until it is told to stop.
func (k *kept) run(ctx context.Context, role Role) error {
	pause := firstPause
	begun := time.Now()
	for {
		select {
		case stop := <-k.stop:
			return End(stop, role)
		case err := <-role.Fatal():
			k.logger.Error("role failed", slog.Any("error", err))
		}
		k.closeFailed(ctx, role)
		if time.Since(begun) >= settled {
			pause = firstPause
		}
		for role = nil; role == nil; pause = min(2*pause, maxPause) {
			select {
			case <-k.stop:
				return nil
			case <-time.After(pause):
			}
			var err error
			begun = time.Now()
			if role, err = k.start(ctx); err != nil {
				role = nil // an interface that holds a nil pointer is not nil
				if ctx.Err() == nil {
					k.logger.Error("role does not start", slog.Any("error", err))
				}
			}
		}
		k.logger.Info("role started again")
	}
}

func (k *kept) closeFailed(ctx context.Context, role Role) {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	if err := End(ctx, role); err != nil {
		k.logger.Warn("failed role does not close cleanly", slog.Any("error", err))
	}
}
