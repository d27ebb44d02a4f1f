package changelog

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// countingFS counts what is read of its files.
type countingFS struct {
	vfs.FS

	read atomic.Int64
}

// Open implements vfs.FS.
func (c *countingFS) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.Open(name, o...)
	return countingFile{f, c}, err
}

type countingFile struct {
	vfs.File

	fs *countingFS
}

// ReadAt implements vfs.File.
func (f countingFile) ReadAt(b []byte, offset int64) (int, error) {
	n, err := f.File.ReadAt(b, offset)
	f.fs.read.Add(int64(n))
	return n, err
}

// largeRecords returns a log whose last level has records of megabytes between small entries.
func largeRecords(tb testing.TB, fs vfs.FS) *Log {
	tb.Helper()
	// The cache holds no record, nor do others keep one out of it.
	l, err := Open("log", Options{FS: fs, Logger: slog.New(slog.DiscardHandler), CacheBytes: 4 << 20})
	if err != nil {
		tb.Fatal(err)
	}
	b := l.NewBatch(1)
	if err := errors.Join(b.Outcome(IdempotencyKey{Key: "a"}, Outcome{}, 1), b.Record(1, record(tb, 1, Checksum{}, "small"))); err != nil {
		tb.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for version := range uint64(8) {
		large := make([]byte, 1<<20)
		for i := range large {
			large[i] = 'a' + byte(random.IntN(26))
		}
		b.database = 2
		if err := b.Record(version+1, record(tb, version+1, Checksum{}, string(large))); err != nil {
			tb.Fatal(err)
		}
	}
	if err := errors.Join(b.Sum(1, TableSum{}), b.Commit(), b.Close(), l.db.Compact(tb.Context(), []byte{0}, []byte{0xff}, false)); err != nil {
		tb.Fatal(err)
	}
	return l
}

func missingKey(i int) IdempotencyKey { return IdempotencyKey{Key: fmt.Sprintf("~%d", i)} }

// TestSmallReadsDoNotReadLargeRecords looks up what stands beside records of a megabyte each.
func TestSmallReadsDoNotReadLargeRecords(t *testing.T) {
	fs := &countingFS{FS: vfs.NewMem()}
	l := largeRecords(t, fs)
	defer func() { _ = l.Close() }()
	before := fs.read.Load()
	const reads = 50
	for i := range reads {
		if _, err := l.Outcome(1, missingKey(i)); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		if got, err := l.ReadAppended(2, 8, 1<<20); err != nil || len(got) > 0 {
			t.Fatal(len(got), err)
		}
		if _, err := l.TableSums(2); err != nil {
			t.Fatal(err)
		}
	}
	if read := fs.read.Load() - before; read > 256<<10 {
		t.Errorf("%d bytes read for %d look-ups of small things", read, 3*reads)
	}
}

// BenchmarkReadNewest is what a follower that keeps up costs for each commit.
func BenchmarkReadNewest(b *testing.B) {
	for _, n := range []uint64{1, fewRecords, fewRecords + 1} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) {
			l := largeRecords(b, vfs.NewMem())
			defer func() { _ = l.Close() }()
			batch := l.NewBatch(2)
			for i := range n {
				if err := batch.Record(9+i, record(b, 9+i, Checksum{}, "small")); err != nil {
					b.Fatal(err)
				}
			}
			if err := errors.Join(batch.Commit(), batch.Close()); err != nil {
				b.Fatal(err)
			}
			l.Publish(2, Head{Epoch: 1, Version: 8 + n})
			b.ReportAllocs()
			for b.Loop() {
				if got, err := l.Read(2, 8, 1<<20); err != nil || uint64(len(got)) != n {
					b.Fatal(len(got), err)
				}
			}
		})
	}
}

func BenchmarkOutcomeBesideLargeRecords(b *testing.B) {
	l := largeRecords(b, vfs.NewMem())
	defer func() { _ = l.Close() }()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := l.Outcome(1, missingKey(i)); !errors.Is(err, ErrNotFound) {
			b.Fatal(err)
		}
	}
}
