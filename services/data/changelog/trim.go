package changelog

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
)

// ErrTrimmed means that the log no longer has the records that a reader asked for.
var ErrTrimmed = errors.New("log trimmed")

// Bounds of pins. A pin beyond them is lost, and its reader begins anew: it costs work, never a full disk.
const (
	maxPins     = 256
	maxPinAge   = time.Hour
	maxPinBytes = 8 << 30 // of a database's log
)

// pins are the places that the log is not trimmed beyond.
type pins struct {
	mu  sync.Mutex // held while a trim is decided and done, so that no pin comes too late
	all []*Pin
}

// Pin keeps the records after a version from being trimmed, within bounds: at most an hour, 8 GiB of one database, 256 pins.
type Pin struct {
	log      *Log
	database uint32
	version  uint64
	expires  time.Time
}

// Pin keeps the records after a version. ErrTrimmed means that some of them are gone already. Release it.
func (l *Log) Pin(database uint32, version uint64) (*Pin, error) {
	l.pins.mu.Lock()
	defer l.pins.mu.Unlock()
	first, err := l.first(database)
	if err != nil {
		return nil, err
	}
	if first > version+1 {
		return nil, fmt.Errorf("%w: database %d begins at %d, not after %d", ErrTrimmed, database, first, version)
	}
	if len(l.pins.all) >= maxPins {
		l.pins.all = slices.Delete(l.pins.all, 0, 1)
	}
	p := &Pin{log: l, database: database, version: version, expires: l.now().Add(maxPinAge)}
	l.pins.all = append(l.pins.all, p)
	return p, nil
}

// Move has the pin keep only the records after a later version.
func (p *Pin) Move(version uint64) {
	p.log.pins.mu.Lock()
	defer p.log.pins.mu.Unlock()
	p.version = max(p.version, version)
}

// Release ends the pin after a time: a reader that was cut off may come back.
func (p *Pin) Release(after time.Duration) {
	p.log.pins.mu.Lock()
	defer p.log.pins.mu.Unlock()
	if after > 0 {
		if at := p.log.now().Add(after); at.Before(p.expires) {
			p.expires = at
		}
		return
	}
	p.log.pins.all = slices.DeleteFunc(p.log.pins.all, func(q *Pin) bool { return p == q })
}

// first returns the version of the oldest record; where there is none it is 1.
func (l *Log) first(database uint32) (version uint64, err error) {
	iter, err := l.recordIter(database, 0)
	if err != nil {
		return 0, err
	}
	version = 1
	if iter.First() {
		version = versionOf(iter.Key())
	}
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		return 0, fmt.Errorf("oldest record of database %d: %w", database, err)
	}
	return version, nil
}

// First returns the version of the oldest record of a database that is kept; where there is none it is 1.
func (l *Log) First(database uint32) (uint64, error) { return l.first(database) }

func (l *Log) recordIter(database uint32, from uint64) (*pebble.Iterator, error) {
	iter, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: versionKey(spaceRecord, database, from),
		UpperBound: appendDatabaseKey(nil, spaceRecord, database+1),
	})
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	return iter, nil
}

// Retention is how much of a log is kept. A record is trimmed when it is older than Age, or when the records after it alone
// have Bytes.
type Retention struct {
	Age   time.Duration
	Bytes uint64
}

// Defaults of Retention.
const (
	DefaultKeepAge   = 24 * time.Hour
	DefaultKeepBytes = 1 << 30
)

// maxTrimRecords is how many records one call of Trim looks at.
const maxTrimRecords = 100_000

// Trim removes the oldest records of a database that retention does not keep, and returns how many. Those at and after
// durable stay, and those after a pin: durable is a version that the database's file has on its disk for certain. One call
// removes a bounded number.
func (l *Log) Trim(database uint32, durable uint64, keep Retention) (n int, err error) {
	l.pins.mu.Lock()
	defer l.pins.mu.Unlock()
	if err := l.Failed(); err != nil {
		return 0, err
	}
	size, err := l.recordBytes(database, 0)
	if err != nil {
		return 0, err
	}
	limit, now := durable, l.now()
	l.pins.all = slices.DeleteFunc(l.pins.all, func(p *Pin) bool { return now.After(p.expires) })
	if size <= keep.Bytes+maxPinBytes {
		for _, p := range l.pins.all {
			if p.database == database {
				limit = min(limit, p.version) // the record at the pin too: a reader resumes by its checksum
			}
		}
	}
	to, n, err := l.trimPoint(database, limit, size, keep, maxTrimRecords)
	if err != nil || n == 0 {
		return 0, err
	}
	lower, upper := versionKey(spaceRecord, database, 0), versionKey(spaceRecord, database, to)
	if err := l.db.DeleteRange(lower, upper, pebble.Sync); err != nil {
		return 0, fmt.Errorf("trim log of database %d: %w", database, err)
	}
	l.recent.forget(database, to)
	return n, l.Failed()
}

// Trimmable reports whether retention would have Trim remove something, pins and the state of the file left aside.
func (l *Log) Trimmable(database uint32, keep Retention) (bool, error) {
	published, _ := l.Published(database)
	size, err := l.recordBytes(database, 0)
	if err != nil {
		return false, err
	}
	_, n, err := l.trimPoint(database, published.Version, size, keep, 1)
	return n > 0, err
}

// recordBytes estimates the size of a database's records from a version on.
func (l *Log) recordBytes(database uint32, from uint64) (uint64, error) {
	size, err := l.db.EstimateDiskUsage(versionKey(spaceRecord, database, from), appendDatabaseKey(nil, spaceRecord, database+1))
	if err != nil {
		return 0, fmt.Errorf("size of log of database %d: %w", database, err)
	}
	return size, nil
}

// BytesAfter estimates the size of the records after a version. What was written last may not be in it.
func (l *Log) BytesAfter(database uint32, version uint64) (uint64, error) {
	return l.recordBytes(database, version+1)
}

// trimPoint returns the first version to keep, below limit, and how many records are before it.
func (l *Log) trimPoint(database uint32, limit, size uint64, keep Retention, most int) (to uint64, n int, err error) {
	iter, err := l.recordIter(database, 0)
	if err != nil {
		return 0, 0, err
	}
	oldest := l.now().Add(-keep.Age).UnixNano()
	for ok := iter.First(); ok && n < most && versionOf(iter.Key()) < limit; ok = iter.Next() {
		var record []byte
		if record, err = iter.ValueAndErr(); err != nil {
			break
		}
		if size <= keep.Bytes {
			var r replicationv1.CommitRecord
			if err = proto.Unmarshal(record, &r); err != nil {
				err = fmt.Errorf("%w: record of version %d: %w", ErrCorrupt, versionOf(iter.Key()), err)
				break
			}
			if r.GetTimeUnixNanos() > oldest {
				break
			}
		}
		size -= min(size, uint64(len(record)))
		to, n = versionOf(iter.Key())+1, n+1
	}
	if err = errors.Join(err, iter.Error(), iter.Close()); err != nil {
		return 0, 0, fmt.Errorf("trim log of database %d: %w", database, err)
	}
	return to, n, nil
}
