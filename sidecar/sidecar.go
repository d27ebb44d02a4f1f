// Package sidecar assembles a region: the copy of the data and the follower that keeps it up to date, the read path over it,
// the way to the primary, and the gateway that answers callers. Everything the role needs is opened here, in plain sight, and
// closed in the opposite order.
package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/dirlock"
	"github.com/nearside-dev/nearside/internal/nodeaccess"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/telemetry"
	internalverify "github.com/nearside-dev/nearside/internal/verify"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/forward"
	"github.com/nearside-dev/nearside/sidecar/gateway"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/readpath"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/verify"
	"github.com/nearside-dev/nearside/sidecar/watch"
	"github.com/nearside-dev/nearside/sidecar/watchquery"
)

// Sidecar is a running sidecar.
type Sidecar struct {
	config    Config
	logger    *slog.Logger
	url       string
	innerURL  string // where services in this process find the gateway
	adminURL  string
	store     *replica.Store
	directory *readpath.Directory
	node      *membership
	health    *server.Health

	forgetters atomic.Pointer[forgetters] // nil until they are there

	progress chan struct{} // has an element when the copies may have come further
	ready    chan struct{} // closed when the sidecar is ready for the first time
	fatal    chan error

	final struct {
		sync.Mutex

		said bool // that the sidecar will not be ready again
	}

	running context.Context //nolint:containedctx // ends with Close, and with it the goroutines
	cancel  context.CancelFunc
	healthy context.Context //nolint:containedctx // ends with running or the first failure
	unwell  context.CancelFunc
	done    sync.WaitGroup
	closers []func(context.Context) error // in order of opening
}

// Start opens the store, starts the follower and serves. It returns when the listeners answer, which may be long before the
// sidecar is ready.
func Start(ctx context.Context, c Config) (_ *Sidecar, err error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("sidecar: %w", err)
	}
	c.Logger = cmp.Or(c.Logger, slog.Default())
	s := &Sidecar{
		config: c, logger: c.Logger.With(slog.String("role", "sidecar"), slog.String("region", c.Region)),
		health:   server.NewHealth("not synchronised: no copy yet"),
		progress: make(chan struct{}, 1), ready: make(chan struct{}), fatal: make(chan error, 1),
	}
	s.running, s.cancel = context.WithCancel(context.Background())
	s.healthy, s.unwell = context.WithCancel(s.running)
	defer func() {
		if err != nil {
			err = fmt.Errorf("sidecar %s: %w", c.Region, errors.Join(err, s.Close(ctx)))
		}
	}()
	lock, err := dirlock.Acquire(ctx, c.Dir)
	if err != nil {
		return nil, err
	}
	s.onClose(lock.Release)
	metrics := telemetry.NewRegistry()
	s.store, err = replica.OpenStore(filepath.Join(c.Dir, "replica"), replica.Options{
		Logger: s.logger, OnFatal: s.fail, Registerer: metrics, BeforeErase: s.evict, OnErase: s.forget,
	})
	if err != nil {
		return nil, err
	}
	s.onClose(s.store.Close)
	s.directory = readpath.NewDirectory(s.store, c.Region)

	node, err := s.openMembership(ctx, metrics)
	if err != nil {
		return nil, err
	}
	s.node = node
	s.onClose(func() error {
		node.close()
		return nil
	})
	var follower *replica.Follower // made below: it and primary tell each other about the connection
	primary, err := forward.New(forward.Options{
		Region: c.Region, URL: node.primary, HTTPClient: node.calls, Registerer: metrics, MaxInFlight: c.MaxCalls,
		Connected: func() bool { return follower.Connected() },
	})
	if err != nil {
		return nil, err
	}
	c.SQLiteMemory = cmp.Or(c.SQLiteMemory, sqlrun.DefaultMaxMemory)
	if err := sqlrun.LimitMemory(c.SQLiteMemory); err != nil {
		return nil, err
	}
	engine, err := edgesql.New(edgesql.Options{MaxMemory: c.SQLiteMemory, MaxImages: c.ImageBytes, Registerer: metrics})
	if err != nil {
		return nil, err
	}
	s.onClose(engine.Close)
	cache, err := s.openCache(metrics)
	if err != nil {
		return nil, err
	}
	recording, err := s.openAudit(node, metrics)
	if err != nil {
		return nil, err
	}
	verifier, guard, err := s.newGuard(func() bool { return follower.Connected() }, recording.auditor(), metrics)
	if err != nil {
		return nil, err
	}
	path, err := readpath.New(readpath.Options{
		Region: c.Region, Store: s.store, Directory: s.directory, Memory: cache, Primary: primary, SQL: engine,
		Guard: guard, Logger: s.logger, Registerer: metrics,
	})
	if err != nil {
		return nil, err
	}
	hub, queries, err := s.openWatches(engine, metrics)
	if err != nil {
		return nil, err
	}
	s.forgetters.Store(&forgetters{cache: cache, engine: engine, hub: hub, queries: queries, path: path})
	security, err := s.security(node)
	security.Refused = recording.auditor().NodeRefused
	if err != nil {
		return nil, err
	}
	ln, adminLn, err := s.listen(ctx, security)
	if err != nil {
		return nil, err
	}
	inner, err := s.listenInside(ctx, security)
	if err != nil {
		return nil, errors.Join(err, ln.Close(), adminLn.Close())
	}
	follower = replica.NewFollower(s.store,
		replicationv1connect.NewReplicationServiceClient(node.streams, node.primary, connect.WithAcceptCompression("gzip", nil, nil)),
		replica.FollowerConfig{
			Region: c.Region, URL: cmp.Or(c.AdvertiseURL, s.url),
			OnConnect: func() {
				primary.Reset()
				recording.connected()
			},
			OnHeartbeat: func() {
				primary.Heard()
				s.onHeartbeat()
			},
			Redial: node.streams.CloseIdleConnections,
		})
	recorder, err := internalverify.NewRecorder(s.logger, metrics)
	if err != nil {
		return nil, errors.Join(err, ln.Close(), adminLn.Close())
	}
	comparer := verify.New(verify.Options{
		Region: c.Region, PrimaryURL: node.primary, Store: s.store, Directory: s.directory, HTTPClient: node.peers, Streams: node.streams,
		Recorder: recorder,
	})
	var auth *gateway.Auth
	if guard != nil {
		auth = gateway.NewAuth(primary, path, guard, verifier, node.calls, node.primary)
	}
	router, err := s.startRouter(path, metrics)
	if err != nil {
		return nil, errors.Join(err, ln.Close(), adminLn.Close())
	}
	others := &registered{router: router, logger: s.logger, known: known(verifier)}
	foreign := foreign{
		router: router, others: others, registry: gateway.NewServices(primary, path, router, node.calls, node.primary),
		cors: gateway.NewCors(primary, path, node.calls, node.primary), operators: gateway.NewOperators(primary, node.calls, node.primary),
	}
	handler, err := s.handler(metrics, gateway.NewData(primary, path, hub, queries, node.elsewhere, guard), path, guard, verifier, auth, foreign, comparer, &gateway.Status{
		Region: c.Region, URL: cmp.Or(c.AdvertiseURL, s.url), Store: s.store, Directory: s.directory, Primary: primary,
		Health: s.health, Connected: follower.Connected, HTTPClient: node.peers, Path: path,
	})
	if err != nil {
		return nil, errors.Join(err, ln.Close(), adminLn.Close())
	}
	s.checkReady(true)
	s.done.Go(s.awaitReady)
	s.follow(follower)
	s.done.Go(func() { node.run(s.running) })
	if node.node != nil {
		handler = nodeaccess.Handler(handler, false, recording.auditor().NodeDenied)
	}
	if handler, err = s.withREST(handler, verifier, others, metrics); err != nil {
		return nil, errors.Join(err, ln.Close(), adminLn.Close())
	}
	if handler, err = s.withGraphQL(handler, verifier, others, metrics); err != nil {
		return nil, errors.Join(err, ln.Close(), adminLn.Close())
	}
	if handler, err = s.withDemo(handler); err != nil {
		return nil, errors.Join(err, ln.Close(), adminLn.Close())
	}
	if handler, err = s.withBrowsers(handler, metrics); err != nil {
		return nil, errors.Join(err, ln.Close(), adminLn.Close())
	}
	if inner != nil {
		if err := s.serveInside(inner, handler, metrics); err != nil {
			return nil, errors.Join(err, ln.Close(), adminLn.Close())
		}
	}
	if err := s.serve(ln, adminLn, handler, security, metrics); err != nil {
		return nil, err
	}
	s.logger.InfoContext(ctx, "sidecar serves", slog.String("url", s.url), slog.String("admin_url", s.adminURL))
	return s, nil
}

// forgetters keep something of databases in memory.
type forgetters struct {
	cache   *memory.Cache
	engine  *edgesql.Engine
	hub     *watch.Hub
	queries *watchquery.Hub
	path    *readpath.Path
}

// evict has no answer of a database stay in memory.
func (s *Sidecar) evict(database uint32) {
	if f := s.forgetters.Load(); f != nil {
		f.cache.Evict(database)
	}
}

// forget has nothing else of a database stay in memory either.
func (s *Sidecar) forget(database uint32) {
	f := s.forgetters.Load()
	if f == nil {
		return
	}
	f.hub.Forget(database)
	f.queries.Forget(database)
	f.path.ForgetStatements()
	if err := f.engine.Forget(database); err != nil {
		s.logger.Warn("connections not closed", slog.Uint64("database", uint64(database)), slog.Any("error", err))
	}
}

// openWatches opens what serves watches of tables and of queries, which share their places.
func (s *Sidecar) openWatches(engine *edgesql.Engine, metrics *prometheus.Registry) (*watch.Hub, *watchquery.Hub, error) {
	c := &s.config
	places, err := watch.NewPlaces(c.Watchers, metrics)
	if err != nil {
		return nil, nil, err
	}
	hub, err := watch.New(watch.Options{Places: places, Progress: c.WatchProgress, Registerer: metrics})
	if err != nil {
		return nil, nil, err
	}
	s.onClose(func() error {
		hub.Close()
		return nil
	})
	queries, err := watchquery.New(watchquery.Options{
		SQL: engine, Places: places, Interval: c.QueryInterval, MaxResultBytes: c.QueryResultBytes, MaxBytes: c.QueryBytes,
		Registerer: metrics,
	})
	if err != nil {
		return nil, nil, err
	}
	s.onClose(func() error {
		queries.Close()
		return nil
	})
	return hub, queries, nil
}

// openCache opens the memory that reads look into first; nil is none.
func (s *Sidecar) openCache(metrics *prometheus.Registry) (*memory.Cache, error) {
	if s.config.CacheBytes == 0 {
		return nil, nil //nolint:nilnil // no cache keeps nothing
	}
	cache, err := memory.New(memory.Options{
		Bytes: s.config.CacheBytes, DatabasePercent: cmp.Or(s.config.CachePercent, memory.DefaultDatabasePercent),
		Stamps: s.store.Stamps(), Registerer: metrics,
	})
	if err != nil {
		return nil, err
	}
	s.onClose(func() error {
		cache.Close()
		return nil
	})
	return cache, nil
}

// listen opens both listeners.
func (s *Sidecar) listen(ctx context.Context, security server.Security) (ln, adminLn net.Listener, err error) {
	if ln, err = server.Listen(ctx, s.config.Listen, s.config.InsecureListen || security.Nodes != nil || security.Callers != nil); err != nil {
		return nil, nil, err
	}
	admin := s.config.AdminListen
	if admin == "" {
		if admin, err = server.AdminAddr(ln.Addr().String()); err != nil {
			return nil, nil, errors.Join(err, ln.Close())
		}
	}
	if adminLn, err = server.Listen(ctx, admin, true); err != nil {
		return nil, nil, errors.Join(err, ln.Close())
	}
	scheme := "http"
	if security.Plaintext == server.PlaintextNone {
		scheme = "https"
	}
	s.url, s.adminURL = baseURL(scheme, ln.Addr()), baseURL("http", adminLn.Addr())
	return ln, adminLn, nil
}

// newGuard returns what verifies callers and says what they may do; nothing where every caller may do everything.
func (s *Sidecar) newGuard(connected func() bool, auditor access.Auditor, metrics *prometheus.Registry) (*access.Verifier, *access.Guard, error) {
	if s.config.NoAuth {
		return nil, nil, nil
	}
	verifier, err := access.NewVerifier(access.VerifierOptions{
		Source: &callers{store: s.store, connected: connected}, Grace: s.config.Grace, Registerer: metrics,
	})
	if err != nil {
		return nil, nil, err
	}
	guard, err := access.NewGuard(access.GuardOptions{
		Verifier: verifier, Logger: s.logger, Registerer: metrics, Auditor: auditor,
		FreeFailures: max(0, cmp.Or(s.config.FreeFailures, access.DefaultFreeFailures)),
		Listener:     access.Gateway,
	})
	return verifier, guard, err
}

// handler returns what the gateway's listener answers.
func (s *Sidecar) handler(
	metrics *prometheus.Registry, data *gateway.Data, path *readpath.Path, guard *access.Guard, verifier *access.Verifier,
	auth *gateway.Auth, foreign foreign, comparer controlv1connect.VerifyServiceHandler, status controlv1connect.StatusServiceHandler,
) (http.Handler, error) {
	options, err := server.HandlerOptions(s.logger, metrics)
	if err != nil {
		return nil, err
	}
	options = append(options, guard.Interceptor())
	mux, short := http.NewServeMux(), make(map[string]access.ShortHandler)
	dataPath, dataHandler := datav1connect.NewDataServiceHandler(data, options...)
	mux.Handle(dataPath, dataHandler)
	for _, procedure := range []string{datav1connect.DataServiceWatchProcedure, datav1connect.DataServiceWatchQueryProcedure} {
		mux.Handle(procedure, server.EndOnDrain(server.AllowSilence(server.AllowTogether(dataHandler))))
	}
	if err := gateway.MountHot(mux, short, dataHandler, path, s.logger, metrics); err != nil {
		return nil, err
	}
	if err := gateway.MountHotWrites(mux, short, dataHandler, data.Primary, guard, s.logger, metrics); err != nil {
		return nil, err
	}
	mux.Handle(datav1connect.NewCacheServiceHandler(gateway.NewCache(path), options...))
	mux.Handle(controlv1connect.NewStatusServiceHandler(status, options...))
	verifyPath, verifyHandler := controlv1connect.NewVerifyServiceHandler(comparer, options...)
	mux.Handle(verifyPath, server.EndOnDrain(verifyHandler))
	services := []string{
		datav1connect.DataServiceName, datav1connect.CacheServiceName, controlv1connect.StatusServiceName,
		controlv1connect.VerifyServiceName, controlv1connect.ServiceRegistryServiceName, controlv1connect.CorsServiceName,
		controlv1connect.NodeAdminServiceName, authv1connect.AuditServiceName,
	}
	if auth != nil {
		mux.Handle(authv1connect.NewAuthServiceHandler(auth, options...))
		mux.Handle(authv1connect.NewAccountServiceHandler(auth, options...))
		mux.Handle(authv1connect.NewPolicyServiceHandler(auth, options...))
		verifier.Mount(mux)
		services = append(services, authv1connect.AuthServiceName, authv1connect.AccountServiceName, authv1connect.PolicyServiceName)
	}
	mux.Handle(authv1connect.NewAuditServiceHandler(foreign.operators, options...))
	server.MountHealth(mux, s.health, append(services, s.config.MountedServices...), foreign.others, options...)
	if s.config.Mount != nil {
		if err := s.config.Mount(mux, s.innerURL, options...); err != nil {
			return nil, fmt.Errorf("mount services: %w", err)
		}
	}
	mux.Handle(controlv1connect.NewServiceRegistryServiceHandler(foreign.registry, options...))
	mux.Handle(controlv1connect.NewNodeAdminServiceHandler(foreign.operators, options...))
	mux.Handle(controlv1connect.NewCorsServiceHandler(foreign.cors, options...))
	mux.Handle("/", foreign.router)
	all := newMethods(mux, foreign.router)
	var chain *access.Chain
	if guard != nil {
		chain = access.NewChain(access.ChainOptions{
			Guard: guard, Next: all, Short: short, Open: foreign.router.Public, Others: foreign.router, Foreign: foreign.router.Has,
		})
	}
	if err := s.mountHot(mux, short, chain, metrics); err != nil {
		return nil, err
	}
	if chain == nil {
		return all, nil
	}
	return chain, nil
}

// follow runs the follower until Close. It is stopped after the listeners: reads that wait for a bookmark need it.
func (s *Sidecar) follow(follower *replica.Follower) {
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := follower.Run(ctx); err != nil {
			s.fail(err)
		}
	}()
	s.onClose(func() error {
		cancel()
		<-stopped
		return nil
	})
}

// serve serves both listeners, which it owns from now on.
func (s *Sidecar) serve(
	ln, adminLn net.Listener, handler http.Handler, security server.Security, metrics *prometheus.Registry,
) error {
	admin, err := server.Start(adminLn, server.AdminHandler(s.health, metrics), server.Config{
		Name: "admin", Logger: s.logger, Registerer: metrics,
		Security: server.Security{Plaintext: plaintext(s.config.InsecureListen)},
	})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	s.closers = append(s.closers, admin.Close)
	limits := s.config.Limits
	limits.Name, limits.Logger, limits.Registerer, limits.Security = "gateway", s.logger, metrics, security
	limits.Express = true
	front, err := server.Start(ln, handler, limits)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, front.Close)
	if security.Nodes != nil {
		s.done.Go(func() { s.cutRevoked(front) })
	}
	for _, failed := range []<-chan error{admin.Failed(), front.Failed()} {
		s.done.Go(func() {
			select {
			case err := <-failed:
				s.fail(err)
			case <-s.running.Done():
			}
		})
	}
	return nil
}

// fail ends the role: its owner hears of it on Fatal and closes it.
func (s *Sidecar) fail(err error) {
	s.sayNotReady(err.Error(), true)
	s.unwell()
	select {
	case s.fatal <- err:
	default: // the first one is enough
	}
}

// URL is the base URL of the gateway, as this machine reaches it.
func (s *Sidecar) URL() string { return s.url }

// AdminURL is the base URL of the admin listener, as this machine reaches it.
func (s *Sidecar) AdminURL() string { return s.adminURL }

// Fatal receives an error when the role cannot go on. Its owner must Close it and may start it again.
func (s *Sidecar) Fatal() <-chan error { return s.fatal }

func (s *Sidecar) onClose(f func() error) {
	s.closers = append(s.closers, func(context.Context) error { return f() })
}

// Close stops serving, lets requests end until ctx does, stops following and closes the store. No goroutine is left.
func (s *Sidecar) Close(ctx context.Context) error {
	s.sayNotReady("stopping", true)
	s.cancel()
	var errs []error
	for _, closer := range slices.Backward(s.closers) {
		errs = append(errs, closer(ctx))
	}
	s.closers = nil
	s.done.Wait()
	return errors.Join(errs...)
}
