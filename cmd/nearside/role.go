package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/cli/supervise"
	"github.com/nearside-dev/nearside/internal/config"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/telemetry"
	"github.com/nearside-dev/nearside/services/business"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/primary"
	"github.com/nearside-dev/nearside/sidecar"
	"github.com/nearside-dev/nearside/sidecar/graphql"
	"github.com/nearside-dev/nearside/sidecar/watch"
)

// closeTimeout is how long requests may take to end when the process is told to stop.
const closeTimeout = 10 * time.Second

func primaryCommand(app *cli.App) *cobra.Command {
	c, logs, limits := config.DefaultPrimary(), config.DefaultLog(), config.DefaultLimits()
	cmd := &cobra.Command{
		Use:     "primary",
		Short:   "Run a primary",
		Long:    "Run a primary: the one place that writes, and the log that all regions follow.",
		Example: "  nearside primary --listen 127.0.0.1:7070 --dir /var/lib/nearside/primary",
		Args:    cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := validate(&c, &logs, &limits); err != nil {
				return err
			}
			admin, err := config.Shift(c.Listen, config.AdminPortOffset)
			if err != nil {
				return cli.Usage(err)
			}
			return runRole(cmd.Context(), app, scheme(c.Security)+c.Listen, admin, func(ctx context.Context) (supervise.Role, error) {
				return primary.Start(ctx, primary.Config{
					Dir: c.Dir, Listen: c.Listen, AdminListen: admin, Region: c.Region, InsecureListen: c.InsecureListen,
					RequireNodes: c.NodesOnly(), TLSCert: c.TLSCert, TLSKey: c.TLSKey,
					Keep:    changelog.Retention{Age: c.LogKeepAge, Bytes: c.LogKeepBytes()},
					MaxOpen: c.MaxOpen, SQLiteMemory: int64(c.SQLiteMiB) << 20, Logger: newLogger(app.Stderr, logs),
					Limits: serverLimits(limits), NoAuth: c.NoAuth, TokenLifetime: c.TokenLifetime,
					AuditKeepAge: c.AuditKeepAge, AuditKeepEntries: c.AuditKeepEntries,
				})
			})
		}),
	}
	c.Register(config.NewSet(cmd.Flags()))
	logs.Register(config.NewSet(cmd.Flags()))
	limits.Register(config.NewSet(cmd.Flags()))
	return cmd
}

// scheme is how callers reach a listener.
func scheme(c config.Security) string {
	if c.TLSCert != "" {
		return "https://"
	}
	return "http://"
}

// serverLimits returns a listener's limits.
func serverLimits(c config.Limits) server.Config {
	return server.Config{
		MaxConnections: c.Connections, MaxConnectionsPerClient: c.ConnectionsPerClient, MaxRequestsPerClient: c.RequestsPerClient,
		MaxAnswerBytes: int64(c.AnswerBytes),
	}
}

func sidecarCommand(app *cli.App) *cobra.Command {
	c, logs, limits := config.DefaultSidecar(), config.DefaultLog(), config.DefaultLimits()
	cmd := &cobra.Command{
		Use:     "sidecar",
		Short:   "Run a region's sidecar",
		Long:    "Run a region's sidecar: its gateway and its replica of the data.",
		Example: "  nearside sidecar --region eu-west-1 --join join.token --listen 127.0.0.1:8081 --dir /var/lib/nearside/eu",
		Args:    cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := validate(&c, &logs, &limits); err != nil {
				return err
			}
			admin, err := config.Shift(c.Listen, config.AdminPortOffset)
			if err != nil {
				return cli.Usage(err)
			}
			var join func(context.Context) (pki.JoinToken, error)
			if c.Join != "" {
				join = func(context.Context) (pki.JoinToken, error) { return pki.ReadJoinToken(c.Join) }
			}
			return runRole(cmd.Context(), app, scheme(c.Security)+c.Listen, admin, func(ctx context.Context) (supervise.Role, error) {
				role := sidecar.Config{
					Region: c.Region, PrimaryURL: c.PrimaryURL(), Listen: c.Listen, AdminListen: admin, Dir: c.Folder(),
					Join: join, TLSCert: c.TLSCert, TLSKey: c.TLSKey,
					InsecureListen: c.InsecureListen, AdvertiseURL: c.AdvertiseURL,
					CacheBytes: int64(c.Cache.Bytes), CachePercent: c.Cache.Percent, ImageBytes: int64(c.Cache.Images), Logger: newLogger(app.Stderr, logs),
					Limits: serverLimits(limits), MaxCalls: c.MaxCalls, MaxServiceCalls: c.MaxServices,
					SQLiteMemory: int64(c.SQLiteMiB) << 20, NoAuth: c.NoAuth, Grace: c.Grace(), FreeFailures: c.FreeFailures(),
				}
				setWatching(&role, &c.Watching)
				role.GraphQLIntrospection = graphql.Introspection(c.GraphQL.Introspection)
				if c.Business {
					role.Mount, role.MountedServices, role.Hot = business.Mount, business.Names, business.Hot
				}
				return sidecar.Start(ctx, role)
			})
		}),
	}
	c.Register(config.NewSet(cmd.Flags()))
	logs.Register(config.NewSet(cmd.Flags()))
	limits.Register(config.NewSet(cmd.Flags()))
	return cmd
}

// setWatching gives a sidecar its settings of watches.
func setWatching(to *sidecar.Config, c *config.Watching) {
	to.Watchers = watch.Limits{Total: c.MaxWatchers, PerDatabase: c.MaxPerDatabase, PerClient: c.MaxPerClient}
	to.WatchProgress = c.WatchProgress
	to.QueryInterval, to.QueryResultBytes, to.QueryBytes = c.QueryInterval, c.QueryResultBytes, c.QueryBytes
}

// validate checks a command's settings; what is wrong with them is wrong use.
func validate(parts ...interface{ Validate() error }) error {
	var errs []error
	for _, part := range parts {
		errs = append(errs, part.Validate())
	}
	return cli.Usage(errors.Join(errs...))
}

// runRole runs one role until a signal or its own end.
func runRole(ctx context.Context, app *cli.App, url, admin string, start supervise.StartFunc) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	keepPrivate()
	role, err := start(ctx)
	if err != nil {
		return err
	}
	if err := announceRole(app, url, "http://"+admin); err != nil {
		return err
	}
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-role.Fatal():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(failed, supervise.End(closing, role))
}

// keepPrivate makes the files of the roles their owner's alone: there are keys and password hashes among them.
func keepPrivate() { syscall.Umask(0o077) }

func announceRole(app *cli.App, url, adminURL string) error {
	if app.JSON {
		return app.WriteJSON(map[string]string{"url": url, "adminUrl": adminURL})
	}
	_, err := fmt.Fprintf(app.Stdout, "listening on %s, admin on %s\n", url, adminURL)
	return err
}

// untilSignal returns a context that ends with the first SIGINT or SIGTERM. The second one ends the process at once.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// newLogger returns the logger that the settings describe.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	return telemetry.NewLogger(w, c.SlogLevel(), c.Format == "json")
}
