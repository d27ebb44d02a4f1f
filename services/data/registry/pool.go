package registry

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// pool holds the open engines of a registry's databases: at most max, those that are being opened or closed among them. One is
// opened by its first user and stays open until it has had no user for long, or until another needs its place. Its methods
// are safe for concurrent use.
type pool struct {
	open    func(id uint32) (*engine.DB, error)
	refuse  func(id uint32) // told of a database that must not be served
	max     int
	logger  *slog.Logger
	metrics *metrics
	now     func() time.Time

	mu      sync.Mutex
	closed  bool
	held    map[*Database]struct{} // open, being opened or being closed
	unused  list.List              // of *Database: open and without users, the longest unused first
	waiting list.List              // of *waiter: who finds all places in use, the first to come first
}

// seat is a database's part of the pool's state, under pool.mu.
type seat struct {
	db      *engine.DB // nil unless open
	users   int        // of db, and those who wait for opening
	opening *attempt
	closing chan struct{} // closed when db is
	place   *list.Element // in pool.unused
	since   time.Time     // of place: when the last user left

	problem error // why it is never opened again by this process
	gone    bool  // deleted
}

// attempt is one opening, for all who wait for it.
type attempt struct {
	done chan struct{}
	db   *engine.DB // once done is closed, or
	err  error
}

// waiter waits for any place. It looks again when it is woken.
type waiter struct {
	database *Database
	woken    chan struct{}
}

// acquire returns a database's engine, opened if need be, for as long as the caller does not release it. Where all places are
// in use it waits its turn, until ctx ends.
func (p *pool) acquire(ctx context.Context, d *Database) (*engine.DB, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var err error
		switch {
		case d.seat.gone:
			return nil, notFound(d.Name)
		case d.seat.problem != nil:
			return nil, cannotServe(d.Name, d.seat.problem)
		case p.closed:
			return nil, cannotServe(d.Name, engine.ErrClosed)
		case d.seat.opening != nil:
			return p.await(ctx, d)
		case d.seat.closing != nil:
			err = p.wait(ctx, d.seat.closing)
		case d.seat.db != nil:
			p.use(d)
			return d.seat.db, nil
		case len(p.held) < p.max:
			p.startOpening(d)
		case p.unused.Len() > 0:
			oldest := p.unused.Front().Value.(*Database)
			p.startClosing(oldest)
			err = p.wait(ctx, oldest.seat.closing)
		default:
			err = p.queue(ctx, d)
		}
		if err != nil {
			return nil, busy(d.Name, p.max, err)
		}
	}
}

// wait waits without the lock.
func (p *pool) wait(ctx context.Context, done <-chan struct{}) error {
	p.mu.Unlock()
	defer p.mu.Lock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await waits for the opening in progress. Who waits for it counts as a user, so that nobody closes what he opened before he
// has it.
func (p *pool) await(ctx context.Context, d *Database) (*engine.DB, error) {
	a := d.seat.opening
	d.seat.users++
	err := p.wait(ctx, a.done)
	switch {
	case a.err != nil: // and nobody is counted any more
		return nil, cannotServe(d.Name, a.err)
	case err != nil:
		if d.seat.db == a.db && d.seat.closing == nil {
			p.leave(d)
		}
		return nil, busy(d.Name, p.max, err)
	default:
		return a.db, nil
	}
}

// queue waits until a place may have become free.
func (p *pool) queue(ctx context.Context, d *Database) error {
	w := &waiter{database: d, woken: make(chan struct{})}
	place := p.waiting.PushBack(w)
	err := p.wait(ctx, w.woken)
	if err == nil {
		return nil
	}
	select {
	case <-w.woken:
		p.wakeNext() // it was this one's turn, which it does not take
	default:
		p.waiting.Remove(place)
	}
	return err
}

// wakeNext wakes the one who has waited longest for a place.
func (p *pool) wakeNext() {
	if first := p.waiting.Front(); first != nil {
		close(p.waiting.Remove(first).(*waiter).woken)
	}
}

// wakeFor wakes those who wait for a place for this database, for it has one now.
func (p *pool) wakeFor(d *Database) {
	for e := p.waiting.Front(); e != nil; {
		next := e.Next()
		if w := e.Value.(*waiter); w.database == d {
			p.waiting.Remove(e)
			close(w.woken)
		}
		e = next
	}
}

func (p *pool) use(d *Database) {
	d.seat.users++
	if d.seat.place != nil {
		p.unused.Remove(d.seat.place)
		d.seat.place = nil
	}
}

// release ends a use of an engine that acquire returned.
func (p *pool) release(d *Database, db *engine.DB) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.seat.db == db && d.seat.closing == nil { // else it was closed over its users' heads
		p.leave(d)
	}
}

func (p *pool) leave(d *Database) {
	d.seat.users--
	if d.seat.users > 0 || d.seat.db == nil || d.seat.closing != nil {
		return
	}
	if d.seat.db.Problem() != nil {
		p.startClosing(d)
		return
	}
	d.seat.since = p.now()
	d.seat.place = p.unused.PushBack(d)
	p.wakeNext()
}

// startOpening opens a database on a goroutine of its own: it may have to replay much, and its caller may not wait so long.
func (p *pool) startOpening(d *Database) {
	a := &attempt{done: make(chan struct{})}
	d.seat.opening = a
	p.held[d] = struct{}{}
	p.wakeFor(d)
	go func() {
		begun := time.Now()
		db, err := p.open(d.id)
		p.metrics.opened(time.Since(begun), err)
		if err != nil {
			p.logger.Error("database cannot be opened", slog.String("database", d.Name), slog.Any("error", err))
			if lasting(err) {
				p.refuse(d.id)
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		d.seat.opening = nil
		if a.err = err; err != nil {
			d.seat.users = 0
			if lasting(err) {
				d.seat.problem = err
			}
			delete(p.held, d)
			p.wakeNext()
		} else if a.db, d.seat.db = db, db; d.seat.users == 0 { // who wanted it has gone
			d.seat.users = 1
			p.leave(d)
		}
		close(a.done)
	}()
}

// lasting reports whether a failure to open is of the database's contents: another attempt would find the same.
func lasting(err error) bool {
	return errors.Is(err, engine.ErrAhead) || errors.Is(err, engine.ErrFork) || errors.Is(err, changelog.ErrCorrupt)
}

// startClosing closes an open engine. Its users, which only a delete or the end of the process leaves it, get ErrClosed.
func (p *pool) startClosing(d *Database) {
	if d.seat.place != nil {
		p.unused.Remove(d.seat.place)
		d.seat.place = nil
	}
	closing := make(chan struct{})
	d.seat.closing = closing
	db := d.seat.db
	problem := db.Problem() // afterwards it is that it was closed
	go func() {
		err := db.Close()
		p.metrics.closed()
		if err != nil {
			p.logger.Error("close database", slog.String("database", d.Name), slog.Any("error", err))
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		d.seat.db, d.seat.closing, d.seat.users, d.seat.problem = nil, nil, 0, problem
		delete(p.held, d)
		p.wakeNext()
		close(closing)
	}()
}

// remove closes a deleted database's engine for good, users or not, and returns when it is closed.
func (p *pool) remove(d *Database) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.seat.gone = true
	p.wakeFor(d)
	p.drain(d)
}

// drain returns when a database of which nothing more is opened is closed.
func (p *pool) drain(d *Database) {
	for {
		var done <-chan struct{}
		switch {
		case d.seat.opening != nil:
			done = d.seat.opening.done
		case d.seat.closing != nil:
			done = d.seat.closing
		case d.seat.db != nil:
			p.startClosing(d)
			continue
		default:
			return
		}
		p.mu.Unlock()
		<-done
		p.mu.Lock()
	}
}

// trim closes the engines that nobody has used since unusedSince, and of the others the read connections that nobody has used
// since readersSince.
func (p *pool) trim(unusedSince, readersSince time.Time) {
	p.mu.Lock()
	for p.unused.Len() > 0 {
		d := p.unused.Front().Value.(*Database)
		if !d.seat.since.Before(unusedSince) {
			break
		}
		p.startClosing(d)
	}
	open := make([]*engine.DB, 0, len(p.held))
	for d := range p.held {
		if d.seat.db != nil && d.seat.closing == nil {
			open = append(open, d.seat.db)
		}
	}
	p.mu.Unlock()
	for _, db := range open {
		if err := db.CloseReaders(readersSince); err != nil {
			p.logger.Warn("close read connections", slog.Uint64("database_id", uint64(db.ID())), slog.Any("error", err))
		}
	}
}

// close closes all engines, users or not, and returns when they are closed. Afterwards nothing is opened.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for p.waiting.Len() > 0 {
		p.wakeNext()
	}
	all := make([]*Database, 0, len(p.held))
	for d := range p.held {
		all = append(all, d)
		if d.seat.db != nil && d.seat.closing == nil {
			p.startClosing(d)
		}
	}
	for _, d := range all {
		p.drain(d)
	}
}

func notFound(name string) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND, "no such database: %s", name).With("database", name)
}

func cannotServe(name string, err error) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STORE_FAILED,
		"database %s cannot be served: see the primary's log", name).Because(err)
}

func busy(name string, limit int, err error) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED,
		"database %s is not open, and there was no place for it among %d open ones in time: %w", name, limit, err).
		With("database", name).WithRetryAfter(100 * time.Millisecond)
}
