package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/cli/dirlock"
	"github.com/nearside-dev/nearside/internal/cli/render"
	"github.com/nearside-dev/nearside/internal/cli/supervise"
	"github.com/nearside-dev/nearside/internal/config"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/services/business"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/primary"
	"github.com/nearside-dev/nearside/sidecar"
)

// startTimeout is how long the regions may take to be ready.
const startTimeout = time.Minute

func upCommand(app *cli.App) *cobra.Command {
	c, logs := config.DefaultUp(), config.DefaultLog()
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a whole mesh on this machine",
		Long: `Run a whole mesh in this process: a primary, and a sidecar for each region with its
gateway on a port of its own, from --port on. The users and orders of the business
service are on every gateway, and the database "demo" is there to try things on.

The primary listens 1010 ports below the first gateway, and each listener's
metrics are 1000 ports above it. The first Ctrl-C or SIGTERM stops the mesh
cleanly, the second one at once.`,
		Example: "  nearside up --dir .nearside --port 8080 --regions us-east-1,eu-west-1,ap-southeast-1",
		Args:    cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := validate(&c, &logs); err != nil {
				return err
			}
			u := &up{Up: c, app: app, logger: newLogger(app.Stderr, logs)}
			return u.run(cmd.Context())
		}),
	}
	c.Register(config.NewSet(cmd.Flags()))
	logs.Register(config.NewSet(cmd.Flags()))
	return cmd
}

// up is a mesh in this process.
type up struct {
	config.Up

	app    *cli.App
	logger *slog.Logger
}

func (u *up) run(ctx context.Context) (err error) {
	begun := time.Now()
	ctx, stop := untilSignal(ctx)
	defer stop()
	lock, err := dirlock.Acquire(u.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()

	roles := supervise.New(u.logger)
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, roles.Close(closing))
	}()
	switch err := u.start(ctx, roles); {
	case ctx.Err() != nil:
		return nil // told to stop before it was ready
	case err != nil:
		return err
	}
	if err := u.announce(time.Since(begun)); err != nil {
		return err
	}
	<-ctx.Done()
	u.logger.Info("stopping")
	return nil
}

// start starts the roles and returns when all regions are ready. The databases come first, so that they are in the first
// copy that a new region makes.
func (u *up) start(ctx context.Context, roles *supervise.Supervisor) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := roles.Keep(ctx, "primary", u.startPrimary); err != nil {
		return err
	}
	client := httpclient.NewUnary()
	defer client.CloseIdleConnections()
	data := datav1connect.NewDataServiceClient(client, u.primaryURL())
	if err := errors.Join(setupDemo(ctx, data), business.Setup(ctx, data)); err != nil {
		return err
	}
	started := make(chan *sidecar.Sidecar, len(u.Regions))
	for i, region := range u.Regions {
		if err := roles.Keep(ctx, region, u.region(i, started)); err != nil {
			return err
		}
	}
	for _, region := range u.Regions {
		if err := (<-started).WaitReady(ctx); err != nil {
			return fmt.Errorf("region %s: %w", region, err)
		}
	}
	return nil
}

func (u *up) startPrimary(ctx context.Context) (supervise.Role, error) {
	return primary.Start(ctx, primary.Config{
		Dir:            filepath.Join(u.Dir, "primary"),
		Listen:         u.address(config.PrimaryPortOffset),
		AdminListen:    u.address(config.PrimaryPortOffset + config.AdminPortOffset),
		Region:         u.Regions[0],
		InsecureListen: u.InsecureListen,
		MaxOpen:        u.MaxOpen,
		SQLiteMemory:   int64(u.SQLiteMiB) << 20,
		Keep:           changelog.Retention{Age: u.LogKeepAge, Bytes: u.LogKeepBytes()},
		Logger:         u.logger,
	})
}

// region starts the i-th region. Those who wait for the regions to be ready hear of it, if they still listen.
func (u *up) region(i int, started chan<- *sidecar.Sidecar) supervise.StartFunc {
	return func(ctx context.Context) (supervise.Role, error) {
		s, err := sidecar.Start(ctx, sidecar.Config{
			Region:          u.Regions[i],
			PrimaryURL:      u.primaryURL(),
			Listen:          u.address(i),
			AdminListen:     u.address(i + config.AdminPortOffset),
			Dir:             filepath.Join(u.Dir, u.Regions[i]),
			InsecureListen:  u.InsecureListen,
			MaxWatchers:     u.MaxWatchers,
			WatchProgress:   u.WatchProgress,
			CacheBytes:      int64(u.Cache.Bytes),
			CachePercent:    u.Cache.Percent,
			Mount:           business.Mount,
			MountedServices: business.Names,
			Logger:          u.logger,
		})
		if err != nil {
			return nil, err
		}
		select {
		case started <- s:
		default:
		}
		return s, nil
	}
}

// address is where the listener that many ports from the first gateway's is.
func (u *up) address(offset int) string {
	return net.JoinHostPort(u.ListenHost, strconv.Itoa(u.Port+offset))
}

func (u *up) url(offset int) string {
	host := u.ListenHost
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // all addresses is none to connect to
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(u.Port+offset))
}

func (u *up) primaryURL() string         { return u.url(config.PrimaryPortOffset) }
func (u *up) adminURL(offset int) string { return u.url(offset + config.AdminPortOffset) }

// announce shows where everything is.
func (u *up) announce(took time.Duration) error {
	if u.app.JSON {
		return u.app.WriteJSON(u.places())
	}
	rows := make([][]string, 0, len(u.Regions)+1)
	for i, region := range u.Regions {
		rows = append(rows, []string{region, "sidecar", u.url(i), u.adminURL(i)})
	}
	rows = append(rows, []string{
		u.Regions[0], "primary", u.primaryURL(), u.adminURL(config.PrimaryPortOffset),
	})
	out := u.app.Stdout
	if _, err := fmt.Fprintf(out, "Nearside is ready after %.1f s, with its data in %s.\n\n", took.Seconds(), u.Dir); err != nil {
		return err
	}
	if err := render.Table(out, []string{"region", "role", "url", "metrics"}, rows, nil); err != nil {
		return err
	}
	flag := ""
	if u.url(0) != config.DefaultClient().URL {
		flag = " --url " + u.url(0)
	}
	last := u.url(len(u.Regions) - 1)
	_, err := fmt.Fprintf(out, `
Try in another terminal:
  nearside sql%[1]s "INSERT INTO greetings (text) VALUES ('Hallo')"
  nearside sql --url %[2]s "SELECT * FROM greetings"
  nearside status%[1]s

Ctrl-C stops the mesh.
`, flag, last)
	return err
}

// place is a role as programs read it.
type place struct {
	Name     string `json:"name"` // the region's
	URL      string `json:"url"`
	AdminURL string `json:"adminUrl"`
}

// places is where everything is, as programs read it.
type places struct {
	Dir     string  `json:"dir"`
	Primary place   `json:"primary"`
	Regions []place `json:"regions"`
}

func (u *up) places() places {
	p := places{
		Dir:     u.Dir,
		Primary: place{Name: u.Regions[0], URL: u.primaryURL(), AdminURL: u.adminURL(config.PrimaryPortOffset)},
	}
	for i, region := range u.Regions {
		p.Regions = append(p.Regions, place{Name: region, URL: u.url(i), AdminURL: u.adminURL(i)})
	}
	return p
}
