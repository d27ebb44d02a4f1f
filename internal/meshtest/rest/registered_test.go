package rest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"connectrpc.com/vanguard"
	_ "google.golang.org/genproto/googleapis/api/annotations" // for the rules in books
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/internal/meshtest/fileset"
)

// books is the file of a service that the mesh knows nothing of. Its last method wants a path that is the mesh's own.
const books = `
name: "acme/books/v1/books.proto" package: "acme.books.v1" syntax: "proto3" dependency: "google/api/annotations.proto"
message_type { name: "Book" field { name: "id" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } field { name: "title" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } field { name: "pages" number: 3 type: TYPE_INT64 label: LABEL_OPTIONAL } }
message_type { name: "GetBookRequest" field { name: "id" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "ListBooksRequest" field { name: "page_size" number: 1 type: TYPE_UINT32 label: LABEL_OPTIONAL } field { name: "page_token" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "ListBooksResponse" field { name: "books" number: 1 type: TYPE_MESSAGE type_name: ".acme.books.v1.Book" label: LABEL_REPEATED } field { name: "next_page_token" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "UpdateBookRequest" field { name: "book" number: 1 type: TYPE_MESSAGE type_name: ".acme.books.v1.Book" label: LABEL_OPTIONAL } field { name: "shelf_number" number: 2 type: TYPE_INT64 label: LABEL_OPTIONAL } }
message_type { name: "CreateBookRequest" field { name: "book" number: 1 type: TYPE_MESSAGE type_name: ".acme.books.v1.Book" label: LABEL_OPTIONAL } }
service { name: "BookService"
  method { name: "GetBook" input_type: ".acme.books.v1.GetBookRequest" output_type: ".acme.books.v1.Book" options { idempotency_level: NO_SIDE_EFFECTS [google.api.http] { get: "/library/v1/books/{id}" } } }
  method { name: "ListBooks" input_type: ".acme.books.v1.ListBooksRequest" output_type: ".acme.books.v1.ListBooksResponse" options { idempotency_level: NO_SIDE_EFFECTS [google.api.http] { get: "/library/v1/books" additional_bindings { get: "/v1/books" } additional_bindings { custom { kind: "HEAD" path: "/library/v1/books" } } } } }
  method { name: "CreateBook" input_type: ".acme.books.v1.CreateBookRequest" output_type: ".acme.books.v1.Book" options { [google.api.http] { post: "/library/v1/books" body: "book" } } }
  method { name: "UpdateBook" input_type: ".acme.books.v1.UpdateBookRequest" output_type: ".acme.books.v1.Book" options { [google.api.http] { patch: "/library/v1/books/{book.id}" body: "book" additional_bindings { put: "/library/v1/shelves/{shelf_number}/{book.id}" body: "*" } } } }
  method { name: "Steal" input_type: ".acme.books.v1.GetBookRequest" output_type: ".acme.books.v1.Book" options { [google.api.http] { get: "/v1/users/{id}" additional_bindings { get: "/healthz" } } } }
}`

// library answers the service.
type library struct {
	service protoreflect.ServiceDescriptor

	mu    sync.Mutex
	books []*dynamicpb.Message
}

func newLibrary(t *testing.T) (*library, []byte) {
	t.Helper()
	var file descriptorpb.FileDescriptorProto
	if err := prototext.Unmarshal([]byte(books), &file); err != nil {
		t.Fatal(err)
	}
	d, err := protodesc.NewFile(&file, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return &library{service: d.Services().Get(0)}, fileset.Of(d)
}

func field(m *dynamicpb.Message, name string) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(protoreflect.Name(name))
}

// ServeHTTP implements http.Handler, for Connect with protobuf.
func (l *library) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := l.service.Methods().ByName(protoreflect.Name(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]))
	body, err := io.ReadAll(r.Body)
	if err != nil || method == nil {
		http.NotFound(w, r)
		return
	}
	in, out := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if err := proto.Unmarshal(body, in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch method.Name() {
	case "CreateBook":
		out = proto.CloneOf(in.Get(field(in, "book")).Message().Interface().(*dynamicpb.Message)) //nolint:forcetypeassert // it is one
		out.Set(field(out, "id"), protoreflect.ValueOfString(fmt.Sprintf("b%d", len(l.books))))
		l.books = append(l.books, out)
	case "UpdateBook":
		out = proto.CloneOf(in.Get(field(in, "book")).Message().Interface().(*dynamicpb.Message)) //nolint:forcetypeassert // it is one
	case "ListBooks":
		list := out.Mutable(field(out, "books")).List()
		for _, b := range l.books {
			list.Append(protoreflect.ValueOfMessage(b))
		}
		out.Set(field(out, "next_page_token"), protoreflect.ValueOfString("more"))
	default:
		if odd(w, in.Get(field(in, "id")).String()) {
			return
		}
		for _, b := range l.books {
			if b.Get(field(b, "id")).String() == in.Get(field(in, "id")).String() {
				out = b
			}
		}
		if out.Get(field(out, "id")).String() == "" {
			_ = connect.NewErrorWriter().Write(w, r, connect.NewError(connect.CodeNotFound, fmt.Errorf("no such book: %s", in.Get(field(in, "id")))))
			return
		}
	}
	text, err := proto.Marshal(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/proto")
	_, _ = w.Write(text)
}

// odd answers as services do not, or those that stand before them.
func odd(w http.ResponseWriter, id string) bool {
	switch id {
	case "page":
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte("<html>"))
	case "nothing":
		w.WriteHeader(http.StatusNoContent)
	case "html":
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>"))
	case "cut":
		w.Header().Set("Content-Type", "application/proto")
		w.Header().Set("Content-Length", "5")
		_, _ = w.Write([]byte("\n\x01x")) // which is a message
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	default:
		return false
	}
	return true
}

// TestRegistered has a service of others be reached over REST as its rules say, from when it is registered until it is removed; one
// that speaks Connect, and one that speaks gRPC and nothing else.
func TestRegistered(t *testing.T) {
	t.Run("Connect", func(t *testing.T) { testRegistered(t, controlv1.ServiceProtocol_SERVICE_PROTOCOL_UNSPECIFIED) })
	t.Run("gRPC", func(t *testing.T) { testRegistered(t, controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC) })
}

func testRegistered(t *testing.T, protocol controlv1.ServiceProtocol) {
	m := start(t, true)
	l, descriptors := newLibrary(t)
	var handler http.Handler = l
	if protocol == controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC {
		turned, err := vanguard.NewTranscoder([]*vanguard.Service{vanguard.NewServiceWithSchema(l.service, l,
			vanguard.WithTargetProtocols(vanguard.ProtocolConnect), vanguard.WithTargetCodecs(vanguard.CodecProto),
			vanguard.WithNoTargetCompression(), vanguard.WithMaxGetURLBytes(1))})
		if err != nil {
			t.Fatal(err)
		}
		handler = echo.OnlyGRPC(turned)
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, done := echo.Server(handler), make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln) // ends with Close
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	bare := &http.Client{Transport: &http.Transport{}}
	defer bare.CloseIdleConnections()
	registry := controlv1connect.NewServiceRegistryServiceClient(m.HTTP(), m.URL(west))
	register := func(access controlv1.ServiceAccess) {
		t.Helper()
		_, err := registry.RegisterService(t.Context(), connect.NewRequest(&controlv1.RegisterServiceRequest{
			Descriptors: descriptors, Access: access, Protocol: protocol, Endpoints: []*controlv1.ServiceEndpoint{{Url: "http://" + ln.Addr().String()}},
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	base := m.URL(west)
	all := base + "/library/v1/books"
	call(t, m.HTTP(), "GET", all, "").want(t, "before", http.StatusNotFound)
	register(controlv1.ServiceAccess_SERVICE_ACCESS_AUTHENTICATED)

	call(t, bare, "GET", all, "").problem(t, "nobody", http.StatusUnauthorized, "UNAUTHENTICATED", "")
	created := call(t, m.HTTP(), "POST", all, `{"title":"Dune","pages":"412"}`).want(t, "create", http.StatusCreated)
	if created.header.Get("Location") != "/library/v1/books/b0" || created.field(t, "pages") != "412" {
		t.Errorf("created %v %s", created.header, created.body)
	}
	got := call(t, m.HTTP(), "GET", all+"/b0", "").want(t, "get", http.StatusOK)
	call(t, m.HTTP(), "GET", all+"/b0", "", "If-None-Match: "+got.header.Get("Etag")).want(t, "the same", http.StatusNotModified)
	call(t, m.HTTP(), "GET", all+"/b9", "").problem(t, "unknown book", http.StatusNotFound, "", "")
	for path, id := range map[string]string{"a%2Fb": "a/b", "a%252Fb": "a%2Fb", "100%25": "100%", "urn%3Ab": "urn:b", "%61%20%C3%A9": "a é"} {
		if r := call(t, m.HTTP(), "GET", all+"/"+path, ""); !strings.Contains(r.body, "no such book: "+id+`"`) {
			t.Errorf("%s: %s", path, r.body)
		}
	}
	if protocol == controlv1.ServiceProtocol_SERVICE_PROTOCOL_UNSPECIFIED {
		for id, status := range map[string]int{
			"page": http.StatusServiceUnavailable, "nothing": http.StatusInternalServerError, "html": http.StatusInternalServerError, "cut": http.StatusServiceUnavailable,
		} {
			call(t, m.HTTP(), "GET", all+"/"+id, "").problem(t, "a service that answers "+id, status, "", "")
		}
	}
	call(t, m.HTTP(), "GET", all+"/%FF", "").problem(t, "a path that is no text", http.StatusBadRequest, "", "")
	call(t, m.HTTP(), "GET", all+"?pageToken=%FF", "").problem(t, "a parameter that is no text", http.StatusBadRequest, "FIELD_INVALID", "pageToken")
	call(t, m.HTTP(), "PATCH", all+"/b0", `{"id":"b1","title":"Dune"}`).problem(t, "another id", http.StatusBadRequest, "FIELD_INVALID", "book.id")
	shelf := base + "/library/v1/shelves/3/b0"
	call(t, m.HTTP(), "PUT", shelf, `{"shelf_number":"4"}`).problem(t, "another shelf", http.StatusBadRequest, "FIELD_INVALID", "shelfNumber")
	call(t, m.HTTP(), "PUT", shelf, `{"book":{"\u0069d":"b1"}}`).problem(t, "another id", http.StatusBadRequest, "FIELD_INVALID", "book.id")
	for _, body := range []string{`{"shelfNumber":3,"book":{"id":"b0"}}`, `{"shelfNumber":"0","book":{"id":""}}`, `{"book":null}`, `{}`} {
		if r := call(t, m.HTTP(), "PUT", shelf, body).want(t, body, http.StatusOK); r.field(t, "id") != "b0" {
			t.Errorf("%s: %s", body, r.body)
		}
	}
	list := call(t, m.HTTP(), "GET", base+"/v1/books?fields=books.title&page_size=1", "").want(t, "list", http.StatusOK)
	if list.body != `{"books":[{"title":"Dune"}]}` || !strings.Contains(list.header.Get("Link"), "/v1/books?") {
		t.Errorf("list %v %s", list.header, list.body)
	}
	call(t, m.HTTP(), "DELETE", all+"/b0", "").problem(t, "a verb that it has not", http.StatusMethodNotAllowed, "", "")
	call(t, m.HTTP(), "POST", all, `{"titel":"Dune"}`).problem(t, "unknown field", http.StatusBadRequest, "FIELD_INVALID", "titel")
	call(t, m.HTTP(), "GET", all+"?nope=1", "").problem(t, "unknown parameter", http.StatusBadRequest, "FIELD_INVALID", "nope")
	// What is the mesh's own stays so.
	call(t, m.HTTP(), "GET", base+"/v1/users/b0", "").problem(t, "a user", http.StatusNotFound, "RESOURCE_NOT_FOUND", "")
	call(t, bare, "GET", base+"/healthz", "").want(t, "health", http.StatusOK)

	document := func(client *http.Client) bool {
		t.Helper()
		var doc struct{ Paths map[string]any }
		if err := json.Unmarshal([]byte(call(t, client, "GET", base+"/openapi.json", "").want(t, "document", http.StatusOK).body), &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Paths["/v1/users"] == nil {
			t.Error("the document lost the mesh's own")
		}
		return doc.Paths["/library/v1/books/{id}"] != nil
	}
	if !document(m.HTTP()) || document(bare) {
		t.Error("the document of a service is for those who may call it")
	}
	register(controlv1.ServiceAccess_SERVICE_ACCESS_PUBLIC)
	if !document(bare) {
		t.Error("the document of a public service is for all")
	}
	call(t, bare, "GET", all+"/b0", "").want(t, "a public one", http.StatusOK)

	if _, err := registry.RemoveService(t.Context(), connect.NewRequest(&controlv1.RemoveServiceRequest{Name: "acme.books.v1.BookService"})); err != nil {
		t.Fatal(err)
	}
	m.Eventually("the service is gone", func(context.Context) error {
		if r := call(t, m.HTTP(), "GET", all, ""); r.status != http.StatusNotFound {
			return fmt.Errorf("%d %s", r.status, r.body)
		}
		return nil
	})
}

// TestAccounts keeps accounts over REST, as an admin and not as anybody else.
func TestAccounts(t *testing.T) {
	m := start(t, true)
	base := m.URL(west) + "/v1"
	c := m.HTTP()
	made := call(t, c, "POST", base+"/accounts", `{"kind":"ACCOUNT_KIND_SERVICE","name":"robot"}`).want(t, "create", http.StatusCreated)
	id := made.field(t, "id")
	call(t, c, "POST", base+"/accounts", `{"kind":"ACCOUNT_KIND_SERVICE","name":"robot"}`).problem(t, "taken", http.StatusConflict, "ALREADY_EXISTS", "")
	if got := call(t, c, "GET", base+"/accounts?fields=accounts.name", "").want(t, "list", http.StatusOK).body; !strings.Contains(got, `"robot"`) {
		t.Errorf("list %s", got)
	}
	call(t, c, "POST", base+"/accounts/robot:grantRole", `{"grant":{"role":"ROLE_READER","database":"business"}}`).want(t, "grant", http.StatusOK)
	key := call(t, c, "POST", base+"/accounts/"+id+"/apiKeys", `{}`).want(t, "key", http.StatusCreated)
	secret := key.field(t, "secret")
	var made2 struct{ Key struct{ ID string } }
	if err := json.Unmarshal([]byte(key.body), &made2); err != nil || made2.Key.ID == "" {
		t.Fatalf("%v %s", err, key.body)
	}
	bare := &http.Client{Transport: &http.Transport{}}
	defer bare.CloseIdleConnections()
	robot := "Authorization: Bearer " + secret
	call(t, bare, "GET", base+"/users", "", robot).want(t, "the robot reads", http.StatusOK)
	call(t, bare, "GET", base+"/accounts", "", robot).problem(t, "the robot is no admin", http.StatusForbidden, "PERMISSION_DENIED", "")
	call(t, c, "PUT", base+"/rateLimits", `{"scope":"RATE_LIMIT_SCOPE_IDENTITY","subject":"`+id+`","perSecond":0.001,"burst":1}`).want(t, "limit", http.StatusOK)
	if got := call(t, c, "GET", base+"/rateLimits", "").want(t, "limits", http.StatusOK).body; !strings.Contains(got, id) {
		t.Errorf("limits %s", got)
	}
	call(t, c, "DELETE", base+"/rateLimits?scope=RATE_LIMIT_SCOPE_IDENTITY&subject="+id, "").want(t, "no limit", http.StatusNoContent)
	if got := call(t, c, "GET", base+"/accounts/robot/apiKeys", "").want(t, "keys", http.StatusOK).body; !strings.Contains(got, made2.Key.ID) || strings.Contains(got, secret) {
		t.Errorf("keys %s", got)
	}
	call(t, c, "DELETE", base+"/apiKeys/"+made2.Key.ID, "").want(t, "revoke", http.StatusNoContent)
	call(t, bare, "GET", base+"/users", "", robot).problem(t, "revoked", http.StatusUnauthorized, "TOKEN_INVALID", "")
	call(t, c, "POST", base+"/accounts/robot:setDisabled", `{"disabled":true}`).want(t, "disable", http.StatusOK)
}
