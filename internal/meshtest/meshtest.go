// Package meshtest starts whole meshes for tests: a primary and its regions in one process, talking over real loopback
// listeners, and the same as processes of their own that can be killed.
package meshtest

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/services/primary"
	"github.com/nearside-dev/nearside/sidecar"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
)

// Options says what mesh to start.
type Options struct {
	Regions []string // default us-east-1 and eu-west-1; the first is the primary's
	// Mount is called for each gateway, for services that run beside the data.
	Mount func(mux *http.ServeMux, gatewayURL string, options ...connect.HandlerOption) error
	// MountedServices are their full names.
	MountedServices []string
	// Hot returns those of their methods that may be answered at once, as sidecar.Config has it. Default: none.
	Hot func(get hotrpc.Method) map[string]hotrpc.Method
	// Through returns the address, host:port, at which a region finds the primary, given the one that it listens on: of a proxy
	// between them, say. It is called at each start of a region. Default: the primary's own.
	Through func(region, primaryAddr string) string
	// Auth turns authentication on: clients have to show AdminToken, or what they were given. Default: every caller may do
	// everything.
	Auth bool
	// NodeCertificates has the regions be nodes with certificates, and the primary refuse others. Default: nodes talk without TLS.
	NodeCertificates bool
	// Primary may change what the primary is started with, at each of its starts. Default: nothing.
	Primary func(*primary.Config)
	// Sidecar may change what a region is started with, at each of its starts. Default: nothing.
	Sidecar func(*sidecar.Config)
	// CacheBytes is what each region keeps answers in; default 8 MiB, negative for none.
	CacheBytes int64
	// Logger defaults to none.
	Logger *slog.Logger
}

// Mesh is a running mesh. It is closed with its test.
type Mesh struct {
	tb      testing.TB
	options Options
	dir     string
	http    *http.Client

	primary     *primary.Primary
	primaryAddr string
	sidecars    map[string]*sidecar.Sidecar
	urls        map[string]string
}

// Start starts a mesh in a folder of the test's own and returns when all of it is ready.
func Start(tb testing.TB, o Options) *Mesh {
	tb.Helper()
	if len(o.Regions) == 0 {
		o.Regions = []string{"us-east-1", "eu-west-1"}
	}
	o.CacheBytes = max(0, cmp.Or(o.CacheBytes, 8<<20))
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Mesh{
		tb: tb, options: o, dir: tb.TempDir(), http: httpclient.NewUnary(), primaryAddr: freeport.Addr(tb),
		sidecars: make(map[string]*sidecar.Sidecar), urls: make(map[string]string),
	}
	tb.Cleanup(m.close)
	if o.Auth {
		m.http.Transport = &bearer{mesh: m, next: m.http.Transport}
	}
	m.StartPrimary()
	for _, region := range o.Regions {
		m.StartSidecar(region)
	}
	m.WaitReady()
	return m
}

func (m *Mesh) close() {
	for region := range m.sidecars {
		m.StopSidecar(region)
	}
	m.StopPrimary()
	m.http.CloseIdleConnections()
}

// StartPrimary starts the primary, at the address that it had before if it ran before.
func (m *Mesh) StartPrimary() {
	m.tb.Helper()
	config := primary.Config{
		Dir: m.PrimaryDir(), Listen: m.primaryAddr, Region: m.options.Regions[0], Logger: m.options.Logger,
		NoAuth: !m.options.Auth, RequireNodes: m.options.NodeCertificates,
	}
	if m.options.Primary != nil {
		m.options.Primary(&config)
	}
	p, err := primary.Start(context.Background(), config)
	if err != nil {
		m.tb.Fatal(err)
	}
	m.primary, m.primaryAddr = p, strings.TrimPrefix(p.URL(), "http://")
}

// stopTime is how long requests in progress have when a role stops: on a machine that is busy too.
const stopTime = 30 * time.Second

// StopPrimary stops the primary; requests in progress have some time.
func (m *Mesh) StopPrimary() {
	m.tb.Helper()
	if m.primary == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := m.primary.Close(ctx); err != nil {
		m.tb.Error(err)
	}
	m.primary = nil
}

// StartSidecar starts a region, at the address that it had before if it ran before.
func (m *Mesh) StartSidecar(region string) {
	m.tb.Helper()
	listen := strings.TrimPrefix(m.urls[region], "http://")
	if listen == "" {
		listen = freeport.Addr(m.tb)
	}
	primaryAddr := m.primaryAddr
	if m.options.Through != nil {
		primaryAddr = m.options.Through(region, primaryAddr)
	}
	var join func(context.Context) (pki.JoinToken, error)
	if m.options.NodeCertificates {
		join = func(context.Context) (pki.JoinToken, error) {
			if m.primary == nil {
				return pki.JoinToken{}, errors.New("the primary does not run: no token to join with")
			}
			return m.primary.JoinToken(region, time.Minute)
		}
	}
	config := sidecar.Config{
		Region: region, PrimaryURL: "http://" + primaryAddr, Listen: listen, Dir: m.RegionDir(region),
		CacheBytes: m.options.CacheBytes, ImageBytes: edgesql.DefaultImageBytes, Mount: m.options.Mount,
		MountedServices: m.options.MountedServices, Hot: m.options.Hot, Logger: m.options.Logger,
		NoAuth: !m.options.Auth, Join: join, KeepNode: true,
	}
	if m.options.Sidecar != nil {
		m.options.Sidecar(&config)
	}
	s, err := sidecar.Start(context.Background(), config)
	if err != nil {
		m.tb.Fatal(err)
	}
	m.sidecars[region], m.urls[region] = s, s.URL()
}

// StopSidecar stops a region.
func (m *Mesh) StopSidecar(region string) {
	m.tb.Helper()
	s := m.sidecars[region]
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		m.tb.Error(err)
	}
	m.sidecars[region] = nil
}

// Primary is the primary, or nil while it is stopped.
func (m *Mesh) Primary() *primary.Primary { return m.primary }

// Sidecar is a region's, or nil while it is stopped.
func (m *Mesh) Sidecar(region string) *sidecar.Sidecar { return m.sidecars[region] }

// PrimaryDir is the folder of the primary's files, unless Options.Primary changes that.
func (m *Mesh) PrimaryDir() string { return filepath.Join(m.dir, "primary") }

// RegionDir is the folder of a region's files.
func (m *Mesh) RegionDir(region string) string { return filepath.Join(m.dir, region) }

// Dir is the folder of all the mesh's files.
func (m *Mesh) Dir() string { return m.dir }

// URL is the base URL of a region's gateway.
func (m *Mesh) URL(region string) string { return m.urls[region] }

// PrimaryURL is the base URL of the primary's listener.
func (m *Mesh) PrimaryURL() string { return "http://" + m.primaryAddr }

// HTTP is a client for any of the mesh's listeners.
func (m *Mesh) HTTP() *http.Client { return m.http }

// AdminToken is the credential of the mesh's first admin, which the mesh's own client shows. Only a mesh with Options.Auth has one.
func (m *Mesh) AdminToken() string {
	m.tb.Helper()
	text, err := os.ReadFile(filepath.Join(m.PrimaryDir(), "admin.json"))
	if err != nil {
		m.tb.Fatal(err)
	}
	var admin struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(text, &admin); err != nil {
		m.tb.Fatal(err)
	}
	return admin.Token
}

// bearer shows the admin's credential where a call shows none.
type bearer struct {
	mesh *Mesh
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Authorization") == "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.mesh.AdminToken())
	}
	return b.next.RoundTrip(r)
}

// CloseIdleConnections is what http.Client looks for.
func (b *bearer) CloseIdleConnections() {
	if c, ok := b.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// Client returns a data client of a region; "" is the primary itself.
func (m *Mesh) Client(region string, options ...connect.ClientOption) datav1connect.DataServiceClient {
	url := m.PrimaryURL()
	if region != "" {
		url = m.urls[region]
	}
	return datav1connect.NewDataServiceClient(m.http, url, options...)
}

// Bookmarks returns the codec of the mesh's bookmarks, to make some that no node would give.
func (m *Mesh) Bookmarks() *bookmark.Codec {
	m.tb.Helper()
	text, err := os.ReadFile(filepath.Join(m.dir, "primary", "mesh.json"))
	if err != nil {
		m.tb.Fatal(err)
	}
	var identity struct {
		BookmarkKey string `json:"bookmark_key"`
	}
	if err := json.Unmarshal(text, &identity); err != nil {
		m.tb.Fatal(err)
	}
	key, err := hex.DecodeString(identity.BookmarkKey)
	if err != nil {
		m.tb.Fatal(err)
	}
	codec, err := bookmark.New(key)
	if err != nil {
		m.tb.Fatal(err)
	}
	return codec
}

// WaitReady waits until every region is ready.
func (m *Mesh) WaitReady() {
	m.tb.Helper()
	for region, url := range m.urls {
		m.Eventually("region "+region+" is ready", func(ctx context.Context) error {
			return Ready(ctx, m.http, url)
		})
	}
}

// Ready asks a listener whether it is ready.
func Ready(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("readyz: %s", res.Status)
	}
	return nil
}

// Eventually calls f until it returns nil, for at most 30 seconds.
func (m *Mesh) Eventually(what string, f func(context.Context) error) {
	m.tb.Helper()
	Eventually(m.tb, what, f)
}

// Eventually calls f until it returns nil, for at most 30 seconds: for what another process or goroutine does in its own
// time and tells nobody.
func Eventually(tb testing.TB, what string, f func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var last error // that is not of our own making
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tb.Fatalf("not in time: %s: %v", what, last)
		}
	}
}

// Create makes a database, and waits until every region knows it.
func (m *Mesh) Create(name string) {
	m.tb.Helper()
	_, err := m.Client("").CreateDatabase(context.Background(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: name}))
	if err != nil {
		m.tb.Fatal(err)
	}
	m.WaitSync(name)
}

// Exec runs a statement in a region ("" is the primary) and returns the answer.
func (m *Mesh) Exec(region, database, sql string) *datav1.ExecuteResponse {
	m.tb.Helper()
	res, err := m.Client(region).Execute(context.Background(), connect.NewRequest(&datav1.ExecuteRequest{
		Database: database, Statement: &datav1.Statement{Sql: sql},
	}))
	if err != nil {
		m.tb.Fatalf("%s: %v", sql, err)
	}
	return res.Msg
}

// WaitSync waits until every running region has the primary's present version of a database.
func (m *Mesh) WaitSync(database string) {
	m.tb.Helper()
	WaitSync(m.tb, m.http, m.PrimaryURL(), m.runningURLs(), database)
}

func (m *Mesh) runningURLs() []string {
	var urls []string
	for region, s := range m.sidecars {
		if s != nil {
			urls = append(urls, m.urls[region])
		}
	}
	return urls
}

// WaitSync waits until the gateways at urls have the version of a database that the primary has now.
func WaitSync(tb testing.TB, client *http.Client, primaryURL string, urls []string, database string) {
	tb.Helper()
	res, err := datav1connect.NewDataServiceClient(client, primaryURL).GetDatabase(context.Background(),
		connect.NewRequest(&datav1.GetDatabaseRequest{Name: database}))
	if err != nil {
		tb.Fatal(err)
	}
	want := res.Msg.GetDatabase().GetVersion()
	for _, url := range urls {
		Eventually(tb, fmt.Sprintf("%s has version %d of %s", url, want, database), func(ctx context.Context) error {
			region, err := Status(ctx, client, url)
			if err != nil {
				return err
			}
			for _, d := range region.GetDatabases() {
				if d.GetName() == database && d.GetVersion() >= want && d.GetProblem() == "" {
					return nil
				}
			}
			return fmt.Errorf("status: %v", region)
		})
	}
}

// Status returns a region's own state.
func Status(ctx context.Context, client *http.Client, url string) (*controlv1.GetStatusResponse_Region, error) {
	res, err := controlv1connect.NewStatusServiceClient(client, url).
		GetStatus(ctx, connect.NewRequest(&controlv1.GetStatusRequest{LocalOnly: true}))
	if err != nil {
		return nil, err
	}
	if len(res.Msg.GetRegions()) != 1 {
		return nil, fmt.Errorf("%d regions", len(res.Msg.GetRegions()))
	}
	return res.Msg.GetRegions()[0], nil
}

// CompareAll compares all rows of all tables of a database in every running region with the primary's, and checks that the
// regions answered from their replicas. It returns the number of rows.
func (m *Mesh) CompareAll(database string) int {
	m.tb.Helper()
	m.WaitSync(database)
	return CompareAll(m.tb, m.http, m.PrimaryURL(), m.runningURLs(), database)
}

// CompareAll is Mesh.CompareAll for gateways at urls.
func CompareAll(tb testing.TB, client *http.Client, primaryURL string, urls []string, database string) int {
	tb.Helper()
	ctx := context.Background()
	atPrimary := datav1connect.NewDataServiceClient(client, primaryURL)
	d, err := atPrimary.GetDatabase(ctx, connect.NewRequest(&datav1.GetDatabaseRequest{Name: database}))
	if err != nil {
		tb.Fatal(err)
	}
	total := 0
	for _, table := range d.Msg.GetDatabase().GetTables() {
		want, _ := listAll(tb, atPrimary, database, table.GetName())
		total += len(want)
		for _, url := range urls {
			got, source := listAll(tb, datav1connect.NewDataServiceClient(client, url), database, table.GetName())
			if source == datav1.Source_SOURCE_PRIMARY {
				tb.Errorf("%s: table %s answered by %v", url, table.GetName(), source)
			}
			if slices.EqualFunc(want, got, func(a, b *datav1.Row) bool { return proto.Equal(a, b) }) {
				continue // a difference is made only where there is one: it takes long
			}
			diff := gocmp.Diff(want, got, protocmp.Transform())
			tb.Errorf("%s: table %s (-primary +region):\n%.2000s", url, table.GetName(), diff)
		}
	}
	return total
}

func listAll(tb testing.TB, client datav1connect.DataServiceClient, database, table string) ([]*datav1.Row, datav1.Source) {
	tb.Helper()
	var rows []*datav1.Row
	req := &datav1.ListRequest{Database: database, Table: table, PageSize: 10_000}
	for {
		res, err := client.List(context.Background(), connect.NewRequest(req))
		if err != nil {
			tb.Fatal(err)
		}
		rows = append(rows, res.Msg.GetRows()...)
		if req.PageToken = res.Msg.GetNextPageToken(); req.PageToken == "" {
			return rows, res.Msg.GetAnswer().GetSource()
		}
	}
}
