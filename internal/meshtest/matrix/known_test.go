package matrix_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
)

// alpha asks v1alpha of reflection what is asked of v1: the messages are the same.
type alpha struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (a alpha) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Path = strings.Replace(req.URL.Path, "/grpc.reflection.v1.", "/grpc.reflection.v1alpha.", 1)
	return a.next.RoundTrip(req)
}

// reflect asks what there is to call, of the mesh and of registered services.
func reflect(t *testing.T, w *way) {
	for version, c := range map[string]*http.Client{"v1": w.client, "v1alpha": {Transport: alpha{w.client.Transport}}} {
		stream := grpcreflect.NewClient(c, w.base, w.options...).NewStream(t.Context())
		names, err := stream.ListServices()
		if err != nil {
			t.Fatalf("%s: %v", version, err)
		}
		for _, want := range []protoreflect.FullName{datav1connect.DataServiceName, echo.Name, "acme.grpcecho.v1.EchoService", "grpc.health.v1.Health"} {
			if !slices.Contains(names, want) {
				t.Errorf("%s: %s is not among %v", version, want, names)
			}
			files, err := stream.FileContainingSymbol(want)
			if err != nil || len(files) == 0 {
				t.Errorf("%s: file of %s: %v", version, want, err)
				continue
			}
			if s := files[0].GetService(); len(s) == 0 || files[0].GetPackage()+"."+s[0].GetName() != string(want) {
				t.Errorf("%s: file of %s: %s", version, want, files[0].GetName())
			}
		}
		if _, err := stream.FileByFilename("acme/echo/v1/echo.proto"); err != nil {
			t.Errorf("%s: %v", version, err)
		}
		if _, err := stream.FileContainingSymbol("acme.nothing"); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("%s: what is not there: %v", version, err)
		}
		if _, err := stream.Close(); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
}

// What grpc.health.v1 answers. Its messages are like those of google/protobuf/wrappers.proto on the wire.
const (
	serving    = 1
	notServing = 2
)

// TestHealth asks a region how services are, in each protocol, with and without a credential.
func TestHealth(t *testing.T) {
	m, certFile := start(t)
	register(t, m, "registered", echo.Package, controlv1.ServiceProtocol_SERVICE_PROTOCOL_UNSPECIFIED)
	dead := "acme.dead.v1"
	_, err := controlv1connect.NewServiceRegistryServiceClient(m.HTTP(), m.URL(region)).RegisterService(t.Context(), connect.NewRequest(
		&controlv1.RegisterServiceRequest{
			Descriptors: echo.DescriptorsOf(dead), Access: controlv1.ServiceAccess_SERVICE_ACCESS_PUBLIC,
			Endpoints: []*controlv1.ServiceEndpoint{{Url: "http://127.0.0.1:1"}},
		}))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ctx context.Context, w *way, name string) (int32, error) {
		res, err := client[wrapperspb.StringValue, wrapperspb.Int32Value](w, "/grpc.health.v1.Health/Check").
			CallUnary(ctx, connect.NewRequest(wrapperspb.String(name)))
		if err != nil {
			return 0, err
		}
		return res.Msg.GetValue(), nil
	}
	for _, w := range ways(t, m, region, certFile) {
		if w.codec != "proto" || w.get || w.compression != "identity" {
			continue
		}
		t.Run(w.name(), func(t *testing.T) {
			for _, name := range []string{"", datav1connect.DataServiceName, echo.Name} {
				if status, err := ask(t.Context(), w, name); err != nil || status != serving {
					t.Errorf("%q is %d, %v", name, status, err)
				}
			}
			meshtest.Eventually(t, "the dead service is found to be so", func(ctx context.Context) error {
				if status, err := ask(ctx, w, dead+".EchoService"); err != nil || status != notServing {
					return fmt.Errorf("it is %d, %w", status, errors.Join(err))
				}
				return nil
			})
			if _, err := ask(t.Context(), w, "acme.nothing"); connect.CodeOf(err) != connect.CodeNotFound {
				t.Errorf("what is not there: %v", err)
			}
			// Who shows no credential is told of the mesh's own and of public services.
			bare := *w
			bare.recorder = &recorder{next: w.recorder.next}
			bare.client = &http.Client{Transport: bare.recorder}
			if w.text {
				bare.client.Transport = asText{bare.recorder}
			}
			if status, err := ask(t.Context(), &bare, datav1connect.DataServiceName); err != nil || status != serving {
				t.Errorf("without a credential: %d, %v", status, err)
			}
			if status, err := ask(t.Context(), &bare, dead+".EchoService"); err != nil || status != notServing {
				t.Errorf("a public one without a credential: %d, %v", status, err)
			}
			if _, err := ask(t.Context(), &bare, echo.Name); connect.CodeOf(err) != connect.CodeNotFound {
				t.Errorf("one that is not public, without a credential: %v", err)
			}
		})
	}
}
