package changelog

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// smallDisk is one with this many free bytes.
type smallDisk struct {
	vfs.FS

	free uint64
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.free, TotalBytes: 1 << 40}, nil
}

// TestDiskIsWatchedWhateverTheClock sets the clock back: the next look at the disk must not wait until it has caught up.
func TestDiskIsWatchedWhateverTheClock(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	disk := &smallDisk{FS: vfs.NewMem(), free: 1 << 30}
	l, err := Open("log", Options{FS: disk, Logger: slog.New(slog.DiscardHandler), Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for i, jump := range []time.Duration{0, time.Second, -24 * time.Hour, 365 * 24 * time.Hour, -time.Nanosecond} {
		now = now.Add(jump)
		disk.free = DefaultDiskReserve - uint64(i+1)%2
		if got, want := l.CheckDisk(), disk.free == DefaultDiskReserve; got != want {
			t.Errorf("after a jump of %v with %d bytes free: %v, want %v", jump, disk.free, got, want)
		}
	}
}

// TestKeysExpireAfterAClockJump has keys made while the clock was a year ahead: they go with those that were made after them,
// and do not keep these for a year.
func TestKeysExpireAfterAClockJump(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	const year = 365 * 24 * time.Hour
	l, err := Open("log", Options{
		FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler), Clock: func() time.Time { return now.Add(2 * time.Hour) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	b := l.NewBatch(7)
	for i, made := range []time.Time{
		now, now.Add(year), now.Add(year), now.Add(time.Minute), now.Add(year), now.Add(2 * time.Minute),
		now.Add(90 * time.Minute), now.Add(-time.Hour), // set back: it is younger than it says
	} {
		version := uint64(i + 1)
		key := IdempotencyKey{Principal: "p", Key: fmt.Sprint(version)}
		if err := b.Outcome(key, Outcome{Version: version, Time: made}, version); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.Commit(), b.Close()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{2, 2, 2, 0} { // two at a time; the last two are young, or come after one that is
		if n, err := l.ExpireOutcomes(7, now.Add(time.Hour), 100, 2); err != nil || n != want {
			t.Errorf("call %d: expired %d, want %d, %v", i, n, want, err)
		}
	}
	for version, want := range map[int]error{6: ErrNotFound, 7: nil, 8: nil} {
		if _, err := l.Outcome(7, IdempotencyKey{Principal: "p", Key: fmt.Sprint(version)}); !errors.Is(err, want) {
			t.Errorf("key %d: %v, want %v", version, err, want)
		}
	}
}
