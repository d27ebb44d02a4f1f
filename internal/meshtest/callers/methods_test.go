package callers_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/services/business"
)

// openToAll is what needs no credential, and nodesOwn what no account may call. Whoever adds to these lists has thought.
var (
	openToAll = []string{
		"/nearside.auth.v1.AuthService/Authenticate", "/nearside.auth.v1.AuthService/GetJwks",
		"/nearside.auth.v1.AuthService/RefreshToken", "/nearside.auth.v1.AuthService/ResetPassword",
		"/nearside.control.v1.NodeService/Join", "/nearside.control.v1.NodeService/LocateToken",
	}
	nodesOwn = []string{
		"/nearside.control.v1.NodeService/Renew", "/nearside.replication.v1.AuditSpoolService/Deliver",
		"/nearside.replication.v1.BundleService/TransactBundle", "/nearside.replication.v1.ReplicationService/Snapshot",
		"/nearside.replication.v1.ReplicationService/Subscribe",
	}
)

// methods are all methods of all services that this program knows, whether a listener has them or not.
func methods() (all []protoreflect.MethodDescriptor) {
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			if !strings.HasPrefix(string(s.FullName()), "nearside.") {
				continue
			}
			for j := range s.Methods().Len() {
				all = append(all, s.Methods().Get(j))
			}
		}
		return true
	})
	return all
}

func pathOf(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

// TestEveryMethodNeedsACredential goes through all methods at the gateway and at the primary, in each protocol.
func TestEveryMethodNeedsACredential(t *testing.T) {
	w := start(t, meshtest.Options{Regions: []string{east}, Mount: business.Mount})
	var open, nodes []string
	for _, m := range methods() {
		path := pathOf(m)
		if !access.Known(path) && !strings.HasPrefix(path, "/nearside.business.") {
			t.Errorf("%s: nobody has decided what it needs", path)
		}
		switch access.Describe(path) {
		case "public":
			open = append(open, path)
			continue
		case "node":
			nodes = append(nodes, path)
			continue
		}
		for _, url := range []string{w.URL(east), w.PrimaryURL()} {
			w.refuses(t, url+path, m.IsStreamingClient() || m.IsStreamingServer())
		}
	}
	slices.Sort(open)
	slices.Sort(nodes)
	if diff := cmp.Diff(openToAll, open); diff != "" {
		t.Errorf("open to all (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(nodesOwn, nodes); diff != "" {
		t.Errorf("the nodes' own (-want +got):\n%s", diff)
	}
	for _, path := range []string{
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
	} {
		w.refuses(t, w.URL(east)+path, true)
		w.refuses(t, w.PrimaryURL()+path, true)
	}
	// What is no method tells nothing about what there is.
	for _, path := range []string{"/", "/nope", "/metrics", "/debug/pprof/", "/nearside.data.v1.DataService/Nope", "/healthz/x", "//healthz"} {
		res, err := w.bare.Get(w.URL(east) + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/.well-known/jwks.json", "/.well-known/openid-configuration"} {
		res, err := w.bare.Get(w.URL(east) + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}

// answered is the head of an answer.
type answered struct {
	status          int
	header, trailer http.Header
}

// refuses checks that a method is refused to a caller without a credential, however it is called. The messages are not valid,
// and too long: a refusal comes before anybody looks.
func (w *world) refuses(t *testing.T, url string, streams bool) {
	t.Helper()
	call := func(method, url, contentType string, body []byte) (answered, []byte) {
		t.Helper()
		req, err := http.NewRequest(method, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		if method == http.MethodGet {
			req.Header.Del("Content-Type")
		}
		res, err := w.bare.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answered{status: res.StatusCode, header: res.Header, trailer: res.Trailer}, answer
	}
	envelope := append([]byte{0, 0, 0, 0, 3}, "{x}"...)
	if streams {
		res, answer := call(http.MethodPost, url, "application/connect+json", envelope)
		// The status of a stream is always 200: what happened is in the envelope that ends it.
		if res.status != http.StatusOK || len(answer) < 5 || answer[0]&2 == 0 || int(binary.BigEndian.Uint32(answer[1:5])) != len(answer)-5 {
			t.Fatalf("%s: %d %q", url, res.status, answer)
		}
		var end struct {
			Error struct {
				Code string `json:"code"`
			} `json:"error"`
		}
		if err := json.Unmarshal(answer[5:], &end); err != nil || end.Error.Code != "unauthenticated" {
			t.Errorf("%s: %s", url, answer[5:])
		}
	} else {
		for _, contentType := range []string{"application/json", "application/proto"} {
			if res, answer := call(http.MethodPost, url, contentType, []byte("{x}")); res.status != http.StatusUnauthorized {
				t.Errorf("%s of %s: %d %s", url, contentType, res.status, answer)
			}
		}
		if res, answer := call(http.MethodGet, url+"?connect=v1&encoding=json&message={x}", "", nil); res.status != http.StatusUnauthorized {
			t.Errorf("%s by GET: %d %s", url, res.status, answer)
		}
	}
	for _, contentType := range []string{"application/grpc", "application/grpc-web"} {
		res, answer := call(http.MethodPost, url, contentType, envelope)
		status := res.header.Get("Grpc-Status") + res.trailer.Get("Grpc-Status")
		if _, after, ok := bytes.Cut(answer, []byte("grpc-status: ")); status == "" && ok {
			status = string(bytes.TrimSpace(after[:2]))
		}
		if status != "16" {
			t.Errorf("%s of %s: %d %q %v", url, contentType, res.status, answer, res.header)
		}
	}
}
