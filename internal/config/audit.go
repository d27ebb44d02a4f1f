package config

import (
	"errors"
	"strconv"
	"time"
)

// Audit is how much of the audit a primary keeps.
type Audit struct {
	AuditKeepAge     time.Duration // default 9600h, which are 400 days
	AuditKeepEntries int           // default 1000000
}

func defaultAudit() Audit { return Audit{AuditKeepAge: 9600 * time.Hour, AuditKeepEntries: 1_000_000} }

func (c *Audit) register(s Set) {
	s.Duration(&c.AuditKeepAge, "audit-keep-age", "how long entries of the audit are kept")
	s.Int(&c.AuditKeepEntries, "audit-keep-entries", "how many entries of the audit are kept at most")
}

func (c *Audit) validate() error {
	var errs []error
	if c.AuditKeepAge < time.Hour {
		errs = append(errs, invalid("audit-keep-age", c.AuditKeepAge.String(), "want an hour or more"))
	}
	if c.AuditKeepEntries < 1000 || c.AuditKeepEntries > 100_000_000 {
		errs = append(errs, invalid("audit-keep-entries", strconv.Itoa(c.AuditKeepEntries), "must be from 1000 to 100000000"))
	}
	return errors.Join(errs...)
}
