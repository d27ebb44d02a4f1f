package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// protocols are what callers speak.
var protocols = map[string]struct {
	http2   bool
	options []connect.ClientOption
}{
	"connect":          {false, nil},
	"connect json":     {false, []connect.ClientOption{connect.WithProtoJSON()}},
	"connect over h2c": {true, nil},
	"grpc":             {true, []connect.ClientOption{connect.WithGRPC()}},
	"grpc-web":         {false, []connect.ClientOption{connect.WithGRPCWeb()}},
}

// eachProtocol runs f with a server of service and a client of each protocol.
func eachProtocol(
	t *testing.T, service datav1connect.DataServiceHandler, config Config,
	f func(t *testing.T, registry *prometheus.Registry, url string, client func() datav1connect.DataServiceClient),
) {
	t.Helper()
	for name, p := range protocols {
		t.Run(name, func(t *testing.T) {
			options, err := HandlerOptions(slog.New(slog.DiscardHandler), nil)
			if err != nil {
				t.Fatal(err)
			}
			mux := http.NewServeMux()
			mux.Handle(datav1connect.NewDataServiceHandler(service, options...))
			registry := prometheus.NewRegistry()
			config.Name, config.Registerer = "test", registry
			_, url := start(t, mux, config)
			f(t, registry, url, func() datav1connect.DataServiceClient {
				c := unaryClient
				if p.http2 {
					c = streamingClient
				}
				return datav1connect.NewDataServiceClient(c(t), url, p.options...)
			})
		})
	}
}

func getRow(ctx context.Context, client datav1connect.DataServiceClient, database string) error {
	_, err := client.Get(ctx, connect.NewRequest(&datav1.GetRequest{
		Database: database, Table: "t", Key: &datav1.Key{Values: []*datav1.Value{{}}},
	}))
	return err
}

func wantRefused(t *testing.T, err error, want rpcerr.Reason) *rpcerr.Error {
	t.Helper()
	e, ok := rpcerr.FromError(err)
	if !ok || e.Reason() != want {
		t.Fatalf("error %v, want %v", err, want)
	}
	return e
}

func TestClientConnectionsAreLimited(t *testing.T) {
	eachProtocol(t, dataService{}, Config{MaxConnectionsPerClient: 2}, func(
		t *testing.T, registry *prometheus.Registry, _ string, client func() datav1connect.DataServiceClient,
	) {
		for range 2 {
			if err := getRow(t.Context(), client(), "d"); err != nil {
				t.Fatal(err)
			}
		}
		e := wantRefused(t, getRow(t.Context(), client(), "d"), datav1.ErrorReason_ERROR_REASON_OVERLOADED)
		if e.RetryAfter() == 0 {
			t.Error("no hint when to try again")
		}
		if got := refusedFor(t, registry, limitClientConnections); got != 1 {
			t.Errorf("%v refusals counted", got)
		}
	})
}

// waiting answers Get when it may.
type waiting struct {
	datav1connect.UnimplementedDataServiceHandler

	begun, finish chan struct{}
}

func (s *waiting) Get(
	context.Context, *connect.Request[datav1.GetRequest],
) (*connect.Response[datav1.GetResponse], error) {
	s.begun <- struct{}{}
	<-s.finish
	return connect.NewResponse(&datav1.GetResponse{}), nil
}

func TestClientRequestsAreLimited(t *testing.T) {
	s := &waiting{begun: make(chan struct{}), finish: make(chan struct{})}
	eachProtocol(t, s, Config{MaxRequestsPerClient: 2}, func(
		t *testing.T, registry *prometheus.Registry, _ string, client func() datav1connect.DataServiceClient,
	) {
		c := client()
		answered := make(chan error, 2)
		for range 2 {
			go func() { answered <- getRow(t.Context(), c, "d") }()
			<-s.begun
		}
		e := wantRefused(t, getRow(t.Context(), c, "d"), datav1.ErrorReason_ERROR_REASON_OVERLOADED)
		if e.RetryAfter() == 0 || refusedFor(t, registry, limitClientRequests) != 1 {
			t.Errorf("retry after %v, %v counted", e.RetryAfter(), refusedFor(t, registry, limitClientRequests))
		}
		for range 2 {
			s.finish <- struct{}{}
			if err := <-answered; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestLargeRequestsAreRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("five times 72 MiB")
	}
	eachProtocol(t, dataService{}, Config{}, func(
		t *testing.T, _ *prometheus.Registry, _ string, client func() datav1connect.DataServiceClient,
	) {
		large := strings.Repeat("x", DefaultMaxBodyBytes)
		if err := getRow(t.Context(), client(), large); connect.CodeOf(err) != connect.CodeResourceExhausted {
			t.Errorf("%.200v", err)
		}
		if err := getRow(t.Context(), client(), "d"); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// A small request that unpacks into much is refused, and not unpacked first.
func TestBombs(t *testing.T) {
	const want = datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE
	for name, p := range protocols {
		p.options = append(p.options, connect.WithSendGzip())
		protocols[name] = p
	}
	eachProtocol(t, dataService{}, Config{}, func(
		t *testing.T, _ *prometheus.Registry, _ string, client func() datav1connect.DataServiceClient,
	) {
		wantRefused(t, getRow(t.Context(), client(), strings.Repeat("x", 8<<20)), want)
		if err := getRow(t.Context(), client(), "d"); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
	for _, c := range Compressions() {
		t.Run(c.Name, func(t *testing.T) {
			var packed bytes.Buffer
			w, r := c.Compressor(), c.Decompressor()
			for range 2 { // both are used again
				for _, size := range []int{0, 1, bombBytes, 64 << 20} {
					packed.Reset()
					w.Reset(&packed)
					_, _ = w.Write(make([]byte, size))
					if err := w.Close(); err != nil {
						t.Fatal(err)
					}
					if err := r.Reset(&packed); err != nil {
						t.Fatal(err)
					}
					n, err := io.Copy(io.Discard, r)
					if size <= bombBytes {
						if err != nil || n != int64(size) {
							t.Errorf("unpacked %d bytes of %d, %v", n, size, err)
						}
					} else if wire, ok := errors.AsType[*connect.Error](err); !ok || rpcerr.ReasonOf(wire) != want || n > 2*bombBytes {
						t.Errorf("unpacked %d bytes, %v", n, err)
					}
					if err := r.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
			packed.Reset()
			w.Reset(&packed)
			_, _ = w.Write(make([]byte, 1000))
			_ = w.Close()
			packed.Truncate(packed.Len() - 3)
			err := r.Reset(&packed)
			if err == nil {
				_, err = io.Copy(io.Discard, r)
			}
			if err == nil {
				t.Error("half a message was unpacked")
			}
		})
	}
}

// FuzzDecompress unpacks anything: in bounded memory, and again what was packed.
func FuzzDecompress(f *testing.F) {
	f.Add([]byte("text"), false)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa4, 0, 0, 0, 0x80, 1, 0, 0}, true)
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}, true)
	all := Compressions()
	f.Fuzz(func(t *testing.T, text []byte, raw bool) {
		for _, c := range all {
			packed := bytes.NewBuffer(text)
			if !raw {
				packed = new(bytes.Buffer)
				w := c.Compressor()
				w.Reset(packed)
				_, _ = w.Write(text)
				_ = w.Close()
			}
			r := c.Decompressor()
			err := r.Reset(packed)
			var n int64
			var out bytes.Buffer
			if err == nil {
				n, err = io.Copy(&out, r)
				_ = r.Close()
			}
			if n > bombBytes+int64(maxRatio*len(text))+(1<<20) {
				t.Errorf("%s: %d bytes of %d", c.Name, n, len(text))
			}
			if !raw && (err != nil || !bytes.Equal(out.Bytes(), text)) {
				t.Errorf("%s: %d bytes of %d, %v", c.Name, out.Len(), len(text), err)
			}
		}
	})
}

func TestNesting(t *testing.T) {
	_, url := serveData(t, Config{})
	for _, depth := range []int{100, 1_000_000} {
		text := `{"database":"d","table":"t","key":{"values":[{}]},"x":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + "}"
		res, err := unaryClient(t).Post(url+datav1connect.DataServiceGetProcedure, "application/json", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if (res.StatusCode == http.StatusOK) != (depth == 100) || depth > 100 && !strings.Contains(string(answer), "invalid_argument") {
			t.Errorf("depth %d: %d %.200s", depth, res.StatusCode, answer)
		}
	}
}

func serveData(t *testing.T, config Config) (*prometheus.Registry, string) {
	t.Helper()
	options, err := HandlerOptions(slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(dataService{}, options...))
	registry := prometheus.NewRegistry()
	config.Name, config.Registerer = "test", registry
	_, url := start(t, mux, config)
	return registry, url
}

// A body that does not come ends with a typed error, over HTTP/1.1 and HTTP/2, and so does a header that does not.
func TestSlowBodies(t *testing.T) {
	registry, url := serveData(t, Config{BodyTimeout: 50 * time.Millisecond})
	for i, c := range []*http.Client{unaryClient(t), streamingClient(t)} {
		for _, length := range []int64{100, -1} {
			r, w := io.Pipe()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+datav1connect.DataServiceGetProcedure, r)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.ContentLength = length
			go func() { _, _ = io.WriteString(w, `{"data`) }()
			res, err := c.Do(req)
			if err != nil {
				t.Fatalf("client %d, length %d: %v", i, length, err)
			}
			answer, _ := io.ReadAll(res.Body)
			res.Body.Close()
			w.Close()
			if !strings.Contains(string(answer), "deadline_exceeded") || !strings.Contains(string(answer), "bytes of the request came in") {
				t.Errorf("client %d, length %d: %d %s", i, length, res.StatusCode, answer)
			}
		}
	}
	if got := refusedFor(t, registry, limitBodyTime); got != 4 {
		t.Errorf("%v refusals counted", got)
	}
	// A call whose body came takes its time.
	s := &waiting{begun: make(chan struct{}, 1), finish: make(chan struct{})}
	time.AfterFunc(200*time.Millisecond, func() { close(s.finish) })
	eachProtocol(t, s, Config{BodyTimeout: 50 * time.Millisecond}, func(
		t *testing.T, _ *prometheus.Registry, _ string, client func() datav1connect.DataServiceClient,
	) {
		if err := getRow(t.Context(), client(), "d"); err != nil {
			t.Error(err)
		}
		<-s.begun
	})
}

// A caller who reads nothing does not hold a handler for ever.
func TestSlowReaders(t *testing.T) {
	ended := make(chan error, 1)
	_, url := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		piece := make([]byte, 1<<20)
		for {
			if _, err := w.Write(piece); err != nil {
				ended <- err
				return
			}
		}
	}), Config{Name: "test", StallTimeout: 50 * time.Millisecond})
	for i, c := range []*http.Client{unaryClient(t), streamingClient(t)} {
		res, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil {
			t.Error("no error")
		} else {
			t.Logf("client %d: %v", i, err)
		}
		if n, err := io.Copy(io.Discard, res.Body); err == nil {
			t.Errorf("client %d: %d bytes look like the whole answer", i, n)
		}
		res.Body.Close()
	}
}

// Headers have a size, and connections that were refused an end.
func TestHeaders(t *testing.T) {
	_, url := serveData(t, Config{})
	for i, c := range []*http.Client{unaryClient(t), streamingClient(t)} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Large", strings.Repeat("x", 2*maxHeaderBytes))
		res, err := c.Do(req)
		if err != nil {
			t.Logf("client %d: %v", i, err) // over HTTP/2 the client knows the server's limit
			continue
		}
		res.Body.Close()
		if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("client %d: status %d", i, res.StatusCode)
		}
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := fmt.Sprintf("GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", strings.Repeat("A: b\r\n", maxHeaderBytes/4))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 431" {
		t.Errorf("many headers: %q, %v", answer, err)
	}
}

// A body that somebody still reads when its request is answered, as a transport does that passes it on, ends there.
func TestReadingOn(t *testing.T) {
	answered, read := make(chan struct{}), make(chan error)
	_, url := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		go func() {
			<-answered
			_, err := io.Copy(io.Discard, r.Body)
			read <- err
		}()
	}), Config{Name: "test"})
	body, more := io.Pipe()
	defer more.Close()
	res, err := streamingClient(t).Post(url, "application/grpc", body)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	answered <- struct{}{}
	if err := <-read; err == nil {
		t.Error("the body of a request that was answered had an end")
	}
}
