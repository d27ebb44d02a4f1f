package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What the port of a listener is moved by to get the others of its role.
const (
	AdminPortOffset   = 1000  // from a listener to its admin listener
	PrimaryPortOffset = -1010 // from the first gateway of `up` to the primary
)

// maxRegions bounds the regions of one `up`.
const maxRegions = 64

// tokenName is the one setting whose value is never shown.
const tokenName = "token"

var regionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// Log says what is logged, and how.
type Log struct {
	Level  string // debug, info, warn or error; default info
	Format string // text or json; default text
}

// DefaultLog returns the defaults.
func DefaultLog() Log { return Log{Level: "info", Format: "text"} }

// Register registers the settings, with the present values as defaults.
func (c *Log) Register(s Set) {
	s.String(&c.Level, "log-level", "what to log: debug, info, warn or error")
	s.String(&c.Format, "log-format", "how to log: text or json")
}

// SlogLevel returns the level; info if it is none.
func (c *Log) SlogLevel() slog.Level {
	var level slog.Level
	if level.UnmarshalText([]byte(c.Level)) != nil {
		return slog.LevelInfo
	}
	return level
}

// Validate returns all that is wrong, joined.
func (c *Log) Validate() error {
	var errs []error
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Level) {
		errs = append(errs, invalid("log-level", c.Level, "want debug, info, warn or error"))
	}
	if c.Format != "text" && c.Format != "json" {
		errs = append(errs, invalid("log-format", c.Format, "want text or json"))
	}
	return errors.Join(errs...)
}

// Client says how a command reaches the mesh.
type Client struct {
	URL     string        // of a gateway or a primary; default http://127.0.0.1:8080
	Token   string        // sent as bearer token; default none
	CA      string        // PEM file with the certificates to trust for an https URL; default the system's
	Dir     string        // folder whose admin.json has URL and token; default none
	Timeout time.Duration // of one call; default 1m, 0 means none
}

// DefaultClient returns the defaults.
func DefaultClient() Client {
	return Client{URL: "http://127.0.0.1:8080", Timeout: time.Minute}
}

// Register registers the settings, with the present values as defaults.
func (c *Client) Register(s Set) {
	s.String(&c.URL, "url", "gateway or primary to talk to")
	s.String(&c.Token, tokenName, "token to send")
	s.String(&c.CA, "ca", "PEM file with the certificates to trust for an https URL (default the system's)")
	s.String(&c.Dir, "dir", "folder with an admin.json to take URL and token from")
	s.Duration(&c.Timeout, "timeout", "how long one call may take; 0 means any time")
}

// Validate returns all that is wrong, joined.
func (c *Client) Validate() error {
	var errs []error
	if err := validURL("url", c.URL); err != nil {
		errs = append(errs, err)
	}
	if strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		errs = append(errs, errors.New("--token: has characters that no token has"))
	}
	if c.Timeout < 0 {
		errs = append(errs, invalid("timeout", c.Timeout.String(), "must not be negative"))
	}
	return errors.Join(errs...)
}

// Security is how a role's listeners tell who calls.
type Security struct {
	TLSCert, TLSKey string // PEM files of a certificate for callers; default none
}

func (c *Security) register(s Set) {
	s.String(&c.TLSCert, "tls-cert", "PEM file with a certificate for callers, read again when it changes; with it, plaintext is refused")
	s.String(&c.TLSKey, "tls-key", "PEM file with the key of --tls-cert")
}

func (c *Security) validate() error {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("--tls-cert and --tls-key: want both or neither")
	}
	return nil
}

const (
	requireNodesName  = "require-node-certificates"
	requireNodesUsage = "refuse sidecars that have no certificate of the mesh; not where every caller may do everything"
	// nodeCertificate is where, in its folder, a sidecar keeps its certificate.
	nodeCertificate = "node/node.pem"
	primaryURL      = "http://127.0.0.1:7070"
)

// Up is a mesh in one process.
type Up struct {
	Dir            string   // default .nearside
	ListenHost     string   // default 127.0.0.1
	Port           int      // of the first region's gateway; default 8080
	Regions        []string // the first is the primary's
	InsecureListen bool     // allow a ListenHost that other machines reach; default false
	MaxOpen        int      // databases whose files the primary has open at once; default 256
	SQLiteMiB      int      // memory that SQLite may have; default 1024 MiB
	Cache          Cache    // of each region
	// RequireNodes has the regions be nodes with certificates, and others be refused, unless NoAuth is set; default true.
	RequireNodes bool

	Security
	LogKeep
	Watching
	GraphQL GraphQL
	Auth
	Audit
}

// NodesOnly is as Primary has it.
func (c *Up) NodesOnly() bool { return c.RequireNodes && !c.NoAuth }

// DefaultUp returns the defaults.
func DefaultUp() Up {
	return Up{
		Dir: ".nearside", ListenHost: "127.0.0.1", Port: 8080,
		Regions: []string{"us-east-1", "eu-west-1", "ap-southeast-1"}, RequireNodes: true, MaxOpen: defaultMaxOpen, SQLiteMiB: defaultSQLiteMiB,
		Cache:   defaultCache(),
		LogKeep: defaultLogKeep(), Watching: defaultWatching(), GraphQL: defaultGraphQL(), Auth: defaultAuth(), Audit: defaultAudit(),
	}
}

// Register registers the settings, with the present values as defaults.
func (c *Up) Register(s Set) {
	s.String(&c.Dir, "dir", "folder for the data")
	s.Int(&c.Port, "port", "port of the first gateway; the next ones follow")
	s.Strings(&c.Regions, "regions", "the regions, the primary's first")
	s.String(&c.ListenHost, "listen-host", "address to listen on")
	c.LogKeep.register(s)
	c.Watching.register(s)
	c.GraphQL.register(s)
	c.Security.register(s)
	s.Bool(&c.RequireNodes, requireNodesName, requireNodesUsage)
	s.Bool(&c.InsecureListen, "insecure-listen", insecureUsage)
	s.Int(&c.MaxOpen, maxOpenName, maxOpenUsage)
	s.Int(&c.SQLiteMiB, sqliteMiBName, sqliteMiBUsage)
	c.Cache.register(s)
	c.registerNoAuth(s)
	c.registerLifetime(s)
	c.registerGrace(s)
	c.registerLogins(s)
	c.Audit.register(s)
}

const (
	insecureUsage = "take requests from other machines without TLS"

	maxOpenName    = "max-open-databases"
	maxOpenUsage   = "how many databases the primary has open at once; others are opened when they are used"
	defaultMaxOpen = 256

	sqliteMiBName    = "sqlite-memory-mib"
	sqliteMiBUsage   = "how much memory SQLite may have for all databases of the process, in MiB"
	defaultSQLiteMiB = 1024
)

func validSQLiteMiB(n int) error {
	if n < 64 || n > 1<<20 {
		return invalid(sqliteMiBName, strconv.Itoa(n), "must be from 64 to 1048576")
	}
	return nil
}

func validMaxOpen(n int) error {
	if n < 1 || n > 10_000 {
		return invalid(maxOpenName, strconv.Itoa(n), "must be from 1 to 10000")
	}
	return nil
}

// Validate returns all that is wrong, joined.
func (c *Up) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, invalid("dir", c.Dir, "must not be empty"))
	}
	lowest, highest := 1-PrimaryPortOffset, 65536-AdminPortOffset-len(c.Regions)
	if c.Port < lowest || c.Port > highest {
		rule := fmt.Sprintf("must be from %d to %d, for the other ports are counted from it", lowest, highest)
		errs = append(errs, invalid("port", strconv.Itoa(c.Port), rule))
	}
	errs = append(errs, validRegions(c.Regions)...)
	if err := validHost("listen-host", c.ListenHost, c.ListenHost, c.InsecureListen || c.TLSCert != ""); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, c.Audit.validate(), c.Auth.validate(), c.onlyHere(c.ListenHost), c.Security.validate())
	errs = append(errs, c.LogKeep.validate(), c.Watching.validate(), c.GraphQL.validate(), validMaxOpen(c.MaxOpen), validSQLiteMiB(c.SQLiteMiB), c.Cache.validate())
	return errors.Join(errs...)
}

func validRegions(regions []string) []error {
	list := strings.Join(regions, ",")
	if len(regions) == 0 || len(regions) > maxRegions {
		return []error{invalid("regions", list, fmt.Sprintf("want 1 to %d regions", maxRegions))}
	}
	var errs []error
	for i, r := range regions {
		switch err := validRegion("regions", r); {
		case err != nil:
			errs = append(errs, err)
		case r == "primary":
			errs = append(errs, invalid("regions", list, `"primary" is the name of the primary's folder`))
		case slices.Contains(regions[:i], r):
			errs = append(errs, invalid("regions", list, fmt.Sprintf("%q is there twice", r)))
		}
	}
	return errs
}

// Primary is one primary.
type Primary struct {
	Listen         string // default 127.0.0.1:7070; the admin listener is 1000 ports higher
	Dir            string // default .nearside/primary
	Region         string // default us-east-1
	InsecureListen bool   // allow a Listen that other machines reach; default false
	MaxOpen        int    // databases whose files are open at once; default 256
	RequireNodes   bool   // refuse sidecars without certificates of the mesh, unless NoAuth is set; default true
	SQLiteMiB      int    // memory that SQLite may have; default 1024 MiB

	Security
	LogKeep
	Auth
	Audit
}

// NodesOnly reports whether sidecars need certificates: where callers need no credential, neither do they.
func (c *Primary) NodesOnly() bool { return c.RequireNodes && !c.NoAuth }

// DefaultPrimary returns the defaults.
func DefaultPrimary() Primary {
	return Primary{
		Listen: "127.0.0.1:7070", Dir: ".nearside/primary", Region: "us-east-1", RequireNodes: true, MaxOpen: defaultMaxOpen,
		SQLiteMiB: defaultSQLiteMiB, LogKeep: defaultLogKeep(), Auth: defaultAuth(), Audit: defaultAudit(),
	}
}

// Register registers the settings, with the present values as defaults.
func (c *Primary) Register(s Set) {
	s.String(&c.Listen, "listen", "address to listen on; the admin listener is 1000 ports higher")
	s.String(&c.Dir, "dir", "folder for the data")
	s.String(&c.Region, "region", "the region this primary is in")
	c.LogKeep.register(s)
	c.Security.register(s)
	s.Bool(&c.RequireNodes, requireNodesName, requireNodesUsage)
	s.Bool(&c.InsecureListen, "insecure-listen", insecureUsage)
	s.Int(&c.MaxOpen, maxOpenName, maxOpenUsage)
	s.Int(&c.SQLiteMiB, sqliteMiBName, sqliteMiBUsage)
	c.registerNoAuth(s)
	c.registerLifetime(s)
	c.Audit.register(s)
}

// Validate returns all that is wrong, joined.
func (c *Primary) Validate() error {
	return errors.Join(
		c.Audit.validate(),
		c.Auth.validate(),
		c.onlyHere(hostOf(c.Listen)),
		notEmpty("dir", c.Dir),
		validListen(c.Listen, c.InsecureListen || c.NodesOnly() || c.TLSCert != ""),
		validRegion("region", c.Region),
		c.Security.validate(),
		c.LogKeep.validate(),
		validMaxOpen(c.MaxOpen),
		validSQLiteMiB(c.SQLiteMiB),
	)
}

// LogKeep is how much of each database's log a primary keeps.
type LogKeep struct {
	LogKeepAge time.Duration // for how long; default 24 h
	LogKeepMiB int           // at most; default 1024 MiB
}

func defaultLogKeep() LogKeep { return LogKeep{LogKeepAge: 24 * time.Hour, LogKeepMiB: 1024} }

func (c *LogKeep) register(s Set) {
	s.Duration(&c.LogKeepAge, "log-keep-age", "how long each database's log is kept for regions that were away")
	s.Int(&c.LogKeepMiB, "log-keep-mib", "how much of each database's log is kept at most, in MiB")
}

func (c *LogKeep) validate() error {
	return errors.Join(
		positive("log-keep-age", c.LogKeepAge.String(), c.LogKeepAge > 0),
		positive("log-keep-mib", strconv.Itoa(c.LogKeepMiB), c.LogKeepMiB > 0),
	)
}

// LogKeepBytes is LogKeepMiB in bytes.
func (c *LogKeep) LogKeepBytes() uint64 { return uint64(max(0, c.LogKeepMiB)) << 20 }

func positive(name, value string, ok bool) error {
	if ok {
		return nil
	}
	return invalid(name, value, "want more than zero")
}

// Sidecar is one region's sidecar.
type Sidecar struct {
	Region         string // required
	Primary        string // URL of the primary; default the join token's, without any http://127.0.0.1:7070
	Join           string // file with a join token; default none
	Listen         string // default 127.0.0.1:8080; the admin listener is 1000 ports higher
	Dir            string // default .nearside/REGION
	AdvertiseURL   string // where others reach the gateway; default from Listen
	InsecureListen bool   // allow a Listen that other machines reach; default false
	MaxCalls       int    // to the primary at a time; default 1024
	MaxServices    int    // calls to registered services at a time; default 4096
	SQLiteMiB      int    // memory that SQLite may have; default 1024 MiB
	Business       bool   // serve users and orders; default false
	Cache          Cache

	Security
	Watching
	GraphQL GraphQL
	Auth
}

// DefaultSidecar returns the defaults.
func DefaultSidecar() Sidecar {
	return Sidecar{
		Listen: "127.0.0.1:8080", MaxCalls: 1024, MaxServices: 4096, SQLiteMiB: defaultSQLiteMiB,
		Cache: defaultCache(), Watching: defaultWatching(), GraphQL: defaultGraphQL(), Auth: defaultAuth(),
	}
}

// Register registers the settings, with the present values as defaults.
func (c *Sidecar) Register(s Set) {
	s.String(&c.Region, "region", "the region this sidecar serves (required)")
	s.String(&c.Primary, "primary", "URL of the primary (default the join token's, without one "+primaryURL+")")
	s.String(&c.Join, "join", "file with a join token, to become a node of the mesh with; a restart needs none")
	c.Security.register(s)
	s.String(&c.Listen, "listen", "address to listen on; the admin listener is 1000 ports higher")
	s.String(&c.Dir, "dir", "folder for the replica (default .nearside/REGION)")
	s.String(&c.AdvertiseURL, "advertise-url", "where others reach this gateway (default from --listen)")
	c.Cache.register(s)
	c.Watching.register(s)
	c.GraphQL.register(s)
	s.Bool(&c.InsecureListen, "insecure-listen", insecureUsage)
	c.registerNoAuth(s)
	c.registerGrace(s)
	c.registerLogins(s)
	s.Int(&c.MaxCalls, "max-primary-calls", "how many calls to the primary there may be at a time; more are refused")
	s.Int(&c.MaxServices, "max-service-calls", "how many calls to registered services there may be at a time; more are refused")
	s.Int(&c.SQLiteMiB, sqliteMiBName, sqliteMiBUsage)
	s.Bool(&c.Business, "business", "serve users and orders too, from the database business, which somebody has made")
}

// PrimaryURL returns the URL of the primary, or "" where the sidecar has it from its join.
func (c *Sidecar) PrimaryURL() string {
	if c.Primary == "" && !c.IsNode() {
		return primaryURL
	}
	return c.Primary
}

// IsNode reports whether the sidecar has a certificate of the mesh, or is to get one.
func (c *Sidecar) IsNode() bool {
	if c.Join != "" {
		return true
	}
	_, err := os.Stat(filepath.Join(c.Folder(), nodeCertificate))
	return err == nil
}

// Folder returns the folder for the replica.
func (c *Sidecar) Folder() string { return cmp.Or(c.Dir, filepath.Join(".nearside", c.Region)) }

// Validate returns all that is wrong, joined.
func (c *Sidecar) Validate() error {
	var primary, advertise error
	if c.Primary != "" {
		primary = validURL("primary", c.Primary)
	}
	if c.AdvertiseURL != "" {
		advertise = validURL("advertise-url", c.AdvertiseURL)
	}
	return errors.Join(
		c.Auth.validate(),
		c.onlyHere(hostOf(c.Listen)),
		validRegion("region", c.Region),
		primary,
		validListen(c.Listen, c.InsecureListen || c.TLSCert != "" || c.IsNode()),
		c.Security.validate(),
		advertise,
		c.Watching.validate(),
		c.GraphQL.validate(),
		positive("max-primary-calls", strconv.Itoa(c.MaxCalls), c.MaxCalls > 0),
		positive("max-service-calls", strconv.Itoa(c.MaxServices), c.MaxServices > 0),
		validSQLiteMiB(c.SQLiteMiB),
		c.Cache.validate(),
	)
}

// Shift returns the address with its port moved by offset. Port 0, which is any free one, stays 0.
func Shift(address string, offset int) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", fmt.Errorf("port %q: want a number up to 65535", port)
	}
	if n == 0 {
		return net.JoinHostPort(host, "0"), nil
	}
	moved := int(n) + offset
	if moved < 1 || moved > 65535 {
		return "", fmt.Errorf("port %d: its neighbour %d is no port", n, moved)
	}
	return net.JoinHostPort(host, strconv.Itoa(moved)), nil
}

func invalid(name, value, rule string) error { return fmt.Errorf("--%s %q: %s", name, value, rule) }

func notEmpty(name, value string) error {
	if value == "" {
		return invalid(name, value, "must not be empty")
	}
	return nil
}

func validRegion(name, region string) error {
	if !regionPattern.MatchString(region) {
		return invalid(name, region, "a region is a letter or digit and up to 62 more, - and _ among them")
	}
	return nil
}

func validURL(name, text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return invalid(name, text, "want a URL like http://127.0.0.1:8080")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return invalid(name, u.Redacted(), "must have no user, query or fragment")
	}
	return nil
}

func validListen(address string, insecure bool) error {
	if _, err := Shift(address, AdminPortOffset); err != nil {
		return fmt.Errorf("--listen %q: %w", address, err)
	}
	host, _, _ := net.SplitHostPort(address) // Shift has checked it
	return validHost("listen", address, host, insecure)
}

// hostOf returns the host of an address, or "".
func hostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}

// validHost refuses what other machines could reach, where that is not allowed.
func validHost(name, value, host string, insecure bool) error {
	ip := net.ParseIP(host)
	if insecure || host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return invalid(name, value, "other machines could reach it, and nothing is encrypted: "+
		"listen on 127.0.0.1, give a certificate with --tls-cert and --tls-key, or allow it with --insecure-listen")
}
