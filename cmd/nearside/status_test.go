package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/cli"
)

// terminal runs a command whose standard output is a terminal.
func (s shell) terminal(environ []string, args ...string) string {
	s.t.Helper()
	var out, errs bytes.Buffer
	code := cli.Main(s.t.Context(), cli.System{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, StdoutTerminal: true, Environ: append(environ, "NEARSIDE_URL="+s.url),
	}, args)
	if code != 0 {
		s.t.Fatalf("%q: exit code %d, %s", args, code, errs.String())
	}
	return out.String()
}

func TestStatusColors(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	plain := s.must("status")
	if strings.Contains(plain, "\x1b") || !strings.HasPrefix(plain, "region  role") {
		t.Errorf("in a file: %q", plain)
	}
	colored := s.terminal(nil, "status")
	if !strings.Contains(colored, "\x1b[1mregion\x1b[0m") {
		t.Errorf("at a terminal: %q", colored)
	}
	for _, variable := range []string{"NO_COLOR=1", "TERM=dumb"} {
		if out := s.terminal([]string{variable}, "status"); strings.Contains(out, "\x1b") {
			t.Errorf("%s: %q", variable, out)
		}
	}
}

func TestStatusWatch(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	for _, args := range [][]string{{"status", "--watch=100ms"}, {"status", "--json", "--watch=100ms"}} {
		ctx, cancel := context.WithCancel(t.Context())
		in, out := io.Pipe()
		ended := make(chan int, 1)
		go func() {
			ended <- cli.Main(ctx, cli.System{
				Stdin: strings.NewReader(""), Stdout: out, Stderr: io.Discard, Environ: []string{"NEARSIDE_URL=" + s.url},
			}, args)
			out.Close()
		}()
		times := 0
		for lines := bufio.NewScanner(in); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "region ") || strings.HasPrefix(lines.Text(), `{"regions":[`) {
				if times++; times == 2 {
					cancel()
				}
			}
		}
		if code := <-ended; code != 0 || times < 2 {
			t.Errorf("%q: exit code %d after %d times", args, code, times)
		}
		cancel()
	}
}

func TestCompletion(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	s.must("db", "create", "warehouse")
	for _, name := range []string{"bash", "zsh", "fish"} {
		script := s.must("completion", name)
		if !strings.Contains(script, "nearside") {
			t.Errorf("%s: %q", name, script)
		}
		if name != "bash" {
			continue
		}
		check := exec.Command("bash", "-n")
		check.Stdin = strings.NewReader(script)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	for want, args := range map[string][]string{
		"warehouse\n": {"sql", "--db", ""}, "csv\n": {"sql", "--format", ""}, "grpc\n": {"bench", "--protocol", ""},
		"export\t": {"exp"}, "fish\n": {"completion", ""},
	} {
		if r := s.run(append([]string{"__complete"}, args...)...); r.code != 0 || !strings.Contains(r.stdout, want) {
			t.Errorf("%q: %+v", args, r)
		}
	}
}
