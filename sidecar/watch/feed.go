package watch

import (
	"context"
	"sync"
	"time"

	"github.com/nearside-dev/nearside/sidecar/replica"
)

// How much is read of the tail at a time, and kept of it in memory at most.
const (
	readRecords = 256
	readBytes   = 1 << 20

	keepRecords = 4096
	// keepFactor is how many times its own size a record may take in memory once it is decoded.
	keepFactor = 6
)

// feed reads the records of one database for all its watchers. It lives as long as there are some.
type feed struct {
	hub      *Hub
	database *replica.Database
	cancel   context.CancelFunc
	ended    chan struct{} // closed when nothing more is read

	// err is why, once ended is closed.
	err error

	mu       sync.Mutex // guards what follows, and the watchers' own state
	position replica.TailPosition
	epoch    uint32 // of the last record
	records  []*record
	bytes    int
	watchers map[*watcher]struct{}
	byTable  map[uint32]map[*watcher]struct{}
}

// newFeed returns a feed that begins after a snapshot, with its goroutine running.
func (h *Hub) newFeed(d *replica.Database, s *replica.Snapshot) *feed {
	ctx, cancel := context.WithCancel(context.Background())
	f := &feed{
		hub: h, database: d, cancel: cancel, ended: make(chan struct{}), position: s.TailPosition(), epoch: s.Epoch(),
		watchers: make(map[*watcher]struct{}), byTable: make(map[uint32]map[*watcher]struct{}),
	}
	h.running.Go(func() { f.run(ctx) })
	return f
}

func (f *feed) run(ctx context.Context) {
	defer close(f.ended)
	for {
		if f.err = f.database.AwaitRecord(ctx, f.position); f.err != nil {
			return
		}
		records, next, err := f.database.ReadTail(f.position, readRecords, readBytes)
		if err != nil {
			f.err = err
			return
		}
		if len(records) > 0 {
			f.publish(records, next)
		}
	}
}

// publish makes records known to the watchers and wakes those that they concern.
func (f *feed) publish(records []*replica.TailRecord, next replica.TailPosition) {
	limit := f.hub.cacheBytes() // the hub's lock is taken before a feed's
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range records {
		rec := newRecord(r)
		f.records = append(f.records, rec)
		f.bytes += r.Bytes * keepFactor
		f.epoch = r.Epoch
		if r.Catalog != nil || len(r.Dropped) > 0 {
			for w := range f.watchers {
				w.wakeFor(r.Version)
			}
			continue
		}
		for _, t := range rec.tables {
			for w := range f.byTable[t.ID] {
				if w.idle && w.concerns(t) {
					w.wakeFor(r.Version)
				}
			}
		}
	}
	f.position = next
	drop := 0
	for drop < len(f.records)-1 && (f.bytes > limit || len(f.records)-drop > keepRecords) {
		f.bytes -= f.records[drop].Bytes * keepFactor
		drop++
	}
	if drop > 0 {
		n := copy(f.records, f.records[drop:])
		clear(f.records[n:])
		f.records = f.records[:n]
	}
}

// concerns reports whether a commit's changes of the watched table may be told. The caller holds the feed's lock.
func (w *watcher) concerns(t *table) bool {
	if w.whole() || t.Replaced || w.selects() && !t.OldKnown {
		return true
	}
	if !w.selects() {
		for i := range t.Rows {
			if w.inRange(t.Rows[i].Key) {
				return true
			}
		}
		return false
	}
	rows, err := t.decode(w.schema)
	if err != nil {
		return true // it finds that out by itself
	}
	for i := range rows {
		if _, ok := rows[i].match(w.target, w.scratch[:0]); ok {
			return true
		}
	}
	return false
}

// wakeFor wakes a watcher that waits, to look at a version. The caller holds the feed's lock.
func (w *watcher) wakeFor(version uint64) {
	if !w.idle || w.position.Version >= version {
		return
	}
	w.idle = false
	w.position.Version = version - 1
	w.wake <- struct{}{} // there is room: it was idle
}

// add makes a watcher one of the feed's.
func (f *feed) add(w *watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers[w] = struct{}{}
	id := w.table.ID
	if f.byTable[id] == nil {
		f.byTable[id] = make(map[*watcher]struct{})
	}
	f.byTable[id][w] = struct{}{}
}

// forget keeps no record any more, and ends the watchers of tables that the copy has no more.
func (f *feed) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records, f.bytes = nil, 0
	for id, watchers := range f.byTable {
		if f.database.HasTable(id) {
			continue
		}
		for w := range watchers {
			w.lost = true
			if w.idle {
				w.idle = false
				w.wake <- struct{}{} // there is room: it was idle
			}
		}
	}
}

// remove undoes add and reports whether nobody is left.
func (f *feed) remove(w *watcher) (empty bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, w)
	id := w.table.ID
	if delete(f.byTable[id], w); len(f.byTable[id]) == 0 {
		delete(f.byTable, id)
	}
	return len(f.watchers) == 0
}

// tick wakes those who wait and are due to tell how far they are.
func (f *feed) tick(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		if w.idle && w.position.Version <= f.position.Version && w.isDue(now, f.position.Version) {
			w.wakeFor(f.position.Version + 1)
		}
	}
}

// place is where a watcher stands in its feed.
type place int

const (
	placeTaken   place = iota // it got records
	placeBehind               // the feed no longer has the next one
	placeWaiting              // there is nothing yet: it will be woken
	placeDue                  // there is nothing yet, and it is to tell how far it is
	placeAway                 // it is in another making of the copy
)

// take gives a watcher the records after its position, as many as it takes at a time, and their last one's epoch.
func (f *feed) take(w *watcher) (_ place, epoch uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.taken = w.taken[:0]
	switch {
	case w.lost, !w.position.SameCopy(f.position):
		return placeAway, 0
	case w.position.Version == f.position.Version && w.isDue(time.Now(), w.position.Version):
		return placeDue, f.epoch
	case w.position.Version >= f.position.Version:
		w.idle = true
		return placeWaiting, 0
	case len(f.records) == 0 || f.records[0].Version > w.position.Version+1:
		return placeBehind, 0
	}
	from := int(w.position.Version + 1 - f.records[0].Version)
	w.taken = append(w.taken, f.records[from:min(len(f.records), from+takeRecords)]...)
	return placeTaken, 0
}
