package faults_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

// TestStalledSidecar stops a sidecar's process without ending it, under 64 writers, and lets it go on again. The writers do
// not wait for it, the primary keeps nothing for it, and it catches up.
func TestStalledSidecar(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	http := httpclient.NewUnary()
	defer http.CloseIdleConnections()
	ps := meshtest.StartProcesses(t, http, east, west)
	client := datav1connect.NewDataServiceClient(http, ps.URL(east))
	if _, err := client.CreateDatabase(t.Context(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: db})); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Execute(t.Context(), connect.NewRequest(&datav1.ExecuteRequest{
		Database: db, Statement: &datav1.Statement{Sql: createTable},
	})); err != nil {
		t.Fatal(err)
	}
	meshtest.WaitSync(t, http, ps.PrimaryURL(), ps.URLs(), db)
	l := startLoad(t, "w", 64, 0, client)
	l.grow(1000)
	before := residentMemory(t, ps.PrimaryPID())
	ps.Signal(west, syscall.SIGSTOP)
	begun, stalled := time.Now(), l.acked.Load()
	l.grow(3000)
	after := residentMemory(t, ps.PrimaryPID())
	t.Logf("%d writes in %v while a region stood still; the primary's memory before %s, after %s",
		l.acked.Load()-stalled, time.Since(begun), before, after)
	ps.Signal(west, syscall.SIGCONT)
	acked := l.end()
	meshtest.WaitSync(t, http, ps.PrimaryURL(), ps.URLs(), db)
	if n := meshtest.CompareAll(t, http, ps.PrimaryURL(), ps.URLs(), db); int64(n) != acked {
		t.Errorf("%d rows, want %d", n, acked)
	}
}

// residentMemory is a process's, as the kernel says it.
func residentMemory(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if size, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(size)
		}
	}
	t.Fatalf("no VmRSS of process %d", pid)
	return ""
}
