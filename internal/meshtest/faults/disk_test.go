package faults_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/primary"
)

const diskSize = "340m" // the reserve, and some

func startOnDisk(t *testing.T) (*meshtest.Mesh, *disk) {
	t.Helper()
	d := mountDisk(t, diskSize)
	m := meshtest.Start(t, meshtest.Options{
		Primary: func(c *primary.Config) { c.Dir = d.dir },
		Logger:  slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	m.Create(db)
	m.Exec("", db, createTable)
	m.Exec("", db, "INSERT INTO w VALUES (1, 'one')")
	m.WaitSync(db)
	return m, d
}

// TestDiskReserve fills the primary's disk up to the reserve. Writes are refused and nothing of them is done, reads go on,
// and when there is room writes work again by themselves.
func TestDiskReserve(t *testing.T) {
	m, d := startOnDisk(t)
	for round := range 2 {
		d.fill(changelog.DefaultDiskReserve - 4<<20)
		var err error
		m.Eventually("writes are refused", func(ctx context.Context) error {
			if err = insert(ctx, m.Client(west), "", "filler"); err == nil {
				return errNotYet
			}
			return nil
		})
		wantError(t, err, connect.CodeResourceExhausted, datav1.ErrorReason_ERROR_REASON_DISK_RESERVE)
		if e, ok := rpcerr.FromError(err); !ok || e.RetryAfter() == 0 {
			t.Errorf("no hint when to try again: %v", err)
		}
		for _, c := range []*datav1.Consistency{nil, {Level: datav1.Consistency_LEVEL_PRIMARY}} {
			if res, err := get(t.Context(), m, west, "w", 1, c); err != nil || res.GetRow() == nil {
				t.Errorf("a read of %v: %v, %v", c, res, err)
			}
		}
		if err := m.Primary().Ready(); err != nil {
			t.Errorf("the primary reads and is ready: %v", err)
		}
		d.empty()
		v := fmt.Sprint("after ", round)
		m.Eventually("writes work again", func(ctx context.Context) error { return insert(ctx, m.Client(west), v, v) })
		m.Exec("", db, "DELETE FROM w WHERE v = 'filler'")
	}
	m.CompareAll(db)
	checkOnce(t, m, 3)
}

// TestRegionsReconnectAtTheReserve restarts regions while the primary's disk takes no writes: they follow it all the same.
func TestRegionsReconnectAtTheReserve(t *testing.T) {
	m, d := startOnDisk(t)
	d.fill(changelog.DefaultDiskReserve - 4<<20)
	m.Eventually("writes are refused", func(ctx context.Context) error {
		if insert(ctx, m.Client(""), "", "filler") == nil {
			return errNotYet
		}
		return nil
	})
	for _, region := range []string{east, west} {
		m.StopSidecar(region)
		m.StartSidecar(region)
		waitConnected(t, m, region)
	}
	m.CompareAll(db)
}

// TestDiskFull fills the primary's disk to the last byte, at a moment when it believes that there is room. A statement that
// does not fit says so. Where the log or a database's file fails, the role ends and, started again when there is room, has
// everything that was acknowledged.
func TestDiskFull(t *testing.T) {
	m, d := startOnDisk(t)
	want := int64(1)
	for _, bytes := range []int{20 << 20, 100 << 10} {
		var err error
		m.Eventually("a write fails for want of room", func(ctx context.Context) error {
			v := fmt.Sprint("before ", want)
			if err := insert(ctx, m.Client(""), v, v); err != nil { // looks at the disk, and not again for a second
				return err
			}
			want++
			d.fill(0)
			_, err = m.Client("").Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
				Database: db, Statement: &datav1.Statement{Sql: fmt.Sprintf(
					"INSERT INTO w (v) SELECT hex(zeroblob(%d)) FROM (VALUES (1), (2), (3))", bytes/6)},
			}))
			d.empty()
			if e, ok := rpcerr.FromError(err); !ok || e.Reason() == datav1.ErrorReason_ERROR_REASON_DISK_RESERVE &&
				e.Metadata("sqlite_code") == "" {
				return fmt.Errorf("refused too early: %w", err)
			}
			return nil
		})
		t.Logf("%d bytes: %v", bytes, err)
		switch rpcerr.ReasonOf(err) {
		case datav1.ErrorReason_ERROR_REASON_DISK_RESERVE:
			m.Exec("", db, "DELETE FROM w WHERE v = 'nothing'") // it goes on
		case datav1.ErrorReason_ERROR_REASON_STORE_FAILED:
			t.Logf("ended: %v", <-m.Primary().Fatal())
			if m.Primary().Ready() == nil {
				t.Error("a role that has ended is ready")
			}
			m.StopPrimary()
			m.StartPrimary()
			// What was in the log before the other store failed is done, and its caller was told that it may be.
			m.Exec("", db, "DELETE FROM w WHERE length(v) > 1000")
		default:
			t.Errorf("%v (%v)", err, rpcerr.ReasonOf(err))
		}
	}
	m.CompareAll(db)
	checkOnce(t, m, want)
}
