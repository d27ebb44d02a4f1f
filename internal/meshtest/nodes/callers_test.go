package nodes_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
	"github.com/nearside-dev/nearside/internal/meshtest/testcert"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/sidecar"
)

// TestNodesAndCallers has callers with credentials in a mesh of nodes with certificates: neither stands for the other.
func TestNodesAndCallers(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east, west}, NodeCertificates: true, Auth: true})
	m.Create("d")
	m.Exec(west, "d", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
	m.Exec(west, "d", "INSERT INTO t VALUES (1), (2)")
	m.WaitSync("d")
	if n := m.CompareAll("d"); n == 0 {
		t.Error("no rows were compared")
	}

	bare := httpclient.NewUnary()
	defer bare.CloseIdleConnections()
	execute := func(client connect.HTTPClient, url string) error {
		_, err := datav1connect.NewDataServiceClient(client, url).
			Execute(t.Context(), connect.NewRequest(&datav1.ExecuteRequest{Database: "d", Statement: &datav1.Statement{Sql: "DELETE FROM t"}}))
		return err
	}
	for _, url := range []string{m.URL(west), m.PrimaryURL()} {
		if err := execute(bare, url); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("a caller without credentials at %s: %v", url, err)
		}
	}
	// A node's certificate says whose connection it is, not whose call.
	node := httpclient.NewUnaryTLS(identity(t, m, west).Client("http/1.1", pki.RolePrimary))
	defer node.CloseIdleConnections()
	if err := execute(node, secureURL(m)); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("a node without a caller's credentials: %v", err)
	}
	// And the admin is no node.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	plain := httpclient.NewStreaming()
	defer plain.CloseIdleConnections()
	stream := replicationv1connect.NewReplicationServiceClient(plain, m.PrimaryURL()).Subscribe(ctx)
	stream.RequestHeader().Set("Authorization", "Bearer "+m.AdminToken())
	err := stream.Send(&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Hello{
		Hello: &replicationv1.Hello{Region: west, ProtocolVersion: 1},
	}})
	if _, received := stream.Receive(); received != nil {
		err = received // it says why it could not be sent
	}
	_ = errors.Join(stream.CloseRequest(), stream.CloseResponse())
	wantReason(t, "the admin in a node's place", err, datav1.ErrorReason_ERROR_REASON_NODE_ONLY)
	_, err = controlv1connect.NewNodeAdminServiceClient(bare, m.PrimaryURL()).
		CreateJoinToken(t.Context(), connect.NewRequest(&controlv1.CreateJoinTokenRequest{}))
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("a join token for nobody: %v", err)
	}
	if res := m.Exec(west, "d", "SELECT count(*) FROM t"); res.GetResult().GetRows()[0].GetValues()[0].GetInteger() != 2 {
		t.Errorf("somebody got in: %v", res)
	}
}

// TestSidecarWithCallersTLS has a sidecar that is no node take callers over TLS alone.
func TestSidecarWithCallersTLS(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east}})
	cert, key := testcert.Write(t, t.TempDir())
	s, err := sidecar.Start(t.Context(), sidecar.Config{
		Region: west, PrimaryURL: m.PrimaryURL(), Listen: freeport.Addr(t), Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
		TLSCert: cert, TLSKey: key, NoAuth: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := s.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	secure := httpclient.NewUnaryTLS(testcert.Trusting(t, cert))
	defer secure.CloseIdleConnections()
	if err := meshtest.Ready(t.Context(), secure, s.URL()); err != nil {
		t.Errorf("over TLS: %v", err)
	}
	url := "http://" + strings.TrimPrefix(s.URL(), "https://") + "/healthz"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := m.HTTP().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "https://") {
		t.Errorf("plaintext: %s %q, %v", res.Status, text, err)
	}
}
