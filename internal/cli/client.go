package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/config"
)

// adminFile is the file in a data folder that says where its mesh is and what opens it.
const adminFile = "admin.json"

// maxAnswerBytes bounds an answer in memory: what a node sends at most, and some room for its encoding.
const maxAnswerBytes = 128 << 20

// target is the mesh that a client command talks to.
type target struct {
	config.Client

	data   datav1connect.DataServiceClient
	cache  datav1connect.CacheServiceClient
	status controlv1connect.StatusServiceClient
	verify controlv1connect.VerifyServiceClient
	nodes  controlv1connect.NodeAdminServiceClient

	services controlv1connect.ServiceRegistryServiceClient
	cors     controlv1connect.CorsServiceClient

	auth     authv1connect.AuthServiceClient
	accounts authv1connect.AccountServiceClient
	audit    authv1connect.AuditServiceClient
	policies authv1connect.PolicyServiceClient
}

// register adds the settings of a client command.
func (t *target) register(cmd *cobra.Command) {
	t.Client = config.DefaultClient()
	t.Register(config.NewSet(cmd.PersistentFlags()))
}

// connect makes the clients from the settings. It does not call the mesh.
func (t *target) connect(cmd *cobra.Command) error {
	if err := t.fromAdminFile(cmd); err != nil {
		return err
	}
	if err := t.Validate(); err != nil {
		return Usage(err)
	}
	transport, err := t.transport()
	if err != nil {
		return err
	}
	client := &http.Client{Transport: transport}
	options := connect.WithClientOptions(
		connect.WithReadMaxBytes(maxAnswerBytes),
		connect.WithInterceptors(&credentials{token: t.Token, timeout: t.Timeout}),
	)
	t.data = datav1connect.NewDataServiceClient(client, t.URL, options)
	t.cache = datav1connect.NewCacheServiceClient(client, t.URL, options)
	t.status = controlv1connect.NewStatusServiceClient(client, t.URL, options)
	t.nodes = controlv1connect.NewNodeAdminServiceClient(client, t.URL, options)
	t.services = controlv1connect.NewServiceRegistryServiceClient(client, t.URL, options)
	t.cors = controlv1connect.NewCorsServiceClient(client, t.URL, options)
	t.verify = controlv1connect.NewVerifyServiceClient(client, t.URL, options)
	t.auth = authv1connect.NewAuthServiceClient(client, t.URL, options)
	t.accounts = authv1connect.NewAccountServiceClient(client, t.URL, options)
	t.audit = authv1connect.NewAuditServiceClient(client, t.URL, options)
	t.policies = authv1connect.NewPolicyServiceClient(client, t.URL, options)
	return nil
}

// transport returns how the mesh is reached.
func (t *target) transport() (http.RoundTripper, error) {
	if t.CA == "" {
		return http.DefaultTransport, nil
	}
	text, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("read --ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, usagef("--ca %s: has no certificate", t.CA)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	return transport, nil
}

// Admin is what an admin.json says.
type Admin struct {
	URL   string `json:"url"`
	Token string `json:"token"`
}

// ReadAdmin reads an admin.json. That there is no such file is not an error: a mesh without security has none.
func ReadAdmin(path string) (admin Admin, err error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return admin, nil
	case err != nil:
		return admin, fmt.Errorf("read credentials: %w", err)
	}
	if json.Unmarshal(text, &admin) != nil { // its error could quote the token
		return admin, fmt.Errorf(`read credentials: %s: want {"url":"…","token":"…"}`, path)
	}
	return admin, nil
}

// defaultDirs are where a mesh that was started in this folder, whole or its primary alone, keeps its credential.
var defaultDirs = []string{".nearside", filepath.Join(".nearside", "primary")}

// fromAdminFile takes from DIR/admin.json what was not given. Without any --dir it is the token of the mesh that was started in
// this folder, if it is on the host that is to be called: it must not go to another one.
func (t *target) fromAdminFile(cmd *cobra.Command) error {
	if t.Dir == "" {
		if t.Token != "" {
			return nil
		}
		for _, dir := range defaultDirs {
			admin, err := ReadAdmin(filepath.Join(dir, adminFile))
			if err == nil && admin.Token != "" && sameHost(admin.URL, t.URL) {
				t.Token = admin.Token
				break
			}
		}
		return nil // a file that nobody named may be whatever it is
	}
	admin, err := ReadAdmin(filepath.Join(t.Dir, adminFile))
	if err != nil {
		return err
	}
	if !cmd.Flags().Changed("url") && admin.URL != "" {
		t.URL = admin.URL
	}
	if !cmd.Flags().Changed("token") {
		t.Token = admin.Token
	}
	return nil
}

// sameHost reports whether two URLs are of one machine.
func sameHost(a, b string) bool {
	x, err := url.Parse(a)
	if err != nil {
		return false
	}
	y, err := url.Parse(b)
	if err != nil {
		return false
	}
	return x.Hostname() == y.Hostname() && x.Hostname() != "" || isLoopback(x.Hostname()) && isLoopback(y.Hostname())
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// WithToken returns the option of a client whose calls show a token; "" shows none.
func WithToken(token string) connect.ClientOption {
	return connect.WithInterceptors(&credentials{token: token})
}

// credentials gives each call its token and its time, which streams have without end.
type credentials struct {
	token   string
	timeout time.Duration
}

func (c *credentials) show(h http.Header) {
	if c.token != "" {
		h.Set("Authorization", "Bearer "+c.token)
	}
}

// WrapUnary implements connect.Interceptor.
func (c *credentials) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		c.show(req.Header())
		if c.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.timeout)
			defer cancel()
		}
		return next(ctx, req)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (c *credentials) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		c.show(conn.RequestHeader())
		return conn
	}
}

// WrapStreamingHandler implements connect.Interceptor. It does nothing.
func (c *credentials) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// database registers the setting that names the database.
func (t *target) database(cmd *cobra.Command) *string {
	name := "demo"
	config.NewSet(cmd.Flags()).String(&name, "db", "the database")
	t.completeDatabases(cmd)
	return &name
}
