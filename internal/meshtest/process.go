package meshtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
)

// Processes is a mesh of processes of the real binary, which can be killed one by one.
type Processes struct {
	tb     testing.TB
	binary string
	dir    string
	http   *http.Client

	primaryAddr string
	primaryArgs []string
	addrs       map[string]string // by region
	through     map[string]string // by region: where it finds the primary, if not at the primary's own address
	running     map[string]*process
}

type process struct {
	cmd    *exec.Cmd
	output bytes.Buffer
}

const primaryName = "primary"

// Build builds the binary and returns its path. The compiler and the linker, which take far longer than most tests, run once
// for all tests of a process.
func Build(tb testing.TB) string {
	tb.Helper()
	content, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	binary := filepath.Join(tb.TempDir(), "nearside")
	if err := os.WriteFile(binary, content, 0o700); err != nil {
		tb.Fatal(err)
	}
	return binary
}

// build returns the binary itself: a file would have to outlive the test that asks first, and nobody would remove it.
var build = sync.OnceValues(func() (binary []byte, err error) {
	dir, err := os.MkdirTemp("", "nearside-build")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	name := filepath.Join(dir, "nearside")
	cmd := exec.Command("go", "build", "-o", name, "github.com/nearside-dev/nearside/cmd/nearside")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w\n%s", err, out)
	}
	return os.ReadFile(name)
})

// Environ is the environment for a role that a test starts: nothing of the caller's own settings.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NEARSIDE_") })
}

// StartProcesses starts a primary and regions as processes and returns when all are ready. From then on the client's calls are
// the admin's.
func StartProcesses(tb testing.TB, client *http.Client, regions ...string) *Processes {
	tb.Helper()
	ps := &Processes{
		tb: tb, binary: Build(tb), dir: tb.TempDir(), http: client, primaryAddr: freeport.Addr(tb),
		addrs: make(map[string]string), through: make(map[string]string), running: make(map[string]*process),
	}
	tb.Cleanup(func() {
		for name := range ps.running {
			ps.end(name, syscall.SIGTERM)
		}
	})
	ps.StartPrimary()
	ps.WaitReady(ps.PrimaryURL())
	Show(tb, client, ps.AdminFile())
	for _, region := range regions {
		ps.addrs[region] = freeport.Addr(tb)
		ps.StartSidecar(region)
	}
	for _, region := range regions {
		ps.WaitReady(ps.URL(region))
	}
	return ps
}

// URL is the base URL of a region.
func (ps *Processes) URL(region string) string { return "http://" + ps.addrs[region] }

// RegionDir is the folder of a region's files.
func (ps *Processes) RegionDir(region string) string { return filepath.Join(ps.dir, region) }

// AdminFile is the file with the admin's credential.
func (ps *Processes) AdminFile() string { return filepath.Join(ps.dir, primaryName, "admin.json") }

// URLs is the base URLs of all regions.
func (ps *Processes) URLs() []string {
	var urls []string
	for _, addr := range ps.addrs {
		urls = append(urls, "http://"+addr)
	}
	return urls
}

// PrimaryURL is the base URL of the primary.
func (ps *Processes) PrimaryURL() string { return "http://" + ps.primaryAddr }

// StartPrimary starts the primary, without waiting for it.
func (ps *Processes) StartPrimary() {
	ps.tb.Helper()
	ps.start(primaryName, append([]string{
		"primary", "--listen", ps.primaryAddr, "--dir", filepath.Join(ps.dir, primaryName),
	}, ps.primaryArgs...)...)
}

// SetPrimaryArgs sets what more arguments the primary gets when it is started next.
func (ps *Processes) SetPrimaryArgs(args ...string) { ps.primaryArgs = args }

// SetThrough has a region, when it is started next, find the primary at an address, host:port: a proxy's, say.
func (ps *Processes) SetThrough(region, addr string) { ps.through[region] = addr }

// StartSidecar starts a region, without waiting for it.
func (ps *Processes) StartSidecar(region string) {
	ps.tb.Helper()
	primaryURL := ps.PrimaryURL()
	if addr, ok := ps.through[region]; ok {
		primaryURL = "http://" + addr
	}
	ps.start(region, "sidecar", "--region", region, "--primary", primaryURL, "--listen", ps.addrs[region],
		"--dir", filepath.Join(ps.dir, region))
}

// KillPrimary ends the primary with SIGKILL.
func (ps *Processes) KillPrimary() {
	ps.tb.Helper()
	ps.end(primaryName, syscall.SIGKILL)
}

// KillSidecar ends a region with SIGKILL.
func (ps *Processes) KillSidecar(region string) {
	ps.tb.Helper()
	ps.end(region, syscall.SIGKILL)
}

// PrimaryPID is the process id of the primary, which must run.
func (ps *Processes) PrimaryPID() int { return ps.running[primaryName].cmd.Process.Pid }

// Signal sends a signal that does not end it to a region's process, which must run.
func (ps *Processes) Signal(region string, signal syscall.Signal) {
	ps.tb.Helper()
	if err := ps.running[region].cmd.Process.Signal(signal); err != nil {
		ps.tb.Errorf("signal %s: %v", region, err)
	}
}

// WaitReady waits until a listener is ready.
func (ps *Processes) WaitReady(url string) {
	ps.tb.Helper()
	Eventually(ps.tb, url+" is ready", func(ctx context.Context) error { return Ready(ctx, ps.http, url) })
}

func (ps *Processes) start(name string, args ...string) {
	ps.tb.Helper()
	p := &process{cmd: exec.Command(ps.binary, args...)}
	p.cmd.Env = Environ()
	out := &lockedWriter{w: &p.output}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// A test that dies takes its processes with it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		ps.tb.Fatal(err)
	}
	ps.running[name] = p
}

func (ps *Processes) end(name string, signal syscall.Signal) {
	ps.tb.Helper()
	p := ps.running[name]
	if p == nil {
		return
	}
	delete(ps.running, name)
	if err := p.cmd.Process.Signal(signal); err != nil {
		ps.tb.Errorf("%s ended by itself: %v\n%s", name, err, p.output.String())
	}
	err := p.cmd.Wait()
	if _, killed := errors.AsType[*exec.ExitError](err); err != nil && (!killed || signal != syscall.SIGKILL) {
		ps.tb.Errorf("%s: %v\n%s", name, err, p.output.String())
	}
	if ps.tb.Failed() {
		ps.tb.Logf("output of %s:\n%.5000s", name, p.output.String())
	}
}

type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

// maxOutput bounds what is kept of a process's output.
const maxOutput = 1 << 20

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w.Len() < maxOutput {
		l.w.Write(b)
	}
	return len(b), nil
}
