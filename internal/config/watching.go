package config

import (
	"errors"
	"strconv"
	"time"
)

// Watching is how a sidecar serves watches.
type Watching struct {
	MaxWatchers   int           // at a time; default 4096
	WatchProgress time.Duration // after which a watcher is told how far it is; default 5 s
}

func defaultWatching() Watching { return Watching{MaxWatchers: 4096, WatchProgress: 5 * time.Second} }

func (c *Watching) register(s Set) {
	s.Int(&c.MaxWatchers, "max-watchers", "how many watches a region serves at a time")
	s.Duration(&c.WatchProgress, "watch-progress", "after how long a watcher is told how far it is when nothing changed")
}

func (c *Watching) validate() error {
	return errors.Join(
		positive("max-watchers", strconv.Itoa(c.MaxWatchers), c.MaxWatchers > 0),
		positive("watch-progress", c.WatchProgress.String(), c.WatchProgress > 0),
	)
}
