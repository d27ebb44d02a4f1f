// Package process runs the measured programs as processes of their own, so that what they use can be told from what the
// load generator uses, and reads it from /proc.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// ticksPerSecond is the unit of /proc/PID/stat, the same on all Linux systems that Go runs on.
	ticksPerSecond = 100

	stopTimeout = 20 * time.Second
	maxOutput   = 64 << 10
)

// Process is a running process. Its methods are for one goroutine at a time, but CPU and Memory.
type Process struct {
	Name string

	cmd    *exec.Cmd
	output tail
	ended  chan struct{}
	err    error // of Wait, once ended is closed
}

// Start starts a program, which ends at the latest with this one.
func Start(name, program string, args ...string) (*Process, error) {
	return StartCommand(name, exec.Command(program, args...)) //nolint:noctx,gosec // Stop ends it; what to run is what this program is told to measure
}

// StartCommand is Start for a command with settings of its own. Its outputs are taken over.
func StartCommand(name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{Name: name, cmd: cmd, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if p.cmd.SysProcAttr == nil {
		p.cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Output returns the end of what the process has written.
func (p *Process) Output() string { return p.output.String() }

// Stop asks the process to end, and kills it if it takes too long. Ending in any other way than on request is an error, with
// the end of its output.
func (p *Process) Stop() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended by itself: %w\n%s", p.Name, errors.Join(p.err, io.ErrUnexpectedEOF), p.Output())
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		err := p.cmd.Process.Kill()
		<-p.ended
		return errors.Join(fmt.Errorf("%s did not stop in %v\n%s", p.Name, stopTimeout, p.Output()), err)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w\n%s", p.Name, p.err, p.Output())
	}
	return nil
}

// CPU returns the processor time that the process has used, in user and kernel mode.
func (p *Process) CPU() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("processor time of %s: %w", p.Name, err)
	}
	d, err := parseStat(string(text))
	if err != nil {
		return 0, fmt.Errorf("processor time of %s: %w", p.Name, err)
	}
	return d, nil
}

// parseStat finds utime and stime, the 14th and 15th field. The second is the program's name, which may hold anything.
func parseStat(text string) (time.Duration, error) {
	rest, ok := afterLast(text, ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("%q is no line of stat", text)
	}
	var ticks uint64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseUint(field, 10, 48)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

func afterLast(s, sep string) (after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", false
	}
	return s[i+len(sep):], true
}

// Memory is what a process has in memory, in bytes.
type Memory struct {
	Resident uint64 // now
	Peak     uint64 // the most so far
}

// Memory returns what the process has in memory.
func (p *Process) Memory() (Memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return Memory{}, fmt.Errorf("memory of %s: %w", p.Name, err)
	}
	m, err := parseStatus(string(text))
	if err != nil {
		return Memory{}, fmt.Errorf("memory of %s: %w", p.Name, err)
	}
	return m, nil
}

func parseStatus(text string) (Memory, error) {
	var m Memory
	for line := range strings.Lines(text) {
		name, field, _ := strings.Cut(line, ":")
		var to *uint64
		switch name {
		case "VmRSS":
			to = &m.Resident
		case "VmHWM":
			to = &m.Peak
		default:
			continue
		}
		kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(field), "kB")), 10, 48)
		if err != nil {
			return Memory{}, err
		}
		*to = kib << 10
	}
	if m.Resident == 0 || m.Peak == 0 {
		return Memory{}, errors.New("status has no VmRSS and VmHWM")
	}
	return m, nil
}

// Ports for servers are below those that the system gives to listeners on port 0 and to outgoing connections, 32768 and up on
// Linux: one of these may be taken by a connection of the load generator before its server listens, or while it is down.
const (
	firstPort = 10_000
	ports     = 20_000
	portTries = 100
)

// FreeAddr returns a loopback address whose port nobody listens on, nor on the ports that are the offsets above it.
func FreeAddr(ctx context.Context, offsets ...int) (string, error) {
	for range portTries {
		port := firstPort + rand.IntN(ports)
		if free(ctx, port) && !slices.ContainsFunc(offsets, func(offset int) bool { return !free(ctx, port+offset) }) {
			return loopback(port), nil
		}
	}
	return "", errors.New("no free ports")
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func free(ctx context.Context, port int) bool {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", loopback(port))
	return err == nil && ln.Close() == nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(b)
	if over := t.buf.Len() - maxOutput; over > 0 {
		t.buf.Next(over)
	}
	return len(b), nil
}

// String returns what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
