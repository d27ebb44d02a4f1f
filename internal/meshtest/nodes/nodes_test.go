package nodes_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/sidecar"
)

const (
	east = "us-east-1"
	west = "eu-west-1"
)

// logs is what a mesh has logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func admin(m *meshtest.Mesh) controlv1connect.NodeAdminServiceClient {
	return controlv1connect.NewNodeAdminServiceClient(m.HTTP(), m.PrimaryURL())
}

// node returns the latest node of a region.
func node(t *testing.T, m *meshtest.Mesh, region string) *controlv1.NodeInfo {
	t.Helper()
	res, err := admin(m).ListNodes(t.Context(), connect.NewRequest(&controlv1.ListNodesRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range res.Msg.GetNodes() {
		if n.GetRegion() == region {
			return n
		}
	}
	t.Fatalf("no node of %s in %v", region, res.Msg)
	return nil
}

// identity is a region's side of TLS, as it is on the disk.
func identity(t *testing.T, m *meshtest.Mesh, region string) *pki.Node {
	t.Helper()
	c, err := pki.LoadCredentials(filepath.Join(m.RegionDir(region), "node"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return pki.NewNode(c, nil)
}

func secureURL(m *meshtest.Mesh) string {
	return strings.Replace(m.PrimaryURL(), "http://", "https://", 1)
}

// start starts a sidecar of a region with a token.
func start(t *testing.T, region, dir string, token pki.JoinToken) (*sidecar.Sidecar, error) {
	t.Helper()
	s, err := sidecar.Start(t.Context(), sidecar.Config{
		Region: region, Listen: freeport.Addr(t), Dir: dir, Logger: slog.New(slog.DiscardHandler),
		Join: func(context.Context) (pki.JoinToken, error) { return token, nil },
	})
	if err == nil {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := s.Close(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	return s, err
}

func wantReason(t *testing.T, what string, err error, want datav1.ErrorReason) {
	t.Helper()
	if got := rpcerr.ReasonOf(err); got != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// TestTokenIsSpentOnce has two sidecars race for one token, and then tries it again.
func TestTokenIsSpentOnce(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east}, NodeCertificates: true})
	token, err := m.Primary().JoinToken("", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var racers sync.WaitGroup
	var joined atomic.Int32
	for i := range 2 {
		racers.Go(func() {
			s, err := start(t, fmt.Sprintf("racer-%d", i), t.TempDir(), token)
			switch {
			case err == nil:
				joined.Add(1)
				if err := s.WaitReady(t.Context()); err != nil {
					t.Error(err)
				}
			case !errors.Is(err, sidecar.ErrNotJoined):
				t.Error(err)
			}
		})
	}
	racers.Wait()
	if joined.Load() != 1 {
		t.Errorf("%d sidecars joined for one token", joined.Load())
	}
	if _, err := start(t, "late", t.TempDir(), token); !errors.Is(err, sidecar.ErrNotJoined) {
		t.Errorf("a spent token: %v", err)
	}
	of, err := m.Primary().JoinToken("other", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := start(t, "late", t.TempDir(), of); !errors.Is(err, sidecar.ErrNotJoined) {
		t.Errorf("another region's token: %v", err)
	}
	foreign := meshtest.Start(t, meshtest.Options{Regions: []string{east}, NodeCertificates: true})
	wrong, err := foreign.Primary().JoinToken("", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	wrong.URL = token.URL
	if _, err := start(t, "late", t.TempDir(), wrong); err == nil {
		t.Error("another mesh's token was taken to this primary")
	}
}

// TestRevokedNode revokes a region that follows and calls.
func TestRevokedNode(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east, west}, NodeCertificates: true})
	m.Create("d")
	m.Exec(west, "d", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
	before := node(t, m, west)
	if before.GetConnections() == 0 || before.GetRevokeTime() != nil {
		t.Errorf("before: %v", before)
	}
	key := identity(t, m, west)
	res, err := admin(m).RevokeNode(t.Context(), connect.NewRequest(&controlv1.RevokeNodeRequest{Node: before.GetNode()}))
	if err != nil {
		t.Fatal(err)
	}
	if res.Msg.GetConnectionsCut() == 0 || res.Msg.GetNode().GetRevokeTime() == nil {
		t.Errorf("revoked: %v", res.Msg)
	}
	m.Eventually("the region is cut off", func(ctx context.Context) error {
		_, err := m.Client(west).Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
			Database: "d", Statement: &datav1.Statement{Sql: "INSERT INTO t DEFAULT VALUES"},
		}))
		if connect.CodeOf(err) != connect.CodeUnavailable {
			return fmt.Errorf("a write of a revoked region: %w", err)
		}
		region, err := meshtest.Status(ctx, m.HTTP(), m.URL(west))
		if err != nil || region.GetConnected() {
			return fmt.Errorf("%v, %w", region, err)
		}
		return nil
	})
	client := httpclient.NewUnaryTLS(key.Client("http/1.1", pki.RolePrimary))
	defer client.CloseIdleConnections()
	request, err := pki.NewRequest(key.Credentials().Key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := controlv1connect.NewNodeServiceClient(client, secureURL(m)).
		Renew(t.Context(), connect.NewRequest(&controlv1.RenewRequest{CertificateRequest: request})); err == nil {
		t.Error("a revoked node has renewed its certificate")
	}
	// It stays so over a restart of both.
	m.StopPrimary()
	m.StartPrimary()
	if _, err := controlv1connect.NewNodeServiceClient(client, secureURL(m)).
		Renew(t.Context(), connect.NewRequest(&controlv1.RenewRequest{CertificateRequest: request})); err == nil {
		t.Error("a restarted primary has forgotten who is revoked")
	}
	// A new token makes the region another node.
	m.StopSidecar(west)
	if err := os.RemoveAll(filepath.Join(m.RegionDir(west), "node")); err != nil {
		t.Fatal(err)
	}
	m.StartSidecar(west)
	m.Exec(west, "d", "INSERT INTO t DEFAULT VALUES")
	m.WaitSync("d")
	if after := node(t, m, west); after.GetNode() == before.GetNode() {
		t.Error("the region is the node that was revoked")
	}
	_, err = admin(m).RevokeNode(t.Context(), connect.NewRequest(&controlv1.RevokeNodeRequest{Node: "n0"}))
	wantReason(t, "an unknown node", err, datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND)
}

// TestActingAsOthers has a node do what is not its own, and a caller what is nodes'.
func TestActingAsOthers(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east, west}, NodeCertificates: true})
	plain := httpclient.NewStreaming()
	defer plain.CloseIdleConnections()
	secure := httpclient.NewStreamingTLS(identity(t, m, west).Client("h2", pki.RolePrimary))
	defer secure.CloseIdleConnections()
	hello := func(c replicationv1connect.ReplicationServiceClient, region string) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream := c.Subscribe(ctx)
		defer func() { _ = errors.Join(stream.CloseRequest(), stream.CloseResponse()) }()
		err := stream.Send(&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Hello{
			Hello: &replicationv1.Hello{Region: region, ProtocolVersion: 1},
		}})
		if err == nil {
			_, err = stream.Receive()
		} else if _, received := stream.Receive(); received != nil {
			err = received // it says why it could not be sent
		}
		return err
	}
	ofNode := replicationv1connect.NewReplicationServiceClient(secure, secureURL(m))
	wantReason(t, "another region", hello(ofNode, east), datav1.ErrorReason_ERROR_REASON_NODE_ONLY)
	if err := hello(ofNode, west); err != nil {
		t.Errorf("its own region: %v", err)
	}
	wantReason(t, "a caller", hello(replicationv1connect.NewReplicationServiceClient(plain, m.PrimaryURL()), west),
		datav1.ErrorReason_ERROR_REASON_NODE_ONLY)
	_, err := controlv1connect.NewNodeServiceClient(m.HTTP(), m.PrimaryURL()).
		Join(t.Context(), connect.NewRequest(&controlv1.JoinRequest{Secret: pki.NewSecret(), Region: west}))
	wantReason(t, "joining without TLS", err, datav1.ErrorReason_ERROR_REASON_NODE_ONLY)
	_, err = controlv1connect.NewNodeAdminServiceClient(secure, secureURL(m)).
		CreateJoinToken(t.Context(), connect.NewRequest(&controlv1.CreateJoinTokenRequest{}))
	wantReason(t, "a node that makes tokens", err, datav1.ErrorReason_ERROR_REASON_NODE_ONLY)
	_, err = controlv1connect.NewNodeAdminServiceClient(secure, secureURL(m)).
		RevokeNode(t.Context(), connect.NewRequest(&controlv1.RevokeNodeRequest{Node: node(t, m, east).GetNode()}))
	wantReason(t, "a node that revokes another", err, datav1.ErrorReason_ERROR_REASON_NODE_ONLY)
	// A sidecar is not taken for the primary.
	gateway := httpclient.NewUnaryTLS(identity(t, m, west).Client("http/1.1", pki.RolePrimary))
	defer gateway.CloseIdleConnections()
	if err := meshtest.Ready(t.Context(), gateway, strings.Replace(m.URL(east), "http://", "https://", 1)); !errors.Is(err, pki.ErrCertificate) {
		t.Errorf("a gateway in the primary's place: %v", err)
	}
}

// TestRenewalUnderLoad renews a region's certificate again and again while it writes, and loses nothing.
func TestRenewalUnderLoad(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east, west}, NodeCertificates: true})
	m.Create("d")
	m.Exec("", "d", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
	m.WaitSync("d")
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var written atomic.Int64
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				_, err := m.Client(west).Execute(t.Context(), connect.NewRequest(&datav1.ExecuteRequest{
					Database: "d", Statement: &datav1.Statement{Sql: "INSERT INTO t DEFAULT VALUES"},
				}))
				if err != nil {
					t.Error(err)
					return
				}
				written.Add(1)
			}
		})
	}
	serials := make(map[string]bool)
	for range 20 {
		if err := m.Sidecar(west).RenewCertificate(t.Context()); err != nil {
			t.Error(err)
		}
		serials[identity(t, m, west).Self().Serial] = true
	}
	cancel()
	load.Wait()
	m.WaitSync("d")
	if n := m.CompareAll("d"); int64(n) != written.Load() || len(serials) != 20 {
		t.Errorf("%d rows of %d writes, %d certificates", n, written.Load(), len(serials))
	}
	region, err := meshtest.Status(t.Context(), m.HTTP(), m.URL(west))
	if err != nil || !region.GetConnected() {
		t.Errorf("%v, %v", region, err)
	}
}

var private = regexp.MustCompile(`(?s)-----BEGIN PRIVATE KEY-----\n(.*?)-----END`)

// TestSecretsStayInTheirFiles looks for keys and secrets in the logs, and at who may read the files that have them.
func TestSecretsStayInTheirFiles(t *testing.T) {
	var out logs
	m := meshtest.Start(t, meshtest.Options{
		Regions: []string{east, west}, NodeCertificates: true, Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	token, err := m.Primary().JoinToken("", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := start(t, "third", t.TempDir(), token); err != nil {
		t.Fatal(err)
	}
	if _, err := start(t, "fourth", t.TempDir(), token); err == nil || strings.Contains(err.Error(), token.Secret) {
		t.Errorf("refused with %v", err)
	}
	secrets := []string{token.Secret}
	file, err := pki.ReadJoinToken(filepath.Join(m.PrimaryDir(), "join.token"))
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, file.Secret)
	err = filepath.WalkDir(m.Dir(), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := filepath.Base(path)
		if !strings.HasSuffix(name, ".pem") && !strings.HasSuffix(name, ".key") && name != "join.token" && name != "tokens.json" {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, found := range private.FindAllSubmatch(text, -1) {
			secrets = append(secrets, strings.SplitN(string(found[1]), "\n", 2)[0])
		}
		if name == "tokens.json" && bytes.Contains(text, []byte(token.Secret)) {
			t.Error("the primary keeps a token's secret")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(secrets) < 5 {
		t.Errorf("only %d secrets were found", len(secrets))
	}
	for _, s := range secrets {
		if strings.Contains(out.String(), s) {
			t.Errorf("a secret is in the logs")
		}
	}
	if !strings.Contains(out.String(), "node joined") {
		t.Error("there are no logs")
	}
}
