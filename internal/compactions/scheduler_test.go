package compactions

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitingStore has compactions that wait, and says how many may run.
type waitingStore struct {
	allowed, waiting, started atomic.Int64
	asked                     atomic.Int64
	granted                   chan pebble.CompactionGrantHandle
}

func newWaitingStore(waiting int64) *waitingStore {
	w := &waitingStore{granted: make(chan pebble.CompactionGrantHandle, 16)}
	w.waiting.Store(waiting)
	return w
}

func (w *waitingStore) GetAllowedWithoutPermission() int {
	w.asked.Add(1)
	return int(w.allowed.Load())
}

func (w *waitingStore) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	return w.waiting.Load() > 0, pebble.WaitingCompaction{}
}

func (w *waitingStore) Schedule(h pebble.CompactionGrantHandle) bool {
	w.waiting.Add(-1)
	w.started.Add(1)
	w.granted <- h
	return true
}

func TestARefusedCompactionIsStartedOnceItIsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := New(), newWaitingStore(1)
		s.Register(1, store)
		defer s.Unregister()
		store.allowed.Store(1)
		ok, first := s.TrySchedule()
		if !ok {
			t.Fatal("the first compaction was refused")
		}
		if ok, _ := s.TrySchedule(); ok {
			t.Fatal("two compactions were allowed where one may run")
		}
		time.Sleep(10 * recheck)
		if n := store.started.Load(); n != 0 {
			t.Fatalf("%d compactions were started beyond what is allowed", n)
		}
		store.allowed.Store(2) // nobody is told
		time.Sleep(2 * recheck)
		if n := store.started.Load(); n != 1 {
			t.Fatalf("%d compactions were started, of 1 that waits and is allowed", n)
		}
		first.Done()
		(<-store.granted).Done()
		time.Sleep(2 * recheck)
		asked := store.asked.Load()
		time.Sleep(time.Hour)
		if n := store.asked.Load() - asked; n != 0 {
			t.Fatalf("asked %d times while nothing waited", n)
		}
	})
}

func TestACompactionThatEndsMakesPlaceForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := New(), newWaitingStore(3)
		s.Register(1, store)
		defer s.Unregister()
		store.allowed.Store(1)
		_, h := s.TrySchedule()
		for range 3 {
			h.Done()
			h = <-store.granted // at once: the clock stands still
		}
		h.Done()
		if n := store.started.Load(); n != 3 {
			t.Fatalf("%d compactions were started of 3", n)
		}
	})
}

func TestAFlushThatAllowsMoreStartsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := New(), newWaitingStore(2)
		s.Register(1, store)
		store.allowed.Store(2)
		s.UpdateGetAllowedWithoutPermission()
		synctest.Wait()
		if n := store.started.Load(); n != 2 {
			t.Fatalf("%d compactions were started of 2", n)
		}
		s.Unregister()
		for range 2 {
			(<-store.granted).Done()
		}
		if ok, _ := s.TrySchedule(); ok {
			t.Fatal("a compaction was allowed after Unregister")
		}
	})
}

func TestAStoreCompactsWithIt(t *testing.T) {
	db, err := pebble.Open("", options())
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 1<<10)
	for i := range 4_000 {
		if err := db.Set(fmt.Appendf(nil, "%08d", i*7919%4_000), value, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := db.Compact(t.Context(), []byte("0"), []byte("9"), true); err != nil {
		t.Fatal(err)
	}
	m := db.Metrics()
	if m.Compact.DefaultCount == 0 {
		t.Error("nothing was compacted")
	}
	if n := m.Levels[0].TablesCount; n != 0 {
		t.Errorf("%d tables are left in the first level", n)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func options() *pebble.Options {
	o := &pebble.Options{FS: vfs.NewMem(), MemTableSize: 128 << 10, FormatMajorVersion: pebble.FormatNewest}
	o.Experimental.CompactionScheduler = New()
	return o
}
