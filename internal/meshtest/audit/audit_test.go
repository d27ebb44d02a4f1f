// Package audit_test is the audit of a whole mesh: what is recorded where, and that it arrives once.
package audit_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/services/auditlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	east, west = "us-east-1", "eu-west-1"
	password   = "a password of ann's own"
	trace      = "0af7651916cd43dd8448eb211c80319c"
)

type world struct {
	*meshtest.Mesh

	t    *testing.T
	bare *http.Client
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{Mesh: meshtest.Start(t, meshtest.Options{Auth: true, NodeCertificates: true}), t: t, bare: httpclient.NewUnary()}
	t.Cleanup(w.bare.CloseIdleConnections)
	w.Create("shop")
	w.Exec("", "shop", "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
	w.Exec(west, "shop", "INSERT INTO items VALUES (1, 'apple')")
	w.WaitSync("shop")
	return w
}

func traced[T any](msg *T) *connect.Request[T] {
	req := connect.NewRequest(msg)
	req.Header().Set("traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	return req
}

func (w *world) login(region, name, password string) (*authv1.Tokens, error) {
	res, err := authv1connect.NewAuthServiceClient(w.bare, w.URL(region)).Authenticate(context.Background(), traced(&authv1.AuthenticateRequest{
		Credential: &authv1.AuthenticateRequest_Password_{Password: &authv1.AuthenticateRequest_Password{Name: name, Password: password}},
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetTokens(), nil
}

// write writes as somebody who may not.
func (w *world) write(region, token string) error {
	_, err := datav1connect.NewDataServiceClient(w.bare, w.URL(region), cli.WithToken(token)).Transact(context.Background(),
		traced(&datav1.TransactRequest{Database: "shop", Operations: []*datav1.Operation{{Operation: &datav1.Operation_Put{Put: &datav1.Put{
			Table: "items", Values: map[string]*datav1.Value{"name": {Kind: &datav1.Value_Text{Text: "pear"}}},
		}}}}}))
	return err
}

func (w *world) admin(region string) authv1connect.AuditServiceClient {
	return authv1connect.NewAuditServiceClient(w.bare, w.URL(region), cli.WithToken(w.AdminToken()))
}

// entries returns what there is of an action, the earliest first.
func (w *world) entries(action string) (all []*authv1.AuditEntry) {
	w.t.Helper()
	res, err := w.admin(west).ListEntries(context.Background(), connect.NewRequest(&authv1.ListEntriesRequest{Action: action, PageSize: 1000}))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range slices.Backward(res.Msg.GetEntries()) {
		all = append(all, e.GetEntry())
	}
	return all
}

// has waits for an entry, and returns it.
func (w *world) has(action string, match func(*authv1.AuditEntry) bool) (found *authv1.AuditEntry) {
	w.t.Helper()
	w.Eventually("an entry of "+action, func(context.Context) error {
		all := w.entries(action)
		for _, e := range all {
			if match(e) {
				found = e
				return nil
			}
		}
		return fmt.Errorf("there are %v", all)
	})
	return found
}

func (w *world) verified() uint64 {
	w.t.Helper()
	res, err := w.admin(east).VerifyEntries(context.Background(), connect.NewRequest(&authv1.VerifyEntriesRequest{}))
	if err != nil || len(res.Msg.GetProblems()) > 0 {
		w.t.Fatalf("%v, %v", res, err)
	}
	return res.Msg.GetEntries()
}

func denied(e *authv1.AuditEntry) bool { return e.GetDecision() == audit.Denied }

func TestWhatIsRecorded(t *testing.T) {
	w := start(t)
	ctx := context.Background()
	accounts := authv1connect.NewAccountServiceClient(w.bare, w.URL(west), cli.WithToken(w.AdminToken()))
	made, err := accounts.CreateAccount(ctx, traced(&authv1.CreateAccountRequest{
		Kind: authv1.AccountKind_ACCOUNT_KIND_USER, Name: "ann", Password: password,
		Grants: []*authv1.Grant{{Role: authv1.Role_ROLE_READER, Database: "shop"}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	ann := "user:" + made.Msg.GetAccount().GetId()
	// A change is there when it is answered, and says where its caller is, which the primary does not see.
	created := w.entries("AccountService/CreateAccount")
	if len(created) != 1 {
		t.Fatalf("%v", created)
	}
	e := created[0]
	if !strings.HasPrefix(e.GetActor(), "service:sa_") || e.GetDecision() != audit.Allowed || e.GetAddress() != "127.0.0.1" ||
		e.GetRegion() != west || e.GetNode() != "primary" || e.GetTraceId() != trace || e.GetCredential() == "" ||
		e.GetTarget() != "kind=ACCOUNT_KIND_USER name=ann role=ROLE_READER database=shop" {
		t.Errorf("%v", e)
	}
	tokens, err := w.login(west, "ann", password)
	if err != nil {
		t.Fatal(err)
	}
	if e := w.has("AuthService/Authenticate", func(e *authv1.AuditEntry) bool { return e.GetDecision() == audit.Allowed }); e.GetActor() != ann ||
		e.GetRegion() != west {
		t.Errorf("%v", e)
	}
	_, _ = w.login(west, "ann", "wrong")
	_, _ = w.login(west, "somebody", "wrong")
	wrong := w.has("AuthService/Authenticate", func(e *authv1.AuditEntry) bool {
		return e.GetDecision() == audit.Refused && e.GetTarget() == "account="+strings.TrimPrefix(ann, "user:")
	})
	if wrong.GetReason() != "UNAUTHENTICATED" || wrong.GetActor() != "" || wrong.GetTraceId() != trace {
		t.Errorf("%v", wrong)
	}
	w.has("AuthService/Authenticate", func(e *authv1.AuditEntry) bool { return e.GetDecision() == audit.Refused && e.GetTarget() == "" })

	// What the region decides comes from the region.
	if err := w.write(west, tokens.GetAccessToken()); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Fatal(err)
	}
	e = w.has("DataService/Transact", denied)
	if e.GetActor() != ann || e.GetRegion() != west || !strings.HasPrefix(e.GetNode(), "n") || e.GetAddress() != "127.0.0.1" ||
		e.GetPolicy() != "default-deny" || e.GetTarget() != "database=shop" || e.GetTraceId() != trace || e.GetCredential() == "" {
		t.Errorf("%v", e)
	}
	w.has("credential", func(e *authv1.AuditEntry) bool {
		return e.GetDecision() == audit.Allowed && e.GetActor() == ann && e.GetRegion() == west
	})
	_ = w.write(west, tokens.GetAccessToken()+"x")
	w.has("credential", func(e *authv1.AuditEntry) bool {
		return e.GetReason() == "TOKEN_INVALID" && e.GetTarget() == "method=DataService/Transact" && e.GetRegion() == west
	})
	for _, path := range []string{"/nobody/knows", "/" + password} {
		res, err := w.bare.Get(w.URL(west) + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	w.has("credential", func(e *authv1.AuditEntry) bool {
		return e.GetReason() == "UNAUTHENTICATED" && e.GetTarget() == "method=other"
	})

	// Nodes.
	if joined := w.entries("NodeService/Join"); len(joined) != 2 || joined[1].GetTarget() != "region="+west && joined[0].GetTarget() != "region="+west {
		t.Errorf("%v", joined)
	}
	if db := w.entries("DataService/CreateDatabase"); len(db) != 1 || db[0].GetTarget() != "name=shop" {
		t.Errorf("%v", db)
	}
	// A sidecar's way in is no caller's.
	nodes := controlv1connect.NewNodeAdminServiceClient(w.bare, w.URL(west), cli.WithToken(w.AdminToken()))
	if list, err := nodes.ListNodes(ctx, connect.NewRequest(&controlv1.ListNodesRequest{})); err != nil || len(list.Msg.GetNodes()) != 2 {
		t.Errorf("nodes at a gateway: %v, %v", list, err)
	}
	w.verified()

	// Nobody else may look.
	_, err = authv1connect.NewAuditServiceClient(w.bare, w.URL(west), cli.WithToken(tokens.GetAccessToken())).
		ListEntries(ctx, connect.NewRequest(&authv1.ListEntriesRequest{}))
	if connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Error(err)
	}
	for _, name := range []string{"_audit", "_auth"} {
		_, err := w.Client(west).Query(ctx, connect.NewRequest(&datav1.QueryRequest{Database: name, Statement: &datav1.Statement{Sql: "SELECT 1"}}))
		if connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Writes are in the log.
	writes, err := w.admin(west).ListWrites(ctx, connect.NewRequest(&authv1.ListWritesRequest{Database: "shop"}))
	if err != nil || len(writes.Msg.GetWrites()) != 2 {
		t.Fatalf("%v, %v", writes, err)
	}
	insert, table := writes.Msg.GetWrites()[0], writes.Msg.GetWrites()[1]
	if !strings.HasPrefix(insert.GetActor(), "service:sa_") || insert.GetTables()[0].GetName() != "items" || insert.GetTables()[0].GetRows() != 1 ||
		!table.GetSchema() || insert.GetVersion() != table.GetVersion()+1 {
		t.Errorf("%v", writes.Msg)
	}
}

// TestForgedOrigin: callers do not say where they are.
func TestForgedOrigin(t *testing.T) {
	w := start(t)
	for _, url := range []string{w.URL(west), w.PrimaryURL()} {
		req := connect.NewRequest(&authv1.CreateAccountRequest{Kind: authv1.AccountKind_ACCOUNT_KIND_SERVICE, Name: "x" + url[len(url)-4:]})
		req.Header().Set("nearside-origin", "192.0.2.1")
		if _, err := authv1connect.NewAccountServiceClient(w.bare, url, cli.WithToken(w.AdminToken())).CreateAccount(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range w.entries("AccountService/CreateAccount") {
		if e.GetAddress() != "127.0.0.1" {
			t.Errorf("%v", e)
		}
	}
}

// TestWritesSayFromWhere: whichever way a write takes, its record has its caller's address and not its gateway's, whatever the caller says.
func TestWritesSayFromWhere(t *testing.T) {
	w := start(t)
	const there = "127.0.0.2"
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(there)}}
	transport := &http.Transport{DialContext: dialer.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	id := int64(1)
	put := func() *datav1.Operation {
		id++
		return &datav1.Operation{Operation: &datav1.Operation_Put{Put: &datav1.Put{Table: "items", Values: map[string]*datav1.Value{
			"id": {Kind: &datav1.Value_Integer{Integer: id}}, "name": {Kind: &datav1.Value_Text{Text: "pear"}},
		}}}}
	}
	insert := func() *datav1.Operation {
		return &datav1.Operation{Operation: &datav1.Operation_Statement{Statement: &datav1.Statement{Sql: "INSERT INTO items (name) VALUES ('plum')"}}}
	}
	for _, url := range []string{w.URL(west), w.PrimaryURL()} {
		for _, operation := range []func() *datav1.Operation{put, insert} { // in a bundle and alone
			for _, json := range []bool{false, true} { // without net/http and with it
				options := []connect.ClientOption{cli.WithToken(w.AdminToken())}
				if json {
					options = append(options, connect.WithProtoJSON())
				}
				req := connect.NewRequest(&datav1.TransactRequest{Database: "shop", Operations: []*datav1.Operation{operation()}})
				req.Header().Set("nearside-origin", "192.0.2.1")
				_, err := datav1connect.NewDataServiceClient(&http.Client{Transport: transport}, url, options...).Transact(t.Context(), req)
				if runtime.GOOS != "linux" && errors.Is(err, syscall.EADDRNOTAVAIL) { // there all of 127.0.0.0/8 is this machine
					t.Skip("this machine has one loopback address")
				}
				if err != nil {
					t.Fatal(err)
				}
				id++ // of the row that has been inserted
			}
		}
	}
	writes, err := w.admin(west).ListWrites(t.Context(), connect.NewRequest(&authv1.ListWritesRequest{Database: "shop"}))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(writes.Msg.GetWrites()); n != 2+8 {
		t.Fatalf("%d writes", n)
	}
	for i, write := range writes.Msg.GetWrites() {
		want := there
		if i >= 8 {
			want = "127.0.0.1" // of the mesh's own client
		}
		if write.GetAddress() != want {
			t.Errorf("%d: %v", i, write)
		}
	}
}

// TestDeliveredOnce: what a region decides without the primary is recorded once, also if the region starts anew meanwhile.
func TestDeliveredOnce(t *testing.T) {
	w := start(t)
	_, err := authv1connect.NewAccountServiceClient(w.bare, w.URL(west), cli.WithToken(w.AdminToken())).CreateAccount(t.Context(),
		connect.NewRequest(&authv1.CreateAccountRequest{Kind: authv1.AccountKind_ACCOUNT_KIND_USER, Name: "ann", Password: password}))
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := w.login(west, "ann", password)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.write(west, tokens.GetAccessToken()); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Fatal(err)
	}
	w.has("DataService/Transact", denied)
	total := func() (n uint64) {
		for _, e := range w.entries("DataService/Transact") {
			n += e.GetCount()
		}
		return n
	}
	if n := total(); n != 1 {
		t.Fatalf("%d before", n)
	}
	w.StopPrimary()
	for range 3 {
		if err := w.write(west, tokens.GetAccessToken()); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Fatal(err)
		}
	}
	w.StopSidecar(west)
	w.StartSidecar(west)
	if err := w.write(west, tokens.GetAccessToken()); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Fatal(err)
	}
	w.StartPrimary()
	w.Eventually("all is delivered", func(context.Context) error {
		if n := total(); n != 5 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	w.StopSidecar(west)
	w.StartSidecar(west)
	w.WaitReady()
	if err := w.write(west, tokens.GetAccessToken()); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Fatal(err)
	}
	w.Eventually("the sixth", func(context.Context) error {
		if n := total(); n != 6 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	w.verified()
}

// TestEveryChangeIsRecorded goes through all methods: one that changes something of the mesh itself, and is in no database's log of
// callers' writes, is recorded, also one that comes later.
func TestEveryChangeIsRecorded(t *testing.T) {
	var missing []string
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				if err := check(s, m); err != nil {
					missing = append(missing, err.Error())
				}
			}
		}
		return true
	})
	if len(missing) > 0 {
		t.Error(strings.Join(missing, "\n"))
	}
}

func check(s protoreflect.ServiceDescriptor, m protoreflect.MethodDescriptor) error {
	name := string(s.FullName())
	if !strings.HasPrefix(name, "nearside.auth.") && !strings.HasPrefix(name, "nearside.control.") {
		return nil
	}
	spec := connect.Spec{Procedure: "/" + name + "/" + string(m.Name())}
	if m.IsStreamingServer() || m.IsStreamingClient() {
		spec.StreamType = connect.StreamTypeServer
	}
	if o, _ := m.Options().(*descriptorpb.MethodOptions); o.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS {
		spec.IdempotencyLevel = connect.IdempotencyNoSideEffects
	}
	reads := slices.ContainsFunc([]string{"Get", "List", "Read", "Verify", "Authorize", "Test", "Explain", "Locate"}, func(prefix string) bool {
		return strings.HasPrefix(string(m.Name()), prefix)
	})
	if recorded := auditlog.Recorded(spec); recorded == reads {
		return errors.New(spec.Procedure + ": recorded: " + fmt.Sprint(recorded))
	}
	return nil
}

// TestWhoJoins: the rows that make and end a node say who did that, as the audit does.
func TestWhoJoins(t *testing.T) {
	w := start(t)
	writes, err := w.admin("us-east-1").ListWrites(context.Background(), connect.NewRequest(&authv1.ListWritesRequest{Database: "_mesh", PageSize: 1000}))
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]bool) // actors of rows of nodes
	for _, write := range writes.Msg.GetWrites() {
		for _, table := range write.GetTables() {
			if table.GetName() == "nodes" && table.GetRows() > 0 {
				rows[write.GetActor()] = true
			}
		}
	}
	entries := w.entries("NodeService/Join")
	if len(entries) != 2 || len(rows) != 2 {
		t.Errorf("%d nodes have joined: %v; rows of %v", len(entries), entries, rows)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.GetActor(), "node:n") || !rows[e.GetActor()] {
			t.Errorf("%s has joined, rows are of %v", e.GetActor(), rows)
		}
	}
}

// TestAuditOfAnOpenMesh: where nobody is asked who they are, what changes the mesh is recorded all the same.
func TestAuditOfAnOpenMesh(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("shop")
	for _, url := range []string{m.PrimaryURL(), m.URL(west)} {
		audits := authv1connect.NewAuditServiceClient(m.HTTP(), url)
		res, err := audits.ListEntries(context.Background(), connect.NewRequest(&authv1.ListEntriesRequest{Action: "DataService/CreateDatabase"}))
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Msg.GetEntries()) != 1 {
			t.Fatalf("%v", res.Msg)
		}
		e := res.Msg.GetEntries()[0].GetEntry()
		if e.GetActor() != "anonymous" || e.GetAddress() != "127.0.0.1" || e.GetTarget() != "name=shop" || e.GetRequestId() == "" || e.GetTraceId() == "" {
			t.Errorf("%v", e)
		}
		verified, err := audits.VerifyEntries(context.Background(), connect.NewRequest(&authv1.VerifyEntriesRequest{}))
		if err != nil || len(verified.Msg.GetProblems()) > 0 || verified.Msg.GetEntries() == 0 {
			t.Errorf("%v, %v", verified, err)
		}
	}
}
