package docstest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
	"github.com/nearside-dev/nearside/internal/meshtest/tools"
)

// guidePort is the first gateway's port in the guides; the other ports are counted from it.
const guidePort = 8080

// portsOf are the ports of a mesh of three regions, as offsets from that of the first gateway: the gateways, their admin
// listeners, the primary and its admin listener.
var portsOf = []int{0, 1, 2, 1000, 1001, 1002, -1010, -10}

var portPattern = regexp.MustCompile(`\b(?:808[0-2]|908[0-2]|7070|8070)\b`)

// moved returns a text of the guides with its ports counted from another one.
func moved(text string, port int) string {
	return portPattern.ReplaceAllStringFunc(text, func(s string) string {
		n, err := strconv.Atoi(s)
		if err != nil {
			panic(err) // the pattern matches digits
		}
		return strconv.Itoa(n - guidePort + port)
	})
}

// freePort returns a port at which a mesh can be started.
func freePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 3000 + rand.IntN(5900) // four digits for all, so that tables look as in the guides
		var ports []int
		for _, offset := range portsOf {
			ports = append(ports, port+offset)
		}
		if freeport.Reserve(t, ports...) {
			return port
		}
	}
	t.Fatal("found no free ports for a mesh")
	return 0
}

// build builds the program, and services for it to reach, into a folder of its own and returns that folder. What is there of the tools
// that guides use is in it too.
func build(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	for name, folder := range map[string]string{
		"nearside": "cmd/nearside", "echo-service": "examples/echo", "shipping-service": "examples/shipping",
	} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, name), "github.com/nearside-dev/nearside/"+folder)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	for _, name := range []string{"buf", "ghz", "grpcurl"} {
		path, err := tools.Find(name)
		if err != nil {
			continue // examples with it are left out
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

// environment is this process's without what would change how the program behaves.
func environment(bin string) []string {
	var env []string
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "NEARSIDE_") && !strings.HasPrefix(pair, "PATH=") {
			env = append(env, pair)
		}
	}
	return append(env, "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), "NO_PROXY=127.0.0.1", "LC_ALL=C.UTF-8")
}

// startMesh runs `nearside up` in dir until the test ends, and checks that it then ends well.
func startMesh(t *testing.T, bin, dir string, port int) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, "nearside"), "up", "--port", strconv.Itoa(port))
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, environment(bin), &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("nearside up ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("nearside up did not end within 30 s of SIGTERM")
			cmd.Process.Kill() //nolint:errcheck // it is not there then
			t.Logf("killed: %v", <-ended)
		}
		if t.Failed() {
			t.Logf("nearside up wrote:\n%s", log.String())
		}
	})
	for offset := range 3 {
		waitReady(t, fmt.Sprintf("http://127.0.0.1:%d/readyz", port+offset), ended)
	}
}

// waitRegions waits until each region has what the primary had when it was asked, as it would while a reader goes from one
// example to the next. Where an example left no mesh that answers, the next one tells.
func waitRegions(t *testing.T, bin, dir string, port int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ask := func(into any, args ...string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "nearside"), append(args, "--json", "--dir", filepath.Join(dir, ".nearside"))...)
		cmd.Env = environment(bin)
		out, err := cmd.Output()
		if err != nil {
			return err
		}
		return json.Unmarshal(out, into)
	}
	type database struct {
		Name    string
		Version uint64
		Regions []string // that may hold it; none are all
	}
	type region struct {
		Name      string
		Databases []database
	}
	var primary struct{ Databases []database }
	if ask(&primary, "db", "list", "--url", fmt.Sprintf("http://127.0.0.1:%d", port-1010)) != nil {
		return
	}
	behind := func(r region) bool {
		return slices.ContainsFunc(primary.Databases, func(want database) bool {
			has := func(d database) bool { return d.Name == want.Name && d.Version >= want.Version }
			return (len(want.Regions) == 0 || slices.Contains(want.Regions, r.Name)) && !slices.ContainsFunc(r.Databases, has)
		})
	}
	for {
		var status struct{ Regions []region }
		if ask(&status, "status", "--url", fmt.Sprintf("http://127.0.0.1:%d", port)) != nil || !slices.ContainsFunc(status.Regions, behind) {
			return
		}
	}
}

// waitReady asks until the answer is 200.
func waitReady(t *testing.T, url string, ended chan error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		last := ready(ctx, url)
		if last == nil {
			return
		}
		select {
		case <-ticker.C:
		case err := <-ended:
			ended <- err
			t.Fatalf("nearside up ended before it was ready: %v", err)
		case <-ctx.Done():
			t.Fatalf("%s: %v", url, last)
		}
	}
}

func ready(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, body)
	}
	return nil
}

// shell is one bash that runs the examples of a guide as a reader's would.
type shell struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	output *bufio.Reader
	kill   func()
	n      int
}

const exampleTimeout = time.Minute

// startShell starts a shell in dir that ends with the test, and all it has started with it.
func startShell(t *testing.T, env []string, dir string) *shell {
	t.Helper()
	cmd := exec.Command("bash", "--noprofile", "--norc")
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &shell{cmd: cmd, stdin: stdin, output: bufio.NewReader(r)}
	s.kill = func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } //nolint:errcheck // it has ended then
	w.Close()                                                           // the shell has its own
	t.Cleanup(func() {
		s.kill()
		cmd.Wait() //nolint:errcheck // it was killed
		r.Close()  // only read from
	})
	return s
}

// run runs commands and returns what they print to both outputs, and the first command that failed, if any.
func (s *shell) run(script string) (output, failed string, err error) {
	s.n++
	mark := fmt.Sprintf("end of example %d", s.n)
	timer := time.AfterFunc(exampleTimeout, s.kill)
	defer timer.Stop()
	// The trap speaks in the middle of the output, on a line of its own; the commands read no input of ours.
	_, err = fmt.Fprintf(s.stdin, "trap 'printf \"\\n%s: %%s\\n\" \"$BASH_COMMAND\"' ERR\n{\n%s\n} </dev/null\ntrap - ERR\nprintf '\\n%s\\n'\n",
		mark, script, mark)
	if err != nil {
		return "", "", fmt.Errorf("the shell has ended: %w", err)
	}
	var b strings.Builder
	for {
		line, err := s.output.ReadString('\n')
		if err != nil {
			return b.String() + line, failed, fmt.Errorf("the shell ended, or was ended after %v", exampleTimeout)
		}
		switch text := strings.TrimSuffix(line, "\n"); {
		case text == mark:
			return strings.TrimSuffix(b.String(), "\n"), failed, nil
		case strings.HasPrefix(text, mark+": "):
			if failed == "" {
				failed = strings.TrimPrefix(text, mark+": ")
			}
			trimmed := strings.TrimSuffix(b.String(), "\n")
			b.Reset()
			b.WriteString(trimmed)
		default:
			b.WriteString(line)
		}
	}
}
