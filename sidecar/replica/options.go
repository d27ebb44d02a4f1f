package replica

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/compactions"
)

// Options configures a Store. The zero value is usable.
type Options struct {
	// FS is where the store is; default the disk.
	FS vfs.FS
	// Logger is told what an operator should know; default slog.Default().
	Logger *slog.Logger
	// CacheBytes is the size of Pebble's block cache; default 64 MiB.
	CacheBytes int64
	// MemTableBytes is the size of one memtable, of which Pebble keeps up to four; default 16 MiB.
	MemTableBytes uint64
	// OnFatal is told once when the store fails, on a goroutine of its own; it may close the store. Default: nothing.
	OnFatal func(error)
	// BeforeErase is told of a database of which something is about to be deleted that this region may not have any more; it returns
	// when none of the answers that were kept of the database is in memory. Nobody keeps what is read from before the call until
	// it is deleted: that has no Reading, or one that does not hold. It must not change the store. Default: nothing.
	BeforeErase func(database uint32)
	// OnErase is told of the same when it was deleted; it returns when nobody keeps anything else of that in memory. It must not
	// call the store. Default: nothing.
	OnErase func(database uint32)
	// Registerer takes the metrics; default none.
	Registerer prometheus.Registerer
	// TailRecords and TailBytes bound how much of each database's log is kept: 10,000 records and 64 MiB by default. An
	// eighth more may be there before the oldest are cut off.
	TailRecords uint64
	TailBytes   uint64
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = privateFS{vfs.Default}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 16 << 20
	}
	if o.TailRecords == 0 {
		o.TailRecords = 10_000
	}
	if o.TailBytes == 0 {
		o.TailBytes = 64 << 20
	}
	return o
}

// pebbleOptions returns the store's Pebble options. The caller gives up its reference to the cache once the store is open.
func (s *Store) pebbleOptions(o Options) *pebble.Options {
	po := &pebble.Options{
		FS:                 s.fs,
		Logger:             s,
		Cache:              pebble.NewCache(o.CacheBytes),
		MemTableSize:       o.MemTableBytes,
		FormatMajorVersion: pebble.FormatNewest,
		EventListener: &pebble.EventListener{
			// One bad block says nothing about the others, but a copy that holds one cannot be vouched for, and a database's
			// bad block is found when it is read, not when it is asked whether it is well.
			DataCorruption: func(info pebble.DataCorruptionInfo) { s.fs.Fail(fmt.Errorf("%w: %s", ErrCorrupt, info)) },
		},
	}
	// Each compaction out of the top level writes much of the next one anew, because keys of indexes come from everywhere: twice as
	// many files before it is half of that work. Look-ups ask a filter more in the meantime.
	po.L0CompactionThreshold, po.L0StopWritesThreshold = 8, 16
	// The level that they are merged into may have a quarter of a gigabyte, and not 64 MiB: up to that there is no level between
	// it and the last one, which would write everything once more.
	po.LBaseMaxBytes = 256 << 20
	po.Experimental.CompactionScheduler = compactions.New()
	// Rows are mostly looked up by their whole key, at many an insert in vain: a bloom filter answers that from memory.
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return po
}

// Infof implements pebble.Logger. Pebble tells of every flush.
func (s *Store) Infof(format string, args ...any) { s.logger.Debug(fmt.Sprintf(format, args...)) }

// Errorf implements pebble.Logger: what Pebble can live with. After a failure it is noise.
func (s *Store) Errorf(format string, args ...any) {
	if s.fs.Failed() == nil {
		s.logger.Error(fmt.Sprintf(format, args...))
	}
}

// Fatalf implements pebble.Logger. Pebble's default ends the process, and with it the neighbours of this role. It would also
// be wrong to end the goroutine: Pebble calls it holding locks that Close waits for. So it returns, and Pebble goes on with
// a store that may be inconsistent in memory; but the disk is frozen, and every call of this package asks for the failure
// after its work, so nothing of it reaches anybody.
func (s *Store) Fatalf(format string, args ...any) { s.fs.Fail(fmt.Errorf(format, args...)) }

// privateFS makes files that only their owner may read: they hold users' data and the key of the bookmarks.
type privateFS struct{ vfs.FS }

// Create implements vfs.FS.
func (p privateFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := p.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(name, 0o600); err != nil {
		_ = f.Close() // the other error says what is wrong
		return nil, err
	}
	return f, nil
}

// Unwrap implements vfs.FS.
func (p privateFS) Unwrap() vfs.FS { return p.FS }
