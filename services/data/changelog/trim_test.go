package changelog

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
)

// openAged opens a log with ten records, one made each hour, and a clock that shows the hour after the last.
func openAged(t *testing.T, now *time.Time) *Log {
	t.Helper()
	l, err := Open("log", Options{
		FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler), Clock: func() time.Time { return *now },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	b := l.NewBatch(7)
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	var head Head
	for version := uint64(1); version <= 10; version++ {
		record, err := proto.Marshal(&replicationv1.CommitRecord{
			Version: version, Epoch: 1, PreviousChecksum: head.Checksum[:],
			TimeUnixNanos: now.Add(-time.Duration(11-version) * time.Hour).UnixNano(),
		})
		if err != nil {
			t.Fatal(err)
		}
		head = Head{Epoch: 1, Version: version, Checksum: ChecksumOf(record)}
		if err := b.Record(version, record); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := l.db.Flush(); err != nil { // what is in memory only has no size
		t.Fatal(err)
	}
	l.Publish(7, head)
	return l
}

func TestTrim(t *testing.T) {
	for _, test := range []struct {
		name    string
		durable uint64
		keep    Retention
		want    uint64 // the oldest version afterwards
	}{
		{"nothing is old", 10, Retention{Age: 24 * time.Hour, Bytes: 1 << 30}, 1},
		{"by age", 10, Retention{Age: 4*time.Hour + time.Minute, Bytes: 1 << 30}, 7},
		{"by size", 10, Retention{Age: 24 * time.Hour, Bytes: 1}, 10},
		{"not past what is on the disk", 3, Retention{Age: time.Hour, Bytes: 1}, 3},
		{"no checkpoint yet", 0, Retention{Age: time.Hour, Bytes: 1}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := time.Unix(1_000_000, 0)
			l := openAged(t, &now)
			if _, err := l.Trim(7, test.durable, test.keep); err != nil {
				t.Fatal(err)
			}
			if first, err := l.first(7); err != nil || first != test.want {
				t.Errorf("oldest version %d, %v; want %d", first, err, test.want)
			}
			_, err := l.Read(7, 0, 1<<20)
			if got := errors.Is(err, ErrTrimmed); got != (test.want > 1) {
				t.Errorf("reading from the start: %v", err)
			}
			if records, err := l.Read(7, test.want-1, 1<<20); err != nil || uint64(len(records)) != 11-test.want {
				t.Errorf("%d records, %v", len(records), err)
			}
			if head, err := l.Head(7); err != nil || head.Version != 10 {
				t.Errorf("head %d, %v", head.Version, err)
			}
		})
	}
}

func TestPin(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	l := openAged(t, &now)
	all := Retention{Age: 1, Bytes: 1 << 30}
	oldest := func(want uint64) {
		t.Helper()
		if _, err := l.Trim(7, 10, all); err != nil {
			t.Fatal(err)
		}
		if first, err := l.first(7); err != nil || first != want {
			t.Fatalf("oldest version %d, %v; want %d", first, err, want)
		}
	}
	pin := func(version uint64) *Pin {
		t.Helper()
		p, err := l.Pin(7, version)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	two, four, five, seven := pin(2), pin(4), pin(5), pin(7)
	oldest(2)
	two.Release(0)
	oldest(4)
	four.Release(time.Minute)
	oldest(4)
	now = now.Add(2 * time.Minute)
	oldest(5)
	five.Move(6)
	oldest(6)
	five.Release(0)
	oldest(7)
	seven.Release(2 * maxPinAge) // never more than it had
	now = now.Add(maxPinAge)
	oldest(10)
	if _, err := l.Pin(7, 8); !errors.Is(err, ErrTrimmed) {
		t.Errorf("pin of what is gone: %v", err)
	}
	for range maxPins + 5 {
		pin(10)
	}
	if n := len(l.pins.all); n != maxPins {
		t.Errorf("%d pins", n)
	}
}
