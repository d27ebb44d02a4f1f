package engine

import (
	"sync/atomic"
	"testing"

	"github.com/nearside-dev/nearside/internal/value"
)

// TestLongWALIsFlushedBeforeTheWriterWaits keeps checkpoints from emptying the WAL with a view of an old version.
func TestLongWALIsFlushedBeforeTheWriterWaits(t *testing.T) {
	var flushes, checkpoints atomic.Int64
	f := &fixture{t: t, dir: t.TempDir(), failpoint: func(place string) {
		switch place {
		case "after-flush":
			flushes.Add(1)
		case "before-checkpoint":
			checkpoints.Add(1)
		}
	}}
	f.open()
	t.Cleanup(func() { f.close() })
	f.db.maxWAL = 5 * checkpointEvery
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	insert := func(groups int) {
		for range groups {
			f.exec("INSERT INTO t (a) VALUES (?1)", value.Text("some text"))
		}
	}
	insert(1)
	err := f.db.View(t.Context(), func(*View) error {
		insert(6 * checkpointEvery)
		before := checkpoints.Load()
		for flushes.Load() == 0 || checkpoints.Load() < before+2 {
			insert(1) // until the writer has waited for one
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for f.db.walFrames.Load() > f.db.maxWAL {
		insert(1) // with nobody in its way a checkpoint empties it
	}
	if err := f.db.Problem(); err != nil {
		t.Error(err)
	}
	f.sumsHold()
}
