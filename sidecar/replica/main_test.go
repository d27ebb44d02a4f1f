package replica

import (
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openOn opens a store that the caller closes.
func openOn(tb testing.TB, fs vfs.FS, o Options) *Store {
	tb.Helper()
	o.FS = fs
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := OpenStore("replica", o)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// openMem opens a store in memory, closed with the test.
func openMem(tb testing.TB, o Options) *Store {
	tb.Helper()
	s := openOn(tb, vfs.NewMem(), o)
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func apply(tb testing.TB, s *Store, database uint32, records ...[]byte) {
	tb.Helper()
	if err := s.ApplyRecords(database, records); err != nil {
		tb.Fatal(err)
	}
}

func database(tb testing.TB, s *Store, id uint32) *Database {
	tb.Helper()
	d, ok := s.Database(id)
	if !ok {
		tb.Fatalf("no database %d", id)
	}
	return d
}

func snapshot(tb testing.TB, s *Store, id uint32) *Snapshot {
	tb.Helper()
	snap, err := database(tb, s, id).Snapshot()
	if err != nil {
		tb.Fatal(err)
	}
	return snap
}
