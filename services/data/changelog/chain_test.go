package changelog

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nearside-dev/nearside/internal/rowcodec"
)

// TestBrokenRecordIsNeverRead changes each record of a log in turn, in a way that leaves it a record, and reads from every
// place: what is changed is a typed error and never in an answer, what is before it is.
func TestBrokenRecordIsNeverRead(t *testing.T) {
	const n = 6
	for broken := uint64(1); broken <= n; broken++ {
		l := openLogWith(t, Options{FS: vfs.NewMem(), RecentBytes: -1}) // what is in memory is not what the disk has
		h := appendRun(t, l, 7, Head{}, n)
		l.Publish(7, h)
		if err := l.CheckChain(context.Background(), 7, h); err != nil {
			t.Fatalf("whole log: %v", err)
		}
		key := versionKey(spaceRecord, 7, broken)
		record, err := l.get(key)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(record)
		changed[len(changed)-1] ^= 1 // of the actor: a letter becomes another
		if err := l.db.Set(key, changed, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		for after := range uint64(n) {
			for _, size := range []int{1, 3 * len(record), 1 << 20} {
				records, err := l.Read(7, after, size)
				for _, r := range records {
					if bytes.Equal(r, changed) {
						t.Errorf("record %d is broken and read after %d", broken, after)
					}
				}
				if after+1 == broken && !errors.Is(err, ErrCorrupt) || after+1 != broken && (err != nil || len(records) == 0) {
					t.Errorf("record %d is broken, read after %d: %d records, %v", broken, after, len(records), err)
				}
			}
		}
		for v := uint64(1); v <= n; v++ {
			sum, _, err := l.ChecksumAt(7, v)
			if errors.Is(err, ErrCorrupt) != (v == broken && v < n) || v == n && sum != h.Checksum {
				t.Errorf("record %d is broken, checksum of %d: %x, %v", broken, v, sum, err)
			}
		}
		if err := l.CheckChain(context.Background(), 7, h); !errors.Is(err, ErrCorrupt) {
			t.Errorf("record %d is broken, the chain: %v", broken, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCheckChainFindsGapsAndShortLogs(t *testing.T) {
	l := openLog(t, vfs.NewMem())
	defer func() { _ = l.Close() }()
	h := appendRun(t, l, 7, Head{}, 5)
	check := func(what string, head Head, broken bool) {
		t.Helper()
		if err := l.CheckChain(context.Background(), 7, head); errors.Is(err, ErrCorrupt) != broken || !broken && err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	drop := func(version uint64) {
		t.Helper()
		if err := l.db.Delete(versionKey(spaceRecord, 7, version), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	check("whole", h, false)
	check("another head", Head{Version: 5}, true)
	check("ends too early", Head{Version: 6, Checksum: h.Checksum}, true)
	drop(1)
	check("trimmed", h, false)
	drop(3)
	check("gap", h, true)
	if err := l.CheckChain(context.Background(), 8, Head{}); err != nil {
		t.Errorf("empty: %v", err)
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.CheckChain(canceled, 7, h); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestRowVersions(t *testing.T) {
	l := openLog(t, vfs.NewMem())
	defer func() { _ = l.Close() }()
	b := l.NewBatch(7)
	for i, key := range []string{"b", "d", "f"} {
		if err := b.Row(RowRef{Table: 3, Key: []byte(key)}, uint64(i+10), false); err != nil {
			t.Fatal(err)
		}
	}
	h := Head{Epoch: 1, Version: 1}
	if err := errors.Join(
		b.Row(RowRef{Table: 4, Key: []byte("a")}, 99, false),
		b.Record(1, record(t, 1, h.Checksum, "x")),
		b.Sum(3, TableSum{Sum: rowcodec.Sum{Lo: 5}, Rows: 3}), b.Commit(), b.Close(),
	); err != nil {
		t.Fatal(err)
	}
	r, err := l.RowVersions(7, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		key  string
		want uint64
	}{{"a", 0}, {"b", 10}, {"c", 0}, {"f", 12}, {"g", 0}, {"h", 0}} {
		if got, err := r.Of([]byte(tc.key)); err != nil || got != tc.want {
			t.Errorf("%s: %d, %v, want %d", tc.key, got, err, tc.want)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	head, sums, err := l.HeadAndSums(7)
	if err != nil || head.Version != 1 || sums[3].Rows != 3 || sums[3].Sum.Lo != 5 {
		t.Errorf("sums %v at %+v, %v", sums, head, err)
	}
}

// FuzzPreviousChecksum checks that a record's beginning is read as protobuf reads it.
func FuzzPreviousChecksum(f *testing.F) {
	f.Add(record(f, 3, Checksum{1, 2, 3}, "x"))
	f.Add([]byte{})
	f.Add([]byte{0x1a, 0x10})
	f.Add([]byte{0x1a, 0x02, 1, 2})
	f.Add([]byte{0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, b []byte) {
		sum, err := previousChecksum(b)
		switch {
		case err == nil && len(sum) != ChecksumSize:
			t.Errorf("%d bytes", len(sum))
		case err != nil && !errors.Is(err, ErrCorrupt):
			t.Errorf("untyped: %v", err)
		}
	})
}
