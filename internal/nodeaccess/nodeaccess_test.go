package nodeaccess

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/nearside-dev/nearside/gen/nearside/business/v1" // so that all procedures are there
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

var (
	sidecar = &identity.Principal{Kind: identity.Node, ID: "n1", Region: "eu", Roles: []string{RoleSidecar}}
	expired = &identity.Principal{Kind: identity.Node, ID: "n1", Region: "eu", Roles: []string{RoleExpired}}
	primary = &identity.Principal{Kind: identity.Node, ID: "primary", Region: "us", Roles: []string{RolePrimary}}
	nobody  = &identity.Principal{}
	user    = &identity.Principal{Kind: identity.User, ID: "u_1", Roles: []string{"admin", RoleSidecar}}
)

// nodeServices are those whose procedures are all for nodes, but for the ones named here.
var nodeServices = map[protoreflect.FullName][]string{
	"nearside.replication.v1.ReplicationService": nil,
	"nearside.replication.v1.BundleService":      nil,
	"nearside.replication.v1.AuditSpoolService":  nil,
	"nearside.control.v1.NodeService":            {"Join", "LocateToken"}, // who calls these is no node yet
}

// TestProcedures goes through all procedures that there are: a new one of the nodes' services is for nodes, and the table has
// none that there is not.
func TestProcedures(t *testing.T) {
	known := make(map[string]bool)
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			callersToo, ofNodes := nodeServices[service.FullName()]
			for j := range service.Methods().Len() {
				method := string(service.Methods().Get(j).Name())
				procedure := "/" + string(service.FullName()) + "/" + method
				known[procedure] = true
				want := ofNodes && !strings.Contains(strings.Join(callersToo, " "), method) || method == "ReadState"
				if got := NodeOnly(procedure); got != want {
					t.Errorf("%s: for nodes alone: %v", procedure, got)
				}
				if want && (Check(nobody, procedure) == nil || Check(user, procedure) == nil || Check(sidecar, procedure) != nil) {
					t.Errorf("%s: nobody %v, user %v, sidecar %v", procedure, Check(nobody, procedure), Check(user, procedure),
						Check(sidecar, procedure))
				}
				if err := Check(expired, procedure); (err == nil) != (method == "Renew") {
					t.Errorf("%s: with a certificate that has run out: %v", procedure, err)
				}
			}
		}
		return true
	})
	for procedure := range procedures {
		if !known[procedure] {
			t.Errorf("there is no %s", procedure)
		}
	}
	if Check(primary, replicationv1connect.ReplicationServiceSubscribeProcedure) == nil {
		t.Error("a primary follows another")
	}
}

// TestHandler refuses in the words of each protocol; a Connect stream says it in its end.
func TestHandler(t *testing.T) {
	inner := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was called") })
	server := httptest.NewUnstartedServer(Handler(inner, false, nil))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	for name, options := range map[string][]connect.ClientOption{
		"connect": nil, "json": {connect.WithProtoJSON()}, "grpc": {connect.WithGRPC()}, "grpc-web": {connect.WithGRPCWeb()},
	} {
		bundles := replicationv1connect.NewBundleServiceClient(server.Client(), server.URL, options...)
		_, err := bundles.TransactBundle(context.Background(), connect.NewRequest(&replicationv1.TransactBundleRequest{}))
		wantNodeOnly(t, name, err)
		stream, err := replicationv1connect.NewReplicationServiceClient(server.Client(), server.URL, options...).
			Snapshot(context.Background(), connect.NewRequest(&replicationv1.SnapshotRequest{}))
		if err == nil {
			for stream.Receive() {
				t.Errorf("%s: received %v", name, stream.Msg())
			}
			err = stream.Err()
			_ = stream.Close()
		}
		wantNodeOnly(t, name+" stream", err)
	}
}

func wantNodeOnly(t *testing.T, name string, err error) {
	t.Helper()
	e, ok := rpcerr.FromError(err)
	if !ok || e.Reason() != datav1.ErrorReason_ERROR_REASON_NODE_ONLY || connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("%s: %v", name, err)
	}
}

func TestCheckRegion(t *testing.T) {
	if err := CheckRegion(sidecar, "/x", "eu"); err != nil {
		t.Error(err)
	}
	if err := CheckRegion(nobody, "/x", "us"); err != nil {
		t.Error(err)
	}
	wantNodeOnly(t, "another region", rpcerrToConnect(CheckRegion(sidecar, "/x", "us")))
}

func rpcerrToConnect(err error) error {
	e, ok := rpcerr.FromError(err)
	if !ok {
		return err
	}
	wire, _ := rpcerr.ToConnect(e)
	return wire
}
