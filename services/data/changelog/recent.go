package changelog

import (
	"container/list"
	"slices"
	"sync"
)

// DefaultRecentBytes is how much of the newest records is kept in memory, of all databases together: some two seconds of the most
// writes that two cores do.
const DefaultRecentBytes = 8 << 20

// recent is the newest records of each database, as they were appended: every copy that follows closely reads them, and the store
// would have to put an iterator in place in each of its files, and read a block there, for every group and every follower.
//
// What does not fit is let go from the database that was appended to the longest ago, its oldest records first.
type recent struct {
	mu    sync.Mutex
	limit int
	size  int
	runs  map[uint32]*run
	order list.List // of *run, the one that was appended to last at the end
}

// run is records of one database without a gap.
type run struct {
	database uint32
	first    uint64 // the version of records[0]
	records  [][]byte
	size     int
	place    *list.Element
}

// add takes over a record, which nobody changes any more.
func (c *recent) add(database uint32, version uint64, record []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.runs[database]
	if r != nil && version != r.first+uint64(len(r.records)) {
		c.removeLocked(r)
		r = nil
	}
	if len(record) > c.limit/4 {
		if r != nil {
			c.removeLocked(r) // there would be a gap
		}
		return
	}
	if r == nil {
		r = &run{database: database, first: version}
		r.place = c.order.PushBack(r)
		if c.runs == nil {
			c.runs = make(map[uint32]*run)
		}
		c.runs[database] = r
	}
	c.order.MoveToBack(r.place)
	r.records = append(r.records, record)
	r.size += len(record)
	c.size += len(record)
	for c.size > c.limit {
		c.cutLocked(c.order.Front().Value.(*run), 1)
	}
}

// cutLocked lets go of a run's n oldest records.
func (c *recent) cutLocked(r *run, n int) {
	for i, record := range r.records[:n] {
		r.size -= len(record)
		c.size -= len(record)
		r.records[i] = nil // the array has it for as long as it has those after it
	}
	r.records = r.records[n:]
	r.first += uint64(n)
	if len(r.records) == 0 {
		c.removeLocked(r)
	}
}

func (c *recent) removeLocked(r *run) {
	c.size -= r.size
	delete(c.runs, r.database)
	c.order.Remove(r.place)
}

// read returns the records after a version and up to another, as many as fit into maxBytes but at least one; none where it does not
// have the first of them. They belong to all who read them: nobody changes them.
func (c *recent) read(database uint32, after, last uint64, maxBytes int) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.runs[database]
	if r == nil || after+1 < r.first || after+1 >= r.first+uint64(len(r.records)) || last <= after {
		return nil
	}
	records := r.records[after+1-r.first:]
	records = records[:min(uint64(len(records)), last-after)]
	size, n := 0, 0
	for n < len(records) && (n == 0 || size+len(records[n]) <= maxBytes) {
		size += len(records[n])
		n++
	}
	return slices.Clone(records[:n]) // the run's own array loses its oldest
}

// forget lets go of a database's records before a version.
func (c *recent) forget(database uint32, before uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.runs[database]; r != nil && before > r.first {
		c.cutLocked(r, int(min(before-r.first, uint64(len(r.records)))))
	}
}

// bytes returns how much is kept.
func (c *recent) bytes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}

// RecentBytes returns how many bytes of records are kept in memory for those who follow closely.
func (l *Log) RecentBytes() int { return l.recent.bytes() }
