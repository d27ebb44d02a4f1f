package access

import (
	"context"
	"fmt"
	"testing"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

func TestRateLimits(t *testing.T) {
	w := newWorld(t)
	text := value.Text
	w.add(meshdb.TableRateLimits, text("database"), text(""), value.Real(2), value.Integer(3))
	w.add(meshdb.TableRateLimits, text("database"), text("big"), value.Real(100), value.Integer(100))
	p, err := w.verifier.Credential(w.apiKey)
	if err != nil {
		t.Fatal(err)
	}
	ctx := identity.With(context.Background(), p)
	ask := func(database string) error {
		return w.guard.Check(ctx, datav1connect.DataServiceGetProcedure, &datav1.GetRequest{Database: database})
	}
	for range 3 {
		if err := ask("shop"); err != nil {
			t.Fatal(err)
		}
	}
	err = ask("shop")
	e, ok := rpcerr.FromError(err)
	if !ok || e.Reason() != datav1.ErrorReason_ERROR_REASON_RATE_LIMITED || e.RetryAfter() != 500*time.Millisecond ||
		e.Metadata("scope") != "database" {
		t.Errorf("the fourth: %v after %v", err, e.RetryAfter())
	}
	if err := ask("other"); err != nil {
		t.Errorf("another database has its own: %v", err)
	}
	if w.guard.MayNow(p, datav1connect.DataServiceGetProcedure, "shop", "t") {
		t.Error("a limited database was read at once")
	}
	for range 50 {
		if err := ask("big"); err != nil {
			t.Fatal(err)
		}
	}
	w.now = w.now.Add(500 * time.Millisecond)
	if err := ask("shop"); err != nil {
		t.Errorf("after a while: %v", err)
	}
	w.now = w.now.Add(-time.Hour) // a clock that goes back gives nothing and takes nothing
	if err := ask("shop"); err == nil {
		t.Error("a clock that went back gave a token")
	}
	for i := range 200_000 {
		w.guard.limits.take(limitKey{scope: scopeAddress, subject: fmt.Sprint(i)}, Rate{PerSecond: 1, Burst: 1})
	}
	n := 0
	for i := range w.guard.limits.shards {
		n += len(w.guard.limits.shards[i].buckets)
	}
	if n > bucketShards*maxShardBuckets {
		t.Errorf("%d buckets", n)
	}
}

func TestAddressOf(t *testing.T) {
	for remote, want := range map[string]string{
		"127.0.0.1:80": "127.0.0.1", "[::ffff:10.1.2.3]:80": "10.1.2.3", "[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80": "fe80::/64", "@": "@",
	} {
		if got := addressOf(remote); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}
