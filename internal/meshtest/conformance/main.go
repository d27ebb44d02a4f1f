// Command conformance is the server under test of Connect's conformance suite: a mesh, with the suite's own reference server as a
// registered service behind it. The suite starts it once for each kind of server that it wants, tells it on its standard input
// which, and is told on its standard output where that is.
//
//	connectconformance --conf config.yaml --mode server -- conformance --descriptors FILE -- referenceserver
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/services/primary"
	"github.com/nearside-dev/nearside/sidecar"
)

const (
	region          = "us-east-1"
	service         = "connectrpc.conformance.v1.ConformanceService"
	maxMessageBytes = 1 << 20
	startTime       = 30 * time.Second
)

func main() {
	descriptors := flag.String("descriptors", "", "file of the suite's FileDescriptorSet")
	flag.Parse()
	if err := run(*descriptors, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(descriptors string, reference []string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(reference) == 0 {
		return errors.New("want the reference server's command")
	}
	set, err := os.ReadFile(descriptors)
	if err != nil {
		return err
	}
	request, err := readMessage(os.Stdin)
	if err != nil {
		return err
	}
	behind, cmd, err := startReference(ctx, reference, request)
	if err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()                          // with that signal
	}()
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	gateway, closeMesh, err := startMesh(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeMesh()) }()
	client := controlv1connect.NewServiceRegistryServiceClient(http.DefaultClient, gateway)
	if _, err := client.RegisterService(ctx, connect.NewRequest(&controlv1.RegisterServiceRequest{
		Descriptors: set, Name: service, Endpoints: []*controlv1.ServiceEndpoint{{Url: "http://" + behind}},
	})); err != nil {
		return err
	}
	u, err := url.Parse(gateway)
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return err
	}
	if err := writeMessage(os.Stdout, appendServer(nil, u.Hostname(), port)); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// startReference starts the reference server and returns its address.
func startReference(ctx context.Context, command []string, request []byte) (addr string, cmd *exec.Cmd, err error) {
	cmd = exec.CommandContext(context.WithoutCancel(ctx), command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	if err := writeMessage(in, request); err != nil {
		return "", nil, err
	}
	answer, err := readMessage(bufio.NewReader(out))
	if err != nil {
		return "", nil, err
	}
	host, port, err := parseServer(answer)
	return net.JoinHostPort(host, strconv.FormatUint(port, 10)), cmd, err
}

func startMesh(ctx context.Context, dir string) (gateway string, closeAll func() error, err error) {
	logger := slog.New(slog.DiscardHandler)
	addrs, err := freeAddrs(4)
	if err != nil {
		return "", nil, err
	}
	p, err := primary.Start(ctx, primary.Config{
		Dir: filepath.Join(dir, "primary"), Listen: addrs[0], AdminListen: addrs[1], Region: region, NoAuth: true, Logger: logger,
	})
	if err != nil {
		return "", nil, err
	}
	s, err := sidecar.Start(ctx, sidecar.Config{
		Region: region, PrimaryURL: p.URL(), Listen: addrs[2], AdminListen: addrs[3], Dir: filepath.Join(dir, region), NoAuth: true, Logger: logger,
	})
	if err != nil {
		return "", nil, errors.Join(err, p.Close(ctx))
	}
	closeAll = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = s.Close(ctx) // calls may be cut off
		return p.Close(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/readyz", nil)
		if err != nil {
			return "", nil, errors.Join(err, closeAll())
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = res.Body.Close() // nothing of it is read
			if res.StatusCode == http.StatusOK {
				return s.URL(), closeAll, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", nil, errors.Join(ctx.Err(), closeAll())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		ln, e := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if e != nil {
			return nil, errors.Join(err, e)
		}
		defer func() { err = errors.Join(err, ln.Close()) }()
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}

// readMessage reads a message with its length before it.
func readMessage(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxMessageBytes {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	message := make([]byte, n)
	_, err := io.ReadFull(r, message)
	return message, err
}

func writeMessage(w io.Writer, message []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...))
	return err
}

// The fields of connectrpc.conformance.v1.ServerCompatResponse that matter here.
const (
	fieldHost = 1
	fieldPort = 2
)

func appendServer(b []byte, host string, port uint64) []byte {
	b = protowire.AppendString(protowire.AppendTag(b, fieldHost, protowire.BytesType), host)
	return protowire.AppendVarint(protowire.AppendTag(b, fieldPort, protowire.VarintType), port)
}

func parseServer(b []byte) (host string, port uint64, err error) {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return "", 0, protowire.ParseError(n)
		}
		b = b[n:]
		switch {
		case field == fieldHost && kind == protowire.BytesType:
			host, n = protowire.ConsumeString(b)
		case field == fieldPort && kind == protowire.VarintType:
			port, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return "", 0, protowire.ParseError(n)
		}
		b = b[n:]
	}
	return host, port, nil
}
