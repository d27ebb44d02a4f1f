package primary_test

import (
	"context"
	"log/slog"
	"net/http"
	"os/signal"
	"sync/atomic"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest/freeport"
	"github.com/nearside-dev/nearside/services/primary"
)

// TestFailedStoreEndsTheRole lets no file grow for a while: a write fails, the role says so and is to be closed; started
// again it serves with everything that was acknowledged.
func TestFailedStoreEndsTheRole(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	t.Cleanup(func() { signal.Reset(syscall.SIGXFSZ) })
	var full atomic.Bool
	limit := func(bytes uint64) {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: bytes, Max: ^uint64(0)}); err != nil {
			t.Error(err)
		}
	}
	f := &fixture{t: t, dir: t.TempDir(), http: httpclient.NewUnary()}
	t.Cleanup(f.http.CloseIdleConnections)
	p, err := primary.Start(context.Background(), primary.Config{
		Dir: f.dir, Listen: freeport.Addr(t), Logger: slog.New(slog.DiscardHandler), NoAuth: true,
		Failpoint: func(place string) {
			if place == "before-append" && full.Load() {
				limit(1)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.use(p)
	f.create("d")
	f.exec("d", "CREATE TABLE t (a)")
	f.exec("d", "INSERT INTO t VALUES ('kept')")
	full.Store(true)
	_, err = f.try("d", "INSERT INTO t VALUES ('lost')")
	limit(^uint64(0))
	wantError(t, err, connect.CodeUnavailable, "STORE_FAILED")
	if err := <-p.Fatal(); err == nil {
		t.Error("no reason was given")
	}
	res, err := f.http.Get(p.URL() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable || p.Ready() == nil {
		t.Errorf("readyz: %s", res.Status)
	}
	_ = p.Close(context.Background()) // its store failed

	f.open()
	defer func() { _ = f.p.Close(context.Background()) }()
	rows := f.exec("d", "SELECT a FROM t").Msg.GetResult().GetRows()
	if len(rows) != 1 || rows[0].GetValues()[0].GetText() != "kept" {
		t.Errorf("rows %v", rows)
	}
}
