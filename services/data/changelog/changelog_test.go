package changelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/rowcodec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openLog(t *testing.T, fs vfs.FS) *Log {
	t.Helper()
	return openLogWith(t, Options{FS: fs})
}

func openLogWith(t *testing.T, o Options) *Log {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	l, err := Open("log", o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func record(t testing.TB, version uint64, previous Checksum, text string) []byte {
	t.Helper()
	b, err := proto.Marshal(&replicationv1.CommitRecord{
		Version: version, Epoch: 1, PreviousChecksum: previous[:], Actor: text,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// appendRun appends a group of records after a head and returns the new one.
func appendRun(t *testing.T, l *Log, db uint32, h Head, n int) Head {
	t.Helper()
	b := l.NewBatch(db)
	for range n {
		r := record(t, h.Version+1, h.Checksum, "x")
		h = Head{Epoch: 1, Version: h.Version + 1, Checksum: ChecksumOf(r)}
		if err := b.Record(h.Version, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.Commit(), b.Close()); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestAppendedIsNotReadUntilPublished(t *testing.T) {
	l := openLog(t, vfs.NewMem())
	defer func() { _ = l.Close() }()
	h := appendRun(t, l, 7, Head{}, 5)
	if got, err := l.Read(7, 0, 1<<20); err != nil || got != nil {
		t.Errorf("unpublished: %d records, %v", len(got), err)
	}
	l.Publish(7, h)
	got, err := l.Read(7, 2, 1<<20)
	if err != nil || len(got) != 3 {
		t.Errorf("%d records after 2, %v", len(got), err)
	}
	if got, err = l.Read(7, 0, 1); err != nil || len(got) != 1 {
		t.Errorf("%d records for one byte, %v", len(got), err)
	}
	if got, err := l.Head(7); err != nil || got != h {
		t.Errorf("head %+v, want %+v, %v", got, h, err)
	}
	if got, err := l.At(7, 3); err != nil || got.Version != 3 {
		t.Errorf("at 3: %+v, %v", got, err)
	}
	if _, err := l.At(7, 6); !errors.Is(err, ErrNotFound) {
		t.Errorf("at 6: %v", err)
	}
	if got, err := l.Head(8); err != nil || got != (Head{}) {
		t.Errorf("another database: %+v, %v", got, err)
	}
}

// TestCrashKeepsWholeGroups crashes a memory file system at any moment: every committed group is there, and no half of one.
func TestCrashKeepsWholeGroups(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l := openLog(t, fs)
	var h Head
	for group := range 30 {
		h = appendRun(t, l, 7, h, 1+group%4)
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
		again := openLog(t, crashed)
		if got, err := again.Head(7); err != nil || got != h {
			t.Errorf("after group %d: head %+v, want %+v, %v", group, got, h, err)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestFailedDiskStopsTheStore lets a write fail: the commit says so, and so does every one after it.
func TestFailedDiskStopsTheStore(t *testing.T) {
	boom := errors.New("boom")
	fail := false
	injector := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if fail && (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			return boom
		}
		return nil
	})
	var told error
	l, err := Open("log", Options{
		FS: errorfs.Wrap(vfs.NewMem(), injector), Logger: slog.New(slog.DiscardHandler), OnFatal: func(err error) { told = err },
	})
	if err != nil {
		t.Fatal(err)
	}
	appendRun(t, l, 7, Head{}, 1)
	fail = true
	for range 2 {
		b := l.NewBatch(7)
		err := errors.Join(b.Record(2, record(t, 2, Checksum{}, "y")), b.Commit())
		if !errors.Is(err, ErrFailed) {
			t.Errorf("commit: %v", err)
		}
	}
	if told == nil || l.Failed() == nil {
		t.Errorf("owner told %v, failed %v", told, l.Failed())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestWatcherWakesOnce(t *testing.T) {
	l := openLog(t, vfs.NewMem())
	defer func() { _ = l.Close() }()
	synctest.Test(t, func(t *testing.T) {
		w := l.Watch() // its channel belongs to the bubble
		defer w.Close()
		for id := range uint32(100) {
			l.Publish(id%3, Head{Version: uint64(id)})
		}
		ids, err := w.Wait(t.Context())
		if err != nil || len(ids) != 3 {
			t.Errorf("changed %v, %v", ids, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if ids, err := w.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nothing changed, got %v, %v", ids, err)
		}
	})
}

func TestOutcomesExpireByAgeAndDistance(t *testing.T) {
	l := openLog(t, vfs.NewMem())
	defer func() { _ = l.Close() }()
	now := time.Unix(1_000_000, 0)
	b := l.NewBatch(7)
	for v := uint64(1); v <= 10; v++ {
		key := IdempotencyKey{Principal: "p", Key: fmt.Sprint(v)}
		o := Outcome{Version: v, Time: now.Add(time.Duration(v) * time.Hour), HasAnswer: true, Answer: []byte{byte(v)}}
		if err := b.Outcome(key, o, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.Commit(), b.Close()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		before  time.Time
		version uint64
		want    int
	}{
		{now, 10, 0},                       // old enough by distance only
		{now.Add(100 * time.Hour), 0, 0},   // old enough by age only
		{now.Add(3 * time.Hour), 10, 3},    // both: versions 1 to 3
		{now.Add(100 * time.Hour), 5, 2},   // both: versions 4 and 5
		{now.Add(100 * time.Hour), 100, 5}, // the rest
	} {
		n, err := l.ExpireOutcomes(7, tc.before, tc.version, 100)
		if err != nil || n != tc.want {
			t.Errorf("before %v at %d: expired %d, want %d, %v", tc.before, tc.version, n, tc.want, err)
		}
	}
	brief := IdempotencyKey{Key: "~made by a node"}
	b = l.NewBatch(7)
	if err := errors.Join(b.Outcome(brief, Outcome{Time: now}, 20), b.Commit(), b.Close()); err != nil {
		t.Fatal(err)
	}
	if n, err := l.ExpireOutcomes(7, now.Add(time.Hour), 100, 100); n != 0 || err != nil {
		t.Errorf("a node's key expired as a caller's: %d, %v", n, err)
	}
	if n, err := l.ExpireBriefOutcomes(7, now.Add(-time.Second), 100); n != 0 || err != nil {
		t.Errorf("a node's key expired too early: %d, %v", n, err)
	}
	if n, err := l.ExpireBriefOutcomes(7, now.Add(time.Second), 100); n != 1 || err != nil {
		t.Errorf("a node's key did not expire: %d, %v", n, err)
	}
	if _, err := l.Outcome(7, IdempotencyKey{Principal: "p", Key: "10"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an expired key: %v", err)
	}
}

func TestDropLeavesNothing(t *testing.T) {
	l := openLog(t, vfs.NewMem())
	defer func() { _ = l.Close() }()
	for _, db := range []uint32{6, 7, 8} {
		h := appendRun(t, l, db, Head{}, 3)
		b := l.NewBatch(db)
		err := errors.Join(
			b.Row(RowRef{Table: 1, Key: []byte("k")}, 2, false), b.Sum(1, TableSum{Sum: rowcodec.Sum{Lo: 5}, Rows: 1}),
			b.Migration(Migration{Name: "m"}), b.Outcome(IdempotencyKey{Key: "k"}, Outcome{}, 1), b.Commit(), b.Close(),
		)
		if err != nil {
			t.Fatal(err)
		}
		l.Publish(db, h)
	}
	if err := l.Drop(7); err != nil {
		t.Fatal(err)
	}
	state := func(db uint32) string {
		h, err := l.Head(db)
		v, err2 := l.RowVersion(db, 1, []byte("k"))
		sums, err3 := l.TableSums(db)
		ms, err4 := l.Migrations(db)
		_, err5 := l.Outcome(db, IdempotencyKey{Key: "k"})
		if err := errors.Join(err, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(h.Version, v, len(sums), len(ms), err5)
	}
	if diff := cmp.Diff([]string{"3 2 1 1 <nil>", "0 0 0 0 no such record", "3 2 1 1 <nil>"},
		[]string{state(6), state(7), state(8)}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzDecodeOutcome(f *testing.F) {
	o := Outcome{Version: 3, Time: time.Unix(5, 6), HasAnswer: true, Answer: []byte("answer")}
	f.Add(o.encode())
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{1}, 60))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeOutcome(b)
		if err != nil {
			return
		}
		again, err := decodeOutcome(o.encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(o, again); diff != "" {
			t.Error(diff)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	l, err := Open(b.TempDir(), Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	r := record(b, 1, Checksum{}, string(make([]byte, 200)))
	b.ReportAllocs()
	for v := uint64(1); b.Loop(); v++ {
		batch := l.NewBatch(7)
		if err := errors.Join(batch.Record(v, r), batch.Commit(), batch.Close()); err != nil {
			b.Fatal(err)
		}
	}
}
