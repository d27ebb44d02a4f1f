// Package changelog is the commit log: one ordered run of records for each database, all databases of a process in one
// Pebble store, so that one fsync serves many.
//
// The log is the truth. A record is durable when Append returns; it may be read when it is published, after the engine
// has committed it. Replication, idempotency and recovery are its readers.
package changelog

import (
	"context"
	"crypto/sha256"
	"errors"
	"math"
	"sync"
)

// ChecksumSize is the size of a record's checksum in bytes.
const ChecksumSize = 16

// Checksum chains records: the first 16 bytes of the SHA-256 of a record, which itself holds its predecessor's.
type Checksum [ChecksumSize]byte

// ChecksumOf returns an encoded record's checksum.
func ChecksumOf(record []byte) Checksum {
	sum := sha256.Sum256(record)
	return Checksum(sum[:ChecksumSize])
}

// Head is a place in a database's log. The zero Head is before the first record.
type Head struct {
	Epoch    uint32
	Version  uint64
	Checksum Checksum
}

// Errors that callers test for.
var (
	// ErrNotFound means that the log has no such record.
	ErrNotFound = errors.New("no such record")
	// ErrCorrupt means that a stored record does not fit its checksum or its place.
	ErrCorrupt = errors.New("corrupt log")
	// ErrFailed means that the store failed earlier and takes no more writes.
	ErrFailed = errors.New("log store failed")
	// ErrClosed means that the log or the watcher is closed.
	ErrClosed = errors.New("closed")
)

// publications keeps what readers may see and wakes those who wait for more.
type publications struct {
	mu       sync.Mutex
	heads    map[uint32]Head
	watchers map[*Watcher]struct{}
}

// Publish makes a database's records up to h visible to readers and wakes the watchers. The engine calls it after its
// commit, and once at opening.
func (l *Log) Publish(database uint32, h Head) {
	p := &l.published
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heads[database] = h
	p.wake(database)
}

// Unpublish hides a database again, at its delete or when it is closed for a failure, and wakes the watchers.
func (l *Log) Unpublish(database uint32) {
	l.recent.forget(database, math.MaxUint64)
	p := &l.published
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.heads, database)
	p.wake(database)
}

// Published returns how far a database may be read; ok is false where it is not published at all: it does not exist, or
// its role does not serve.
func (l *Log) Published(database uint32) (h Head, ok bool) {
	p := &l.published
	p.mu.Lock()
	defer p.mu.Unlock()
	h, ok = p.heads[database]
	return h, ok
}

func (p *publications) wake(database uint32) {
	for w := range p.watchers {
		w.dirty[database] = struct{}{}
		select {
		case w.wakeup <- struct{}{}:
		default: // it has not looked since the last time: one wake-up is enough
		}
	}
}

// Watcher learns which databases were published since it last looked. It costs the publisher a map entry, whatever the
// reader's speed. One goroutine uses it.
type Watcher struct {
	log    *Log
	wakeup chan struct{}
	dirty  map[uint32]struct{} // under publications.mu
}

// Watch returns a watcher of all databases. Close it.
func (l *Log) Watch() *Watcher {
	w := &Watcher{log: l, wakeup: make(chan struct{}, 1), dirty: make(map[uint32]struct{})}
	l.published.mu.Lock()
	defer l.published.mu.Unlock()
	l.published.watchers[w] = struct{}{}
	return w
}

// C is readable when there may be something new: then call Changed.
func (w *Watcher) C() <-chan struct{} { return w.wakeup }

// Changed returns the databases published or unpublished since the last call.
func (w *Watcher) Changed() []uint32 {
	p := &w.log.published
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(w.dirty) == 0 {
		return nil
	}
	ids := make([]uint32, 0, len(w.dirty))
	for id := range w.dirty {
		ids = append(ids, id)
	}
	clear(w.dirty)
	return ids
}

// Wait waits for a change and returns Changed's answer.
func (w *Watcher) Wait(ctx context.Context) ([]uint32, error) {
	for {
		if ids := w.Changed(); len(ids) > 0 {
			return ids, nil
		}
		select {
		case <-w.wakeup:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close ends the watch.
func (w *Watcher) Close() {
	p := &w.log.published
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watchers, w)
}
