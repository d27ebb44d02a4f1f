package edgesql

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

const (
	// DefaultImageBytes is the memory of all images together.
	DefaultImageBytes = 64 << 20
	// maxReaders bounds the tables of which the engine knows how much they are read.
	maxReaders = 4096
	// minWork is how many steps are read at least before an image is worth its making.
	minWork = 64
	// maxHashes bounds the hashes of an image.
	maxHashes = 8
	// maxPatience bounds how many times the work, as a power of two, a table needs that was too large the last time.
	maxPatience = 10
)

// Costs of reading without an image, in steps of an iterator.
const (
	workStep = 1
	workSeek = 4
)

// images are the images of tables, of all databases. Making one costs about as much as reading the table once or twice; so one
// is made when as much was read of a table since it last changed. Then reading costs twice what it would have at most, and a
// table that changes more often than it is read has none.
type images struct {
	limit   int64 // bytes
	metrics *metrics
	opened  time.Time

	builder chan struct{} // has a place for the one who makes images: what is not finished has a bound too
	done    sync.WaitGroup
	ctx     context.Context //nolint:containedctx // of what goes on in the background
	stop    context.CancelFunc

	mu      sync.Mutex // guards what follows
	readers map[*catalog.Table]*reads
	held    map[*reads]struct{} // those with an image
	bytes   int64
}

// reads is how a table is read.
type reads struct {
	database uint32
	table    *catalog.Table
	paths    int

	gone bool // it is to have no image any more; guarded by images.mu

	image    atomic.Pointer[image]
	used     atomic.Int64   // when it was last read, in milliseconds since the engine was opened
	columns  atomic.Uint64  // that statements have read
	since    atomic.Uint64  // the change of the table since which work is counted
	rows     atomic.Int64   // it had then; 0 where nobody has asked
	work     []atomic.Int64 // by path: steps without an image
	patience atomic.Int32   // so many times the work, as a power of two, is to be done before it is tried again
}

func newImages(limit int64, m *metrics) *images {
	x := &images{
		limit: limit, metrics: m, opened: time.Now(), builder: make(chan struct{}, 1),
		readers: make(map[*catalog.Table]*reads), held: make(map[*reads]struct{}),
	}
	x.ctx, x.stop = context.WithCancel(context.Background())
	return x
}

// close ends what goes on in the background and forgets all images.
func (x *images) close() {
	x.stop()
	x.done.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	for r := range x.held {
		x.dropLocked(r, nil)
	}
	clear(x.readers)
}

// of returns what is known of a table.
func (x *images) of(database uint32, t *catalog.Table, paths int) *reads {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r := x.readers[t]; r != nil {
		return r
	}
	for old, r := range x.readers {
		if len(x.readers) < maxReaders {
			break
		}
		x.dropLocked(r, nil)
		delete(x.readers, old)
	}
	r := &reads{database: database, table: t, paths: paths, work: make([]atomic.Int64, paths)}
	x.readers[t] = r
	return r
}

// dropLocked forgets a table's image, if it is img; nil is any.
func (x *images) dropLocked(r *reads, img *image) {
	now := r.image.Load()
	if now == nil || img != nil && now != img {
		return
	}
	r.image.Store(nil)
	delete(x.held, r)
	x.bytes -= now.size
	x.metrics.imageBytes.Set(float64(x.bytes))
}

// forget lets go of all images of a database. None of what is read of it now is kept.
func (x *images) forget(database uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for r := range x.held {
		if r.database == database {
			x.dropLocked(r, nil)
			r.gone = true
		}
	}
	for t, r := range x.readers {
		if r.database == database {
			r.gone = true
			delete(x.readers, t)
		}
	}
}

// outdated forgets an image of what is no more.
func (x *images) outdated(r *reads, img *image) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dropLocked(r, img)
}

// room makes room for n more bytes, of others than r; ok is false where that is impossible.
func (x *images) roomLocked(r *reads, n int64) (ok bool) {
	for x.bytes+n > x.limit {
		var last *reads
		for other := range x.held {
			if other != r && (last == nil || other.used.Load() < last.used.Load()) {
				last = other
			}
		}
		if last == nil {
			return false
		}
		x.dropLocked(last, nil)
		x.metrics.images.WithLabelValues(imageEvicted).Inc()
	}
	return true
}

// keep keeps a new image in the place of the one before.
func (x *images) keep(r *reads, img *image) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ctx.Err() != nil {
		return x.ctx.Err()
	}
	x.dropLocked(r, nil)
	if r.gone {
		return errImageOutdated
	}
	if !x.roomLocked(r, img.size) {
		return errImageTooLarge
	}
	x.bytes += img.size
	x.metrics.imageBytes.Set(float64(x.bytes))
	x.held[r] = struct{}{}
	r.image.Store(img)
	return nil
}

// grow counts n more bytes of an image; ok is false where there is no room.
func (x *images) grow(r *reads, img *image, n int64) (ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r.image.Load() != img || !x.roomLocked(r, n) {
		return false
	}
	img.size += n
	x.bytes += n
	x.metrics.imageBytes.Set(float64(x.bytes))
	return true
}

// each is what one image may take.
func (x *images) each() int64 { return x.limit / 2 }

// begin counts work anew if the table has changed since.
func (r *reads) begin(changed stamp.Stamp) {
	if r.since.Load() == uint64(changed) {
		return
	}
	r.since.Store(uint64(changed))
	r.rows.Store(0)
	for i := range r.work {
		r.work[i].Store(0)
	}
}

// rowCount returns how many rows the table has.
func (r *reads) rowCount(snap *replica.Snapshot) int64 {
	n := r.rows.Load()
	if n == 0 {
		count, err := snap.RowCount(r.table)
		if err != nil {
			return 0
		}
		n = int64(count)
		r.rows.Store(n)
	}
	return n
}

// due reports whether so much work makes an image, or an order, worth its making.
func (r *reads) due(snap *replica.Snapshot, work int64) bool {
	return work >= minWork && work >= r.rowCount(snap)<<r.patience.Load()
}

// build makes what was read enough for: the image if there is none with the columns that are read, and orders. It returns the
// image, which is what the snapshot has; nil where there is none. The caller has the builder's place. Failures to read are left
// to those who read; the error is that of ctx.
func (x *images) build(ctx context.Context, r *reads, snap *replica.Snapshot) (*image, error) {
	img, err := x.renew(ctx, r, snap)
	switch {
	case err == nil:
		r.patience.Store(0)
	case errors.Is(err, errImageTooLarge):
		r.patience.Store(min(r.patience.Load()+1, maxPatience))
		x.metrics.images.WithLabelValues(imageTooLarge).Inc()
	case ctx.Err() != nil:
		return nil, err
	case !errors.Is(err, errImageOutdated):
		x.metrics.images.WithLabelValues(imageFailed).Inc()
	}
	return img, nil
}

// renew is build without looking at its error. There may be an image beside one: only its orders are not there then.
func (x *images) renew(ctx context.Context, r *reads, snap *replica.Snapshot) (*image, error) {
	slot := snap.TableSlot(r.table.ID)
	old := r.image.Load()
	img := old
	if img == nil || !img.has(r.columns.Load()) || !snap.Holds(img.reading, slot) {
		columns := r.columns.Load()
		if img != nil {
			columns |= img.held
			if img.reading.At > snap.Floor() {
				return nil, errImageOutdated // it is of a newer state than the snapshot
			}
		}
		var err error
		if img, err = newImage(ctx, snap, r.table, r.paths, columns, x.each()); err != nil {
			return nil, err
		}
		if err := x.keep(r, img); err != nil {
			return nil, err
		}
		r.work[0].Store(0)
		x.metrics.images.WithLabelValues(imageMade).Inc()
	}
	for i := 1; i < r.paths; i++ {
		again := old != nil && old != img && old.orders[i].Load() != nil
		if img.orders[i].Load() != nil || !again && !r.due(snap, r.work[i].Load()) {
			continue
		}
		o, err := img.newOrder(ctx, snap, r.table, &r.table.Indexes[i-1], x.each())
		if err != nil {
			return img, err
		}
		if !x.grow(r, img, o.size()) {
			return img, errImageTooLarge
		}
		img.orders[i].Store(o)
		r.work[i].Store(0)
	}
	return img, nil
}

// buildNow is build for a statement that will wait for it. It returns nil at once if somebody makes another image.
func (x *images) buildNow(ctx context.Context, r *reads, snap *replica.Snapshot) (*image, error) {
	select {
	case x.builder <- struct{}{}:
	default:
		return nil, nil //nolint:nilnil // no image is none
	}
	defer func() { <-x.builder }()
	return x.build(ctx, r, snap)
}

// buildSoon makes what was read enough for in the background, from a newer snapshot.
func (x *images) buildSoon(r *reads, snap *replica.Snapshot) {
	select {
	case x.builder <- struct{}{}:
	default:
		return // who reads on will ask again
	}
	newest, err := snap.Newest()
	if err != nil {
		<-x.builder
		return
	}
	same := newest.Catalog() == snap.Catalog()
	x.done.Go(func() {
		if same && newest.TableProblem(r.table) == nil {
			_, _ = x.build(x.ctx, r, newest)
		}
		_ = newest.Close()
		<-x.builder
	})
}

// addHash returns the rows of an image by the columns of filters, which it remembers; nil where there is no room.
func (x *images) addHash(ctx context.Context, r *reads, img *image, filters []filter) (*imageHash, error) {
	img.mu.Lock()
	defer img.mu.Unlock()
	if h := img.hash(filters); h != nil {
		return h, nil
	}
	var hashes []*imageHash
	if old := img.hashes.Load(); old != nil {
		hashes = *old
	}
	if len(hashes) == maxHashes {
		return nil, nil //nolint:nilnil // no hash is none
	}
	h, err := img.newHash(ctx, filters)
	if err != nil {
		return nil, err
	}
	if h.size > maxHashBytes || !x.grow(r, img, h.size) {
		return nil, nil //nolint:nilnil // as above
	}
	hashes = append(slices.Clip(hashes), h)
	img.hashes.Store(&hashes)
	return h, nil
}
