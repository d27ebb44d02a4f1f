// Command proxy measures what it costs to pass a unary call on: through a gateway to a registered service, and through
// httputil.ReverseProxy to the same service, in the same run. Each part is a process of its own; what counts is processor time.
//
//	go build -o bin/nearside ./cmd/nearside && go run ./bench/proxy -nearside bin/nearside
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nearside-dev/nearside/bench/internal/load"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
)

func main() {
	role := flag.String("role", "", "echo or reverse: what this process is, for the program itself")
	to := flag.String("to", "", "where the reverse proxy leads")
	nearside := flag.String("nearside", "bin/nearside", "the program")
	port := flag.Int("port", 36000, "the gateway's port")
	rounds := flag.Int("rounds", 5, "rounds of each, in turns")
	calls := flag.Int("calls", 10000, "calls of a round")
	workers := flag.Int("workers", 8, "connections")
	rules := flag.Bool("rules", false, "give the service's requests rules, which the gateway checks")
	flag.Parse()
	var err error
	switch *role {
	case "":
		err = bench(*nearside, *port, *rounds, *calls, *workers, *rules)
	case "echo":
		err = serve(echo.Handler())
	case "reverse":
		err = reverse(*to)
	default:
		err = errors.New("unknown role")
	}
	if err != nil {
		slog.Error("proxy", slog.Any("error", err))
		os.Exit(1)
	}
}

func serve(handler http.Handler) error {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", ln.Addr())
	return echo.Server(handler).Serve(ln)
}

func reverse(to string) error {
	u, err := url.Parse(to)
	if err != nil {
		return err
	}
	return serve(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.SetXForwarded()
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
	})
}

// part is a process.
type part struct {
	name string
	url  string
	cmd  *exec.Cmd
	cpu  time.Duration
}

func start(name string, command ...string) (*part, error) {
	p := &part{name: name, cmd: exec.Command(command[0], command[1:]...)} //nolint:gosec,noctx // our own
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if name == "gateway" {
		go func() { _, _ = io.Copy(io.Discard, out) }() // ends with it
		return p, nil
	}
	_, err = fmt.Fscanln(out, &p.url)
	return p, err
}

func (p *part) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// spent is how much processor time a process has had.
func (p *part) spent() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "stat"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	ticks := int64(0)
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// descriptors are the service's. Its text has a rule where there are to be some: on the wire the message is that of
// google.protobuf.StringValue still.
func descriptors(rules bool) ([]byte, error) {
	if !rules {
		return echo.Descriptors(), nil
	}
	set, text := new(descriptorpb.FileDescriptorSet), new(descriptorpb.DescriptorProto)
	if err := proto.Unmarshal(echo.Descriptors(), set); err != nil {
		return nil, err
	}
	err := prototext.Unmarshal([]byte(`name: "Text" field { name: "value" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL
		options { [buf.validate.field] { string { max_len: 1000 pattern: "^[a-z]*$" } } } }`), text)
	if err != nil {
		return nil, err
	}
	file := set.File[len(set.GetFile())-1]
	file.MessageType = append(file.MessageType, text)
	file.Dependency = append(file.Dependency, "buf/validate/validate.proto")
	file.Service[0].Method[0].InputType = new("." + echo.Package + ".Text")
	set.File = append([]*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(descriptorpb.File_google_protobuf_descriptor_proto),
		protodesc.ToFileDescriptorProto(durationpb.File_google_protobuf_duration_proto),
		protodesc.ToFileDescriptorProto(fieldmaskpb.File_google_protobuf_field_mask_proto),
		protodesc.ToFileDescriptorProto(timestamppb.File_google_protobuf_timestamp_proto),
		protodesc.ToFileDescriptorProto(validate.File_buf_validate_validate_proto),
	}, set.GetFile()...)
	return proto.Marshal(set)
}

func bench(nearside string, port, rounds, calls, workers int, rules bool) error {
	dir, err := os.MkdirTemp("", "nearside-proxy")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	service, err := start("service", self, "-role", "echo")
	if err != nil {
		return err
	}
	defer service.stop()
	proxy, err := start("reverse proxy", self, "-role", "reverse", "-to", service.url)
	if err != nil {
		return err
	}
	defer proxy.stop()
	gateway, err := start("gateway", nearside, "up", "--dir", dir, "--port", strconv.Itoa(port), "--regions", "us-east-1", "--log-level", "error")
	if err != nil {
		return err
	}
	defer gateway.stop()
	gateway.url = "http://127.0.0.1:" + strconv.Itoa(port)
	if err := ready(gateway.url); err != nil {
		return err
	}
	file := filepath.Join(dir, "echo.binpb")
	set, err := descriptors(rules)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, set, 0o600); err != nil {
		return err
	}
	out, err := exec.Command(nearside, "service", "register", "--url", gateway.url, "--dir", dir, "--descriptors", file, //nolint:gosec,noctx // our own
		"--endpoint", service.url, "--public").CombinedOutput()
	if err != nil {
		return fmt.Errorf("register: %w: %s", err, out)
	}
	parts := []*part{proxy, gateway}
	for round := range rounds + 1 {
		for _, p := range parts {
			before, err := p.spent()
			if err != nil {
				return err
			}
			if err := calling(p.url, calls, workers); err != nil {
				return err
			}
			after, err := p.spent()
			if err != nil {
				return err
			}
			if round > 0 { // the first one warms up
				p.cpu += after - before
			}
		}
	}
	n := time.Duration(rounds * calls)
	for _, p := range parts {
		fmt.Printf("%-14s %6.1f µs of processor time a call\n", p.name, float64((p.cpu/n).Nanoseconds())/1000)
	}
	fmt.Printf("%-14s %6.2f\n", "ratio", float64(gateway.cpu)/float64(proxy.cpu))
	return latencies(service, proxy, gateway)
}

// latencies prints how long calls take at a steady rate: to the service itself, and what it adds to go another way.
func latencies(parts ...*part) error {
	const (
		rate  = 1000 // a second
		conns = 16
		long  = 5 * time.Second
	)
	body := append([]byte{10, 100}, bytes.Repeat([]byte("x"), 100)...)
	var direct *load.Result
	for _, p := range parts {
		tasks := make([]load.Task, conns)
		for i := range tasks {
			c, err := load.Dial(context.Background(), strings.TrimPrefix(p.url, "http://"))
			if err != nil {
				return err
			}
			defer c.Close()
			tasks[i] = func() (time.Duration, error) {
				begun := time.Now()
				_, err := c.CallEncoded(echo.Echo, body)
				return time.Since(begun), err
			}
		}
		if _, err := load.Paced(context.Background(), time.Second, rate, tasks); err != nil { // warms up
			return err
		}
		r, err := load.Paced(context.Background(), long, rate, tasks)
		if err != nil {
			return err
		}
		if direct == nil {
			direct = r
		}
		ms := func(r *load.Result, q float64) float64 { return float64(r.Latency.Quantile(q).Microseconds()) / 1000 }
		fmt.Printf("%-14s p50 %.2f ms, p99 %.2f ms at %.0f calls/s: %.2f and %.2f more than the service itself\n", p.name,
			ms(r, 0.5), ms(r, 0.99), r.Rate(), ms(r, 0.5)-ms(direct, 0.5), ms(r, 0.99)-ms(direct, 0.99))
	}
	return nil
}

func ready(base string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 600 {
		res, err := http.Get(base + "/readyz") //nolint:noctx // our own
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		<-tick.C
	}
	return errors.New("the mesh is not ready")
}

// calling makes calls from so many connections.
func calling(base string, calls, workers int) error {
	transport := &http.Transport{MaxIdleConnsPerHost: workers}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	body := append([]byte{10, 100}, bytes.Repeat([]byte("x"), 100)...)
	errs := make(chan error, workers)
	var wait sync.WaitGroup
	for range workers {
		wait.Go(func() {
			for range calls / workers {
				req, err := http.NewRequest(http.MethodPost, base+echo.Echo, bytes.NewReader(body)) //nolint:noctx // bounded
				if err != nil {
					errs <- err
					return
				}
				req.Header.Set("Content-Type", "application/proto")
				req.Header.Set("Connect-Protocol-Version", "1")
				res, err := client.Do(req)
				if err != nil {
					errs <- err
					return
				}
				got, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || !bytes.Equal(got, body) {
					errs <- fmt.Errorf("answer %s of %d bytes: %w", res.Status, len(got), err)
					return
				}
			}
		})
	}
	wait.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}
