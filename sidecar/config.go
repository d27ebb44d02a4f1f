package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/sidecar/graphql"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/watch"
)

// DefaultPrimaryURL is where a primary listens by default.
const DefaultPrimaryURL = "http://127.0.0.1:7070"

// Config is a sidecar's.
type Config struct {
	// Region is the name of the region: letters, digits, '-' and '_', at most 63. Required.
	Region string
	// PrimaryURL is the base URL of the primary's listener. Default: the join token's, or what it was when the node joined;
	// DefaultPrimaryURL for a sidecar that is no node. A node speaks TLS whatever it says.
	PrimaryURL string
	// Listen is the address of the gateway, host:port. Required.
	Listen string
	// AdminListen is the address of the admin listener. Default: the gateway's host, its port + 1000.
	AdminListen string
	// Dir is a folder of the sidecar's own. Required.
	Dir string
	// Join returns a token to become a node with, if the sidecar is none yet. It is asked again where the token turns out to be
	// spent. Where it is nil, and Dir has no certificate from before, the sidecar talks without certificates and TLS.
	Join func(context.Context) (pki.JoinToken, error)
	// KeepNode has the sidecar stay the node that it is, even where the primary refuses it: it joins only with no certificate, or
	// with one that ran out long ago. Else it becomes another one.
	KeepNode bool
	// TLSCert and TLSKey are PEM files of a certificate for callers, read again when they change; none is no TLS for them.
	TLSCert, TLSKey string
	// InsecureListen takes requests without TLS from other machines too.
	InsecureListen bool
	// AdvertiseURL is the base URL of the gateway as the other regions reach it. Default: made of the gateway's address.
	AdvertiseURL string

	// Watchers is how many watches there may be at a time, of tables and of queries.
	Watchers watch.Limits
	// WatchProgress is after how long a watcher is told how far it is if nothing that it watches changed. Default: 5 s.
	WatchProgress time.Duration
	// QueryInterval, QueryResultBytes and QueryBytes are those of watchquery.Options.
	QueryInterval    time.Duration
	QueryResultBytes int
	QueryBytes       int
	// Limits are the gateway's; its name, logger and registerer are set by Start.
	Limits server.Config
	// MaxCalls is how many calls to the primary there may be at a time; default forward.DefaultMaxInFlight.
	MaxCalls int

	// MaxServiceCalls is how many calls to registered services there may be at a time; default mesh.DefaultMaxInFlight.
	MaxServiceCalls int

	// SQLiteMemory is how many bytes SQLite may have in the whole process; default sqlrun.DefaultMaxMemory.
	SQLiteMemory int64

	// CacheBytes is how much memory answers and values may be kept in, and CachePercent how much of it one database may take.
	// 0 bytes is no cache, 0 percent memory.DefaultDatabasePercent.
	CacheBytes   int64
	CachePercent int

	// GraphQLIntrospection is who may ask for the GraphQL schema; default graphql.IntrospectionKnown.
	GraphQLIntrospection graphql.Introspection

	// NoAuth lets every caller do everything. The primary must be without authentication too.
	NoAuth bool
	// Grace is how long after its end an access token goes on while the primary cannot be reached; default access.DefaultGrace,
	// negative for none.
	Grace time.Duration

	// FreeFailures is how many log-ins from one address may fail before it has to wait; default access.DefaultFreeFailures, negative
	// for any number.
	FreeFailures int

	// ImageBytes is how much memory tables may be kept in that SQL reads; 0 keeps none.
	ImageBytes int64

	// Mount adds services to the gateway, if it is set. They reach data at gatewayURL and serve with the given options.
	Mount func(mux *http.ServeMux, gatewayURL string, options ...connect.HandlerOption) error
	// Hot returns methods of mounted services that mostly can be answered at once, by their procedures, if it is set. get answers a
	// GetRequest of nearside.data.v1.DataService as the gateway does, with the caller's rights and limits, or not at all.
	Hot func(get hotrpc.Method) map[string]hotrpc.Method
	// MountedServices are the full names of the services that Mount adds, for health checks and reflection.
	MountedServices []string

	// Logger is told what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

var regionName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// Validate returns everything that is wrong with c.
func (c *Config) Validate() error {
	var errs []error
	if !regionName.MatchString(c.Region) {
		errs = append(errs, fmt.Errorf("region: %q is not a name of letters, digits, '-' and '_'", c.Region))
	}
	if c.Dir == "" {
		errs = append(errs, errors.New("dir: is required"))
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("listen: %w", err))
	}
	if c.AdminListen != "" {
		if _, _, err := net.SplitHostPort(c.AdminListen); err != nil {
			errs = append(errs, fmt.Errorf("admin listen: %w", err))
		}
	}
	if c.PrimaryURL != "" {
		if err := checkURL(c.PrimaryURL); err != nil {
			errs = append(errs, fmt.Errorf("primary: %w", err))
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		errs = append(errs, errors.New("TLS: want a certificate and its key, or neither"))
	}
	if c.CacheBytes != 0 && c.CacheBytes < memory.MinBytes {
		errs = append(errs, fmt.Errorf("cache bytes: %d is less than %d", c.CacheBytes, memory.MinBytes))
	}
	if c.CachePercent < 0 || c.CachePercent > 100 {
		errs = append(errs, fmt.Errorf("cache percent: %d is none", c.CachePercent))
	}
	if c.SQLiteMemory < 0 {
		errs = append(errs, fmt.Errorf("SQLite memory: %d is less than nothing", c.SQLiteMemory))
	}
	if c.AdvertiseURL != "" {
		if err := checkURL(c.AdvertiseURL); err != nil {
			errs = append(errs, fmt.Errorf("advertise URL: %w", err))
		}
	}
	return errors.Join(errs...)
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%q is not of the form http://HOST:PORT or https://HOST:PORT", text)
	}
	return nil
}

// baseURL returns the URL at which this machine reaches a listener.
func baseURL(scheme string, addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return scheme + "://" + addr.String() // not of TCP, which Listen never returns
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.To4() == nil {
			host = "::1"
		}
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}
