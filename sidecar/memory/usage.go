package memory

import (
	"maps"
	"sync"
	"sync/atomic"
	"unsafe"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// overhead is what an entry takes beside its key and data: itself, its places in ristretto's two maps, which are between half
// and all full, and the rounding of what it points to. TestCost measures it.
const overhead = int64(unsafe.Sizeof(entry{})) + 160

func (e *entry) size() int64 {
	return overhead + int64(len(e.key)) + int64(len(e.data)) + 4*int64(len(e.more))
}

// maxDatabases is how many databases are remembered before those are forgotten that have nothing in the cache.
const maxDatabases = 10_000

// maxShapes bounds the shapes that a database has: old ones are forgotten with all others and made again.
const maxShapes = 4096

// usage is what a database takes of the cache.
type usage struct {
	bytes atomic.Int64

	mu    sync.Mutex
	order []uint64 // hashes of what was kept, the oldest first; some of it may be gone
	// shapes are those of the database's tables, by their first column.
	shapes map[*datav1.Column]*shape
}

func (c *Cache) usage(database uint32) *usage {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.databases[database]
	if u == nil {
		if len(c.databases) >= maxDatabases {
			maps.DeleteFunc(c.databases, func(_ uint32, u *usage) bool { return u.bytes.Load() == 0 })
		}
		u = &usage{}
		c.databases[database] = u
	}
	return u
}

// makeRoom deletes the oldest entries of a database that has its share, until another one fits into it, and notes that the
// other one is next. It reports false if there is no room.
func (c *Cache) makeRoom(u *usage, hash uint64, cost int64) bool {
	if cost > c.share {
		return false // whatever else goes
	}
	prev, ok := c.entries.Get(hash)
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.order) > 0 && u.bytes.Load()+cost > c.share {
		c.entries.Del(u.order[0])
		ok = ok && u.order[0] != hash
		u.order = u.order[1:]
	}
	if u.bytes.Load()+cost > c.share {
		return false
	}
	if ok && prev.usage == u {
		return true // it has its place in the order
	}
	if int64(len(u.order)) >= c.share/overhead {
		u.order = u.order[1:] // of entries that are gone there must be many
	}
	u.order = append(u.order, hash)
	return true
}

// left is called when an entry has left the cache, or was never taken into it.
func (c *Cache) left(e *entry) {
	if e == nil {
		return // of a key that had none
	}
	e.usage.bytes.Add(-e.cost)
	c.counts[e.kind].bytes.Add(-e.cost)
}

// evicted is called when an entry has to leave for another one, or has expired.
func (c *Cache) evicted(e *entry) {
	if e != nil {
		c.counts[e.kind].evictions.Add(1)
	}
}
