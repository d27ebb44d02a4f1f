package faults_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

// host is a network namespace with one link, to the other host.
type host struct {
	t    *testing.T
	name string
	addr string // of its end of the link
}

const device = "link0"

// startHosts makes two network namespaces joined by a link, removed with the test. Nothing outside them is touched.
func startHosts(t *testing.T) (a, b *host) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces can be made by root alone")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("missing tool: ip")
	}
	prefix := fmt.Sprintf("nearside-%d-", os.Getpid())
	a = &host{t: t, name: prefix + "a", addr: "10.231.77.1"}
	b = &host{t: t, name: prefix + "b", addr: "10.231.77.2"}
	for _, h := range []*host{a, b} {
		if out, err := exec.Command("ip", "netns", "add", h.name).CombinedOutput(); err != nil {
			if strings.Contains(string(out), "not permitted") {
				t.Skipf("network namespaces may not be made here: %s", out)
			}
			t.Fatalf("ip netns add: %v: %s", err, out)
		}
		t.Cleanup(func() { run(t, "ip", "netns", "del", h.name) })
	}
	run(t, "ip", "-n", a.name, "link", "add", device, "type", "veth", "peer", "name", device, "netns", b.name)
	for _, h := range []*host{a, b} {
		h.ip("addr", "add", h.addr+"/30", "dev", device)
		h.ip("link", "set", "lo", "up")
		h.ip("link", "set", device, "up")
	}
	return a, b
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v: %s", name, args, err, out)
	}
}

func (h *host) ip(args ...string) {
	h.t.Helper()
	run(h.t, "ip", append([]string{"-n", h.name}, args...)...)
}

// start runs a program on the host until the test ends.
func (h *host) start(program string, args ...string) {
	h.t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", h.name, program}, args...)...)
	cmd.Env = meshtest.Environ()
	var output bytes.Buffer
	cmd.Stderr = &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // unless it has ended
		if err := cmd.Wait(); err != nil {
			h.t.Errorf("%v: %v", args, err)
		}
		if h.t.Failed() {
			h.t.Logf("%v wrote:\n%.5000s", args, output.String())
		}
	})
}

// client makes HTTP calls from the host.
func (h *host) client() *http.Client {
	transport := &http.Transport{DialContext: h.dial}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// dial dials from the host: a socket belongs to the namespace that its thread is in when it is made.
func (h *host) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	away, err := os.Open(filepath.Join("/run/netns", h.name))
	if err != nil {
		return nil, err
	}
	defer away.Close()
	runtime.LockOSThread()
	if err := unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(err) // the thread must not be used for anything else, and its end would kill the processes that it started
	}
	runtime.UnlockOSThread()
	return conn, err
}

// TestNetworkNamespaces has primary and region on two hosts with a link between them that goes down and up again, and that
// loses, delays and reorders packets where the kernel can do that.
func TestNetworkNamespaces(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	a, b := startHosts(t)
	program, dir := meshtest.Build(t), t.TempDir()
	primaryURL, regionURL := "http://"+a.addr+":7070", "http://127.0.0.1:8081"
	a.start(program, "primary", "--insecure-listen", "--listen", a.addr+":7070", "--dir", filepath.Join(dir, "primary"))
	atPrimary, atRegion := a.client(), b.client()
	ready := func(what string, client *http.Client, url string) {
		t.Helper()
		meshtest.Eventually(t, what+" is ready", func(ctx context.Context) error { return meshtest.Ready(ctx, client, url) })
	}
	ready("primary", atPrimary, primaryURL)
	b.start(program, "sidecar", "--region", west, "--primary", primaryURL, "--listen", "127.0.0.1:8081",
		"--dir", filepath.Join(dir, west), "--join", filepath.Join(dir, "primary", "join.token"))
	ready("region", atRegion, regionURL)
	for _, client := range []*http.Client{atPrimary, atRegion} {
		meshtest.Show(t, client, filepath.Join(dir, "primary", "admin.json"))
	}

	p := datav1connect.NewDataServiceClient(atPrimary, primaryURL)
	r := datav1connect.NewDataServiceClient(atRegion, regionURL)
	if _, err := p.CreateDatabase(t.Context(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: db})); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Execute(t.Context(), connect.NewRequest(&datav1.ExecuteRequest{
		Database: db, Statement: &datav1.Statement{Sql: createTable},
	})); err != nil {
		t.Fatal(err)
	}
	connected := func(want bool) {
		t.Helper()
		meshtest.Eventually(t, fmt.Sprintf("connected is %v", want), func(ctx context.Context) error {
			s, err := meshtest.Status(ctx, atRegion, regionURL)
			if err == nil && s.GetConnected() != want {
				err = errNotYet
			}
			return err
		})
	}
	// The region's own client cannot be the primary's: CompareAll is given one that knows the way to both.
	both := &http.Client{Transport: byHost{a.addr + ":7070": atPrimary.Transport, "127.0.0.1:8081": atRegion.Transport}}
	compare := func() int {
		t.Helper()
		meshtest.WaitSync(t, both, primaryURL, []string{regionURL}, db)
		return meshtest.CompareAll(t, both, primaryURL, []string{regionURL}, db)
	}
	connected(true)

	local := startLoad(t, "local", 4, 0, p)
	local.grow(50)
	a.ip("link", "set", device, "down")
	connected(false)
	if err := meshtest.Ready(t.Context(), atRegion, regionURL); err != nil {
		t.Error(err)
	}
	local.grow(50)
	a.ip("link", "set", device, "up")
	connected(true)
	acked := local.end()
	if n := compare(); int64(n) != acked {
		t.Errorf("%d rows, want %d", n, acked)
	}

	if _, err := exec.LookPath("tc"); err != nil {
		t.Log("links that lose packets are left out: no tc")
		return
	}
	out, err := exec.Command("tc", "-n", b.name, "qdisc", "add", "dev", device, "root", "netem",
		"delay", "5ms", "3ms", "loss", "5%", "reorder", "25%", "duplicate", "2%").CombinedOutput()
	if err != nil {
		t.Logf("links that lose packets are left out: %v: %s", err, out)
		return
	}
	l := startLoad(t, "lossy", 64, 5, r)
	acked += l.wait()
	if n := compare(); int64(n) != acked {
		t.Errorf("%d rows, want %d", n, acked)
	}
	t.Logf("%d writes acknowledged, %d tries repeated", acked, l.retried.Load())
}

// byHost sends requests by the transport of their host.
type byHost map[string]http.RoundTripper

// RoundTrip implements http.RoundTripper.
func (h byHost) RoundTrip(req *http.Request) (*http.Response, error) {
	return h[req.URL.Host].RoundTrip(req)
}
