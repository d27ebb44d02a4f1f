package services_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// onlyGRPC refuses what servers of gRPC refuse that know nothing else.
func onlyGRPC(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := r.Header.Get("Content-Type")
		if r.ProtoMajor != 2 || r.Method != http.MethodPost || !strings.HasPrefix(kind, "application/grpc") || strings.HasPrefix(kind, "application/grpc-web") {
			w.WriteHeader(http.StatusUnsupportedMediaType)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// TestAServiceThatSpeaksGRPCAlone is reached by every protocol.
func TestAServiceThatSpeaksGRPCAlone(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	e := serve(t, "", onlyGRPC(echo.Handler()))
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{
		Endpoints: at(e.url), Protocol: controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC,
	})
	_, err := registry(m, "").RegisterService(t.Context(), connect.NewRequest(&controlv1.RegisterServiceRequest{
		Descriptors: echo.Descriptors(), Endpoints: at(e.url), Protocol: controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC,
		CacheRules: []*controlv1.CacheRule{{Method: "Get", Ttl: durationpb.New(time.Second)}},
	}))
	if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_FIELD_INVALID {
		t.Errorf("with rules for answers: %v", err)
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) { callAll(t, m, way.http2, way.bidi, way.options) })
	}
	t.Run("GraphQL", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.URL("eu-west-1")+"/graphql",
			strings.NewReader(`{"query":"{ echoGet(value: \"hi\") }"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := client(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if text, err := io.ReadAll(res.Body); err != nil || string(text) != `{"data":{"echoGet":"hi"}}` {
			t.Errorf("%s %v", text, err)
		}
	})
	// Registered again as what it was, it gets its calls as they come.
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at(e.url)})
	res, err := client(t, false).Post(m.URL("eu-west-1")+echo.Echo, "application/json", strings.NewReader(`"hi"`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("status %d", res.StatusCode)
	}
}
