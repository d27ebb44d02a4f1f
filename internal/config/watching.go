package config

import (
	"errors"
	"strconv"
	"time"
)

// Watching is how a sidecar serves watches, of tables and of queries.
type Watching struct {
	MaxWatchers    int           // at a time; default 4096
	MaxPerDatabase int           // of them of one database; default 3072
	MaxPerClient   int           // of them of one caller; default 2048
	WatchProgress  time.Duration // after which a watcher is told how far it is; default 5 s

	QueryInterval    time.Duration // between two runs of one watched query, at least; default 10 ms
	QueryResultBytes int           // of one answer; default 1 MiB
	QueryBytes       int           // of the newest answers of all; default 64 MiB
}

func defaultWatching() Watching {
	return Watching{
		MaxWatchers: 4096, MaxPerDatabase: 3072, MaxPerClient: 2048, WatchProgress: 5 * time.Second,
		QueryInterval: 10 * time.Millisecond, QueryResultBytes: 1 << 20, QueryBytes: 64 << 20,
	}
}

func (c *Watching) register(s Set) {
	s.Int(&c.MaxWatchers, "max-watchers", "how many watches a region serves at a time")
	s.Int(&c.MaxPerDatabase, "max-watchers-per-database", "how many of them may be of one database")
	s.Int(&c.MaxPerClient, "max-watchers-per-client", "how many of them one caller may have")
	s.Duration(&c.WatchProgress, "watch-progress", "after how long a watcher is told how far it is when nothing changed")
	s.Duration(&c.QueryInterval, "watch-query-interval", "how long there is between two runs of one watched query at least; 1ms or more")
	s.Int(&c.QueryResultBytes, "watch-query-result-bytes", "how large the answer of a watched query may be, in bytes")
	s.Int(&c.QueryBytes, "watch-query-bytes", "how much memory the newest answers of all watched queries may take, in bytes")
}

func (c *Watching) validate() error {
	return errors.Join(
		positive("max-watchers", strconv.Itoa(c.MaxWatchers), c.MaxWatchers > 0),
		positive("max-watchers-per-database", strconv.Itoa(c.MaxPerDatabase), c.MaxPerDatabase > 0),
		positive("max-watchers-per-client", strconv.Itoa(c.MaxPerClient), c.MaxPerClient > 0),
		positive("watch-progress", c.WatchProgress.String(), c.WatchProgress > 0),
		positive("watch-query-interval", c.QueryInterval.String(), c.QueryInterval >= time.Millisecond),
		positive("watch-query-result-bytes", strconv.Itoa(c.QueryResultBytes), c.QueryResultBytes > 0),
		positive("watch-query-bytes", strconv.Itoa(c.QueryBytes), c.QueryBytes > 0),
	)
}
