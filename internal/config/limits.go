package config

import (
	"errors"
	"strconv"
)

// Limits bound what the callers of a gateway or a primary may do at a time.
type Limits struct {
	Connections          int // open; default 8192
	ConnectionsPerClient int // open, from one address; default 4096
	RequestsPerClient    int // at a time, from one address; default 4096
	AnswerBytes          int // of answers above a megabyte that are gathered and sent at a time; default 256 MiB
}

// DefaultLimits returns the defaults.
func DefaultLimits() Limits {
	return Limits{Connections: 8192, ConnectionsPerClient: 4096, RequestsPerClient: 4096, AnswerBytes: 256 << 20}
}

// Register registers the settings, with the present values as defaults.
func (c *Limits) Register(s Set) {
	s.Int(&c.Connections, "max-connections", "how many connections a gateway or primary has open at once")
	s.Int(&c.ConnectionsPerClient, "max-connections-per-client", "how many of them may be from one address")
	s.Int(&c.RequestsPerClient, "max-requests-per-client", "how many requests at a time may be from one address")
	s.Int(&c.AnswerBytes, "max-answer-bytes", "how much memory all answers above a megabyte may take at a time, in bytes; more are refused")
}

// Validate returns all that is wrong, joined.
func (c *Limits) Validate() error {
	var errs []error
	for name, n := range map[string]int{
		"max-connections": c.Connections, "max-connections-per-client": c.ConnectionsPerClient,
		"max-requests-per-client": c.RequestsPerClient, "max-answer-bytes": c.AnswerBytes,
	} {
		if n < 1 {
			errs = append(errs, invalid(name, strconv.Itoa(n), "want more than zero"))
		}
	}
	return errors.Join(errs...)
}
