package services_test

import (
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
)

var retriesMetric = regexp.MustCompile(`(?m)^nearside_mesh_retries_total (\d+)$`)

// retries is how many calls went to another endpoint, in a region.
func retries(t *testing.T, m *meshtest.Mesh, region string) int {
	t.Helper()
	res, err := m.HTTP().Get(m.Sidecar(region).AdminURL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := retriesMetric.FindSubmatch(text)
	if found == nil {
		t.Fatal("there is no such metric")
	}
	n, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestADeadEndpointFailsNoCall: where there are others a call does not fail because one endpoint cannot be reached, whatever it does;
// and none happens twice.
func TestADeadEndpointFailsNoCall(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	var echoes atomic.Int64
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == echo.Echo {
			echoes.Add(1)
		}
		echo.Handler().ServeHTTP(w, r)
	})
	b, c := serve(t, "", counted), serve(t, "", counted)
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			a := serve(t, "", counted)
			a.stop()
			register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at(a.url, b.url, c.url)})
			before := retries(t, m, "eu-west-1")
			echoes.Store(0)
			call := unary(client(t, way.http2), m.URL("eu-west-1"), echo.Echo, way.options...)
			const callers, calls = 8, 25
			var group sync.WaitGroup
			for range callers {
				group.Go(func() {
					for range calls {
						text := wrapperspb.String(strings.Repeat("hi ", 100))
						if res, err := call.CallUnary(t.Context(), connect.NewRequest(text)); err != nil || res.Msg.GetValue() != text.GetValue() {
							t.Errorf("%v, %v", res, err)
						}
					}
				})
			}
			group.Wait()
			if n := echoes.Load(); n != callers*calls {
				t.Errorf("%d calls happened, want %d", n, callers*calls)
			}
			if n := retries(t, m, "eu-west-1") - before; n == 0 || n > callers {
				t.Errorf("%d calls met the dead endpoint, want 1 to %d", n, callers)
			}
		})
		t.Run(way.name+", all kinds", func(t *testing.T) {
			a := serve(t, "", counted)
			a.stop()
			register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at(a.url, b.url)})
			callAll(t, m, way.http2, way.bidi, way.options)
		})
	}
}
