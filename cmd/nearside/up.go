package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/cli/render"
	"github.com/nearside-dev/nearside/internal/cli/supervise"
	"github.com/nearside-dev/nearside/internal/config"
	"github.com/nearside-dev/nearside/internal/dirlock"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/services/auth"
	"github.com/nearside-dev/nearside/services/business"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/primary"
	"github.com/nearside-dev/nearside/sidecar"
	"github.com/nearside-dev/nearside/sidecar/graphql"
)

// startTimeout is how long the regions may take to be ready.
const startTimeout = time.Minute

// joinTTL is how long a region of this process may take to join.
const joinTTL = time.Minute

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

	keeper  *business.Keeper
	primary atomic.Pointer[primary.Primary] // the last one started
}

func (u *up) run(ctx context.Context) (err error) {
	begun := time.Now()
	ctx, stop := untilSignal(ctx)
	defer stop()
	keepPrivate()
	lock, err := dirlock.Acquire(ctx, u.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()

	u.keeper = business.NewKeeper(u.setupBusiness, u.logger)
	var keeping sync.WaitGroup
	keeping.Go(func() { u.keeper.Run(ctx) })
	defer keeping.Wait() // after what stops it, where starting has failed
	defer stop()

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
	token, err := u.adminToken()
	if err != nil {
		return err
	}
	data := datav1connect.NewDataServiceClient(client, u.primaryURL(), cli.WithToken(token))
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

// setupBusiness makes the database of users and orders where it is not there, with the credential that is good now.
func (u *up) setupBusiness(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	token, err := u.adminToken()
	if err != nil {
		return err
	}
	client := httpclient.NewUnary()
	defer client.CloseIdleConnections()
	return business.Setup(ctx, datav1connect.NewDataServiceClient(client, u.primaryURL(), cli.WithToken(token)))
}

// adminToken returns the credential that the primary has written, or "" where none is needed.
func (u *up) adminToken() (string, error) {
	if u.NoAuth {
		return "", nil
	}
	admin, err := cli.ReadAdmin(u.adminFile())
	return admin.Token, err
}

func (u *up) adminFile() string { return filepath.Join(u.Dir, auth.AdminFile) }

func (u *up) startPrimary(ctx context.Context) (supervise.Role, error) {
	p, err := primary.Start(ctx, primary.Config{
		RequireNodes: u.NodesOnly(),
		TLSCert:      u.TLSCert, TLSKey: u.TLSKey, PlaintextToo: true, // for what runs in this process
		Dir:            filepath.Join(u.Dir, "primary"),
		Listen:         u.address(config.PrimaryPortOffset),
		AdminListen:    u.address(config.PrimaryPortOffset + config.AdminPortOffset),
		Region:         u.Regions[0],
		InsecureListen: u.InsecureListen,
		MaxOpen:        u.MaxOpen,
		SQLiteMemory:   int64(u.SQLiteMiB) << 20,
		Keep:           changelog.Retention{Age: u.LogKeepAge, Bytes: u.LogKeepBytes()},
		NoAuth:         u.NoAuth,
		AdminFile:      u.adminFile(),
		AdminURL:       u.url(0),
		TokenLifetime:  u.TokenLifetime,

		AuditKeepAge: u.AuditKeepAge, AuditKeepEntries: u.AuditKeepEntries,
		Logger: u.logger,
	})
	if err != nil {
		return nil, err // not a nil *primary.Primary
	}
	u.primary.Store(p)
	return p, nil
}

// region starts the i-th region. Those who wait for the regions to be ready hear of it, if they still listen.
func (u *up) region(i int, started chan<- *sidecar.Sidecar) supervise.StartFunc {
	return func(ctx context.Context) (supervise.Role, error) {
		c := sidecar.Config{
			Region:          u.Regions[i],
			PrimaryURL:      u.primaryURL(),
			Join:            u.join(u.Regions[i]),
			KeepNode:        true, // or one that is revoked would be back with the next start
			TLSCert:         u.TLSCert,
			TLSKey:          u.TLSKey,
			Listen:          u.address(i),
			AdminListen:     u.address(i + config.AdminPortOffset),
			Dir:             filepath.Join(u.Dir, u.Regions[i]),
			InsecureListen:  u.InsecureListen,
			SQLiteMemory:    int64(u.SQLiteMiB) << 20,
			CacheBytes:      int64(u.Cache.Bytes),
			CachePercent:    u.Cache.Percent,
			NoAuth:          u.NoAuth,
			Grace:           u.Grace(),
			FreeFailures:    u.FreeFailures(),
			ImageBytes:      int64(u.Cache.Images),
			Mount:           u.keeper.Mount,
			MountedServices: business.Names,
			Hot:             business.Hot,
			Logger:          u.logger,
		}
		setWatching(&c, &u.Watching)
		c.GraphQLIntrospection = graphql.Introspection(u.GraphQL.Introspection)
		s, err := sidecar.Start(ctx, c)
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

// join makes a region a node for a token of its own, as one on another machine would be with a file. Where gateways take TLS
// alone, they do between each other too.
func (u *up) join(region string) func(context.Context) (pki.JoinToken, error) {
	if !u.NodesOnly() && u.TLSCert == "" {
		return nil
	}
	return func(context.Context) (pki.JoinToken, error) { return u.primary.Load().JoinToken(region, joinTTL) }
}

func (u *up) urlOf(scheme string, offset int) string {
	host := u.ListenHost
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // all addresses is none to connect to
	}
	return scheme + net.JoinHostPort(host, strconv.Itoa(u.Port+offset))
}

func (u *up) url(offset int) string      { return u.urlOf(scheme(u.Security), offset) }
func (u *up) primaryURL() string         { return u.urlOf("http://", config.PrimaryPortOffset) }
func (u *up) adminURL(offset int) string { return u.urlOf("http://", offset+config.AdminPortOffset) }

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
	dir := ""
	if !u.NoAuth && u.Dir != config.DefaultUp().Dir {
		dir = " --dir " + u.Dir // where the credential is
		flag = dir
	}
	last := u.url(len(u.Regions) - 1)
	_, err := fmt.Fprintf(out, `
Try in another terminal:
  nearside sql%[1]s "INSERT INTO greetings (text) VALUES ('Hallo')"
  nearside sql%[3]s --url %[2]s "SELECT * FROM greetings"
  nearside status%[1]s
`, flag, last, dir)
	if err != nil {
		return err
	}
	show := "\nEvery caller may do everything: --insecure-no-auth.\n"
	if !u.NoAuth {
		show = fmt.Sprintf(`
Commands find the admin's token in %[1]s. Programs show it, or another one:
  export NEARSIDE_TOKEN=$(nearside token%[2]s)
  curl -H "Authorization: Bearer $NEARSIDE_TOKEN" -H 'Content-Type: application/json' -d '{}' \
    %[3]s/nearside.data.v1.DataService/ListDatabases
`, u.adminFile(), dir, u.url(0))
	}
	_, err = fmt.Fprintf(out, "\nUsers and orders, live: %s/demo/\n%s\nCtrl-C stops the mesh.\n", u.url(0), show)
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
