// Package primary assembles the primary role: the commit log, the databases, and the listener that answers data and
// replication. Everything that the role needs is opened here, in plain sight, and closed in the opposite order.
package primary

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/dirlock"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/nodeaccess"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/telemetry"
	"github.com/nearside-dev/nearside/internal/verify"
	"github.com/nearside-dev/nearside/services/auth"
	"github.com/nearside-dev/nearside/services/control"
	"github.com/nearside-dev/nearside/services/data"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
	"github.com/nearside-dev/nearside/services/nodes"
	"github.com/nearside-dev/nearside/services/registrar"
	"github.com/nearside-dev/nearside/services/replication"
)

// Config is a primary's. Dir, Listen and Logger are required.
type Config struct {
	Dir            string // all of its files
	Listen         string // host:port of the listener for sidecars and callers
	AdminListen    string // host:port of the admin listener; default the port of Listen + 1000 on the same host
	Region         string // where it is; default "primary"
	InsecureListen bool   // take requests without TLS from other machines too
	// RequireNodes refuses regions without a certificate of the mesh. Else those that come without TLS are let in.
	RequireNodes bool
	// TLSCert and TLSKey are PEM files of a certificate for callers, read again when they change; none is no TLS for them.
	// PlaintextToo takes requests without TLS from this machine even so.
	TLSCert, TLSKey string
	PlaintextToo    bool
	MaxOpen         int   // databases whose SQLite files are open at once; default registry.DefaultMaxOpen
	SQLiteMemory    int64 // bytes that SQLite may have, in the whole process; default sqlrun.DefaultMaxMemory
	Logger          *slog.Logger
	// Limits are the listener's; its name, logger and registerer are set here.
	Limits server.Config

	// NoAuth lets every caller do everything.
	NoAuth bool
	// AdminFile is where the credential of the first admin is written, and AdminURL where it says that the mesh is: a gateway's,
	// or by default this listener's. Default: Dir/admin.json.
	AdminFile, AdminURL string
	// TokenLifetime, RefreshLifetime and KeyRotation are those of auth.Config.
	TokenLifetime, RefreshLifetime, KeyRotation time.Duration

	// AuditKeepAge and AuditKeepEntries are how much of the audit is kept: those of auditlog.Config.
	AuditKeepAge     time.Duration
	AuditKeepEntries int

	// Keep is how much of each database's log is kept; zero fields mean changelog.DefaultKeepAge and DefaultKeepBytes.
	Keep changelog.Retention
	// TrimInterval is how often logs are trimmed; default a minute, or Keep.Age if that is less, but at least 100 ms.
	TrimInterval time.Duration
	// FarBehindBytes is how much log a region may lack before it takes a snapshot instead; default
	// replication.DefaultFarBehindBytes.
	FarBehindBytes uint64

	// Clock is what commits are dated by, and what is old enough to be trimmed or expired; default time.Now.
	Clock func() time.Time
	// Failpoint is called at the named places of the commit path, by crash tests; nil otherwise.
	Failpoint func(place string)
}

// Validate returns everything that is wrong with c.
func (c *Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("dir: is required"))
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("listen: %w", err))
	}
	if c.Logger == nil {
		errs = append(errs, errors.New("logger: is required"))
	}
	if c.MaxOpen < 0 {
		errs = append(errs, errors.New("max open databases: must not be negative"))
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		errs = append(errs, errors.New("TLS: want a certificate and its key, or neither"))
	}
	if c.SQLiteMemory < 0 {
		errs = append(errs, errors.New("sqlite memory: must not be negative"))
	}
	return errors.Join(errs...)
}

func (c *Config) setDefaults() {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Region == "" {
		c.Region = "primary"
	}
	if c.SQLiteMemory == 0 {
		c.SQLiteMemory = sqlrun.DefaultMaxMemory
	}
	if c.Keep.Age == 0 {
		c.Keep.Age = changelog.DefaultKeepAge
	}
	if c.Keep.Bytes == 0 {
		c.Keep.Bytes = changelog.DefaultKeepBytes
	}
	if c.TrimInterval == 0 {
		c.TrimInterval = max(100*time.Millisecond, min(janitorInterval, c.Keep.Age))
	}
}

// Primary is a running primary.
type Primary struct {
	url        string
	health     *server.Health
	membership *nodes.Membership
	fatal      chan error

	running context.Context //nolint:containedctx // ends with Close, and with it the goroutines
	cancel  context.CancelFunc
	done    sync.WaitGroup
	closers []func(context.Context) error // in order of opening
}

// Start opens the stores, recovers what a crash left, and serves. It returns when the listener answers.
func Start(ctx context.Context, c Config) (_ *Primary, err error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("primary: %w", err)
	}
	c.setDefaults()
	c.Logger = c.Logger.With(slog.String("role", "primary"))
	p := &Primary{health: server.NewHealth("starting"), fatal: make(chan error, 1)}
	p.running, p.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = fmt.Errorf("primary: %w", errors.Join(err, p.Close(ctx)))
		}
	}()
	lock, err := dirlock.Acquire(ctx, c.Dir)
	if err != nil {
		return nil, err
	}
	p.onClose(lock.Release)
	id, err := loadIdentity(c.Dir)
	if err != nil {
		return nil, err
	}
	bookmarks, err := bookmark.New(id.BookmarkKey[:])
	if err != nil {
		return nil, err
	}
	metrics := telemetry.NewRegistry()
	log, err := changelog.Open(filepath.Join(c.Dir, logFolder), changelog.Options{
		Logger: c.Logger, OnFatal: p.fail, Clock: c.Clock,
	})
	if err != nil {
		return nil, err
	}
	p.onClose(log.Close)
	metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearside_log_recent_bytes", Help: "Newest commit records in memory, for copies that follow closely; at most 8 MiB.",
	}, func() float64 { return float64(log.RecentBytes()) }))
	if err := sqlrun.LimitMemory(c.SQLiteMemory); err != nil {
		return nil, err
	}
	databases, err := registry.Open(ctx, registry.Config{
		Dir: filepath.Join(c.Dir, "db"), Log: log, Logger: c.Logger, Metrics: engine.NewMetrics(metrics), Registerer: metrics,
		MaxOpen: c.MaxOpen, MaxMemory: c.SQLiteMemory, Clock: c.Clock, OnFatal: p.fail, Failpoint: c.Failpoint,
	})
	if err != nil {
		return nil, err
	}
	p.onClose(databases.Close)
	p.startJanitor(databases, c)

	p.membership, err = nodes.Open(ctx, nodes.Options{
		Dir: c.Dir, MeshID: hex.EncodeToString(id.MeshID[:]), Region: c.Region, Registry: databases, Logger: c.Logger, Required: c.RequireNodes,
	})
	if err != nil {
		return nil, err
	}
	options, err := server.HandlerOptions(c.Logger, metrics)
	if err != nil {
		return nil, err
	}
	recording, err := p.openAudit(ctx, c, log, databases, metrics)
	if err != nil {
		return nil, err
	}
	authority, guard, verifier, err := p.openAuth(ctx, c, id, log, databases, bookmarks, recording, metrics)
	if err != nil {
		return nil, err
	}
	options = append(options, guard.Interceptor())
	options = append(options, recording.options...)
	replicator := replication.New(log, replication.Config{
		MeshID: id.MeshID, BookmarkKey: id.BookmarkKey[:], PrimaryRegion: c.Region, Logger: c.Logger,
		Exists: databases.Exists, FarBehindBytes: c.FarBehindBytes, Placement: databases.Placement,
		Source:     func(id uint32) (replication.Source, bool) { return databases.ByID(id) },
		Registerer: metrics,
		OnHello: func(ctx context.Context, region, url string) error {
			return databases.RegisterRegion(ctx, meshdb.Region{Name: region, URL: url, IsPrimary: region == c.Region})
		},
	})
	peers := p.peers(databases)
	p.onClose(func() error {
		peers.CloseIdleConnections()
		return nil
	})
	recorder, err := verify.NewRecorder(c.Logger, metrics)
	if err != nil {
		return nil, err
	}
	mux, short := http.NewServeMux(), make(map[string]access.ShortHandler)
	service := data.New(databases, log, bookmarks, c.Region, guard)
	if err := service.RegisterMetrics(metrics); err != nil {
		return nil, err
	}
	dataPath, dataHandler := datav1connect.NewDataServiceHandler(service, options...)
	mux.Handle(dataPath, dataHandler)
	mux.Handle(datav1connect.DataServiceExportProcedure, server.EndOnDrain(dataHandler)) // it may take an hour
	errs, err := rpcerr.NewInterceptor(c.Logger)
	if err != nil {
		return nil, err
	}
	if err := service.MountHot(mux, short, dataHandler, errs, metrics); err != nil {
		return nil, err
	}
	mux.Handle(replicationv1connect.NewBundleServiceHandler(data.NewBundles(service, errs), options...))
	mux.Handle(controlv1connect.NewStatusServiceHandler(
		control.NewStatusService(databases, peers), options...))
	verifyPath, verifyHandler := controlv1connect.NewVerifyServiceHandler(
		control.NewVerifyService(databases, log, c.Region, peers, recorder), options...)
	mux.Handle(verifyPath, server.EndOnDrain(verifyHandler))
	mux.Handle(replicator.Handler(options...))
	services := []string{
		datav1connect.DataServiceName, controlv1connect.StatusServiceName, controlv1connect.VerifyServiceName,
		replicationv1connect.ReplicationServiceName, replicationv1connect.BundleServiceName,
		controlv1connect.NodeServiceName, controlv1connect.NodeAdminServiceName, controlv1connect.ServiceRegistryServiceName,
		controlv1connect.CorsServiceName,
	}
	p.mountNodes(mux, options...)
	mark := func() string { return meshBookmark(log, bookmarks) }
	mux.Handle(controlv1connect.NewServiceRegistryServiceHandler(registrar.New(registrar.Options{
		Mesh: databases.Mesh(), Clock: c.Clock, Bookmark: mark,
	}), options...))
	mux.Handle(controlv1connect.NewCorsServiceHandler(control.NewCorsService(databases.Mesh(), mark), options...))
	recording.mount(mux, log, databases, c.NoAuth, options...)
	services = append(services, authv1connect.AuditServiceName)
	var handler http.Handler = mux
	if authority != nil {
		mux.Handle(authv1connect.NewAuthServiceHandler(authority, options...))
		mux.Handle(authv1connect.NewAccountServiceHandler(authority, options...))
		mux.Handle(authv1connect.NewPolicyServiceHandler(authority, options...))
		verifier.Mount(mux)
		services = append(services, authv1connect.AuthServiceName, authv1connect.AccountServiceName, authv1connect.PolicyServiceName)
		handler = access.NewChain(access.ChainOptions{Guard: guard, Next: mux, Short: short, Login: access.Rate{PerSecond: 50, Burst: 500}})
	}
	server.MountHealth(mux, p.health, services, nil, options...)
	handler = nodeaccess.Handler(handler, !c.RequireNodes, recording.denied)
	if err := p.serve(ctx, c, handler, recording, metrics); err != nil {
		return nil, err
	}
	if authority != nil {
		url := cmp.Or(c.AdminURL, p.url)
		if err := authority.EnsureAdmin(ctx, cmp.Or(c.AdminFile, filepath.Join(c.Dir, auth.AdminFile)), url); err != nil {
			return nil, err
		}
	}
	p.onClose(func() error {
		replicator.Close() // its streams would hold the listener open
		return nil
	})
	p.health.SetReady()
	c.Logger.Info("primary ready", slog.String("url", p.url), slog.Int("databases", len(databases.Databases())))
	return p, nil
}

// meshBookmark returns the bookmark of _mesh as it is now.
func meshBookmark(log *changelog.Log, bookmarks *bookmark.Codec) string {
	h, ok := log.Published(meshdb.DatabaseID)
	if !ok {
		return ""
	}
	return bookmarks.Encode(bookmark.Bookmark{DatabaseID: meshdb.DatabaseID, Epoch: h.Epoch, Version: h.Version})
}

// openAuth opens what makes and verifies credentials; nothing where every caller may do everything.
func (p *Primary) openAuth(
	ctx context.Context, c Config, id identity, log *changelog.Log, databases *registry.Registry, bookmarks *bookmark.Codec,
	recording *recording, metrics *prometheus.Registry,
) (*auth.Service, *access.Guard, *access.Verifier, error) {
	if c.NoAuth {
		return nil, nil, nil, nil
	}
	verifier, err := access.NewVerifier(access.VerifierOptions{
		Source: auth.NewSource(log, databases.Mesh()), Clock: c.Clock, Registerer: metrics,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	guard, err := access.NewGuard(access.GuardOptions{
		Verifier: verifier, Logger: c.Logger, Registerer: metrics, Auditor: recording.auditor, Listener: access.Primary,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	authority, err := auth.New(ctx, auth.Config{
		Auth: databases.Auth(), Mesh: databases.Mesh(), Log: log, Verifier: verifier, Guard: guard, MeshID: id.MeshID,
		Bookmark: func(h changelog.Head) string {
			return bookmarks.Encode(bookmark.Bookmark{DatabaseID: meshdb.DatabaseID, Epoch: h.Epoch, Version: h.Version})
		},
		Logger: c.Logger, TokenLifetime: c.TokenLifetime, RefreshLifetime: c.RefreshLifetime, KeyRotation: c.KeyRotation,
		Clock: c.Clock,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	p.every(janitorInterval, func() {
		if err := authority.Tidy(p.running); err != nil {
			c.Logger.Warn("tidy up credentials", slog.Any("error", err))
		}
	})
	return authority, guard, verifier, nil
}

// serve opens the listeners: the admin one first, so that the other one answering means that all do.
func (p *Primary) serve(ctx context.Context, c Config, mux http.Handler, recording *recording, metrics *prometheus.Registry) error {
	security, err := p.security(c)
	if err != nil {
		return err
	}
	security.Refused = recording.refused
	ln, err := server.Listen(ctx, c.Listen, c.InsecureListen || c.RequireNodes || c.TLSCert != "")
	if err != nil {
		return err
	}
	p.url = "http://" + ln.Addr().String()
	if security.Plaintext == server.PlaintextNone {
		p.url = "https://" + ln.Addr().String()
	}
	admin := c.AdminListen
	if admin == "" {
		if admin, err = server.AdminAddr(ln.Addr().String()); err != nil {
			return errors.Join(err, ln.Close())
		}
	}
	adminLn, err := server.Listen(ctx, admin, true)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	adminServer, err := server.Start(adminLn, server.AdminHandler(p.health, metrics), server.Config{
		Name: "admin", Logger: c.Logger, Registerer: metrics, Security: server.Security{Plaintext: plaintext(c.InsecureListen)},
	})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	p.closers = append(p.closers, adminServer.Close)
	c.Limits.Name, c.Limits.Logger, c.Limits.Registerer, c.Limits.Security = "primary", c.Logger, metrics, security
	c.Limits.Express = true
	mainServer, err := server.Start(ln, mux, c.Limits)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, mainServer.Close)
	if err := p.membership.Serve("https://"+reachable(ln.Addr()), mainServer); err != nil {
		return fmt.Errorf("write join token: %w", err)
	}
	p.done.Go(func() { p.membership.Run(p.running) })
	for _, s := range []*server.Server{adminServer, mainServer} {
		p.done.Go(func() {
			select {
			case err := <-s.Failed():
				p.fail(err)
			case <-p.running.Done():
			}
		})
	}
	return nil
}

// janitorInterval is how often old idempotency keys are looked for, and logs trimmed.
const janitorInterval = time.Minute

func (p *Primary) startJanitor(databases *registry.Registry, c Config) {
	p.every(janitorInterval, func() {
		if err := databases.ExpireKeys(c.Clock()); err != nil {
			c.Logger.Warn("expire idempotency keys", slog.Any("error", err))
		}
	})
	p.every(c.TrimInterval, func() {
		if err := databases.TrimLogs(p.running, c.Keep); err != nil {
			c.Logger.Warn("trim logs", slog.Any("error", err))
		}
	})
}

// every calls f at each interval until the role is closed.
func (p *Primary) every(interval time.Duration, f func()) {
	p.done.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f()
			case <-p.running.Done():
				return
			}
		}
	})
}

// fail ends the role: its owner hears of it on Fatal and closes it.
func (p *Primary) fail(err error) {
	p.health.SetNotReady(err.Error())
	select {
	case p.fatal <- err:
	default: // the first one is enough
	}
}

// URL is the base URL of the listener.
func (p *Primary) URL() string { return p.url }

// Ready returns nil when the primary serves, else why not.
func (p *Primary) Ready() error {
	if ready, reason := p.health.Ready(); !ready {
		return errors.New(reason)
	}
	return nil
}

// Fatal receives an error when the role cannot go on. Its owner must Close it and may start it again.
func (p *Primary) Fatal() <-chan error { return p.fatal }

func (p *Primary) onClose(f func() error) {
	p.closers = append(p.closers, func(context.Context) error { return f() })
}

// Close stops serving, lets requests end until ctx does, and closes the stores.
func (p *Primary) Close(ctx context.Context) error {
	p.health.SetNotReady("stopping")
	p.cancel()
	p.done.Wait() // the janitor reads the stores
	var errs []error
	for _, closer := range slices.Backward(p.closers) {
		errs = append(errs, closer(ctx))
	}
	p.closers = nil
	return errors.Join(errs...)
}
