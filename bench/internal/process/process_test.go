package process

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const line = "42 (a) (b c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 8 0 100 1000 200 18446744073709551615\n"
	got, err := parseStat(line)
	if want := 3 * time.Second; err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "42 (a)", "42 (a) S 1 2 3", "42 (a) S 1 42 42 0 -1 4 100 0 0 0 x 50"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

func TestParseStatus(t *testing.T) {
	got, err := parseStatus("Name:\ta\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t8\n")
	if want := (Memory{Resident: 1 << 20, Peak: 2 << 20}); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "VmRSS:\t10 kB\n", "VmRSS:\tx kB\nVmHWM:\t1 kB\n"} {
		if got, err := parseStatus(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

func TestStop(t *testing.T) {
	p, err := Start("tail", "tail", "-f", "/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.CPU(); err != nil {
		t.Error(err)
	}
	if m, err := p.Memory(); err != nil || m.Peak < m.Resident {
		t.Error(m, err)
	}
	// It does not catch the signal, so that the signal is what it ends with.
	if err := p.Stop(); err == nil {
		t.Error("ending by the signal is no error")
	}
	<-p.Ended()
	if err := p.Stop(); err == nil {
		t.Error("a process that is gone can be stopped")
	}
}

// TestUsage counts a child's time and memory with those of its parent.
func TestUsage(t *testing.T) {
	p, err := Start("shell", "/bin/sh", "-c", `(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done); echo done; exec sleep 1000`)
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(p.Output(), "done") {
		<-tick.C
	}
	u, err := p.Usage()
	if err != nil || u.CPU <= 0 || u.Memory == 0 {
		t.Errorf("%+v, %v", u, err)
	}
	own, err := p.CPU()
	if err != nil || own >= u.CPU {
		t.Errorf("of its own %v, in all %v, %v", own, u.CPU, err)
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.Ended()
	if _, err := parseTimes("1 (x) S 0"); err == nil {
		t.Error("half a line of stat has times")
	}
	if _, err := parsePss("Rss: 1 kB"); err == nil {
		t.Error("there is a Pss")
	}
}

func TestFreeAddrIsFreeAndNotTheSystems(t *testing.T) {
	addr, err := FreeAddr(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < firstPort || port >= firstPort+ports {
		t.Errorf("port %s: %v", text, err)
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", loopback(0))
	if err != nil {
		t.Fatal(err)
	}
	if free(t.Context(), ln.Addr().(*net.TCPAddr).Port) {
		t.Error("a port that is listened on is said to be free")
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
}
