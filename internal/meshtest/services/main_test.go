package services_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/wrapperspb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// endpoint is a place where the echo service runs.
type endpoint struct {
	url    string
	addr   string
	server *http.Server
}

// serve starts an endpoint, at an address or, with "", any.
func serve(t *testing.T, addr string, handler http.Handler) *endpoint {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	e := &endpoint{url: "http://" + ln.Addr().String(), addr: ln.Addr().String(), server: echo.Server(handler)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.server.Serve(ln) // ends with Close
	}()
	t.Cleanup(func() {
		e.stop()
		<-done
	})
	return e
}

func (e *endpoint) stop() { _ = e.server.Close() }

// register registers the echo service, by the gateway of a region; "" is the primary.
func register(t *testing.T, m *meshtest.Mesh, region string, req *controlv1.RegisterServiceRequest) {
	t.Helper()
	if req.Descriptors == nil {
		req.Descriptors = echo.Descriptors()
	}
	if _, err := registry(m, region).RegisterService(t.Context(), connect.NewRequest(req)); err != nil {
		t.Fatal(err)
	}
}

func registry(m *meshtest.Mesh, region string) controlv1connect.ServiceRegistryServiceClient {
	url := m.PrimaryURL()
	if region != "" {
		url = m.URL(region)
	}
	return controlv1connect.NewServiceRegistryServiceClient(m.HTTP(), url)
}

func at(urls ...string) []*controlv1.ServiceEndpoint {
	var out []*controlv1.ServiceEndpoint
	for _, u := range urls {
		region, url, ok := strings.Cut(u, "=")
		if !ok {
			region, url = "", u
		}
		out = append(out, &controlv1.ServiceEndpoint{Region: region, Url: url})
	}
	return out
}

type stringClient = connect.Client[wrapperspb.StringValue, wrapperspb.StringValue]

func client(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	transport := &http.Transport{Protocols: protocols, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func unary(c *http.Client, base, procedure string, options ...connect.ClientOption) *stringClient {
	return connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](c, base+procedure, options...)
}

// eventually tries until a call is answered.
func eventually(t *testing.T, c *stringClient, text string) {
	t.Helper()
	meshtest.Eventually(t, "the service answers", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := c.CallUnary(ctx, connect.NewRequest(wrapperspb.String(text)))
		return err
	})
}
