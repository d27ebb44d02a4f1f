package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/config"
	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
)

// role is the program running a role.
type role struct {
	cmd    *exec.Cmd
	stdout *bufio.Scanner
	stderr *lockedBuffer
}

// lockedBuffer is what a program has written so far.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// startRole starts the program, which is killed at the test's end if it still runs then.
func startRole(t *testing.T, args ...string) *role {
	t.Helper()
	r := &role{cmd: exec.Command(program, args...), stderr: new(lockedBuffer)}
	r.cmd.Env = []string{"HOME=/"}
	r.cmd.Stderr = r.stderr
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.stdout = bufio.NewScanner(out)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			r.cmd.Process.Kill() //nolint:errcheck // it is not there then
			r.cmd.Wait()         //nolint:errcheck // it was killed
		}
		if t.Failed() {
			t.Logf("%q wrote:\n%s", args, r.stderr)
		}
	})
	return r
}

// line returns the next line that the role prints: the first one says that it is ready.
func (r *role) line(t *testing.T) string {
	t.Helper()
	if !r.stdout.Scan() {
		t.Fatalf("the role ended: %v\n%s", r.cmd.Wait(), r.stderr)
	}
	return r.stdout.Text()
}

// stop sends a signal and returns the exit code.
func (r *role) stop(t *testing.T, signal syscall.Signal) int {
	t.Helper()
	if err := r.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	for r.stdout.Scan() { // its end is the pipe's end
	}
	err := r.cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode()
}

// freePort returns a port for the first of n gateways such that all of a mesh's ports are free.
func freePort(t *testing.T, n int) int {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(10_000)
		ports := []int{port + config.PrimaryPortOffset, port + config.PrimaryPortOffset + config.AdminPortOffset}
		for i := range n {
			ports = append(ports, port+i, port+i+config.AdminPortOffset)
		}
		if freeport.Reserve(t, ports...) {
			return port
		}
	}
	t.Fatal("no free ports")
	return 0
}

func TestUp(t *testing.T) {
	dir := t.TempDir()
	port := freePort(t, 3)
	url := func(offset int) string { return fmt.Sprintf("http://127.0.0.1:%d", port+offset) }
	args := []string{"up", "--dir", dir, "--port", fmt.Sprint(port), "--regions", "us-east-1,eu-west-1,ap-southeast-1"}
	mesh := startRole(t, append(args, "--json")...)
	got := decode[places](t, mesh.line(t))
	want := places{
		Dir:     dir,
		Primary: place{"us-east-1", url(-1010), url(-10)},
		Regions: []place{
			{"us-east-1", url(0), url(1000)}, {"eu-west-1", url(1), url(1001)}, {"ap-southeast-1", url(2), url(1002)},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	token := tokenIn(t, dir)
	for i := range 3 {
		s := shell{t, url(i), token}
		if got := s.rows("demo", "SELECT count(*) FROM greetings"); got != "[[3]]" {
			t.Errorf("region %d has %s greetings", i, got)
		}
		s.rows("business", "SELECT count(*) FROM users")
	}
	checkStatus(t, shell{t, url(2), token})

	s := shell{t, url(1), token}
	written := decode[sqlAnswer](t, s.must("sql", "--json", "INSERT INTO greetings (text) VALUES ('Hallo')"))
	if written.Region != "eu-west-1" || !written.ServedByPrimary {
		t.Errorf("got %+v", written)
	}
	other := shell{t, url(2), token}
	if got := rowsOf(t, other.must("sql", "--json", "--at-least", written.Bookmark, "SELECT count(*) FROM greetings")); got != "[[4]]" {
		t.Errorf("the next region has %s greetings", got)
	}

	second := startRole(t, args...)
	if code := second.stop(t, 0); code != 1 || !strings.Contains(second.stderr.String(), "is used by another process") {
		t.Errorf("second mesh in the folder: exit code %d, %s", code, second.stderr)
	}
	if code := mesh.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM\n%s", code, mesh.stderr)
	}

	mesh = startRole(t, args...)
	if line := mesh.line(t); !strings.HasPrefix(line, "Nearside is ready after ") || !strings.Contains(line, dir) {
		t.Errorf("got %q", line)
	}
	for i, want := range []string{"", "region", "---", "us-east-1 ", "eu-west-1 ", "ap-southeast-1 ", "us-east-1 "} {
		line := mesh.line(t)
		if !strings.HasPrefix(line, want) {
			t.Errorf("line %d: %q, want %s…", i, line, want)
		}
	}
	if got := other.rows("demo", "SELECT count(*) FROM greetings"); got != "[[4]]" {
		t.Errorf("after the restart there are %s greetings", got)
	}
	nobody := shell{t: t, url: url(1)}
	if r := nobody.run("sql", "SELECT 1"); r.code != cli.ExitFailed || !strings.Contains(r.stderr, "unauthenticated") ||
		!strings.Contains(r.stderr, "--dir DIR") {
		t.Errorf("without a credential: exit code %d, %s", r.code, r.stderr)
	}
	if code := mesh.stop(t, syscall.SIGINT); code != 0 {
		t.Errorf("exit code %d after SIGINT\n%s", code, mesh.stderr)
	}
}

// checkStatus checks what status says of a whole mesh, once all regions have caught up.
func checkStatus(t *testing.T, s shell) {
	t.Helper()
	type region struct {
		Name, URL      string
		Ready, Primary bool
		Connected      bool
		Breaker        string
		Databases      []struct {
			Name                      string
			Version, Lag, StalenessMs int
		}
	}
	var regions []region
	waitFor(t, func() bool {
		regions = decode[struct{ Regions []region }](t, s.must("status", "--json")).Regions
		for _, r := range regions {
			if !r.Ready || len(r.Databases) < 2 {
				return false
			}
			for _, d := range r.Databases {
				if d.Version == 0 || d.Lag > 0 {
					return false
				}
			}
		}
		return len(regions) == 3
	})
	if r := regions[0]; r.Name != "us-east-1" || !r.Primary || regions[1].Primary || regions[2].Primary {
		t.Errorf("got %+v", regions)
	}
	if out := s.must("status"); !strings.Contains(out, "ap-southeast-1") || !strings.Contains(out, "business") {
		t.Errorf("got %q", out)
	}
}

// tokenIn returns the admin's token of a mesh in a folder.
func tokenIn(t *testing.T, dir string) string {
	t.Helper()
	admin, err := cli.ReadAdmin(filepath.Join(dir, "admin.json"))
	if err != nil || admin.Token == "" {
		t.Fatalf("no token in %s: %v", dir, err)
	}
	return admin.Token
}

func TestPrimaryAlone(t *testing.T) {
	dir := t.TempDir()
	port := freePort(t, 1)
	args := []string{"primary", "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--dir", dir, "--region", "home", "--log-format", "json"}
	first := startRole(t, args...)
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	if got, want := first.line(t), fmt.Sprintf("listening on %s, admin on http://127.0.0.1:%d", url, port+1000); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s := shell{t, url, tokenIn(t, dir)}
	s.must("db", "create", "demo")
	s.must("sql", "CREATE TABLE t (a)")
	second := startRole(t, args[:5:5]...)
	if code := second.stop(t, 0); code != 1 || !strings.Contains(second.stderr.String(), "is used by another process") {
		t.Errorf("second primary on the folder: exit code %d, %s", code, second.stderr)
	}
	if code := first.stop(t, syscall.SIGKILL); code == 0 {
		t.Error("killed, and well")
	}
	third := startRole(t, args...)
	third.line(t)
	s.must("sql", "INSERT INTO t VALUES (1)")
	if code := third.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d\n%s", code, third.stderr)
	}
	if !strings.HasPrefix(third.stderr.String(), "{") {
		t.Errorf("log is no JSON: %s", third.stderr)
	}
}
