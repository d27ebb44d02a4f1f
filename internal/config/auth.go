package config

import (
	"net"
	"strconv"
	"time"
)

const (
	noAuthName    = "insecure-no-auth"
	noAuthUsage   = "let every caller do everything, without a credential; on this machine only"
	graceUsage    = "how long an access token goes on after its end while the primary cannot be reached"
	lifetimeUsage = "how long an access token lives"
)

// Auth says whether callers need a credential, and how long what they get lasts.
type Auth struct {
	NoAuth        bool          // default false
	TokenLifetime time.Duration // of a primary's access tokens; default 10m
	TokenGrace    time.Duration // of a region that is cut off; default 30m
	FailedLogins  int           // from one address at a gateway, before it has to wait; default 30
}

func defaultAuth() Auth {
	return Auth{TokenLifetime: 10 * time.Minute, TokenGrace: 30 * time.Minute, FailedLogins: 30}
}

func (c *Auth) registerNoAuth(s Set)   { s.Bool(&c.NoAuth, noAuthName, noAuthUsage) }
func (c *Auth) registerLifetime(s Set) { s.Duration(&c.TokenLifetime, "token-lifetime", lifetimeUsage) }
func (c *Auth) registerGrace(s Set)    { s.Duration(&c.TokenGrace, "token-grace", graceUsage) }

func (c *Auth) registerLogins(s Set) {
	s.Int(&c.FailedLogins, "max-failed-logins", "how many log-ins from one address may fail before it has to wait; 0 is any number")
}

// FreeFailures is FailedLogins as a sidecar takes it, whose 0 is its default.
func (c *Auth) FreeFailures() int {
	if c.FailedLogins == 0 {
		return -1
	}
	return c.FailedLogins
}

// Grace is TokenGrace as a sidecar takes it, whose 0 is its default.
func (c *Auth) Grace() time.Duration {
	if c.TokenGrace == 0 {
		return -1
	}
	return c.TokenGrace
}

// validate checks the settings of a role that listens on a host.
func (c *Auth) validate() error {
	switch {
	case c.TokenLifetime < time.Second || c.TokenLifetime > 24*time.Hour:
		return invalid("token-lifetime", c.TokenLifetime.String(), "want from 1s to 24h")
	case c.TokenGrace < 0 || c.TokenGrace > 24*time.Hour:
		return invalid("token-grace", c.TokenGrace.String(), "want from 0s to 24h")
	case c.FailedLogins < 0 || c.FailedLogins > 1_000_000:
		return invalid("max-failed-logins", strconv.Itoa(c.FailedLogins), "must be from 0 to 1000000")
	}
	return nil
}

// onlyHere refuses to be without authentication where other machines could call.
func (c *Auth) onlyHere(host string) error {
	ip := net.ParseIP(host)
	if !c.NoAuth || host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return invalid(noAuthName, "true", "other machines could do everything: listen on 127.0.0.1")
}
