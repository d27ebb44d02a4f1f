package replica

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
)

// FollowerConfig configures a Follower. Region is required.
type FollowerConfig struct {
	// Region is where this sidecar is.
	Region string
	// URL is the base URL of its gateway, as callers reach it.
	URL string
	// PingInterval is how often the primary is asked for a heartbeat; default 100 ms.
	PingInterval time.Duration
	// IdlePingInterval is how often it is asked after IdleAfter in which no copy was read, none got records, and none was
	// incomplete; the next read and the next records end that at once. Defaults 250 ms, or PingInterval if that is more, and 2 s.
	IdlePingInterval, IdleAfter time.Duration
	// StuckAfter is how long nothing may come from the primary before the connection is given up; default 3 s.
	StuckAfter time.Duration
	// MinBackoff and MaxBackoff bound the pause before the next attempt to connect, which grows twofold and is drawn anew
	// each time between nothing and all of it. Default 100 ms and 800 ms: with the time to connect it stays within a second
	// of the primary's return.
	MinBackoff, MaxBackoff time.Duration
	// Redial is called before the next attempt when nothing came over a connection. It should close the client's idle
	// connections (http.Client.CloseIdleConnections): an attempt on the same dead connection would wait just as long.
	// Default: nothing.
	Redial func()
	// OnConnect is called each time a primary of our mesh has welcomed us, OnHeartbeat at each heartbeat. Both are called on
	// the follower's goroutines, one at a time, and must not block.
	OnConnect, OnHeartbeat func()
}

func (c FollowerConfig) withDefaults() FollowerConfig {
	if c.PingInterval == 0 {
		c.PingInterval = 100 * time.Millisecond
	}
	if c.IdlePingInterval == 0 {
		c.IdlePingInterval = max(c.PingInterval, 250*time.Millisecond)
	}
	if c.IdleAfter == 0 {
		c.IdleAfter = 2 * time.Second
	}
	if c.StuckAfter == 0 {
		c.StuckAfter = 3 * time.Second
	}
	if c.MinBackoff == 0 {
		c.MinBackoff = 100 * time.Millisecond
	}
	if c.MaxBackoff == 0 {
		c.MaxBackoff = 800 * time.Millisecond
	}
	if c.Redial == nil {
		c.Redial = func() {}
	}
	if c.OnConnect == nil {
		c.OnConnect = func() {}
	}
	if c.OnHeartbeat == nil {
		c.OnHeartbeat = func() {}
	}
	return c
}

// Follower keeps a store up to date with a primary: _mesh first, then every database that _mesh lists and places in this
// region. It drops the copies of those that are gone.
type Follower struct {
	store  *Store
	client replicationv1connect.ReplicationServiceClient
	config FollowerConfig
	logger *slog.Logger

	origin    time.Time // of the clock in our pings
	link      link
	connected atomic.Bool

	// For Run and its session, whose goroutines take turns.
	copies  map[uint32]*followed
	stamp   [2]tableSum // of the plan that copies follows
	savedAt time.Time   // when heardAt was written last
	lastErr string      // of the connection, to log each failure once
}

// NewFollower returns a follower that asks client for records. The client must speak HTTP/2, and its limit for messages must
// be above the largest transaction's 64 MiB.
func NewFollower(
	store *Store, client replicationv1connect.ReplicationServiceClient, config FollowerConfig,
) *Follower {
	return &Follower{
		store: store, client: client, config: config.withDefaults(), origin: time.Now(),
		logger: store.logger.With(slog.String("component", "follower")), copies: make(map[uint32]*followed),
	}
}

// Connected reports whether a primary of our mesh has welcomed us and the connection has not ended since.
func (f *Follower) Connected() bool { return f.connected.Load() }

// Run follows until ctx ends, and returns nil then, or until the store fails or is closed. It is called once.
func (f *Follower) Run(ctx context.Context) error {
	for failures := 0; ; failures++ {
		welcomed, err := f.connect(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to end
		}
		if errors.Is(err, ErrStoreFailed) || errors.Is(err, ErrClosed) {
			return err
		}
		if welcomed {
			failures = 0
			f.lastErr = ""
		}
		f.store.metrics.reconnects.Inc()
		if text := err.Error(); text != f.lastErr {
			f.lastErr = text
			f.logger.WarnContext(ctx, "not connected to the primary", slog.Any("error", err))
		}
		pause := min(f.config.MaxBackoff, f.config.MinBackoff<<min(failures, 16))
		timer := time.NewTimer(rand.N(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		if errors.Is(err, errStuck) {
			f.config.Redial()
		}
	}
}
