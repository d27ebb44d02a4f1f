package faults_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// TestUpRestartsItsPrimary runs a whole mesh in one process whose primary's disk is full for a while. The primary ends and is
// started again, in vain as long as there is no room; the regions read on, and when there is room all is as it was.
func TestUpRestartsItsPrimary(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	d := mountDisk(t, diskSize)
	dir := t.TempDir()
	if err := os.Symlink(d.dir, filepath.Join(dir, "primary")); err != nil {
		t.Fatal(err)
	}
	port := freePorts(t)
	logs, err := os.Create(filepath.Join(dir, "up.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	cmd := exec.Command(meshtest.Build(t), "up", "--dir", dir, "--port", strconv.Itoa(port), "--regions", "a,b")
	cmd.Env = meshtest.Environ()
	cmd.Stderr = logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	written := func() string {
		text, err := os.ReadFile(logs.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	defer func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // unless it has ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("up: %v", err)
		}
		if t.Failed() {
			t.Logf("up wrote:\n%.8000s", written())
		}
	}()
	http := httpclient.NewUnary()
	defer http.CloseIdleConnections()
	at := func(port int) string { return "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	b := datav1connect.NewDataServiceClient(http, at(port+1))
	meshtest.Eventually(t, "up is ready", func(ctx context.Context) error { return meshtest.Ready(ctx, http, at(port+1)) })
	meshtest.Show(t, http, filepath.Join(dir, "admin.json"))
	exec := func(ctx context.Context, sql string) error {
		_, err := b.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
			Database: "demo", Statement: &datav1.Statement{Sql: sql},
		}))
		return err
	}
	primary := at(port - 1010)
	meshtest.WaitSync(t, http, primary, []string{at(port), at(port + 1)}, "demo")

	acked := 0
	meshtest.Eventually(t, "the primary ends", func(ctx context.Context) error {
		if err := exec(ctx, "INSERT INTO greetings (text) VALUES ('kept')"); err != nil {
			return err
		}
		acked++
		d.fill(0)
		err := exec(ctx, "INSERT INTO greetings (text) VALUES (hex(zeroblob(50000)))")
		if rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_DISK_RESERVE || err == nil {
			d.empty() // it looked at the disk just then
			return fmt.Errorf("not at its end: %w", err)
		}
		return nil
	})
	meshtest.Eventually(t, "it does not start", func(context.Context) error {
		if !strings.Contains(written(), "role does not start") {
			return errNotYet
		}
		return nil
	})
	if meshtest.Ready(t.Context(), http, primary) == nil {
		t.Error("the primary is ready")
	}
	for _, url := range []string{at(port), at(port + 1)} {
		if err := meshtest.Ready(t.Context(), http, url); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		res, err := datav1connect.NewDataServiceClient(http, url).Get(t.Context(), connect.NewRequest(&datav1.GetRequest{
			Database: "demo", Table: "greetings", Key: &datav1.Key{Values: []*datav1.Value{value.ToProto(value.Integer(1))}},
		}))
		if err != nil || res.Msg.GetRow() == nil || res.Msg.GetAnswer().GetServedByPrimary() {
			t.Errorf("%s: %v, %v", url, res, err)
		}
	}
	d.empty()
	meshtest.Eventually(t, "writes work again", func(ctx context.Context) error {
		return exec(ctx, "DELETE FROM greetings WHERE length(text) > 1000")
	})
	if !strings.Contains(written(), "role started again") {
		t.Error("the primary was not started again")
	}
	meshtest.WaitSync(t, http, primary, []string{at(port), at(port + 1)}, "demo")
	if n := meshtest.CompareAll(t, http, primary, []string{at(port), at(port + 1)}, "demo"); n != 3+acked {
		t.Errorf("%d rows, want %d", n, 3+acked)
	}
}

// freePorts returns a port for the first of two gateways such that all of a mesh's ports are free.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(10_000)
		if freeport.Reserve(t, port, port+1, port-1010, port+1000, port+1001, port-10) {
			return port
		}
	}
	t.Fatal("no free ports")
	return 0
}
