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

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/dirlock"
	"github.com/nearside-dev/nearside/internal/httpclient"
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
)

// Sidecar is a running sidecar.
type Sidecar struct {
	config    Config
	logger    *slog.Logger
	url       string
	adminURL  string
	store     *replica.Store
	directory *readpath.Directory
	health    *server.Health

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
		Logger: s.logger, OnFatal: s.fail, Registerer: metrics,
	})
	if err != nil {
		return nil, err
	}
	s.onClose(s.store.Close)
	s.directory = readpath.NewDirectory(s.store, c.Region)

	calls, stream := httpclient.NewUnary(), httpclient.NewStreaming()
	s.onClose(func() error {
		calls.CloseIdleConnections()
		stream.CloseIdleConnections()
		return nil
	})
	var follower *replica.Follower // made below: it and primary tell each other about the connection
	primary, err := forward.New(forward.Options{
		Region: c.Region, URL: c.PrimaryURL, HTTPClient: calls, Registerer: metrics, MaxInFlight: c.MaxCalls,
		Connected: func() bool { return follower.Connected() },
	})
	if err != nil {
		return nil, err
	}
	c.SQLiteMemory = cmp.Or(c.SQLiteMemory, sqlrun.DefaultMaxMemory)
	if err := sqlrun.LimitMemory(c.SQLiteMemory); err != nil {
		return nil, err
	}
	engine, err := edgesql.New(edgesql.Options{MaxMemory: c.SQLiteMemory, Registerer: metrics})
	if err != nil {
		return nil, err
	}
	s.onClose(engine.Close)
	cache, err := s.openCache(metrics)
	if err != nil {
		return nil, err
	}
	path, err := readpath.New(readpath.Options{
		Region: c.Region, Store: s.store, Directory: s.directory, Memory: cache, Primary: primary, SQL: engine,
		Logger: s.logger, Registerer: metrics,
	})
	if err != nil {
		return nil, err
	}
	hub, err := watch.New(watch.Options{MaxWatchers: c.MaxWatchers, Progress: c.WatchProgress, Registerer: metrics})
	if err != nil {
		return nil, err
	}
	s.onClose(func() error {
		hub.Close()
		return nil
	})
	ln, adminLn, err := s.listen(ctx)
	if err != nil {
		return nil, err
	}
	follower = replica.NewFollower(s.store,
		replicationv1connect.NewReplicationServiceClient(stream, c.PrimaryURL, connect.WithAcceptCompression("gzip", nil, nil)),
		replica.FollowerConfig{
			Region: c.Region, URL: cmp.Or(c.AdvertiseURL, s.url), OnConnect: primary.Reset,
			OnHeartbeat: func() {
				primary.Heard()
				s.onHeartbeat()
			},
			Redial: stream.CloseIdleConnections,
		})
	recorder, err := internalverify.NewRecorder(s.logger, metrics)
	if err != nil {
		return nil, errors.Join(err, ln.Close(), adminLn.Close())
	}
	verifier := verify.New(verify.Options{
		Region: c.Region, PrimaryURL: c.PrimaryURL, Store: s.store, Directory: s.directory, HTTPClient: calls, Streams: stream,
		Recorder: recorder,
	})
	handler, err := s.handler(metrics, gateway.NewData(primary, path, hub), path, verifier, &gateway.Status{
		Region: c.Region, URL: cmp.Or(c.AdvertiseURL, s.url), Store: s.store, Directory: s.directory, Primary: primary,
		Health: s.health, Connected: follower.Connected, HTTPClient: calls,
	})
	if err != nil {
		return nil, errors.Join(err, ln.Close(), adminLn.Close())
	}
	s.checkReady(true)
	s.done.Go(s.awaitReady)
	s.follow(follower)
	if err := s.serve(ln, adminLn, handler, metrics); err != nil {
		return nil, err
	}
	s.logger.InfoContext(ctx, "sidecar serves", slog.String("url", s.url), slog.String("admin_url", s.adminURL))
	return s, nil
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
func (s *Sidecar) listen(ctx context.Context) (ln, adminLn net.Listener, err error) {
	if ln, err = server.Listen(ctx, s.config.Listen, s.config.InsecureListen); err != nil {
		return nil, nil, err
	}
	admin := s.config.AdminListen
	if admin == "" {
		if admin, err = server.AdminAddr(ln.Addr().String()); err != nil {
			return nil, nil, errors.Join(err, ln.Close())
		}
	}
	if adminLn, err = server.Listen(ctx, admin, s.config.InsecureListen); err != nil {
		return nil, nil, errors.Join(err, ln.Close())
	}
	s.url, s.adminURL = baseURL(ln.Addr()), baseURL(adminLn.Addr())
	return ln, adminLn, nil
}

// handler returns what the gateway's listener answers.
func (s *Sidecar) handler(
	metrics *prometheus.Registry, data *gateway.Data, path *readpath.Path,
	verifier controlv1connect.VerifyServiceHandler, status controlv1connect.StatusServiceHandler,
) (http.Handler, error) {
	options, err := server.HandlerOptions(s.logger, metrics)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	dataPath, dataHandler := datav1connect.NewDataServiceHandler(data, options...)
	mux.Handle(dataPath, dataHandler)
	mux.Handle(datav1connect.DataServiceWatchProcedure, server.EndOnDrain(server.AllowSilence(dataHandler)))
	if err := gateway.MountHot(mux, dataHandler, path, s.logger, metrics); err != nil {
		return nil, err
	}
	if err := gateway.MountHotWrites(mux, dataHandler, data.Primary, s.logger, metrics); err != nil {
		return nil, err
	}
	mux.Handle(datav1connect.NewCacheServiceHandler(gateway.NewCache(path), options...))
	mux.Handle(controlv1connect.NewStatusServiceHandler(status, options...))
	verifyPath, verifyHandler := controlv1connect.NewVerifyServiceHandler(verifier, options...)
	mux.Handle(verifyPath, server.EndOnDrain(verifyHandler))
	services := []string{
		datav1connect.DataServiceName, datav1connect.CacheServiceName, controlv1connect.StatusServiceName,
		controlv1connect.VerifyServiceName,
	}
	server.MountHealth(mux, s.health, append(services, s.config.MountedServices...), options...)
	if s.config.Mount != nil {
		if err := s.config.Mount(mux, s.url, options...); err != nil {
			return nil, fmt.Errorf("mount services: %w", err)
		}
	}
	return mux, nil
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
func (s *Sidecar) serve(ln, adminLn net.Listener, handler http.Handler, metrics *prometheus.Registry) error {
	admin, err := server.Start(adminLn, server.AdminHandler(s.health, metrics), server.Config{
		Name: "admin", Logger: s.logger, Registerer: metrics,
	})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	s.closers = append(s.closers, admin.Close)
	limits := s.config.Limits
	limits.Name, limits.Logger, limits.Registerer = "gateway", s.logger, metrics
	front, err := server.Start(ln, handler, limits)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, front.Close)
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
