// Package memory keeps answers of keyed reads in the sidecar's memory, and an application's own values beside them. It is the
// first place that a read looks in. What it answers is exactly what the region's copy would answer at a moment that the caller
// took before asking; what it cannot vouch for is a miss. It never asks anybody.
//
// It may lose anything at any time. Nothing in it outlives the process.
package memory

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// Limits of what is kept.
const (
	// MaxEntryBytes is how large a row, a page, a value or a result may be to be kept, and what it is kept under.
	MaxEntryBytes = 1 << 20
	// MinBytes is the smallest cache that is worth its own tables.
	MinBytes = 1 << 20
	// DefaultDatabasePercent is how much one database may take where nothing else is said.
	DefaultDatabasePercent = 80
)

// counterBytes is about how much of the cache one of ristretto's counters stands for, of which there is one for each key that
// is asked for. A counter takes four bytes, so they take a thirty-second of the cache; MaxCost is what they leave.
const counterBytes = 128

// Options configures a Cache. Stamps is required.
type Options struct {
	// Bytes is how much memory the cache may take, at least MinBytes.
	Bytes int64
	// DatabasePercent is how much of it one database may take, from 1 to 100.
	DatabasePercent int
	// SmallResult is how large a result of SQL may be, in bytes, that is kept however little work it was; default 4 KiB.
	SmallResult int64
	// Stamps says what has changed.
	Stamps *stamp.Table
	// Registerer takes the metrics; default none.
	Registerer prometheus.Registerer
}

// Cache is the memory of a sidecar. It may be used concurrently. A nil Cache keeps nothing.
type Cache struct {
	entries *ristretto.Cache[uint64, *entry]
	stamps  *stamp.Table
	seed    maphash.Seed
	begun   time.Time
	counts  [kinds]counts
	limit   int64
	small   int64 // Options.SmallResult
	share   int64 // of one database

	mu        sync.Mutex // guards databases
	databases map[uint32]*usage
}

// New returns an empty cache. Close it.
func New(o Options) (*Cache, error) {
	if o.Bytes < MinBytes || o.DatabasePercent < 1 || o.DatabasePercent > 100 {
		return nil, fmt.Errorf("memory cache of %d bytes, %d %% for a database", o.Bytes, o.DatabasePercent)
	}
	c := &Cache{
		stamps: o.Stamps, seed: maphash.MakeSeed(), begun: time.Now(), limit: o.Bytes, share: o.Bytes * int64(o.DatabasePercent) / 100,
		small: cmp.Or(o.SmallResult, smallResultBytes), databases: make(map[uint32]*usage),
	}
	entries, err := ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		NumCounters: o.Bytes / counterBytes, MaxCost: o.Bytes - o.Bytes/counterBytes*4, BufferItems: 64,
		IgnoreInternalCost: true, // it is in ours
		OnEvict:            func(i *ristretto.Item[*entry]) { c.evicted(i.Value) },
		OnExit:             c.left,
		ShouldUpdate:       func(cur, prev *entry) bool { return cur.reading.At >= prev.reading.At },
	})
	if err != nil {
		return nil, fmt.Errorf("memory cache: %w", err)
	}
	c.entries = entries
	if err := c.register(o.Registerer); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close forgets everything and ends the cache's goroutines.
func (c *Cache) Close() {
	if c != nil {
		c.entries.Close()
	}
}

// Kind is what an entry is.
type Kind int

// The kinds of entries.
const (
	KindRow    Kind = iota // a row by its key or a unique index, or that there is none
	KindPage               // a page of rows
	KindValue              // a value of an application's own
	KindResult             // what a statement answers
	kinds
)

var kindNames = [kinds]string{"row", "page", "value", "result"}

func (k Kind) String() string { return kindNames[k] }

// entry is something kept. It is immutable.
type entry struct {
	key     string // whole: the hash under which it is found may be another's
	reading stamp.Reading
	slots   [1]stamp.Slot // what it depends on
	more    []stamp.Slot  // what else
	expires time.Time     // of a value; zero for never
	made    time.Duration // of a result: when, since the cache was made

	kind     Kind
	database uint32
	usage    *usage
	cost     int64
	payload
}

// payload is what is kept.
type payload struct {
	shape *shape
	data  []byte // nil for no row
}

// appendKey appends what all keys begin with.
func appendKey(dst []byte, kind Kind, database uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, byte(kind)), database)
}

// find returns the entry of a key, if it still holds at now, and counts.
func (c *Cache) find(kind Kind, key []byte, now stamp.Stamp) *entry {
	return c.findYoung(kind, key, now, -1)
}

// findYoung is find of an entry that is younger than maxAge, if that is not negative.
func (c *Cache) findYoung(kind Kind, key []byte, now stamp.Stamp, maxAge time.Duration) *entry {
	e, ok := c.entries.Get(maphash.Bytes(c.seed, key))
	if !ok || e.key != string(key) {
		c.counts[kind].misses.Add(1)
		return nil
	}
	if !c.holds(e, now) || maxAge >= 0 && time.Since(c.begun)-e.made >= maxAge {
		c.counts[kind].old.Add(1)
		return nil
	}
	c.counts[kind].hits.Add(1)
	return e
}

func (c *Cache) holds(e *entry, now stamp.Stamp) bool {
	if !c.stamps.Holds(e.reading, now, e.database, e.slots[0]) {
		return false
	}
	for _, s := range e.more {
		if !c.stamps.Holds(e.reading, now, e.database, s) {
			return false
		}
	}
	return true
}

// keep puts an entry into the cache, which may not take it.
func (c *Cache) keep(e *entry, ttl time.Duration) bool {
	e.cost = e.size()
	if max(len(e.key), len(e.data)) > MaxEntryBytes {
		c.counts[e.kind].refused.Add(1)
		return false
	}
	hash := maphash.String(c.seed, e.key)
	e.usage = c.usage(e.database)
	if !c.makeRoom(e.usage, hash, e.cost) {
		c.counts[e.kind].refused.Add(1)
		return false
	}
	e.usage.bytes.Add(e.cost)
	c.counts[e.kind].bytes.Add(e.cost)
	if !c.entries.SetWithTTL(hash, e, e.cost, ttl) {
		c.left(e)
		c.counts[e.kind].refused.Add(1)
		return false
	}
	if !c.holds(e, e.reading.At) {
		// It was no longer true when it came in, and may be what Evict has just removed.
		c.entries.Del(hash)
		return false
	}
	return true
}

// Wait returns when what was kept before is in the cache, or was refused. It is for tests: keeping is not done at once.
func (c *Cache) Wait() { c.entries.Wait() }
