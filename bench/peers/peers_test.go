package main

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestShort measures what every machine has, for a moment, with the real program: its servers are processes of its own binary.
func TestShort(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a mesh of processes")
	}
	dir := t.TempDir()
	for name, pkg := range map[string]string{"nearside": "../../cmd/nearside", "peers": "."} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, out)
		}
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "peers"), "-nearside", filepath.Join(dir, "nearside"), "-dir", dir,
		"-duration", "500ms", "-rows", "500", "-clients", "4", "-only", "net/http,connect-go echo,Nearside,Redis,Dapr")
	cmd.Env = append(os.Environ(), "PATH=") // so that neither Redis nor Dapr is installed
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	out := stdout.String()
	for _, want := range []string{
		"| net/http | GET ", "| connect-go echo | Get", "| Nearside | Get by key", "at the primary |", "through the region |",
		"| Redis | not installed |", "| Dapr | not installed |",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing about %q in\n%s", want, out)
		}
	}
	if bad := regexp.MustCompile(`NaN|Inf|\| 0 \|`).FindString(out); bad != "" {
		t.Errorf("%q is no measurement:\n%s", bad, out)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "nearside-peers-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, args := range [][]string{
		{"-rows", "0"}, {"-clients", "0"}, {"-duration", "0s"}, {"argument"}, {"-unknown"}, {"-only", "MySQL"},
	} {
		var out bytes.Buffer
		if err := run(t.Context(), append([]string{"-dir", t.TempDir()}, args...), &out, &out); err == nil {
			t.Errorf("%v runs", args)
		}
	}
}

func TestRedisProtocol(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	c := &redis{conn: ours, in: bufio.NewReader(ours)}
	for _, test := range []struct {
		answer string
		ok     bool
	}{{"$2\r\nhi\r\n", true}, {"+OK\r\n", true}, {"$-1\r\n", false}, {"-ERR no\r\n", false}, {"$x\r\n", false}, {"\r\n", false}} {
		asked := make(chan string, 1)
		go func() {
			buf := make([]byte, 100)
			n, _ := theirs.Read(buf)
			asked <- string(buf[:n])
			theirs.Write([]byte(test.answer)) //nolint:errcheck // then the command fails
		}()
		err := c.command("GET", "ab")
		if got := <-asked; got != "*2\r\n$3\r\nGET\r\n$2\r\nab\r\n" || (err == nil) != test.ok {
			t.Errorf("%q: asked %q, %v", test.answer, got, err)
		}
	}
}

func TestReadLogs(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var o outcome
	if err := o.readLogs(dir); err == nil {
		t.Error("nothing was logged")
	}
	write("log.1", "0 1 1000 0 1 2\n0 2 2000 0 1 2\n")
	write("log.1.1", "1 1 9000 0 1 2\n")
	if err := o.readLogs(dir); err != nil || o.requests != 3 || o.p50.Round(time.Millisecond) != 2*time.Millisecond || o.p99 < 9*time.Millisecond {
		t.Errorf("%+v, %v", o, err)
	}
	write("log.2", "0 1 skipped\n")
	if err := o.readLogs(dir); err == nil {
		t.Error("a word is a latency")
	}
}
