package changelog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/nearside-dev/nearside/internal/compactions"
	"github.com/nearside-dev/nearside/internal/erase"
	"github.com/nearside-dev/nearside/internal/failstop"
)

// DefaultDiskReserve is how many free bytes the log leaves on its disk: enough for the stores to checkpoint and close.
const DefaultDiskReserve = 256 << 20

// Options configures a Log. The zero value is usable.
type Options struct {
	FS          vfs.FS           // default vfs.Default
	Logger      *slog.Logger     // default slog.Default()
	OnFatal     func(error)      // told once when the store fails
	DiskReserve uint64           // bytes; default DefaultDiskReserve
	CacheBytes  int64            // Pebble's block cache; default 32 MiB
	Clock       func() time.Time // default time.Now

	// RecentBytes is how much of the newest records is kept in memory, of all databases; default DefaultRecentBytes, below 0 none.
	RecentBytes int
}

// Log is the commit log of all databases of a process. Its methods are safe for concurrent use; Append is for one
// goroutine per database, the writer.
type Log struct {
	db     *pebble.DB
	eraser *erase.Eraser
	logger *slog.Logger
	disk   *failstop.FS // freezes at the first failed write: Pebble itself would end the process, or never stop trying
	dir    string
	now    func() time.Time

	diskReserve   uint64
	diskCheckedAt atomic.Int64 // unix nanoseconds
	diskFull      atomic.Bool

	published publications
	recent    recent
	pins      pins
}

// Open opens or creates the log in dir.
func Open(dir string, o Options) (*Log, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.DiskReserve == 0 {
		o.DiskReserve = DefaultDiskReserve
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 32 << 20
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.RecentBytes == 0 {
		o.RecentBytes = DefaultRecentBytes
	}
	if err := o.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create log folder %s: %w", dir, err)
	}
	l := &Log{
		logger: o.Logger, dir: dir, now: o.Clock, diskReserve: o.DiskReserve,
	}
	fs := erase.NewFS(o.FS)
	l.disk = failstop.New(fs, func(err error) {
		o.Logger.Error("log store failed", slog.Any("error", err))
		if o.OnFatal != nil {
			o.OnFatal(fmt.Errorf("%w: %w", ErrFailed, err))
		}
	})
	l.recent.limit = max(o.RecentBytes, 0)
	l.published.heads = make(map[uint32]Head)
	l.published.watchers = make(map[*Watcher]struct{})
	options := &pebble.Options{
		FS: l.disk, Logger: storeLogger{l}, CacheSize: o.CacheBytes, MemTableSize: 16 << 20,
		FormatMajorVersion: pebble.FormatNewest,
	}
	// The log is read where it is new, in memory, and where a copy is far behind, in order: files that wait for their compaction cost
	// those nothing, and half as many compactions leave the processors to the writes.
	options.L0CompactionThreshold, options.L0StopWritesThreshold = 8, 16
	// Records are new keys behind all that a database has, so the last level takes them as they are: a level between would only
	// write them once more. What comes from everywhere is small, and it is half a gigabyte at most that is merged with it at a time.
	options.LBaseMaxBytes = 512 << 20
	options.Experimental.CompactionScheduler = compactions.New()
	for i := range options.Levels {
		// Row versions and idempotency keys are looked up mostly in vain: a bloom filter answers that from memory.
		options.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		// Pebble asks no filter of its last level, though, and fills a block that is not nearly full with whatever comes
		// next: a record of megabytes would be read again with each small entry that shares its block. So large records
		// get blocks of their own.
		options.Levels[i].BlockSizeThreshold = 1
	}
	fs.Configure(options)
	db, err := pebble.Open(dir, options)
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	l.db = db
	l.disk.Arm()
	if err := l.Failed(); err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, errors.Join(err, db.Close()))
	}
	if l.eraser, err = erase.New(db, fs, []byte{spaceErase}, o.Logger); err != nil {
		return nil, errors.Join(fmt.Errorf("open log %s: %w", dir, err), db.Close())
	}
	if err := l.Failed(); err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, errors.Join(err, l.Close()))
	}
	return l, nil
}

// storeLogger is Pebble's logger. The default one ends the process at a fatal error.
type storeLogger struct{ l *Log }

func (s storeLogger) Infof(format string, args ...any) {
	s.l.logger.Debug(fmt.Sprintf(format, args...))
}

func (s storeLogger) Errorf(format string, args ...any) {
	s.l.logger.Error(fmt.Sprintf(format, args...))
}

func (s storeLogger) Fatalf(format string, args ...any) { s.l.disk.Fail(fmt.Errorf(format, args...)) }

// Close closes the store. What Pebble says of a failed one means nothing: its disk is frozen as a crash would leave it.
func (l *Log) Close() error {
	l.eraser.Close()
	if err := l.db.Close(); l.disk.Failed() == nil {
		return err
	}
	return nil
}

// Failed returns the error that stopped the store, wrapped in ErrFailed, or nil.
func (l *Log) Failed() error {
	if err := l.disk.Failed(); err != nil {
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return nil
}

// The key space. Numbers are big-endian, so keys sort by them.
const (
	spaceRecord     = 'r' // database, version → CommitRecord
	spaceRow        = 'v' // database, table, row key → version of the row's last change
	spaceSum        = 's' // database, table → set-sum and row count
	spaceKey        = 'i' // database, principal, 0, idempotency key → Outcome
	spaceBriefOrder = 'y' // the same, of keys that a node made for its own repeats
	spaceKeyOrder   = 'x' // database, version → the idempotency key's place, for expiry
	spaceMigration  = 'g' // database, ordinal → applied migration
	spaceMeta       = 'm' // name → value
	spaceErase      = 'z' // number → range that was deleted, until its bytes have left the disk
)

func appendDatabaseKey(dst []byte, space byte, database uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, space), database)
}

func versionKey(space byte, database uint32, version uint64) []byte {
	return binary.BigEndian.AppendUint64(appendDatabaseKey(make([]byte, 0, 13), space, database), version)
}

func tableKey(space byte, database, table uint32) []byte {
	return binary.BigEndian.AppendUint32(appendDatabaseKey(make([]byte, 0, 9), space, database), table)
}

// get returns a copy of a value, or ErrNotFound.
func (l *Log) get(key []byte) ([]byte, error) {
	v, closer, err := l.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	value := append([]byte(nil), v...)
	return value, closer.Close()
}

// Head returns the place of the last appended record, the zero Head if there is none.
func (l *Log) Head(database uint32) (Head, error) { return headIn(l.db, database) }

func headIn(r pebble.Reader, database uint32) (Head, error) {
	iter, err := r.NewIter(&pebble.IterOptions{
		LowerBound: versionKey(spaceRecord, database, 0),
		UpperBound: appendDatabaseKey(nil, spaceRecord, database+1),
	})
	if err != nil {
		return Head{}, fmt.Errorf("read log: %w", err)
	}
	var head Head
	if iter.Last() {
		var record []byte
		if record, err = iter.ValueAndErr(); err == nil {
			head, err = headOf(record, versionOf(iter.Key()))
		}
	}
	if err = errors.Join(err, iter.Error(), iter.Close()); err != nil {
		return Head{}, fmt.Errorf("last record of database %d: %w", database, err)
	}
	return head, nil
}

func versionOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// At returns the place of one record, or ErrNotFound. Version 0 is the zero Head.
func (l *Log) At(database uint32, version uint64) (Head, error) {
	if version == 0 {
		return Head{}, nil
	}
	record, err := l.get(versionKey(spaceRecord, database, version))
	if err != nil {
		return Head{}, err
	}
	return headOf(record, version)
}

// ChecksumAt returns the checksum and the epoch of one record, or ErrNotFound. A record that is not what the one after it
// follows is ErrCorrupt: to say its checksum would make a fork of every honest copy. Of the last one that is published it says what
// was published, and does not read it.
func (l *Log) ChecksumAt(database uint32, version uint64) (Checksum, uint32, error) {
	published, _ := l.Published(database)
	if version > 0 && version == published.Version {
		return published.Checksum, published.Epoch, nil // all that is asked when a thousand copies come back, and records may be large
	}
	head, err := l.At(database, version)
	if err != nil || version == 0 {
		return head.Checksum, head.Epoch, err
	}
	next, err := l.get(versionKey(spaceRecord, database, version+1))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Checksum{}, 0, err
	}
	if err := fits(version, head.Checksum, next, published); err != nil {
		return Checksum{}, 0, fmt.Errorf("log of database %d: %w", database, err)
	}
	return head.Checksum, head.Epoch, nil
}

// Read returns the published records after a version, in order: at least one if there is any, then as many as fit into
// maxBytes. It returns none where the reader has them all, and ErrTrimmed where the next one is gone. Each record has the
// checksum that the one after it follows, or that was published; one that has not is ErrCorrupt, and is never returned. The newest
// come from memory, as they were appended. Nobody changes what is returned.
func (l *Log) Read(database uint32, after uint64, maxBytes int) ([][]byte, error) {
	published, ok := l.Published(database)
	if !ok || published.Version <= after {
		return nil, nil
	}
	if records := l.recent.read(database, after, published.Version, maxBytes); records != nil {
		return records, nil
	}
	if published.Version-after <= fewRecords {
		if records, ok := l.readFew(database, after, published, maxBytes); ok {
			return records, nil
		}
	}
	return l.read(database, after, published, maxBytes)
}

// ReadUpTo is Read of the records up to a version, which the caller knows to be published.
func (l *Log) ReadUpTo(database uint32, after, last uint64, maxBytes int) ([][]byte, error) {
	head := Head{Version: last}
	if published, ok := l.Published(database); ok && published.Version == last {
		head = published // none comes after it, to prove it
	}
	return l.read(database, after, head, maxBytes)
}

// fewRecords is up to where records are looked up one by one, for 2 µs each: an iterator is put in place in every
// file whose range it is in, and reads a block of each, but a look-up of what is new ends in memory.
const fewRecords = 32

// readFew is read of records that are likely to be new. It reports false where read has to find out what is wrong.
func (l *Log) readFew(database uint32, after uint64, last Head, maxBytes int) (records [][]byte, ok bool) {
	size := 0
	for version := after + 1; version <= last.Version; version++ {
		record, err := l.get(versionKey(spaceRecord, database, version))
		if err != nil {
			return nil, false
		}
		if n := len(records); n > 0 && fits(version-1, ChecksumOf(records[n-1]), record, last) != nil {
			return nil, false
		}
		if size += len(record); len(records) > 0 && size > maxBytes {
			return records, true
		}
		records = append(records, record)
	}
	n := len(records)
	return records, n > 0 && fits(last.Version, ChecksumOf(records[n-1]), nil, last) == nil
}

// ReadAppended is Read for recovery: it returns records that are appended but not published too.
func (l *Log) ReadAppended(database uint32, after uint64, maxBytes int) ([][]byte, error) {
	return l.read(database, after, Head{Version: ^uint64(0) - 2}, maxBytes)
}

func (l *Log) read(database uint32, after uint64, last Head, maxBytes int) ([][]byte, error) {
	iter, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: versionKey(spaceRecord, database, after+1),
		UpperBound: versionKey(spaceRecord, database, last.Version+2), // one more proves the last
	})
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	var records [][]byte
	size, want, proven := 0, after+1, 0
	for ok := iter.First(); ok && err == nil; ok = iter.Next() {
		if got := versionOf(iter.Key()); got != want {
			if len(records) == 0 {
				err = fmt.Errorf("%w: the oldest version is %d", ErrTrimmed, got)
				break
			}
			err = fmt.Errorf("%w: database %d: version %d follows %d", ErrCorrupt, database, got, want-1)
			break
		}
		var record []byte
		if record, err = iter.ValueAndErr(); err != nil {
			break
		}
		if n := len(records); n > 0 {
			if err = fits(want-1, ChecksumOf(records[n-1]), record, last); err != nil {
				break
			}
			proven = n
		}
		if want > last.Version || len(records) > 0 && size+len(record) > maxBytes {
			break
		}
		records = append(records, append([]byte(nil), record...))
		size += len(record)
		want++
	}
	if n := len(records); err == nil && n > proven { // none came after the last
		if err = fits(want-1, ChecksumOf(records[n-1]), nil, last); err == nil {
			proven = n
		}
	}
	if proven > 0 && errors.Is(err, ErrCorrupt) {
		err = nil // the next read begins with what is wrong
	}
	records = records[:proven]
	if err = errors.Join(err, iter.Error(), iter.Close()); err != nil {
		return nil, fmt.Errorf("read log of database %d after %d: %w", database, after, err)
	}
	return records, nil
}

// RowVersion returns the version of the commit that last changed a row. For a row that is not there it means nothing.
func (l *Log) RowVersion(database, table uint32, rowKey []byte) (uint64, error) {
	v, closer, err := l.db.Get(append(tableKey(spaceRow, database, table), rowKey...))
	if errors.Is(err, pebble.ErrNotFound) {
		v, closer, err = l.db.Get(tableKey(spaceRow, database, table)) // AllRows
	}
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read row version: %w", err)
	}
	version, n := binary.Uvarint(v)
	if n <= 0 {
		err = fmt.Errorf("%w: row version of %d bytes", ErrCorrupt, len(v))
	}
	return version, errors.Join(err, closer.Close())
}

// DiskReserve is how many free bytes CheckDisk wants.
func (l *Log) DiskReserve() uint64 { return l.diskReserve }

// CheckDisk returns false when the disk has less free space than the reserve. It looks at most once a second.
func (l *Log) CheckDisk() bool {
	now := l.now().UnixNano()
	// A clock that was set back must not put the next look off.
	if last := l.diskCheckedAt.Load(); (now-last >= int64(time.Second) || now < last) && l.diskCheckedAt.CompareAndSwap(last, now) {
		usage, err := l.disk.GetDiskUsage(l.dir)
		// A file system that cannot tell (in memory, in tests) has no reserve to keep.
		l.diskFull.Store(err == nil && usage.AvailBytes < l.diskReserve)
	}
	return !l.diskFull.Load()
}

// Meta returns a value of the process's own, or ErrNotFound.
func (l *Log) Meta(name string) ([]byte, error) {
	return l.get(append([]byte{spaceMeta}, name...))
}

// SetMeta stores a value of the process's own, durably.
func (l *Log) SetMeta(name string, value []byte) error {
	if err := l.db.Set(append([]byte{spaceMeta}, name...), value, pebble.Sync); err != nil {
		return fmt.Errorf("write meta %s: %w", name, err)
	}
	return l.Failed()
}

// Drop deletes everything of a database. Its bytes leave the disk in the background.
func (l *Log) Drop(database uint32) (err error) {
	l.Unpublish(database)
	b := l.db.NewBatch()
	defer func() { err = errors.Join(err, b.Close()) }()
	for _, space := range []byte{spaceRecord, spaceRow, spaceSum, spaceKey, spaceKeyOrder, spaceBriefOrder, spaceMigration} {
		lower, upper := appendDatabaseKey(nil, space, database), appendDatabaseKey(nil, space, database+1)
		if err := l.eraser.DeleteRange(b, lower, upper); err != nil {
			return fmt.Errorf("drop log of database %d: %w", database, err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("drop log of database %d: %w", database, err)
	}
	l.eraser.Wake()
	return l.Failed()
}

// WaitErased returns when the bytes of what was dropped have left the disk, or could not be made to, or when ctx ends. The
// store deletes files that it does not need any more a moment later.
func (l *Log) WaitErased(ctx context.Context) error { return l.eraser.Wait(ctx) }
