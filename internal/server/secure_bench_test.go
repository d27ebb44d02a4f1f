package server

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"testing"

	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/pki"
)

// BenchmarkForward is a call between two nodes, client and server in one process: 300 bytes there and back. cpu-ns/op is the
// processor time of both.
func BenchmarkForward(b *testing.B) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	message := bytes.Repeat([]byte("x"), 300)
	for _, secure := range []bool{false, true} {
		for _, http2 := range []bool{false, true} {
			name := map[bool]string{false: "plain", true: "mtls"}[secure] + map[bool]string{false: "/http1", true: "/http2"}[http2]
			b.Run(name, func(b *testing.B) { benchmarkForward(b, echo, message, secure, http2) })
		}
	}
}

func benchmarkForward(b *testing.B, echo http.Handler, message []byte, secure, http2 bool) {
	a, err := pki.OpenAuthority(b.TempDir(), mesh, nil)
	if err != nil {
		b.Fatal(err)
	}
	primary, node := issue(b, a, "home", pki.RolePrimary, "primary"), issue(b, a, "eu", pki.RoleSidecar, "n1")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s, err := Start(ln, echo, Config{Name: "bench", Logger: slog.New(slog.DiscardHandler), Security: Security{
		Nodes: primary.Server(true), NodeName: pki.ServerName(mesh),
		Principal: func(state tls.ConnectionState) (*identity.Principal, error) {
			_, err := primary.Caller(state)
			return nil, err
		},
	}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(b.Context())
	url, client := "http://"+ln.Addr().String(), httpclient.NewUnary()
	switch {
	case secure && http2:
		client = httpclient.NewStreamingTLS(node.Client("h2", pki.RolePrimary))
	case secure:
		client = httpclient.NewUnaryTLS(node.Client("http/1.1", pki.RolePrimary))
	case http2:
		client = httpclient.NewStreaming()
	}
	if secure {
		url = "https://" + ln.Addr().String()
	}
	defer client.CloseIdleConnections()
	begun := cpu()
	for b.Loop() {
		res, err := client.Post(url, "application/proto", bytes.NewReader(message))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			b.Fatal(err)
		}
		_ = res.Body.Close()
	}
	b.ReportMetric(float64(cpu()-begun)/float64(b.N), "cpu-ns/op")
}

// cpu is the processor time of the process, in nanoseconds.
func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}
