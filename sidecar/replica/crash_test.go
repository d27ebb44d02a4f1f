package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// history is a run of commits of a few hundred kilobytes, with schema changes on the way: an index, and a column before its own
// that is dropped. It ends with the table last.
func history() (p *replicatest.Primary, records [][]byte, last *catalog.Table) {
	plain := replicatest.Table(10, "users", "id", "note", "email", "age")
	indexed := replicatest.WithIndex(plain, 20, "by_email", false, "email")
	last = replicatest.WithoutColumn(indexed, "note")
	p = replicatest.NewPrimary()
	records = append(records, p.Commit(replicatest.Schema(plain)))
	for i := range int64(300) {
		t := plain
		var changes []replicatest.Change
		values := []value.Value{value.Text("note"), value.Text(fmt.Sprint(i) + strings.Repeat("x", 600)), value.Integer(i)}
		if i >= 150 {
			t = indexed
		}
		if i >= 220 {
			t, values = last, values[1:]
		}
		if i == 150 || i == 220 {
			changes = append(changes, replicatest.Schema(t))
		}
		records = append(records, p.Commit(append(changes, replicatest.Put(t, replicatest.Row(i%40, values...)))...))
	}
	return p, records, last
}

// resume applies the rest of the history to a store that has some of it, and compares.
func resume(t *testing.T, fs vfs.FS, p *replicatest.Primary, last *catalog.Table, records [][]byte, atMost int) (had uint64) {
	t.Helper()
	s := openOn(t, fs, Options{})
	defer s.Close()
	if d, ok := s.Database(shop); ok {
		if err := d.Problem(); err != nil {
			t.Fatal(err)
		}
		_, had = d.Applied()
	}
	if had > uint64(atMost) {
		t.Fatalf("version %d, but only %d were applied", had, atMost)
	}
	apply(t, s, shop, records[had:]...) // every record's sums are compared on the way
	verify(t, s, shop, p, last)
	return had
}

func TestCrashLosesAWholeTail(t *testing.T) {
	p, records, last := history()
	lost := 0
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		fs := vfs.NewCrashableMem()
		s := openOn(t, fs, Options{MemTableBytes: 64 << 10})
		stop := 1 + rnd.IntN(len(records)-1)
		for i := 0; i < stop; {
			n := min(stop-i, 1+rnd.IntN(20))
			apply(t, s, shop, records[i:i+n]...)
			i += n
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rnd.IntN(101), RNG: rnd})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if resume(t, crashed, p, last, records, stop) < uint64(stop) {
			lost++
		}
	}
	if lost == 0 {
		t.Error("no crash lost anything: this test tests nothing")
	}
}

func TestReopenResumes(t *testing.T) {
	p, records, last := history()
	fs := vfs.NewMem()
	s := openOn(t, fs, Options{})
	apply(t, s, shop, records[:200]...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if had := resume(t, fs, p, last, records, 200); had != 200 {
		t.Errorf("version %d after reopening, want 200", had)
	}
}

// TestFailingDisk makes each write in turn the first that fails, and all after it too.
func TestFailingDisk(t *testing.T) {
	p, records, last := history()
	broken := errors.New("no space left")
	failures := 0
	for first := int64(1); ; first += 1 + first/20 {
		var writes atomic.Int64
		var armed, told atomic.Int64
		fs := vfs.NewMem()
		failing := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if armed.Load() == 1 && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && writes.Add(1) >= first {
				return broken
			}
			return nil
		}))
		fatal := make(chan error, 10)
		s := openOn(t, failing, Options{MemTableBytes: 64 << 10, OnFatal: func(err error) { told.Add(1); fatal <- err }})
		armed.Store(1)
		applied := 0
		var err error
		for applied < len(records) && err == nil {
			n := min(len(records)-applied, 7)
			if err = s.ApplyRecords(shop, records[applied:applied+n]); err == nil {
				applied += n
			}
		}
		if err == nil {
			err = s.saveHeardAt(s.openedAt)
		}
		closeErr := s.Close()
		if writes.Load() < first {
			break // the whole history needs no more writes than that
		}
		failures++
		// A write of the log's tail may fail only while closing.
		if !errors.Is(closeErr, ErrStoreFailed) || !errors.Is(closeErr, broken) {
			t.Fatalf("write %d: close: %v, after apply: %v", first, closeErr, err)
		}
		if err != nil && !errors.Is(err, ErrStoreFailed) {
			t.Fatalf("write %d: %v", first, err)
		}
		if got := <-fatal; !errors.Is(got, ErrStoreFailed) {
			t.Fatalf("write %d: OnFatal was told %v", first, got)
		}
		if told.Load() != 1 {
			t.Fatalf("write %d: OnFatal was told %d times", first, told.Load())
		}
		// What a failed group left must not be half there. (A group may be there although its caller was told of a failure.)
		resume(t, fs, p, last, records, applied+7)
	}
	if failures < 20 {
		t.Errorf("only %d writes failed", failures)
	}
}

func TestFailedStoreServesNothing(t *testing.T) {
	p, records, _ := history()
	var broken atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errors.New("disk gone")
		}
		return nil
	}))
	s := openOn(t, fs, Options{})
	apply(t, s, shop, records[:10]...)
	d := database(t, s, shop)
	waited := make(chan error)
	go func() { waited <- d.WaitFor(t.Context(), 1, p.Version()) }()
	broken.Store(true)
	if err := s.Adopt(Identity{BookmarkKey: []byte("key")}); !errors.Is(err, ErrStoreFailed) {
		t.Fatalf("synced write: %v", err)
	}
	if err := <-waited; !errors.Is(err, ErrStoreFailed) {
		t.Errorf("WaitFor: %v", err)
	}
	if _, err := d.Snapshot(); !errors.Is(err, ErrStoreFailed) {
		t.Errorf("Snapshot: %v", err)
	}
	if err := d.Problem(); !errors.Is(err, ErrStoreFailed) {
		t.Errorf("Problem: %v", err)
	}
	if err := s.ApplyRecords(shop, records[10:11]); !errors.Is(err, ErrStoreFailed) {
		t.Errorf("ApplyRecords: %v", err)
	}
	if err := s.Close(); !errors.Is(err, ErrStoreFailed) {
		t.Errorf("Close: %v", err)
	}
}

func TestStoreFilesArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "replica")
	s, err := OpenStore(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Adopt(Identity{MeshID: [16]byte{1}, BookmarkKey: []byte("secret")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"", "*.log", "MANIFEST*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, name := range files {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", name, info.Mode())
			}
		}
	}
}
