package services_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
)

// TestAServiceThatSpeaksGRPCAlone is reached by every protocol.
func TestAServiceThatSpeaksGRPCAlone(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	e := serve(t, "", echo.OnlyGRPC(echo.Handler()))
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{
		Endpoints: at(e.url), Protocol: controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC,
	})
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
