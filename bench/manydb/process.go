package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a role in a process of its own.
type process struct {
	name, program string
	url, admin    string
	args          []string

	cmd *exec.Cmd
}

// start starts the process and returns when it is ready.
func (p *process) start(ctx context.Context) error {
	p.cmd = exec.Command(p.program, p.args...) //nolint:gosec,noctx // what the user names; it is told to stop, not killed
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		p.cmd = nil
		return err
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		res, err := get(ctx, p.url+"/readyz")
		if err == nil {
			_ = res.Body.Close() // nothing was written
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", p.name, ctx.Err())
		}
	}
}

func (p *process) stop() error {
	if p == nil || p.cmd == nil {
		return nil
	}
	cmd := p.cmd
	p.cmd = nil
	return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
}

func get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(req)
}

// usage is what a process holds.
type usage struct {
	rssMiB            float64
	files, goroutines int
}

func (p *process) usage(ctx context.Context) (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				return u, err
			}
			u.rssMiB = kib / 1024
		}
	}
	files, err := os.ReadDir(dir + "fd")
	if err != nil {
		return u, err
	}
	u.files = len(files)
	u.goroutines, err = p.goroutines(ctx)
	return u, err
}

func (p *process) goroutines(ctx context.Context) (n int, err error) {
	res, err := get(ctx, p.admin+"/metrics")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			n, err = strconv.Atoi(rest)
			return n, err
		}
	}
	return 0, errors.Join(errors.New("no go_goroutines"), lines.Err())
}

// ticks is how many of its ticks the kernel counts in a second, as all Linux platforms that Go knows do.
const ticks = 100

// cpu is the processor time that the process has taken, in user and system mode.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name before may hold blanks
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", p.cmd.Process.Pid, len(fields))
	}
	var sum int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks, nil
}
